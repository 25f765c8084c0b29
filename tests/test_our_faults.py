"""What is our own mistake is never an event's fault: broken projections, handlers that were done,
what is known to fail, and who waits for whom."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from jobquest.config import load
from jobquest.consumer import CircuitOpen
from jobquest.errors import NotRetryable
from jobquest.events import Event
from jobquest.log import NewRecord, Partition, Record
from jobquest.read import OrderingKey, Parked, parking, tables
from jobquest.read.failures import Failure
from jobquest.read.projection import Change
from jobquest.read.projections import PROJECTIONS
from jobquest.runtime import Runtime
from tests.service import wait_for
from tests.test_consumer import consume, stats
from tests.test_retries import Failing, life, publish, retry


@pytest.fixture
def settings(settings: dict[str, str], database: dict[str, str]) -> dict[str, str]:
    """On each database."""
    return settings | database


@pytest.fixture
def patient(settings: dict[str, str]) -> Iterator[Runtime]:
    """Tries come most of a minute apart: tests say when the next one is."""
    made = Runtime(load({**settings, "JOBQUEST_RETRY_BASE_SECONDS": "50"}))
    yield made
    made.consumer.close()
    made.stop()


class Folds:
    """A projection that can be broken: `salary` is no member of any event."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, table: str, event_type: str) -> None:
        [found] = [one for one in PROJECTIONS if one.table.name == table]
        fold, self.broken = found.folds[event_type], True

        def breaking(event: Event) -> Change:
            if self.broken:
                event.data["salary"]
            return fold(event)

        monkeypatch.setitem(found.folds, event_type, breaking)  # type: ignore[arg-type]


# --- a projection with a bug ---


@pytest.mark.slow
@pytest.mark.parametrize("users", [80, 10, 1])
def test_a_projection_with_a_bug_kills_nothing_and_pauses_the_consumer(
    patient: Runtime, monkeypatch: pytest.MonkeyPatch, users: int
) -> None:
    folds, handler = Folds(monkeypatch, "achievements", "achievement.unlocked"), Failing()
    patient.consumer.register_event_handler("achievement.unlocked", handler)
    data = {"achievementId": "a", "achievementName": "A", "xpAmount": 10}
    for n in range(80):
        patient.producer.publish("achievement.unlocked", f"u{n % users}", data, id=f"e{n}")
        patient.producer.publish("user.login", f"u{n % users}", {})
    patient.consumer.start()
    wait_for(lambda: patient.consumer.snapshot.state == "paused", 30)
    reason = str(patient.consumer.snapshot.reason)
    assert "projection achievements" in reason
    assert "KeyError: 'salary'" in reason
    assert patient.queries.outcomes()["deadLetters"] == 0
    folds.broken = False
    patient.consumer.start()
    for row in patient.queries.retries(500):
        if row["nextTry"]:
            patient.read_side.try_now(row["id"])
    wait_for(lambda: patient.consumer.snapshot.processed >= 160, 60)
    assert patient.queries.outcomes()["deadLetters"] == 0
    assert patient.queries.retries() == []
    assert sum(stats(patient, f"u{n}")["achievements"] for n in range(users)) == 80
    assert sorted(handler.seen) == sorted(f"e{n}" for n in range(80)), "each handled once"
    patient.consumer.stop()


