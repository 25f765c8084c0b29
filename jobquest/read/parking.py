"""Parked events: what waits for another try of its handlers, in the order of its lane.

A lane is one key of one partition. Its first event (the head) has a time for its next try; those
behind it wait for it, so a user's events stay in order while everyone else's go on. The functions
work on a connection: they are parts of the transactions of `ReadSide`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, NamedTuple

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
from jobquest.read.failures import Failure

ROWS_AT_A_TIME = 10  # each may have a megabyte
WAITING_BYTES = 8 * 1024 * 1024  # of records that are read at one go


class Lane(NamedTuple):
    """What stays in order: the records of one key in one partition, whichever life its topic is
    in."""

    topic: str
    partition: int
    key: bytes


@dataclass(frozen=True, slots=True)
class Parked:
    """An event that waits. `attempts` 0: its handlers were not tried yet, it waits behind another.

    `next_ms` (Unix milliseconds) is when the head is tried next; None where another is the head.
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

    @property
    def lane(self) -> Lane:
        """Where it waits."""
        return lane_of(self.record)


def lane_of(record: Record) -> Lane:
    """The lane that a record belongs to."""
    return Lane(record.topic, record.partition, record.key or b"")


# Every step of the consumer asks: built once, so compiled once.
_HEADS = (
    select(*(tables.parked.c[name] for name in (*Lane._fields, "next_ms")))
    .where(
        tables.parked.c.next_ms.is_not(None),
        tuple_(tables.parked.c.topic, tables.parked.c.partition).in_(
            bindparam("partitions", expanding=True)
        ),
    )
    .order_by(tables.parked.c.next_ms)
)


def heads(connection: Connection, partitions: Iterable[Partition]) -> dict[Lane, int]:
    """The lanes of these partitions in which something waits: when each is tried next."""
    rows = connection.execute(_HEADS, {"partitions": padded(partitions)})
    return {Lane(*row[:3]): row[3] for row in rows}


def waiting(connection: Connection, lane: Lane, limit: int) -> list[Parked]:
    """The first of a lane, in their order: few where they are large."""
    table, found, size = tables.parked, [], 0
    query = select(table).where(_in(lane)).order_by(table.c.appended_ms, table.c.offset)
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
    """Every parked event's row without its record, and as `head` the id of the one that its lane
    waits for."""
    table, head = tables.parked, tables.parked.alias()
    same = [head.c[name] == table.c[name] for name in Lane._fields]
    its = select(head.c.event_id).where(*same, head.c.next_ms.is_not(None)).limit(1)
    told = [c for c in table.columns if c.name not in ("key", "value", "headers")]
    return select(*told, its.scalar_subquery().label("head"))


def move(connection: Connection, released: Sequence[Parked], parked: Sequence[Parked]) -> None:
    """Take out what was tried, put in what waits from now on.

    Raises PositionMoved where another consumer has tried one of them meanwhile.
    """
    table = tables.parked
    for one in released:
        same = and_(table.c.event_id == one.event_id, table.c.attempts == one.attempts)
        if connection.execute(delete(table).where(same)).rowcount != 1:
            raise PositionMoved(f"The parked event {one.event_id} was tried by another consumer.")
    if parked:
        connection.execute(insert(table), [_row(one) for one in parked])
    for lane in {one.lane for one in released}:
        _promote(connection, lane)


def _promote(connection: Connection, lane: Lane) -> None:
    """The first of a lane is its head; one that waited behind another is tried at once."""
    for head in waiting(connection, lane, 1):
        if head.next_ms is None:
            is_head = tables.parked.c.event_id == head.event_id
            connection.execute(update(tables.parked).where(is_head).values(next_ms=now_ms()))


def _in(lane: Lane) -> ColumnElement[bool]:
    table = tables.parked
    return and_(
        table.c.topic == lane.topic,
        table.c.partition == lane.partition,
        table.c.key == lane.key,
    )


def _row(one: Parked) -> dict[str, Any]:
    record, failure = one.record, one.failure
    return {
        "event_id": one.event_id,
        "identity": one.origin.identity,
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "key": record.key or b"",
        "value": record.value,
        "headers": dump_headers(record.headers),
        "appended_ms": record.timestamp_ms,
        "user_id": one.user_id,
        "type": one.type,
        "attempts": one.attempts,
        "error": failure and failure.error,
        "error_class": failure and failure.error_class,
        "path": failure and failure.path,
        "first_failed_ms": one.first_failed_ms,
        "next_ms": one.next_ms,
    }


def stored_record(row: Mapping[str, Any]) -> Record:
    """The record that a row keeps: a parked event's or a letter's. It is damaged if its headers
    can't be read."""
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
    """The event that waits in a row."""
    return Parked(
        event_id=row["event_id"],
        user_id=row["user_id"],
        type=row["type"],
        record=stored_record(row),
        origin=Origin(row["topic"], row["partition"], row["identity"]),
        attempts=row["attempts"],
        failure=Failure(row["error"], row["error_class"], row["path"]) if row["error"] else None,
        first_failed_ms=row["first_failed_ms"],
        next_ms=row["next_ms"],
    )
