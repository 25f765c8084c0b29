"""The consumer, stepped by hand: each event counted once, one bad event harms only itself."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from jobquest.config import load
from jobquest.errors import SettingsError
from jobquest.events import Event, from_request
from jobquest.events.applications import STATUSES, known_first
from jobquest.log import PATIENT_SECONDS, NewRecord
from jobquest.read import ReadSide
from jobquest.read.event_filter import EventFilter
from jobquest.runtime import Runtime
from tests.samples import SAMPLES, TYPES
from tests.service import wait_for


def consume(runtime: Runtime) -> int:
    """Step until nothing is left, follow-ups included; how many records that were."""
    total = 0
    while count := runtime.consumer.step() + runtime.relay.step():
        total += count
    return total


def write(runtime: Runtime, topic: str, *values: bytes) -> None:
    records = [NewRecord(topic, b"k", value) for value in values]
    for future in runtime.log.append(records, PATIENT_SECONDS):
        future.result(PATIENT_SECONDS)


def outcomes(runtime: Runtime) -> list[tuple[str, str | None]]:
    """Outcome and type of every event, oldest change first."""
    found = runtime.queries.events(limit=500)["events"]
    return [(item["outcome"], item["event"]["type"]) for item in reversed(found)]


def stats(runtime: Runtime, user_id: str = "u") -> dict[str, Any]:
    found = runtime.queries.user(user_id)
    assert found
    return found


@pytest.mark.parametrize("name", TYPES)
def test_each_type_is_processed(runtime: Runtime, name: str) -> None:
    published = runtime.producer.publish(name, "u", SAMPLES[name])
    consume(runtime)
    life = runtime.queries.event(published.event.id)
    assert life
    assert life["outcome"] == "processed"
    assert life["event"] == published.event.to_dict()
    assert stats(runtime)["eventCount"] >= 1


def test_statistics_add_up(runtime: Runtime) -> None:
    for name in TYPES:
        runtime.producer.publish(name, "u", SAMPLES[name])
    consume(runtime)
    found = stats(runtime)
    # A mission's 50, an achievement's 100, XP of its own 100, a challenge's 75.
    assert (found["xp"], found["level"], found["nextLevelXp"]) == (325, 3, 600)
    assert found["reportedTotalXp"] == 350
    counted = ("missionsStarted", "missionsCompleted", "missionsFailed", "applications")
    counted += ("achievements", "challengesCompleted", "learningStarted", "learningCompleted")
    counted += ("notebookEntries", "logins")
    assert {name: found[name] for name in counted} == dict.fromkeys(counted, 1)
    assert (found["focusMinutes"], found["bestStreakDays"]) == (25, 7)


def test_an_event_id_counts_once(runtime: Runtime) -> None:
    event = from_request("xp.earned", "u", {"xpAmount": 10, "totalXp": 10}, id="once")
    write(runtime, "achievements", event.to_json(), event.to_json())
    consume(runtime)
    write(runtime, "achievements", event.to_json())
    consume(runtime)
    assert stats(runtime)["xp"] == 10
    assert runtime.consumer.snapshot.duplicates == 2


def test_a_second_event_under_a_known_id_becomes_a_dead_letter(runtime: Runtime) -> None:
    for amount in (10, 999):
        event = from_request("xp.earned", "u", {"xpAmount": amount, "totalXp": 10}, id="same")
        write(runtime, "achievements", event.to_json())
        consume(runtime)
    assert stats(runtime)["xp"] == 10
    assert outcomes(runtime) == [("processed", "xp.earned"), ("dead", "xp.earned")]
    life = runtime.queries.event("same")
    assert life
    assert (life["outcome"], life["event"]["data"]["xpAmount"]) == ("processed", 10)


def test_what_can_not_be_read_becomes_a_dead_letter_and_the_next_event_counts(
    runtime: Runtime,
) -> None:
    write(runtime, "achievements", b"\xff\xfe", b"", b"[" * 100_000, b'{"type": "no.such"}')
    runtime.producer.publish("xp.earned", "u", SAMPLES["xp.earned"])
    consume(runtime)
    dead = runtime.queries.events(EventFilter(outcomes=frozenset({"dead"})))["events"]
    assert len(dead) == 4
    for item in dead:
        life = runtime.queries.event(item["event"]["id"])
        assert life
        assert life["deadLetter"]["errorClass"] == "InvalidEvent"
        assert life["deadLetter"]["error"]
    assert stats(runtime)["xp"] == 100


def test_only_the_event_that_fails_its_transaction_waits(runtime: Runtime) -> None:
    """No handler and no schema is to blame: the sum of his XP does not fit the column."""
    for user in ("ada", "bob", "cyd"):
        runtime.producer.publish("xp.earned", user, SAMPLES["xp.earned"])
    consume(runtime)
    brim = "UPDATE user_stats SET xp = 9223372036854775800 WHERE user_id = 'bob'"
    with runtime.database.writing() as connection:
        connection.exec_driver_sql(brim)
    for user in ("ada", "bob", "cyd"):
        runtime.producer.publish("xp.earned", user, SAMPLES["xp.earned"], id=f"{user}-2")
    assert runtime.consumer.step() == 3
    found = {id: runtime.queries.event(f"{id}-2") for id in ("ada", "bob", "cyd")}
    assert {id: life and life["outcome"] for id, life in found.items()} == {
        "ada": "processed",
        "bob": "retrying",
        "cyd": "processed",
    }
    assert (stats(runtime, "ada")["xp"], stats(runtime, "cyd")["xp"]) == (200, 200)
    with runtime.database.writing() as connection:
        connection.exec_driver_sql(brim.replace("9223372036854775800", "0"))
    runtime.read_side.try_now("bob-2")
    consume(runtime)
    assert stats(runtime, "bob")["xp"] == 100
    assert runtime.queries.outcomes()["deadLetters"] == 0


def test_an_event_that_fails_its_transaction_is_found_in_few_transactions(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One for each event of a batch would take hours with a database that is far away."""
    runtime.producer.publish("xp.earned", "bob", SAMPLES["xp.earned"])
    consume(runtime)
    with runtime.database.writing() as connection:
        connection.exec_driver_sql("UPDATE user_stats SET xp = 9223372036854775800")
    for n in range(500):
        user = "bob" if n == 300 else f"u{n}"
        runtime.producer.publish("xp.earned", user, SAMPLES["xp.earned"])
    applied, apply = [], ReadSide.apply
    monkeypatch.setattr(ReadSide, "apply", lambda *given: (applied.append(1), apply(*given)))
    assert runtime.consumer.step() == 500
    assert runtime.queries.outcomes()["retrying"] == 1
    assert stats(runtime, "u499")["xp"] == 100
    assert len(applied) <= 2 * (500).bit_length() + 2


