"""The read side by itself: fencing, and that a transaction is all or nothing."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from sqlalchemy import event as engine_events
from sqlalchemy import select

from jobquest.errors import PositionMoved
from jobquest.events import Event, from_request
from jobquest.log import Origin, Partition, Record
from jobquest.read import Applied, Batch, tables
from jobquest.read.cursor import Cursor
from jobquest.read.database import padded
from jobquest.read.event_filter import EventFilter
from jobquest.read.statements import add_rows, statements
from jobquest.runtime import Runtime
from tests.numbering import begin_after
from tests.samples import SAMPLES

ORIGIN = Origin("achievements", 0, "one-life")


def applied(id: str, offset: int, xp: int = 10) -> Applied:
    event = from_request("xp.earned", "ada", {"xpAmount": xp, "totalXp": 0}, id=id)
    record = Record("achievements", 0, offset, b"ada", event.to_json(), (), event.time_ms)
    return Applied(event, record)


def unlocked(id: str, user: str, offset: int) -> Applied:
    event = from_request("achievement.unlocked", user, SAMPLES["achievement.unlocked"], id=id)
    record = Record("achievements", 0, offset, b"k", event.to_json(), (), event.time_ms)
    return Applied(event, record)


def xp(runtime: Runtime) -> int:
    found = runtime.queries.user("ada")
    return found["xp"] if found else 0


def test_a_consumer_that_lost_its_partition_can_not_write(runtime: Runtime) -> None:
    side = runtime.read_side
    side.apply(Batch([applied("a", 0)], moves={ORIGIN: (None, 1)}))
    for stored in (None, 0, 2):
        with pytest.raises(PositionMoved):
            side.apply(Batch([applied("b", 1)], moves={ORIGIN: (stored, 2)}))
    assert xp(runtime) == 10
    assert side.positions([ORIGIN]) == {ORIGIN: 1}
    side.apply(Batch([applied("b", 1)], moves={ORIGIN: (1, 2)}))
    assert xp(runtime) == 20


def test_an_event_that_another_consumer_applied_meanwhile_is_not_counted_again(
    runtime: Runtime,
) -> None:
    side = runtime.read_side
    side.apply(Batch([applied("a", 0)]))
    with pytest.raises(PositionMoved):
        side.apply(Batch([applied("a", 7), applied("b", 8)]))
    assert xp(runtime) == 10


def test_positions_of_another_life_of_the_topic_do_not_count(runtime: Runtime) -> None:
    runtime.read_side.apply(Batch(moves={ORIGIN: (None, 5)}))
    again = ORIGIN._replace(identity="another-life")
    assert runtime.read_side.positions([again]) == {}


def test_a_batch_is_all_or_nothing(runtime: Runtime) -> None:
    side = runtime.read_side
    broken = applied("b", 1)
    with pytest.raises(KeyError, match="xpAmount"):
        # A projection that fails: the type is right, the data is not.
        side.apply(
            Batch(
                [applied("a", 0), Applied(_without_data(broken), broken.record)],
                moves={ORIGIN: (None, 2)},
            )
        )
    assert xp(runtime) == 0
    assert runtime.queries.events()["events"] == []
    assert runtime.queries.event("a") is None
    assert side.positions([ORIGIN]) == {}


def _without_data(entry: Applied) -> Event:
    return msgspec.structs.replace(entry.event, data={})


def test_numbers_of_changes_rise_without_gaps(runtime: Runtime) -> None:
    for n in range(3):
        runtime.read_side.apply(Batch([applied(f"{n}-{m}", 10 * n + m) for m in range(4)]))
    found = runtime.queries.changes(0, 100)
    assert [change[0] for change in found] == list(range(1, 13))
    assert runtime.queries.last_seq() == 12


def test_bytes_are_stored_as_they_are(runtime: Runtime) -> None:
    """PostgreSQL gets them as a text in its own notation."""
    values = [b"", b"a", bytes(range(256)), b'\\x61"},{', b"NULL"]
    rows = [(str(n), "p", 0, "topic", one, one, one) for n, one in enumerate(values)]
    with runtime.database.writing() as connection:
        with statements(connection) as run:
            add_rows(run, tables.outgoing, rows)
        found = connection.execute(select(tables.outgoing).order_by(tables.outgoing.c.id)).all()
    assert [tuple(row) for row in found] == rows


@pytest.mark.parametrize(
    ("count", "length"), [(0, 0), (1, 1), (2, 2), (3, 4), (5, 8), (2000, 2048)]
)
def test_lists_of_values_have_few_lengths(count: int, length: int) -> None:
    """Connections keep a prepared statement for each: a soak's memory grew by that."""
    values = padded(range(count))
    assert len(values) == length
    assert list(dict.fromkeys(values)) == list(range(count))


