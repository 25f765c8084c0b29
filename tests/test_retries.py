"""Failing handlers: retries in order, what dies after the last, the circuit breaker, and what
hangs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from jobquest.config import load
from jobquest.consumer import CircuitOpen
from jobquest.consumer.retries import JITTER, Backoff, CircuitBreaker
from jobquest.errors import NotRetryable, StateConflict
from jobquest.events import Event
from jobquest.read import Batch, OrderingKey
from jobquest.read.failures import Failure
from jobquest.runtime import Runtime
from tests.service import wait_for
from tests.test_consumer import consume, stats

ATTEMPTS = 3


@pytest.fixture
def settings(settings: dict[str, str]) -> dict[str, str]:
    """Three tries, an hour's patience between them: tests say when the next one is."""
    return {**settings, "JOBQUEST_RETRY_MAX_ATTEMPTS": str(ATTEMPTS)}


class Failing:
    """A handler that fails for some users, and notes whom it was called for."""

    def __init__(self, *users: str, error: Callable[[], BaseException] | None = None) -> None:
        self.users = set(users)
        self.seen: list[str] = []
        self._error = error or (lambda: ValueError("unlucky"))

    def __call__(self, event: Event) -> None:
        self.seen.append(event.id)
        if event.user_id in self.users:
            raise self._error()


def publish(runtime: Runtime, id: str, user: str = "u") -> None:
    runtime.producer.publish("xp.earned", user, {"xpAmount": 10, "totalXp": 0}, id=id)


def failing(runtime: Runtime, *users: str, **options: Any) -> Failing:
    handler = Failing(*users, **options)
    runtime.consumer.register_event_handler("xp.earned", handler)
    return handler


def life(runtime: Runtime, id: str) -> dict[str, Any]:
    found = runtime.queries.event(id)
    assert found
    return found


def retry(runtime: Runtime, id: str) -> None:
    """Have a parked event tried now."""
    runtime.read_side.try_now(id)
    consume(runtime)


def test_a_failing_event_waits_and_its_users_later_ones_behind_it(runtime: Runtime) -> None:
    handler = failing(runtime, "ada")
    publish(runtime, "a1", "ada")
    publish(runtime, "a2", "ada")
    publish(runtime, "b1", "bob")
    consume(runtime)
    publish(runtime, "a3", "ada")
    consume(runtime)
    assert handler.seen == ["a1", "b1"], "only the head is tried"
    assert [life(runtime, id)["outcome"] for id in ("a1", "a2", "a3", "b1")] == [
        "retrying",
        "retrying",
        "retrying",
        "processed",
    ]
    assert stats(runtime, "bob")["xp"] == 10
    assert runtime.queries.user("ada") is None
    head, *behind = runtime.queries.retries()
    assert (head["id"], head["attempts"], head["error"]) == ("a1", 1, "ValueError: unlucky")
    assert head["path"].startswith("test_retries.py:")
    assert head["behind"] is None
    assert [(one["id"], one["attempts"], one["nextTry"], one["behind"]) for one in behind] == [
        ("a2", 0, None, "a1"),
        ("a3", 0, None, "a1"),
    ]
    handler.users.clear()
    retry(runtime, "a1")
    assert handler.seen == ["a1", "b1", "a1", "a2", "a3"]
    assert stats(runtime, "ada")["xp"] == 30
    assert runtime.queries.retries() == []


def test_an_event_dies_after_its_last_try_and_the_next_gets_its_own(runtime: Runtime) -> None:
    handler = failing(runtime, "ada")
    publish(runtime, "a1", "ada")
    publish(runtime, "a2", "ada")
    consume(runtime)
    for _ in range(ATTEMPTS - 1):
        retry(runtime, "a1")
    dead_letter = life(runtime, "a1")["deadLetter"]
    assert (dead_letter["state"], dead_letter["attempts"]) == ("open", ATTEMPTS)
    assert (dead_letter["error"], dead_letter["errorClass"]) == (
        "ValueError: unlucky",
        "ValueError",
    )
    assert handler.seen == ["a1"] * ATTEMPTS + ["a2"]
    [second] = runtime.queries.retries()
    assert (second["id"], second["attempts"]) == ("a2", 1)
    assert second["nextTry"]


def test_a_handler_may_say_that_trying_again_is_useless(runtime: Runtime) -> None:
    handler = failing(runtime, "ada", error=lambda: NotRetryable("no such account"))
    publish(runtime, "a1", "ada")
    publish(runtime, "a2", "ada")
    consume(runtime)
    dead_letter = life(runtime, "a1")["deadLetter"]
    assert (dead_letter["attempts"], dead_letter["errorClass"]) == (1, "NotRetryable")
    assert handler.seen == ["a1", "a2"], "nobody waits behind it"
    assert runtime.queries.retries() == []


def test_what_waits_survives_a_restart(settings: dict[str, str], runtime: Runtime) -> None:
    failing(runtime, "ada")
    for id in ("a1", "a2"):
        publish(runtime, id, "ada")
    consume(runtime)
    runtime.consumer.close()
    again = Runtime(runtime.config)
    handler = failing(again)
    consume(again)
    assert handler.seen == [], "its time has not come"
    retry(again, "a1")
    assert handler.seen == ["a1", "a2"]
    assert stats(again, "ada")["xp"] == 20
    again.consumer.close()
    again.stop()