def test_a_batch_ends_when_handlers_have_had_their_time(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobquest.consumer.reactor.HANDLER_SECONDS", -1.0)
    runtime.consumer.register_event_handler("user.login", lambda event: None)
    for n in range(3):
        runtime.producer.publish("user.login", "u", {}, id=f"n{n}")
    assert [runtime.consumer.step() for _ in range(4)] == [1, 1, 1, 0]
    assert stats(runtime)["logins"] == 3


def test_the_time_that_decoding_takes_is_not_the_handlers(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a batch of large events ends after one of them, and the next has all others decoded."""
    slow, contents = threading.Event(), ReadSide.contents

    def take_long(*given: Any, **named: Any) -> dict[str, bytes]:
        slow.wait(0.3)
        return contents(*given, **named)

    monkeypatch.setattr("jobquest.consumer.reactor.HANDLER_SECONDS", 0.2)
    monkeypatch.setattr("jobquest.consumer.reactor.PORTION", 2)
    monkeypatch.setattr(ReadSide, "contents", take_long)
    for n in range(4):
        runtime.producer.publish("user.login", "u", {}, id=f"n{n}")
    assert runtime.consumer.step() == 4


def test_the_portions_of_a_batch_are_one_batch(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobquest.consumer.reactor.PORTION", 1)

    def fail(event: Event) -> None:
        raise ValueError(event.id)

    runtime.consumer.register_event_handler("user.logout", fail)
    for event_type, id in (("login", "a"), ("login", "a"), ("logout", "b"), ("login", "c")):
        runtime.producer.publish(f"user.{event_type}", "u", {}, id=id)
    assert runtime.consumer.step() == 4
    assert stats(runtime)["logins"] == 1  # the repeat is dropped, the last waits behind the failed
    found = {id: runtime.queries.event(id) for id in ("b", "c")}
    assert {life and life["outcome"] for life in found.values()} == {"retrying"}


def test_xp_that_reaches_a_level_publishes_it_and_notifies_once(runtime: Runtime) -> None:
    for n in range(3):
        runtime.producer.publish("xp.earned", "u", {"xpAmount": 60, "totalXp": 0}, id=f"n{n}")
        consume(runtime)
    types = [kind for _, kind in outcomes(runtime)]
    assert types.count("level.up") == 1
    assert types.count("notification.sent") == 1
    level = next(
        i for i in runtime.queries.events(EventFilter(types=frozenset({"level.up"})))["events"]
    )
    assert level["event"]["data"] == {"newLevel": 2, "totalXp": 120}
    assert level["event"]["metadata"] == {"causedBy": "n1"}
    assert [note["title"] for note in runtime.queries.user_list("notifications", "u")] == [
        "Level 2"
    ]


def test_a_level_that_jobquest_reported_is_not_published_again(runtime: Runtime) -> None:
    runtime.producer.publish("level.up", "u", {"newLevel": 2, "totalXp": 120})
    runtime.producer.publish(
        "mission.completed", "u", {**SAMPLES["mission.completed"], "xpEarned": 120}
    )
    consume(runtime)
    assert len(runtime.queries.events(EventFilter(types=frozenset({"level.up"})))["events"]) == 1
    assert len(runtime.queries.user_list("notifications", "u")) == 1


def test_achievements_and_challenges_notify(runtime: Runtime) -> None:
    for name in ("achievement.unlocked", "daily.challenge.completed"):
        runtime.producer.publish(name, "u", {**SAMPLES[name], **_no_xp(name)})
    consume(runtime)
    kinds = {note["notificationType"] for note in runtime.queries.user_list("notifications", "u")}
    assert kinds == {"achievement", "challenge"}


def _no_xp(name: str) -> dict[str, int]:
    return {"achievement.unlocked": {"xpAmount": 0}, "daily.challenge.completed": {"xpReward": 0}}[
        name
    ]


def test_the_pipeline_follows_event_time(runtime: Runtime) -> None:
    job = {"jobId": "j", "companyName": "Acme", "position": "Dev"}
    for status, minute in (("offer", 30), ("interview", 10)):  # the later one came first
        runtime.producer.publish(
            "job.status.updated",
            "u",
            {**job, "newStatus": status, "previousStatus": "applied"},
            timestamp=f"2026-01-01T00:{minute}:00Z",
        )
    runtime.producer.publish("job.applied", "u", job, timestamp="2026-01-01T00:00:00Z")
    consume(runtime)
    [application] = runtime.queries.user_list("applications", "u")
    assert application["status"] == "offer"
    assert application["appliedAt"] == "2026-01-01T00:00:00.000Z"


def test_an_application_may_have_any_status_and_pages_show_known_ones_first(
    runtime: Runtime,
) -> None:
    job = SAMPLES["job.applied"]
    for number, status in enumerate(["ghosted", "offer", None, "Offer", "withdrawn"]):
        data = {**job, "jobId": f"{number}", "status": status}
        given = {name: value for name, value in data.items() if value is not None}
        runtime.producer.publish("job.applied", "u", given)
    consume(runtime)
    statuses = {
        row["jobId"]: row["status"] for row in runtime.queries.user_list("applications", "u")
    }
    kept = {"0": "ghosted", "1": "offer", "2": "applied", "3": "Offer", "4": "withdrawn"}
    assert statuses == kept
    assert known_first(["ghosted", "offer", "Offer", "applied"]) == [*STATUSES, "ghosted", "Offer"]


def test_the_inbox_knows_what_was_read(runtime: Runtime) -> None:
    sent = runtime.notifications.show("u", "info", "Hello", "A message")
    consume(runtime)
    [note] = runtime.queries.user_list("notifications", "u")
    assert (note["title"], note["read"]) == ("Hello", False)
    runtime.notifications.mark_read("u", sent.event.data["notificationId"])
    consume(runtime)
    [note] = runtime.queries.user_list("notifications", "u")
    assert note["read"]


def test_achievements_challenges_and_learning_are_kept(runtime: Runtime) -> None:
    for name in TYPES:
        runtime.producer.publish(name, "u", SAMPLES[name])
    consume(runtime)
    [achievement] = runtime.queries.user_list("achievements", "u")
    [challenge] = runtime.queries.user_list("challenges", "u")
    [resource] = runtime.queries.user_list("learning", "u")
    assert achievement["achievementName"] == "First application"
    assert challenge["completedAt"]
    assert challenge["availableAt"]
    assert (resource["progress"], bool(resource["startedAt"])) == (100, True)


def test_counts_are_kept_by_minute_of_event_time(runtime: Runtime) -> None:
    for time in ("10:00:59.999", "10:01:00", "11:59:00"):
        runtime.producer.publish("user.login", "u", {}, timestamp=f"2026-01-01T{time}Z")
    consume(runtime)
    day = 1767225600000  # 2026-01-01T00:00Z
    minutes = runtime.queries.analytics("minute", day, day + 86_400_000)
    hours = runtime.queries.analytics("hour", day, day + 86_400_000, ["user.login"])
    assert [window["total"] for window in minutes] == [1, 1, 1]
    assert [(w["start"], w["counts"]) for w in hours] == [
        ("2026-01-01T10:00:00.000Z", {"user.login": 2}),
        ("2026-01-01T11:00:00.000Z", {"user.login": 1}),
    ]


def test_an_unknown_field_of_another_client_is_processed(runtime: Runtime) -> None:
    event = from_request("xp.earned", "u", SAMPLES["xp.earned"], id="newer").to_dict()
    event["data"]["mood"] = "good"
    event["traceId"] = "t"
    write(runtime, "achievements", json.dumps(event).encode())
    consume(runtime)
    life = runtime.queries.event("newer")
    assert life
    assert (life["event"]["data"]["mood"], life["event"]["traceId"]) == ("good", "t")
    assert stats(runtime)["xp"] == 100


def test_start_and_stop_are_idempotent_and_truthful(runtime: Runtime) -> None:
    consumer = runtime.consumer
    for _ in range(2):
        consumer.start()
    wait_for(lambda: consumer.snapshot.state == "idle", 10)
    runtime.producer.publish("user.login", "u", {})
    wait_for(lambda: consumer.snapshot.processed == 1, 10)
    assert [t.name for t in threading.enumerate()].count("consumer") == 1
    for _ in range(2):
        consumer.stop()
        assert consumer.snapshot.state == "stopped"
    assert "consumer" not in [t.name for t in threading.enumerate()]


def test_a_users_own_handlers_are_registered_from_the_settings(
    settings: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_handlers.py").write_text(
        "seen = []\ndef register(consumer):\n"
        "    consumer.register_event_handler('user.login', seen.append)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    runtime = Runtime(load({**settings, "JOBQUEST_HANDLERS": "my_handlers"}))
    runtime.producer.publish("user.login", "u", {})
    consume(runtime)
    assert [event.type for event in sys.modules["my_handlers"].seen] == ["user.login"]
    runtime.consumer.close()
    runtime.stop()
    for name, why in (("no_such_module", "imported"), ("json", "register")):
        with pytest.raises(SettingsError, match=why):
            Runtime(load({**settings, "JOBQUEST_HANDLERS": name}))


def test_an_unknown_type_has_no_handlers(runtime: Runtime) -> None:
    with pytest.raises(ValueError, match=r"mission\.started"):
        runtime.consumer.register_event_handler("mission.strated", print)
