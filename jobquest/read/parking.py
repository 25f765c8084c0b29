"""Parked events: events that wait for another try, in the order of the log.

An ordering key is one user in one partition; its events stay in order. The first event of a key
(the head) has a time for its next try, and those behind it wait for it. So a user's events stay in
order while the events of everyone else continue. The functions work on a connection: they are parts
of the transactions of `ReadSide`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson
from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    and_,
    bindparam,
    delete,
    insert,
    select,
    tuple_,
    update,
)

from jobquest.clock import now_ms
from jobquest.errors import PositionMoved
from jobquest.log import Origin, Partition, Record, dump_headers, load_headers
from jobquest.read import tables
from jobquest.read.database import padded
from jobquest.read.failures import COLUMNS as FAILURE_COLUMNS
from jobquest.read.failures import Failure
from jobquest.read.statements import rows_by_key, statements

ROWS_AT_A_TIME = 10  # each may have a megabyte
WAITING_BYTES = 8 * 1024 * 1024  # of records that are read in one call


class OrderingKey(NamedTuple):
    """The events of one user in one partition, which stay in order: whatever key their records
    have, and even if their topic is recreated."""

    topic: str
    partition: int
    user_id: str


@dataclass(frozen=True, slots=True)
class Parked:
    """An event that waits. `attempts` is 0 if it only waits behind another and was not tried yet.

    `next_ms` (Unix milliseconds) is when the head is tried next; None if another event is the head.
    `done` names the handlers that have succeeded: they are not called again.
    """

    event_id: str
    user_id: str
    type: str
    record: Record
    origin: Origin
    attempts: int = 0
    failure: Failure | None = None
    first_failed_ms: int | None = None
    next_ms: int | None = None
    done: tuple[str, ...] = ()

    @property
    def ordering_key(self) -> OrderingKey:
        """The key within which the event stays in order."""
        return ordering_key(self.record, self.user_id)


def ordering_key(record: Record, user_id: str) -> OrderingKey:
    """The key within which a record's event stays in order."""
    return OrderingKey(record.topic, record.partition, user_id)


class Tries(NamedTuple):
    """The keys to retry now, and when (Unix milliseconds) to look again: None if nothing waits."""

    due: list[OrderingKey]
    next_ms: int | None


# Every step of the consumer runs these: built once, so compiled once. Each reads a few entries of
# the index by time, however many events wait; the `concat` keeps SQLite from using another index.
_OF_PARTITIONS = tuple_(tables.parked.c.topic.concat(""), tables.parked.c.partition).in_(
    bindparam("partitions", expanding=True)
)
_SOONEST = (
    select(*(tables.parked.c[name] for name in (*OrderingKey._fields, "next_ms")))
    .where(tables.parked.c.next_ms.is_not(None), _OF_PARTITIONS)
    .order_by(tables.parked.c.next_ms)
    .limit(bindparam("most"))
)
_TOO_LATE = _SOONEST.where(tables.parked.c.next_ms > bindparam("latest"))


def tries(
    connection: Connection, partitions: Iterable[Partition], most: int, longest_wait_ms: int
) -> Tries:
    """The keys that are due in these partitions, soonest first, at most `most`. A wait longer than
    `longest_wait_ms` counts as over: the clock was set back since it began."""
    now = now_ms()
    parameters = {"partitions": padded(partitions), "most": most}
    rows = list(connection.execute(_SOONEST, parameters))
    if not rows:
        return Tries([], None)
    due = [row for row in rows if row[3] <= now]
    if len(due) < most:
        parameters["latest"] = now + longest_wait_ms
        due += connection.execute(_TOO_LATE, parameters)
    return Tries([OrderingKey(*row[:3]) for row in due[:most]], rows[0][3])


def waiting_in(connection: Connection) -> set[Partition]:
    """The partitions in which events wait."""
    place = tables.parked.c.topic, tables.parked.c.partition
    return {Partition(*row) for row in connection.execute(select(*place).distinct())}


def busy(connection: Connection, keys: Iterable[OrderingKey]) -> set[OrderingKey]:
    """Those of the keys that have waiting events."""
    with statements(connection) as run:
        found = rows_by_key(
            run,
            tables.parked,
            list(keys),
            key=OrderingKey._fields,
            columns=OrderingKey._fields,
            where="found.next_ms IS NOT NULL",
        )
        return {OrderingKey(*row) for row in found.fetchall()}


