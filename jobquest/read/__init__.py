"""The read side: what became of the events, in a database (SQLite or PostgreSQL).

`apply` writes a batch's effects and the log positions behind it in ONE transaction; that is what
makes an event count exactly once. Called by the consumer, the producer (ids known already) and the
relay; `queries.py` reads. It knows no log, no threads and no HTTP.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from sqlalchemy import Connection, delete, insert, select, tuple_, update

from jobquest.errors import PositionMoved, StateConflict
from jobquest.events import Event, from_record
from jobquest.log import NewRecord, Origin, Partition, Record, dump_headers, load_headers
from jobquest.read import parking, tables
from jobquest.read.database import Database, inserting, replacing
from jobquest.read.follow_ups import follow_ups
from jobquest.read.letters import Dead, Letters, now_ms
from jobquest.read.parking import Lane, Parked
from jobquest.read.projections import PROJECTIONS, USER_STATS, Projection, Row

__all__ = ["Applied", "Batch", "Dead", "Lane", "Parked", "ReadSide"]

RELAY_OTHERS_AFTER_MS = 5_000


@dataclass(frozen=True, slots=True)
class Applied:
    """An event to be counted, and the record that it came as."""

    event: Event
    record: Record


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step of the consumer came to; `moves` maps a partition to (stored, new) next offset.

    `stored` is None where no position is stored yet. `parked` are events that wait for another try
    from now on; `released` are the rows of those that were tried again, whatever came of it.
    """

    applied: Sequence[Applied] = ()
    dead: Sequence[Dead] = ()
    parked: Sequence[Parked] = ()
    released: Sequence[Parked] = ()
    moves: Mapping[Origin, tuple[int | None, int]] = field(default_factory=dict)


class ReadSide:
    """Writes what became of events; `process_id` marks the records that this process relays."""

    def __init__(self, database: Database, letters: Letters, process_id: str) -> None:
        self._database = database
        self._letters = letters
        self._process_id = process_id

    # --- the consumer's side ---

    def positions(self, origins: Sequence[Origin]) -> dict[Origin, int]:
        """The next offset to read of each partition that has one stored."""
        table = tables.positions
        columns = (table.c.topic, table.c.partition, table.c.identity)
        with self._database.reading() as connection:
            rows = connection.execute(
                select(*columns, table.c.next).where(tuple_(*columns).in_(list(origins)))
            )
            return {Origin(*row[:3]): row[3] for row in rows}

    def contents(self, ids: Iterable[str], *, parked: bool = False) -> dict[str, bytes]:
        """Of those ids that are processed (or `parked`, if asked for): the event as JSON."""
        table = tables.events
        outcomes = ["processed", "retrying"] if parked else ["processed"]
        query = select(table.c.id, table.c.body)
        with self._database.reading() as connection:
            rows = connection.execute(
                query.where(table.c.id.in_(list(ids)), table.c.outcome.in_(outcomes))
            )
            return {row.id: row.body.encode() for row in rows}

    # --- what waits for another try ---

    def heads(self, partitions: Iterable[Partition]) -> dict[Lane, int]:
        """The lanes of these partitions in which events wait: when each is tried next (Unix
        milliseconds), soonest first."""
        with self._database.reading() as connection:
            return parking.heads(connection, partitions)

    def waiting(self, lane: Lane, limit: int) -> list[Parked]:
        """The first events of a lane, in their order."""
        with self._database.reading() as connection:
            return parking.waiting(connection, lane, limit)

    def try_now(self, event_id: str) -> None:
        """Have a parked event tried at once. Raises StateConflict where it can't be."""
        table = tables.parked
        with self._database.writing() as connection:
            is_it = table.c.event_id == event_id
            row = connection.execute(select(table).where(is_it)).mappings().first()
            if row is None:
                raise StateConflict(f"The event {event_id} does not wait for another try.")
            if row["next_ms"] is None:
                lane = Lane(row["topic"], row["partition"], row["key"])
                [head] = parking.waiting(connection, lane, 1)
                raise StateConflict(f"It waits behind {head.event_id}: have that one tried.")
            connection.execute(update(table).where(is_it).values(next_ms=now_ms()))

    # --- a batch ---

    def apply(self, batch: Batch) -> int:
        """Write a batch's effects, follow-ups, letters and positions: all or nothing.

        Returns the new highest `seq`. Raises PositionMoved where another consumer was faster
        (nothing was written: read the positions again), ReadSideUnavailable where the database
        could not take it, and anything else where an event of the batch is to blame.
        """
        with self._database.writing() as connection:
            seq = _lock_counter(connection)
            _move(connection, batch.moves)
            parking.move(connection, batch.released, batch.parked)
            seq = _write_events(connection, batch, seq)
            self._letters.bury(connection, batch.dead)
            caused = _project(connection, [entry.event for entry in batch.applied])
            self._queue(connection, caused)
            connection.execute(update(tables.counter).values(seq=seq))
        return seq

    # --- records of our own: kept here until the log has them ---

    def _queue(self, connection: Connection, caused: Sequence[Event]) -> None:
        rows = [
            {
                "id": event.id,
                "process": self._process_id,
                "created_ms": now_ms(),
                "topic": event.topic,
                "key": event.user_id.encode(),
                "value": event.to_json(),
                "headers": dump_headers(event.headers()),
            }
            for event in {event.id: event for event in caused}.values()
        ]
        if rows:
            once = inserting(connection, tables.outgoing).on_conflict_do_nothing()
            connection.execute(once, rows)

    def outgoing(self, limit: int = 500) -> list[tuple[str, NewRecord]]:
        """Id and record of what the log has not confirmed: ours, and what others left."""
        table = tables.outgoing
        left = table.c.created_ms < now_ms() - RELAY_OTHERS_AFTER_MS
        with self._database.reading() as connection:
            rows = connection.execute(
                select(table)
                .where((table.c.process == self._process_id) | left)
                .order_by(table.c.created_ms)
                .limit(limit)
            )
            return [
                (row.id, NewRecord(row.topic, row.key, row.value, load_headers(row.headers)))
                for row in rows
            ]

    def sent(self, ids: Sequence[str]) -> None:
        """Forget outgoing records that the log has."""
        with self._database.writing() as connection:
            table = tables.outgoing
            connection.execute(delete(table).where(table.c.id.in_(list(ids))))