def test_a_projection_that_fails_for_one_event_lets_the_others_on(
    patient: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    folds = Folds(monkeypatch, "achievements", "achievement.unlocked")
    data = {"achievementId": "a", "achievementName": "A", "xpAmount": 10}
    publish(patient, "before", "ada")
    patient.producer.publish("achievement.unlocked", "ada", data, id="broken")
    publish(patient, "behind", "ada")
    publish(patient, "other", "bob")
    consume(patient)
    outcomes = {id: life(patient, id)["outcome"] for id in ("before", "broken", "behind", "other")}
    assert outcomes == {
        "before": "processed",
        "broken": "retrying",
        "behind": "retrying",
        "other": "processed",
    }
    [attempt] = life(patient, "broken")["attempts"]
    assert (attempt["error"], attempt["part"]) == ("KeyError: 'salary'", "projection achievements")
    folds.broken = False
    retry(patient, "broken")
    assert stats(patient, "ada")["xp"] == 30


@pytest.mark.parametrize("broken", ["projection user_stats", "handler"])
def test_what_fails_for_one_type_pauses_the_consumer_though_others_succeed(
    patient: Runtime, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    failing = Failing(*(f"login-{n}" for n in range(25) if broken == "handler"))
    for event_type in ("user.login", "mission.started"):
        patient.consumer.register_event_handler(event_type, failing)
    if broken != "handler":
        Folds(monkeypatch, "user_stats", "user.login")
    mission = {"missionId": "m", "missionName": "M", "missionType": "focus"}

    def publish_both_and_consume() -> None:
        for n in range(25):
            patient.producer.publish("user.login", f"login-{n}", {})
            patient.producer.publish("mission.started", f"mission-{n}", mission)
            consume(patient)

    with pytest.raises(CircuitOpen, match=rf"{broken}.*user\.login"):
        publish_both_and_consume()


def test_one_users_events_that_wait_behind_a_projections_bug_pause_nobody(
    patient: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    folds = Folds(monkeypatch, "achievements", "achievement.unlocked")
    data = {"achievementId": "a", "achievementName": "A", "xpAmount": 10}
    patient.producer.publish("achievement.unlocked", "ada", data, id="head")
    consume(patient)
    for n in range(30):
        patient.producer.publish("achievement.unlocked", "ada", data, id=f"behind-{n}")
    consume(patient)
    retry(patient, "head")
    assert [life(patient, id)["outcome"] for id in ("head", "behind-0")] == ["retrying"] * 2
    folds.broken = False
    retry(patient, "head")
    assert stats(patient, "ada")["achievements"] == 31


def test_only_what_is_wrong_with_the_event_itself_kills_it_at_once(
    patient: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: dict[str, Callable[[], BaseException]] = {
        "lookup": lambda: KeyError("salary"),
        "bug": lambda: AssertionError(),
        "type": lambda: TypeError("no"),
        "refused": lambda: NotRetryable("no such account"),
    }
    for name, error in errors.items():
        handler = Failing(name, error=error)
        patient.consumer.register_event_handler("xp.earned", handler)
        publish(patient, name, name)
        consume(patient)
        patient.consumer.unregister_event_handler("xp.earned", handler)
    assert {name: life(patient, name)["outcome"] for name in errors} == {
        "lookup": "retrying",
        "bug": "retrying",
        "type": "retrying",
        "refused": "dead",
    }


# --- handlers that were done ---


def send_mail(event: Event) -> None:
    CALLS.append(f"mail {event.id}")


CALLS: list[str] = []


@pytest.fixture
def calls() -> list[str]:
    CALLS.clear()
    return CALLS


def test_a_handler_that_succeeded_is_not_called_again_for_its_neighbours_failure(
    settings: dict[str, str], calls: list[str]
) -> None:
    made = Runtime(load({**settings, "JOBQUEST_RETRY_MAX_ATTEMPTS": "4"}))
    failing = Failing("ada")
    for handler in (send_mail, failing):
        made.consumer.register_event_handler("xp.earned", handler)
    publish(made, "a1", "ada")
    consume(made)
    made.consumer.close()
    made.stop()
    made = Runtime(load({**settings, "JOBQUEST_RETRY_MAX_ATTEMPTS": "4"}))  # it outlives a restart
    for handler in (send_mail, failing):
        made.consumer.register_event_handler("xp.earned", handler)
    consume(made)
    retry(made, "a1")
    assert (calls, failing.seen) == (["mail a1"], ["a1", "a1"])
    waiting = life(made, "a1")["retry"]
    assert waiting["handlersDone"] == ["tests.test_our_faults.send_mail"]
    assert waiting["part"] == "handler tests.test_retries.Failing"
    for _ in range(2):
        retry(made, "a1")
    dead_letter = life(made, "a1")["deadLetter"]
    assert dead_letter["handlersDone"] == ["tests.test_our_faults.send_mail"]
    failing.users.clear()
    made.redrive.redrive([dead_letter["id"]])
    consume(made)
    assert life(made, "a1")["outcome"] == "processed"
    assert calls == ["mail a1"], "not for a redrive either"
    made.consumer.close()
    made.stop()


def test_an_event_that_was_edited_is_another_to_every_handler(
    patient: Runtime, calls: list[str]
) -> None:
    failing = Failing("ada", error=lambda: NotRetryable("too little"))
    for handler in (send_mail, failing):
        patient.consumer.register_event_handler("xp.earned", handler)
    publish(patient, "a1", "ada")
    consume(patient)
    dead_letter = life(patient, "a1")["deadLetter"]
    value = dead_letter["value"].replace('"xpAmount":10', '"xpAmount":20').encode()
    patient.redrive.edit(dead_letter["id"], value)
    failing.users.clear()
    patient.redrive.redrive([dead_letter["id"]])
    consume(patient)
    assert calls == ["mail a1", "mail a1"]
    assert stats(patient, "ada")["xp"] == 20


def test_two_handlers_of_one_name_are_told_apart(patient: Runtime) -> None:
    first, second = Failing(), Failing("ada")
    for handler in (first, second):
        patient.consumer.register_event_handler("xp.earned", handler)
    publish(patient, "a1", "ada")
    consume(patient)
    second.users.clear()
    retry(patient, "a1")
    assert (first.seen, second.seen) == (["a1"], ["a1", "a1"])


# --- the way out of a pause ---


@pytest.mark.slow
def test_after_one_start_what_is_known_to_fail_pauses_nothing_again(
    settings: dict[str, str], patient: Runtime
) -> None:
    """Of 120 that wait, the 40 that are tried first fail once more: twice as many as pause it."""
    users = [f"u{n:03}" for n in range(120)]
    handler = Failing(*users)
    before = Runtime(load({**settings, "JOBQUEST_BRAKE_FAILURES": "1000"}))
    before.consumer.register_event_handler("xp.earned", handler)
    for user in users:
        publish(before, user, user)
    consume(before)
    before.consumer.close()
    before.stop()
    with patient.database.writing() as connection:  # all are overdue
        connection.exec_driver_sql('UPDATE parked SET next_ms = 1 + "offset"')
    handler.users = set(users[:40])
    handler.seen.clear()
    patient.consumer.register_event_handler("xp.earned", handler)
    states: set[str] = set()

    def all_were_tried() -> bool:
        states.add(patient.consumer.snapshot.state)
        return patient.consumer.snapshot.processed == 80 and len(handler.seen) >= 120

    patient.consumer.start()
    wait_for(all_were_tried, 60)
    assert "paused" not in states
    assert sorted(handler.seen) == sorted(users), "each was tried once"
    publish(patient, "new", "new")
    wait_for(lambda: patient.queries.user("new") is not None, 10)
    patient.consumer.stop()


def test_overdue_tries_begin_with_a_few_probes(patient: Runtime) -> None:
    users = [f"u{n}" for n in range(19)]
    handler = Failing(*users)
    patient.consumer.register_event_handler("xp.earned", handler)
    for user in users:
        publish(patient, user, user)
    consume(patient)
    with patient.database.writing() as connection:
        connection.exec_driver_sql("UPDATE parked SET next_ms = 1")
    handler.seen.clear()
    began = time.monotonic()
    patient.consumer.step()
    patient.consumer.step()
    if time.monotonic() - began < 1:
        assert len(handler.seen) == 5, "none succeeded: the others wait for a second"
    handler.users.clear()
    wait_for(lambda: patient.consumer.step() >= 0 and len(handler.seen) >= 15, 10)
    assert patient.consumer._probes.most > 5, "more after some have succeeded"
    consume(patient)
    assert len(handler.seen) == 19


# --- who waits for whom ---


def test_records_without_a_key_wait_for_their_own_user_only(patient: Runtime) -> None:
    handler = Failing("ada")
    patient.consumer.register_event_handler("xp.earned", handler)
    for key in (None, b"", b"some other key"):
        for user in ("ada", "bob", "ada"):
            append(patient, user, key)
    consume(patient)
    assert len(patient.queries.retries()) == 6
    assert stats(patient, "bob")["xp"] == 30
    assert len([id for id in handler.seen if id.startswith("ada")]) == 1, "only the head is tried"


def test_a_record_with_a_long_key_waits_like_any_other(patient: Runtime) -> None:
    handler = Failing("ada")
    patient.consumer.register_event_handler("xp.earned", handler)
    append(patient, "ada", b"\xff" * 4_000)
    append(patient, "bob", b"k")
    consume(patient)
    [waiting] = patient.queries.retries()
    handler.users.clear()
    retry(patient, waiting["id"])
    assert (stats(patient, "ada")["xp"], stats(patient, "bob")["xp"]) == (10, 10)


def test_what_waits_is_tried_in_the_order_of_the_log_whatever_its_clocks_say(
    patient: Runtime,
) -> None:
    """The second record's producer is 20 ms behind the first's."""
    handler = Failing("ada")
    patient.consumer.register_event_handler("xp.earned", handler)
    for id in ("a", "b", "c"):
        publish(patient, id, "ada")
    consume(patient)
    with patient.database.writing() as connection:
        connection.exec_driver_sql(
            "UPDATE parked SET appended_ms = appended_ms - 20 WHERE event_id = 'b'"
        )
    handler.users.clear()
    retry(patient, "a")
    assert handler.seen == ["a", "a", "b", "c"]


@pytest.mark.slow
def test_fifty_thousand_waiting_users_cost_a_step_nothing(patient: Runtime) -> None:
    record = Record("achievements", 0, 0, None, b"{}", (), 1)
    [origin] = [one.origin for one in patient.log.describe(["achievements"])]
    template = Parked("e", "u", "xp.earned", record, origin, 1, Failure("x", "X"), 1, 2**50)
    publish(patient, "first", "bob")
    consume(patient)
    with patient.database.writing() as connection:
        row = parking.row_of(template)
        rows = [
            row | {"event_id": f"e{n}", "user_id": f"user-{n}", "offset": n, "next_ms": 2**50}
            for n in range(50_000)
        ]
        connection.execute(tables.parked.insert(), rows)
        far = time.time_ns() // 1_000_000 + 30_000
        connection.exec_driver_sql(f'UPDATE parked SET next_ms = {far} + "offset" / 2')
    if not patient.database.is_file:
        with patient.database.writing() as connection:
            connection.exec_driver_sql("ANALYZE parked")
    patient.consumer.step()
    taken = []
    for _ in range(20):
        began = time.perf_counter()
        found = patient.read_side.tries([Partition("achievements", 0)], 6, 10**9)
        busy = patient.read_side.busy([OrderingKey("achievements", 0, "user-7")])
        taken.append(time.perf_counter() - began)
        assert (found.due, len(busy)) == ([], 1)
    assert min(taken) < 0.005


# --- what a failure keeps ---


def test_a_failure_keeps_its_class_and_where_in_our_code_it_came_from(patient: Runtime) -> None:
    def total(event: Event) -> None:
        import json

        json.loads("{", object_hook=dict)

    patient.consumer.register_event_handler("xp.earned", total)
    publish(patient, "a1", "ada")
    consume(patient)
    [attempt] = life(patient, "a1")["attempts"]
    assert attempt["error"].startswith("JSONDecodeError: ")
    assert "json.loads(" in attempt["trace"]
    assert "test_our_faults.py" in attempt["trace"]
    assert "decoder.py" not in attempt["trace"], "no frames of libraries"
    assert attempt["part"].endswith("total")


def test_a_handler_that_gives_an_event_up_says_where(patient: Runtime) -> None:
    def give_up(event: Event) -> None:
        raise NotRetryable("the address is gone")

    patient.consumer.register_event_handler("xp.earned", give_up)
    publish(patient, "a1", "ada")
    consume(patient)
    found = life(patient, "a1")
    assert found["outcome"] == "dead"
    assert "in give_up\n    raise NotRetryable(" in found["attempts"][0]["trace"]


def test_a_traceback_is_bounded(patient: Runtime) -> None:
    def deep(depth: int) -> None:
        if depth:
            deep(depth - 1)
        raise ValueError("deep")

    patient.consumer.register_event_handler("xp.earned", lambda event: deep(500))
    publish(patient, "a1", "ada")
    consume(patient)
    [attempt] = life(patient, "a1")["attempts"]
    assert 100 < len(attempt["trace"]) <= 4_000


def append(runtime: Runtime, user: str, key: bytes | None) -> None:
    number = next(NUMBERS)
    value = (
        f'{{"id": "{user}-{number}", "type": "xp.earned", "userId": "{user}",'
        ' "timestamp": "2026-01-01T00:00:00.000Z", "metadata": {},'
        ' "data": {"xpAmount": 10, "totalXp": 0}}'
    )
    [future] = runtime.log.append([NewRecord("achievements", key, value.encode())])
    future.result(5)


NUMBERS = iter(range(1_000_000))