def test_an_id_that_waits_is_known_and_one_that_died_may_come_again(runtime: Runtime) -> None:
    handler = failing(runtime, "ada")
    publish(runtime, "a1", "ada")
    consume(runtime)
    publish(runtime, "a1", "ada")
    consume(runtime)
    assert len(runtime.queries.retries()) == 1
    for _ in range(ATTEMPTS - 1):
        retry(runtime, "a1")
    assert life(runtime, "a1")["outcome"] == "dead"
    handler.users.clear()
    publish(runtime, "a1", "ada")
    consume(runtime)
    assert life(runtime, "a1")["outcome"] == "processed"
    assert stats(runtime, "ada")["xp"] == 10


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), GeneratorExit()])
def test_a_handler_that_ends_the_thread_does_not(runtime: Runtime, error: BaseException) -> None:
    failing(runtime, "ada", error=lambda: error)
    publish(runtime, "a1", "ada")
    publish(runtime, "b1", "bob")
    consume(runtime)
    assert life(runtime, "a1")["retry"]["errorClass"] == type(error).__name__
    assert life(runtime, "b1")["outcome"] == "processed"


class _Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even this")


@pytest.mark.parametrize("error", [_Unspeakable(), ValueError("\x00 \ud800 " + "x" * 100_000)])
def test_an_error_that_can_not_be_stored_as_it_is_is_stored_all_the_same(
    runtime: Runtime, error: Exception
) -> None:
    failing(runtime, "ada", error=lambda: error)
    publish(runtime, "a1", "ada")
    consume(runtime)
    assert life(runtime, "a1")["retry"]["error"]


def test_only_what_waits_at_the_head_can_be_tried_now(runtime: Runtime) -> None:
    failing(runtime, "ada")
    for id in ("a1", "a2"):
        publish(runtime, id, "ada")
    consume(runtime)
    with pytest.raises(StateConflict, match="behind a1"):
        runtime.read_side.try_now("a2")
    with pytest.raises(StateConflict, match="does not wait"):
        runtime.read_side.try_now("b1")