def _write_events(connection: Connection, batch: Batch, seq: int) -> int:
    """Write the row of each event that changed; returns the new highest `seq`."""
    ids = [entry.event.id for entry in batch.applied]
    if ids:
        table = tables.events
        counted = table.c.id.in_(ids) & (table.c.outcome == "processed")
        if connection.execute(select(table.c.id).where(counted).limit(1)).first():
            raise PositionMoved("Another consumer has applied some of these events.")
    rows = [_event_row(entry) for entry in batch.applied]
    rows += [_parked_event_row(one) for one in batch.parked]
    rows += [_dead_event_row(letter) for letter in batch.dead]
    for row in rows:
        seq += 1
        row["seq"] = seq
    if rows:
        connection.execute(_events_upsert(connection), rows)
    return seq


def _events_upsert(connection: Connection) -> Any:
    """An id whose event died may come again; one that is processed must not be overwritten."""
    statement = inserting(connection, tables.events)
    return statement.on_conflict_do_update(
        index_elements=["id"],
        set_={c.name: statement.excluded[c.name] for c in tables.events.c if c.name != "id"},
        where=tables.events.c.outcome != "processed",
    )


def _lock_counter(connection: Connection) -> int:
    """Take the lock that lets one process apply at a time, and the last `seq`.

    Held to the end of the transaction: rows that a projection reads can't change under it, and
    `seq` becomes visible in order.
    """
    seq: int = connection.execute(select(tables.counter.c.seq).with_for_update()).scalar_one()
    return seq


def _move(connection: Connection, moves: Mapping[Origin, tuple[int | None, int]]) -> None:
    table = tables.positions
    for origin, (stored, following) in moves.items():
        where = {"identity": origin.identity, "topic": origin.topic, "partition": origin.number}
        same = [table.c[name] == value for name, value in where.items()]
        found = connection.execute(select(table.c.next).where(*same)).scalar()
        if found != stored:
            raise PositionMoved(f"Partition {origin.topic}/{origin.number} is read by another.")
        if stored is None:
            connection.execute(insert(table), {**where, "next": following})
        else:
            connection.execute(update(table).where(*same).values(next=following))


def _project(connection: Connection, events: Sequence[Event]) -> list[Event]:
    """Fold the events into every projection's rows; returns the follow-ups."""
    caused: list[Event] = []
    for projection in PROJECTIONS:
        concerned = [event for event in events if event.type in projection.folds]
        if not concerned:
            continue
        rows = _load(connection, projection, {projection.key(event) for event in concerned})
        for event in concerned:
            row = rows[projection.key(event)]
            before = dict(row) if projection is USER_STATS else row
            projection.folds[event.type](row, event)
            if projection is USER_STATS:
                caused += follow_ups(event, before, row)
        connection.execute(
            replacing(connection.dialect.name, projection.table), list(rows.values())
        )
    return caused


def _load(
    connection: Connection, projection: Projection, keys: set[tuple[Any, ...]]
) -> dict[tuple[Any, ...], Row]:
    """The rows of these keys, in the order of the keys, new ones where there are none."""
    columns = list(projection.table.primary_key.columns)
    if len(columns) == 1:
        chosen = columns[0].in_([key[0] for key in keys])
    else:
        chosen = tuple_(*columns).in_(list(keys))
    rows = {key: projection.new_row(key) for key in sorted(keys)}
    for found in connection.execute(select(projection.table).where(chosen)).mappings():
        row = dict(found)
        rows[tuple(row[column.name] for column in columns)] = row
    return rows


def _event_row(entry: Applied) -> Row:
    event, record = entry.event, entry.record
    return {
        "id": event.id,
        "outcome": "processed",
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "type": event.type,
        "user_id": event.user_id,
        "time_ms": event.time_ms,
        "received_ms": record.timestamp_ms,
        "body": event.to_json().decode(),
    }


def _parked_event_row(one: Parked) -> Row:
    event = from_record(one.record.value, one.record.timestamp_ms)
    return _event_row(Applied(event, one.record)) | {"outcome": "retrying"}


def _dead_event_row(letter: Dead) -> Row:
    dead = {"id": letter.event_id, "outcome": "dead"}
    if letter.event:
        return _event_row(Applied(letter.event, letter.record)) | dead
    record = letter.record
    unread: Row = {"id": letter.event_id, "type": None, "userId": None, "timestamp": None}
    return dead | {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "type": None,
        "user_id": None,
        "time_ms": record.timestamp_ms,
        "received_ms": record.timestamp_ms,
        "body": orjson.dumps({**unread, "metadata": {}, "data": {}}).decode(),
    }
