"""What events do to the derived tables: their own rows, and those of the projections.

The functions are parts of somebody's transaction: of a batch's (`ReadSide.apply`), which writes the
live tables, and of a rebuild's, which writes others of the same columns (`Into`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson
from sqlalchemy import Connection, Table, select, tuple_

from jobquest.events import Event, from_record
from jobquest.log import Record
from jobquest.read import tables
from jobquest.read.database import inserting, padded, replacing
from jobquest.read.follow_ups import follow_ups
from jobquest.read.letters import Dead
from jobquest.read.parking import Parked
from jobquest.read.projections import PROJECTIONS, USER_STATS, Projection, Row

Into = Mapping[Table, Table]
"""A derived table → the one that is written in its place."""

LIVE: Into = {table: table for table in tables.DERIVED}


def contents(
    connection: Connection, ids: Iterable[str], outcomes: Sequence[str], into: Into = LIVE
) -> dict[str, bytes]:
    """Of those ids that came to one of `outcomes`: the event as JSON."""
    table = into[tables.events]
    query = select(table.c.id, table.c.body)
    rows = connection.execute(
        query.where(table.c.id.in_(padded(ids)), table.c.outcome.in_(outcomes))
    )
    return {row.id: row.body.encode() for row in rows}


def write_events(connection: Connection, rows: Sequence[Row], seq: int, into: Into = LIVE) -> int:
    """Write events' rows as changes after `seq`, in their order; returns the new highest one."""
    for row in rows:
        seq += 1
        row["seq"] = seq
    if rows:
        connection.execute(_events_upsert(connection, into[tables.events]), rows)
    return seq


def project(connection: Connection, events: Sequence[Event], into: Into = LIVE) -> list[Event]:
    """Fold the events into every projection's rows; returns the follow-ups."""
    caused: list[Event] = []
    for projection in PROJECTIONS:
        concerned = [event for event in events if event.type in projection.folds]
        if not concerned:
            continue
        table = into[projection.table]
        rows = _load(connection, projection, table, {projection.key(e) for e in concerned})
        for event in concerned:
            row = rows[projection.key(event)]
            before = dict(row) if projection is USER_STATS else row
            projection.folds[event.type](row, event)
            if projection is USER_STATS:
                caused += follow_ups(event, before, row)
        connection.execute(replacing(connection.dialect.name, table), list(rows.values()))
    return caused


def event_row(event: Event, record: Record) -> Row:
    """The row of an event that counts."""
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
        "caused_by": event.cause,
        "body": event.to_json().decode(),
    }


def parked_row(one: Parked) -> Row:
    """The row of an event that waits for another try."""
    event = from_record(one.record.value, one.record.timestamp_ms)
    return event_row(event, one.record) | {"outcome": "retrying"}


def dead_row(letter: Dead) -> Row:
    """The row of a record that will not be counted."""
    dead = {"id": letter.event_id, "outcome": "dead"}
    if letter.event:
        return event_row(letter.event, letter.record) | dead
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
        "caused_by": None,
        "body": orjson.dumps({**unread, "metadata": {}, "data": {}}).decode(),
    }


def _events_upsert(connection: Connection, table: Table) -> Any:
    """An id whose event died may come again; one that is processed must not be overwritten."""
    statement = inserting(connection, table)
    return statement.on_conflict_do_update(
        index_elements=["id"],
        set_={c.name: statement.excluded[c.name] for c in table.c if c.name != "id"},
        where=table.c.outcome != "processed",
    )


def _load(
    connection: Connection, projection: Projection, table: Table, keys: set[tuple[Any, ...]]
) -> dict[tuple[Any, ...], Row]:
    """The rows of these keys, in the order of the keys, new ones where there are none."""
    columns = list(table.primary_key.columns)
    if len(columns) == 1:
        chosen = columns[0].in_(padded(key[0] for key in keys))
    else:
        chosen = tuple_(*columns).in_(padded(keys))
    rows = {key: projection.new_row(key) for key in sorted(keys)}
    for found in connection.execute(select(table).where(chosen)).mappings():
        row = dict(found)
        rows[tuple(row[column.name] for column in columns)] = row
    return rows
