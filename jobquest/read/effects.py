"""Writes the derived tables: the events' own rows, and those of the projections.

The functions run inside a transaction of the caller: `ReadSide.apply` writes the live tables, a
rebuild writes other tables with the same columns (`Into`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Connection, Table

from jobquest.events import Event, from_record
from jobquest.events.levels import level_for_xp
from jobquest.log import Record
from jobquest.read import tables
from jobquest.read.database import Database
from jobquest.read.dead_letters import Dead
from jobquest.read.failures import failing_as
from jobquest.read.follow_ups import NOTICES, LevelChange
from jobquest.read.parking import Parked
from jobquest.read.projection import Projection, Row
from jobquest.read.projections import DERIVED, PROJECTIONS
from jobquest.read.statements import Values, rows_by_key, select_by_key, write_rows
from jobquest.read.user_stats import USER_STATS

Into = Mapping[Table, Table]
"""A derived table → the one that is written in its place."""

LIVE: Into = {table: table for table in DERIVED}
_ID = ("id",)
_CONTENT = ("id", "body")
_COUNTED = "outcome = 'processed'"
_COUNTED_OR_PARKED = "outcome IN ('processed', 'retrying')"


class EventRow(NamedTuple):
    """An event's row without its `seq`, which is the table's first column."""

    id: str
    outcome: str
    topic: str
    partition: int
    offset: int
    type: str | None
    user_id: str | None
    time_ms: int
    received_ms: int
    caused_by: str | None
    body: str


def contents(
    connection: Connection, ids: Iterable[str], *, parked: bool = False, into: Into = LIVE
) -> dict[str, bytes]:
    """The events as JSON whose ids are processed (or `parked`, on request)."""
    found = rows_by_key(
        connection,
        into[tables.events],
        [(id,) for id in ids],
        key=_ID,
        columns=_CONTENT,
        where=_COUNTED_OR_PARKED if parked else _COUNTED,
    )
    return _as_contents(found)


def contents_directly(database: Database, ids: Sequence[str]) -> dict[str, bytes]:
    """The events as JSON whose ids are processed, with the cheapest query."""
    return _as_contents(database.select(*_contents_query(database, ids)))


def contents_at_once(database: Database, ids: Sequence[str]) -> dict[str, bytes] | None:
    """The same without waiting; None if the database is busy."""
    found = database.select_at_once(*_contents_query(database, ids))
    if found is None or not all(isinstance(body, str) for _, body in found):
        return None  # another application's row: the request itself reports it
    return _as_contents(found)


def _contents_query(database: Database, ids: Sequence[str]) -> tuple[str, tuple[Any, ...]]:
    keys = [(id,) for id in ids]
    dialect = database.engine.dialect.name
    return select_by_key(dialect, tables.events, keys, _ID, _CONTENT, _COUNTED)


def _as_contents(rows: Iterable[Sequence[Any]]) -> dict[str, bytes]:
    return {id: body.encode() for id, body in rows}


def write_events(
    connection: Connection, rows: Sequence[EventRow], seq: int, into: Into = LIVE
) -> int:
    """Write events' rows as changes after `seq`, in their order. Returns how many were written: a
    row of a dead event is overwritten, one of a processed event is not."""
    numbered = [(number, *row) for number, row in enumerate(rows, seq + 1)]
    return write_rows(connection, into[tables.events], numbered, key=_ID, unless=_COUNTED)


def project(
    connection: Connection, events: Sequence[Event], into: Into = LIVE
) -> list[LevelChange]:
    """Fold the events into every projection's rows. Returns those that may have follow-ups."""
    level_changes: list[LevelChange] = []
    for projection in PROJECTIONS:
        key, folds = projection.key, projection.folds
        table = into[projection.table]
        with failing_as(projection.part):
            concerned = [(key(event), event) for event in events if event.type in folds]
            if not concerned:
                continue
            rows = _load(connection, projection, table, {key for key, _ in concerned})
            if projection is USER_STATS:
                level_changes = _fold_users(rows, concerned)
            else:
                for key_, event in concerned:
                    folds[event.type](event).apply_to(rows[key_])
            write_rows(connection, table, [tuple(row.values()) for row in rows.values()])
    return level_changes


def concerns(event_type: str, part: str) -> bool:
    """Whether events of a type pass this part (see `Failure`)."""
    folding = {one.part: one.folds for one in PROJECTIONS}
    return part not in folding or event_type in folding[part]


def _fold_users(
    rows: Mapping[Values, Row], concerned: Sequence[tuple[Values, Event]]
) -> list[LevelChange]:
    folds, level_changes = USER_STATS.folds, []
    for key, event in concerned:
        row = rows[key]
        level = row["level"]
        change = folds[event.type](event)
        change.apply_to(row)
        if "xp" in change.adds:
            row["level"] = level_for_xp(row["xp"])
        if row["level"] != level or event.type in NOTICES:
            level_changes.append(
                LevelChange(event, level, row["level"], row["reported_level"], row["xp"])
            )
    return level_changes


def event_row(event: Event, record: Record, outcome: str = "processed") -> EventRow:
    """The row of a processed event, or of one with another `outcome`."""
    return EventRow(
        event.id,
        outcome,
        record.topic,
        record.partition,
        record.offset,
        event.type,
        event.user_id,
        event.time_ms,
        record.timestamp_ms,
        event.cause,
        event.to_json().decode(),
    )


def parked_row(one: Parked) -> EventRow:
    """The row of an event that waits for another try."""
    event = from_record(one.record.value)
    return event_row(event, one.record, "retrying")


def dead_row(dead_letter: Dead) -> EventRow:
    """The row of a record that became a dead letter."""
    record = dead_letter.record
    if dead_letter.event:
        return event_row(dead_letter.event, record, "dead")._replace(id=dead_letter.event_id)
    unread: Row = {"id": dead_letter.event_id, "type": None, "userId": None, "timestamp": None}
    return EventRow(
        id=dead_letter.event_id,
        outcome="dead",
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        type=None,
        user_id=None,
        time_ms=record.timestamp_ms,
        received_ms=record.timestamp_ms,
        caused_by=None,
        body=orjson.dumps({**unread, "metadata": {}, "data": {}}).decode(),
    )


def _load(
    connection: Connection, projection: Projection, table: Table, keys: set[Values]
) -> dict[Values, Row]:
    """The rows of these keys, in the order of the keys; new rows for keys that have none."""
    names = table.columns.keys()
    of_key = [names.index(name) for name in table.primary_key.columns.keys()]  # noqa: SIM118
    found = {
        tuple(row[n] for n in of_key): dict(zip(names, row, strict=True))
        for row in rows_by_key(connection, table, keys)
    }
    return {key: found.get(key) or projection.new_row(key) for key in sorted(keys)}
