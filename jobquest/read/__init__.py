"""The read side: what became of the events, in a database (SQLite or PostgreSQL).

`apply` writes a batch's effects and the log positions behind it in ONE transaction; that is what
makes an event count exactly once. Called by the consumer, the producer (ids known already) and the
relay; `queries.py` reads. It knows no log, no threads and no HTTP.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from sqlalchemy import Connection, delete, insert, select, tuple_, update

from jobquest.errors import IdConflict, PositionMoved
from jobquest.events import OUR_PREFIX, Event
from jobquest.log import Origin, Record
from jobquest.read import tables
from jobquest.read.database import Database, inserting, replacing
from jobquest.read.follow_ups import follow_ups
from jobquest.read.projections import PROJECTIONS, USER_STATS, Projection, Row

RELAY_OTHERS_AFTER_MS = 5_000


@dataclass(frozen=True, slots=True)
class Applied:
    """An event to be counted, and the record that it came as."""

    event: Event
    record: Record


@dataclass(frozen=True, slots=True)
class Dead:
    """A record that will not be counted, and why. `event` is None where it could not be read."""

    record: Record
    origin: Origin
    error: Exception
    event: Event | None = None

    @property
    def event_id(self) -> str:
        """Its event's id; where it has none of its own, one made from where it stands."""
        if self.event and not isinstance(self.error, IdConflict):
            return self.event.id
        record = self.record
        place = f"{record.topic}:{record.partition}:{record.offset}:{self.origin.identity[:8]}"
        return f"{OUR_PREFIX}dead:{place}"


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step of the consumer came to; `moves` maps a partition to (stored, new) next offset.

    `stored` is None where no position is stored yet.
    """

    applied: Sequence[Applied] = ()
    dead: Sequence[Dead] = ()
    moves: Mapping[Origin, tuple[int | None, int]] = field(default_factory=dict)


class ReadSide:
    """Writes what became of events; `process_id` marks the follow-ups that this process relays."""

    def __init__(self, database: Database, process_id: str) -> None:
        self._database = database
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

    def contents(self, ids: Iterable[str]) -> dict[str, bytes]:
        """Of those ids that are processed: the event as JSON."""
        table = tables.events
        query = select(table.c.id, table.c.body)
        with self._database.reading() as connection:
            rows = connection.execute(
                query.where(table.c.id.in_(list(ids)), table.c.outcome == "processed")
            )
            return {row.id: row.body.encode() for row in rows}

    def apply(self, batch: Batch) -> int:
        """Write a batch's effects, follow-ups, letters and positions: all or nothing.

        Returns the new highest `seq`. Raises PositionMoved where another consumer was faster
        (nothing was written: read the positions again), ReadSideUnavailable where the database
        could not take it, and anything else where an event of the batch is to blame.
        """
        with self._database.writing() as connection:
            seq = _lock_counter(connection)
            _move(connection, batch.moves)
            seq = self._write_events(connection, batch, seq)
            caused = _project(connection, [entry.event for entry in batch.applied])
            self._queue(connection, caused)
            connection.execute(update(tables.counter).values(seq=seq))
        return seq

    def _write_events(self, connection: Connection, batch: Batch, seq: int) -> int:
        rows = [_event_row(entry, seq + n) for n, entry in enumerate(batch.applied, 1)]
        seq += len(rows)
        if rows:
            ids = [row["id"] for row in rows]
            applied = tables.events.c.id.in_(ids) & (tables.events.c.outcome == "processed")
            if connection.execute(select(tables.events.c.id).where(applied).limit(1)).first():
                raise PositionMoved("Another consumer has applied some of these events.")
            connection.execute(_events_upsert(connection), rows)
        for letter in batch.dead:
            seq += 1
            connection.execute(_events_upsert(connection), _dead_event_row(letter, seq))
            once = inserting(connection, tables.dead_letters).on_conflict_do_nothing()
            connection.execute(once, _letter_row(letter))
        return seq

    # --- follow-ups: kept here until the log has them ---

    def _queue(self, connection: Connection, caused: Sequence[Event]) -> None:
        now_ms = _now_ms()
        rows = [
            {
                "id": event.id,
                "process": self._process_id,
                "created_ms": now_ms,
                "body": event.to_json().decode(),
            }
            for event in {event.id: event for event in caused}.values()
        ]
        if rows:
            once = inserting(connection, tables.follow_ups).on_conflict_do_nothing()
            connection.execute(once, rows)

    def waiting_follow_ups(self, limit: int = 500) -> list[tuple[str, bytes]]:
        """Id and JSON of follow-ups that the log has not confirmed: ours, and what others left."""
        table = tables.follow_ups
        left = table.c.created_ms < _now_ms() - RELAY_OTHERS_AFTER_MS
        with self._database.reading() as connection:
            rows = connection.execute(
                select(table.c.id, table.c.body)
                .where((table.c.process == self._process_id) | left)
                .order_by(table.c.created_ms)
                .limit(limit)
            )
            return [(row.id, row.body.encode()) for row in rows]

    def follow_ups_done(self, ids: Sequence[str]) -> None:
        """Forget follow-ups that the log has."""
        with self._database.writing() as connection:
            table = tables.follow_ups
            connection.execute(delete(table).where(table.c.id.in_(list(ids))))

    def epoch(self) -> str:
        """Names this database's life: `seq` numbers of another epoch mean nothing here."""
        with self._database.reading() as connection:
            epoch: str = connection.execute(select(tables.counter.c.epoch)).scalar_one()
            return epoch


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


def _event_row(entry: Applied, seq: int) -> Row:
    event, record = entry.event, entry.record
    return {
        "id": event.id,
        "seq": seq,
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


def _dead_event_row(letter: Dead, seq: int) -> Row:
    dead = {"id": letter.event_id, "outcome": "dead"}
    if letter.event:
        return _event_row(Applied(letter.event, letter.record), seq) | dead
    record = letter.record
    unread: Row = {"id": letter.event_id, "type": None, "userId": None, "timestamp": None}
    return dead | {
        "seq": seq,
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "type": None,
        "user_id": None,
        "time_ms": record.timestamp_ms,
        "received_ms": record.timestamp_ms,
        "body": orjson.dumps({**unread, "metadata": {}, "data": {}}).decode(),
    }


def _letter_row(letter: Dead) -> Row:
    record = letter.record
    headers = [(name, value.decode("latin-1")) for name, value in record.headers]
    return {
        "identity": letter.origin.identity,
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "event_id": letter.event_id,
        "user_id": letter.event.user_id if letter.event else None,
        "error": str(letter.error)[:5000].replace("\x00", ""),
        "error_class": type(letter.error).__name__,
        "attempts": 1,
        "first_failed_ms": _now_ms(),
        "key": record.key,
        "value": record.value,
        "headers": orjson.dumps(headers).decode().replace("\\u0000", ""),
        "state": "open",
    }


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
