"""Who brings our own records to the log, and from where."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import event as engine_events
from sqlalchemy import select, update

from jobquest.config import load
from jobquest.read import tables
from jobquest.read.outgoing import LATE_AFTER_MS, LEFT_AFTER_MS
from jobquest.runtime import Runtime
from tests.samples import SAMPLES

HEARTBEAT = b'{"state": "running", "assignment": []}'


@pytest.fixture
def other(settings: dict[str, str], database: dict[str, str]) -> Iterator[Runtime]:
    """Another process on the same log and database."""
    made = Runtime(load(settings | database))
    yield made
    made.consumer.close()
    made.stop()


def cause_follow_ups(runtime: Runtime, count: int = 3) -> None:
    """Consume that many events, each of which has a follow-up."""
    for n in range(count):
        data = SAMPLES["achievement.unlocked"] | {"achievementId": f"a{n}", "xpAmount": 1}
        runtime.producer.publish("achievement.unlocked", "ada", data, id=f"e{n}")
    while runtime.consumer.step():
        pass
    assert waiting(runtime) == count


def waiting(runtime: Runtime) -> int:
    found: int = runtime.queries.outcomes()["followUpsWaiting"]
    return found


def make_older(runtime: Runtime, milliseconds: int) -> None:
    table = tables.outgoing
    with runtime.database.writing() as connection:
        older = table.c.created_ms - milliseconds
        connection.execute(update(table).values(created_ms=older))


def forget_what_is_kept(runtime: Runtime) -> None:
    """As a new process would have it."""
    runtime.read_side.outgoing.take(1_000)


def statements_of(runtime: Runtime) -> list[str]:
    texts: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        texts.append(statement)

    engine_events.listen(runtime.database.engine, "before_cursor_execute", note)
    return texts


def test_follow_ups_are_relayed_without_being_read_from_the_database(runtime: Runtime) -> None:
    runtime.relay.step()  # whose look into the table counts for a second
    cause_follow_ups(runtime)
    texts = statements_of(runtime)
    assert runtime.relay.step() == 3
    assert not [text for text in texts if "FROM outgoing" in text]
    assert waiting(runtime) == 0


def test_follow_ups_that_waited_in_memory_are_not_read_again_from_the_database(
    runtime: Runtime,
) -> None:
    cause_follow_ups(runtime)
    make_older(runtime, LEFT_AFTER_MS)
    assert runtime.relay.step() == 3
    assert runtime.relay.step() == 0


def test_a_follow_up_that_is_no_longer_in_memory_is_read_a_while_later(runtime: Runtime) -> None:
    cause_follow_ups(runtime)
    forget_what_is_kept(runtime)
    assert runtime.relay.step() == 0
    make_older(runtime, LEFT_AFTER_MS)
    assert runtime.relay.step() == 3
    assert waiting(runtime) == 0


def test_follow_ups_for_a_topic_that_the_log_refuses_stay_in_the_table(runtime: Runtime) -> None:
    cause_follow_ups(runtime)
    assert runtime.read_side.outgoing.take(10, without=["notifications"]) == []
    assert waiting(runtime) == 3


def test_follow_ups_that_memory_has_no_room_for_are_read_from_the_database(
    settings: dict[str, str], database: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobquest.read.outgoing.KEPT", 1)
    runtime = Runtime(load(settings | database))
    cause_follow_ups(runtime)
    assert runtime.relay.step() == 1
    make_older(runtime, LEFT_AFTER_MS)
    assert runtime.relay.step() == 2
    runtime.consumer.close()
    runtime.stop()


@pytest.mark.parametrize(
    ("happens", "relayed"),
    [
        (lambda runtime: runtime.state.beat(HEARTBEAT), 0),
        (lambda runtime: runtime.state.leave(), 3),
        (lambda runtime: silence(runtime, LEFT_AFTER_MS), 3),
    ],
    ids=["lives", "has ended", "is silent"],
)
def test_what_a_process_has_not_relayed_is_left_to_it_while_it(
    runtime: Runtime, other: Runtime, happens: Callable[[Runtime], None], relayed: int
) -> None:
    runtime.state.beat(HEARTBEAT)
    cause_follow_ups(runtime)
    make_older(runtime, LEFT_AFTER_MS)
    happens(runtime)
    assert other.relay.step() == relayed


def silence(runtime: Runtime, milliseconds: int) -> None:
    table = tables.processes
    with runtime.database.writing() as connection:
        connection.execute(update(table).values(heartbeat_ms=table.c.heartbeat_ms - milliseconds))
        assert connection.execute(select(table.c.id)).scalars().all()


def test_what_waits_for_very_long_is_relayed_by_another_although_its_process_lives(
    runtime: Runtime, other: Runtime
) -> None:
    cause_follow_ups(runtime)
    make_older(runtime, LATE_AFTER_MS)
    runtime.state.beat(HEARTBEAT)
    assert other.relay.step() == 3