def test_batches_of_every_size_need_few_statements(runtime: Runtime) -> None:
    """Connections keep each statement prepared: one for every size would fill the memory."""
    texts: set[str] = set()

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        texts.add(statement)

    engine_events.listen(runtime.database.engine, "before_cursor_execute", note)
    offset = 0
    for size in range(1, 41):
        batch = [unlocked(f"{size}-{n}", f"user-{n}", offset + n) for n in range(size)]
        runtime.read_side.contents([entry.event.id for entry in batch])
        runtime.read_side.apply(Batch(batch, moves={ORIGIN: (offset or None, offset + size)}))
        runtime.read_side.tries([Partition("achievements", n) for n in range(size)], 5, 60_000)
        runtime.read_side.positions([ORIGIN._replace(number=n) for n in range(size)])
        runtime.read_side.outgoing.sent([entry.event.id for entry in batch])
        offset += size
    of_lists = [text for text in texts if " IN (" in text]
    assert len(of_lists) <= 60, "for each of eight queries, one for every power of two up to 64"


def test_a_users_events_are_found_however_many_changes_lie_between(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nine buckets of changes, asked one, two, four and so on at a time."""
    for n in (0, 3, 250_000, 250_003, 800_000):
        with runtime.database.writing() as connection:
            begin_after(connection, n)
        runtime.read_side.apply(Batch([applied(f"{n}", n), unlocked(f"{n}-b", "bob", n)]))
    ada = EventFilter(users=frozenset({"ada"}))

    def page(**more: Any) -> tuple[list[int], int | None]:
        found = runtime.queries.events(ada, **more)
        following = found["next"] and Cursor.parse(found["next"])
        return [item["seq"] for item in found["events"]], following and following.seq

    assert page() == ([800_001, 250_004, 250_001, 4, 1], None)
    assert page(limit=2) == ([800_001, 250_004], 250_004)
    assert page(limit=2, after=Cursor(250_004)) == ([250_001, 4], 4)
    assert page(after=Cursor(4)) == ([1], None)
    assert page(since=Cursor(4)) == ([800_001, 250_004, 250_001], None)


def test_every_character_of_a_text_is_stored(runtime: Runtime) -> None:
    """Those among them that separate or quote something on the way to the database."""
    text = "a\x1fb \x1e \x01 \"c\" \\d\\ {e,NULL} \t\n é \u2028 😀 '%s'"
    batch = []
    for n in range(3):
        told = SAMPLES["notification.sent"] | {"message": f"{n}{text}"}
        event = from_request("notification.sent", "ada", told, id=f"{n}")
        record = Record("notifications", 0, n, b"ada", event.to_json(), (), event.time_ms)
        batch.append(Applied(event, record))
    runtime.read_side.apply(Batch(batch))
    for n, one in enumerate(batch):
        assert runtime.read_side.contents([f"{n}"]) == {f"{n}": one.event.to_json()}


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_lists_of_events_use_an_index(runtime: Runtime) -> None:
    """With ten million events a scan takes seconds."""
    plans: list[str] = []

    def explain(connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if "FROM events" in statement and not statement.startswith("EXPLAIN"):
            rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            plans.extend(row[3] for row in rows)

    engine_events.listen(runtime.database.engine, "before_cursor_execute", explain)
    for wanted, index in (
        (EventFilter(users=frozenset({"ada"})), "events_by_user (<expr>=? AND user_id=?"),
        (EventFilter(types=frozenset({"user.login"})), "events_by_type (type=?"),
        (EventFilter(outcomes=frozenset({"dead"})), "events_not_processed"),
        (EventFilter(not_outcomes=frozenset({"processed"})), "events_not_processed"),
    ):
        plans.clear()
        runtime.queries.events(wanted)
        assert any(index in plan for plan in plans), plans
        assert not any("TEMP B-TREE" in plan for plan in plans), plans