def waiting(connection: Connection, key: OrderingKey, limit: int) -> list[Parked]:
    """The first events of a key, in the log's order; fewer if they are large."""
    table, found, size = tables.parked, [], 0
    query = select(table).where(_in(key)).order_by(table.c.offset)
    if limit > ROWS_AT_A_TIME:
        query = query.execution_options(yield_per=ROWS_AT_A_TIME)
    with closing(connection.execute(query.limit(limit))) as rows:
        for row in rows.mappings():
            found.append(parked_of(dict(row)))
            size += len(row["value"] or b"")
            if size >= WAITING_BYTES:
                break
    return found


def with_heads() -> Select[Any]:
    """Every parked event's row without its record, and as `head` the id of the event behind which
    it waits."""
    table, head = tables.parked, tables.parked.alias()
    same = [head.c[name] == table.c[name] for name in OrderingKey._fields]
    head_id = select(head.c.event_id).where(*same, head.c.next_ms.is_not(None)).limit(1)
    columns = [c for c in table.columns if c.name not in ("key", "value", "headers")]
    return select(*columns, head_id.scalar_subquery().label("head"))


def move(connection: Connection, released: Sequence[Parked], parked: Sequence[Parked]) -> None:
    """Delete the rows of events that were retried, and insert those that wait from now on.

    Raises PositionMoved if another consumer has retried one of them meanwhile.
    """
    table = tables.parked
    for one in released:
        same = and_(table.c.event_id == one.event_id, table.c.attempts == one.attempts)
        if connection.execute(delete(table).where(same)).rowcount != 1:
            raise PositionMoved(f"The parked event {one.event_id} was tried by another consumer.")
    if parked:
        connection.execute(insert(table), [row_of(one) for one in parked])
    for key in {one.ordering_key for one in released}:
        promote(connection, key)


def promote(connection: Connection, key: OrderingKey) -> None:
    """Make the first event of a key its head; if it waited behind another, it is due now."""
    for head in waiting(connection, key, 1):
        if head.next_ms is None:
            is_head = tables.parked.c.event_id == head.event_id
            connection.execute(update(tables.parked).where(is_head).values(next_ms=now_ms()))


def _in(key: OrderingKey) -> ColumnElement[bool]:
    return and_(*(tables.parked.c[name] == value for name, value in key._asdict().items()))


def row_of(one: Parked) -> dict[str, Any]:
    """The row of a parked event."""
    record, failure = one.record, one.failure
    return {
        "event_id": one.event_id,
        "identity": one.origin.identity,
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "key": record.key,
        "value": record.value,
        "headers": dump_headers(record.headers),
        "appended_ms": record.timestamp_ms,
        "user_id": one.user_id,
        "type": one.type,
        "attempts": one.attempts,
        **{name: failure and getattr(failure, name) for name in FAILURE_COLUMNS},
        "first_failed_ms": one.first_failed_ms,
        "next_ms": one.next_ms,
        "done": orjson.dumps(one.done).decode(),
    }


def stored_record(row: Mapping[str, Any]) -> Record:
    """The record in the row of a parked event or a dead letter. It is damaged if its headers can't
    be read."""
    damage = None
    try:
        headers = load_headers(row["headers"])
    except ValueError as error:
        headers, damage = (), f"The headers can't be read: {error}."
    return Record(
        row["topic"],
        row["partition"],
        row["offset"],
        row["key"],
        row["value"],
        headers,
        row["appended_ms"],
        damage,
    )


def parked_of(row: Mapping[str, Any]) -> Parked:
    """The parked event of a row."""
    return Parked(
        event_id=row["event_id"],
        user_id=row["user_id"],
        type=row["type"],
        record=stored_record(row),
        origin=Origin(row["topic"], row["partition"], row["identity"]),
        attempts=row["attempts"],
        failure=failure_of(row),
        first_failed_ms=row["first_failed_ms"],
        next_ms=row["next_ms"],
        done=done_of(row),
    )


def failure_of(row: Mapping[str, Any]) -> Failure | None:
    """The failure in the row of a parked event or a dead letter."""
    return Failure(*(row[name] for name in FAILURE_COLUMNS)) if row["error"] is not None else None


def done_of(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The handlers that have succeeded, from a row."""
    return tuple(orjson.loads(row["done"] or "[]"))