def test_the_wait_doubles_up_to_a_minute_with_jitter() -> None:
    backoff = Backoff(10, 1)
    for attempts, seconds in ((1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (50, 60), (1000, 60)):
        waits = [backoff.wait_ms(attempts) / 1000 for _ in range(200)]
        assert all(seconds * (1 - JITTER) - 0.001 <= wait <= seconds * 1.2 for wait in waits)
        assert max(waits) - min(waits) > seconds / 10, "no jitter"


def test_a_clock_that_was_set_back_holds_up_no_try(runtime: Runtime) -> None:
    handler = failing(runtime, "ada")
    publish(runtime, "a1", "ada")
    consume(runtime)
    handler.users.clear()
    with runtime.database.writing() as connection:
        connection.exec_driver_sql("UPDATE parked SET next_ms = next_ms + 86400000")
    consume(runtime)
    assert life(runtime, "a1")["outcome"] == "processed"


def test_a_parked_event_is_tried_by_the_thread_when_its_time_has_come(
    settings: dict[str, str],
) -> None:
    runtime = Runtime(load({**settings, "JOBQUEST_RETRY_BASE_SECONDS": "0"}))
    handler = failing(runtime, "ada")
    publish(runtime, "a1", "ada")
    runtime.consumer.start()
    wait_for(lambda: runtime.consumer.snapshot.dead, 10)
    runtime.consumer.stop()
    assert handler.seen == ["a1"] * ATTEMPTS
    runtime.stop()


# --- the circuit breaker ---


@pytest.fixture
def runtime_that_pauses(settings: dict[str, str]) -> Iterator[Runtime]:
    made = Runtime(load({**settings, "JOBQUEST_BRAKE_FAILURES": "5"}))
    yield made
    made.consumer.close()
    made.stop()


def test_events_that_fail_in_a_row_pull_the_breaker_and_start_goes_on_afresh(
    runtime_that_pauses: Runtime,
) -> None:
    users = [f"u{n}" for n in range(8)]
    handler = failing(runtime_that_pauses, *users)
    for user in users:
        publish(runtime_that_pauses, user, user)
    runtime_that_pauses.consumer.start()
    wait_for(lambda: runtime_that_pauses.consumer.snapshot.state == "paused", 10)
    assert handler.seen == users[:5]
    assert "5 events in a row" in str(runtime_that_pauses.consumer.snapshot.reason)
    assert "ValueError: unlucky" in str(runtime_that_pauses.consumer.snapshot.reason)
    assert len(runtime_that_pauses.queries.retries()) == 5, "nothing died of it"
    runtime_that_pauses.consumer.resume()
    assert runtime_that_pauses.consumer.snapshot.state == "paused", (
        "only the operator's start goes on"
    )
    handler.users.clear()
    runtime_that_pauses.consumer.start()
    wait_for(lambda: runtime_that_pauses.consumer.snapshot.processed == 3, 10)
    assert runtime_that_pauses.consumer.snapshot.state in ("running", "idle")
    runtime_that_pauses.consumer.stop()
    assert runtime_that_pauses.consumer.snapshot.state == "stopped"


def test_one_success_or_one_event_that_fails_often_does_not_pull_it() -> None:
    breaker, failure = CircuitBreaker(3), Failure("unlucky", "ValueError", part="handler h")
    for _ in range(10):
        breaker.handler_failed("same", "user.login", failure)
    assert breaker.open_reason is None
    breaker.handler_failed("other", "user.login", failure)
    breaker.handlers_succeeded("user.login", ["handler h"])
    for id in ("a", "b"):
        breaker.handler_failed(id, "user.login", failure)
    assert breaker.open_reason is None
    breaker.handler_failed("c", "user.login", failure)
    assert breaker.open_reason


def test_a_paused_consumer_is_stopped_by_stop(runtime_that_pauses: Runtime) -> None:
    users = [f"u{n}" for n in range(5)]
    failing(runtime_that_pauses, *users, *(f"new-{user}" for user in users))
    for user in users:
        publish(runtime_that_pauses, user, user)
    with pytest.raises(CircuitOpen):
        consume(runtime_that_pauses)
    runtime_that_pauses.consumer.close()
    runtime_that_pauses.consumer.start()
    for user in users:
        publish(runtime_that_pauses, f"new-{user}", f"new-{user}")
    wait_for(lambda: runtime_that_pauses.consumer.snapshot.state == "paused", 10)
    runtime_that_pauses.consumer.stop()
    assert runtime_that_pauses.consumer.snapshot.state == "stopped"


# --- what hangs ---


class Hanging:
    """A handler that returns only when it is let go."""

    def __init__(self) -> None:
        self.entered, self.let_go = threading.Event(), threading.Event()

    def __call__(self, event: Event) -> None:
        self.entered.set()
        self.let_go.wait(30)


@pytest.fixture
def hanging(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hanging]:
    """A consumer whose handler hangs, and is soon held to."""
    monkeypatch.setattr("jobquest.consumer.watch.STALL_SECONDS", 0.05)
    handler = Hanging()
    runtime.consumer.register_event_handler("user.login", handler)
    runtime.producer.publish("user.login", "ada", {}, id="slow")
    thread = threading.Thread(target=consume, args=(runtime,))
    thread.start()
    assert handler.entered.wait(10)
    wait_for(lambda: runtime.consumer.snapshot.state == "stalled", 10)
    yield handler
    handler.let_go.set()
    thread.join(10)
    assert not thread.is_alive()


def test_a_handler_that_hangs_is_told_with_its_event(runtime: Runtime, hanging: Hanging) -> None:
    reason = str(runtime.consumer.snapshot.reason)
    assert "The handler" in reason
    assert "event slow (user.login)" in reason


def test_a_hang_is_written_down_as_a_failed_try_that_outlives_the_process(
    runtime: Runtime, hanging: Hanging
) -> None:
    runtime.consumer.watch.note()
    runtime.consumer.watch.note()
    [waiting] = runtime.queries.retries()
    assert (waiting["id"], waiting["attempts"]) == ("slow", 1)
    assert waiting["errorClass"] == "HandlerStalled"
    # What a process that was started again finds, while the first still hangs:
    runtime.producer.publish("user.logout", "bob", {}, id="other")
    again = Runtime(runtime.config)
    stuck, runtime.consumer._subscription = (
        runtime.consumer._subscription,
        None,
    )  # its kill frees the subscription
    assert stuck
    stuck.close()
    consume(again)
    assert life(again, "other")["outcome"] == "processed", "others go on"
    assert life(again, "slow")["outcome"] == "retrying"
    again.consumer.close()
    again.stop()


def test_a_handler_that_returns_after_all_counts_once(runtime: Runtime, hanging: Hanging) -> None:
    runtime.consumer.watch.note()
    hanging.let_go.set()
    wait_for(lambda: life(runtime, "slow")["outcome"] == "processed", 10)
    assert runtime.queries.retries() == []
    assert stats(runtime, "ada")["logins"] == 1


def test_an_event_that_hung_at_its_last_try_dies_without_another(runtime: Runtime) -> None:
    """The try that hung was the last: one more would hang for ever, start after start."""
    handler = failing(runtime, "ada")
    publish(runtime, "a1", "ada")
    consume(runtime)
    retry(runtime, "a1")
    [row] = runtime.read_side.waiting(OrderingKey("achievements", 0, "ada"), 10)
    hung = replace(row, attempts=ATTEMPTS, failure=Failure("It hung.", "HandlerStalled"))
    runtime.read_side.apply(Batch(released=[row], parked=[hung]))
    retry(runtime, "a1")
    assert handler.seen == ["a1", "a1"]
    dead_letter = life(runtime, "a1")["deadLetter"]
    assert (dead_letter["errorClass"], dead_letter["attempts"]) == ("HandlerStalled", ATTEMPTS)
