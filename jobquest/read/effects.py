"""Writes the derived tables: the events' own rows, and those of the projections.

The functions run inside a transaction of the caller: `ReadSide.apply` writes the live tables, a
rebuild writes other tables with the same columns (`Into`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Table

from jobquest.events import Event, from_record
from jobquest.events.levels import level_for_xp
from jobquest.log import Record
from jobquest.read import numbers, tables
from jobquest.read.database import Database
from jobquest.read.dead_letters import Dead
from jobquest.read.failures import failing_as
from jobquest.read.follow_ups import NOTICES, LevelChange
from jobquest.read.parking import Parked
from jobquest.read.projection import Projection, Row
from jobquest.read.projections import DERIVED, PROJECTIONS
from jobquest.read.statements import (
    Statements,
    Values,
    grow_rows,
    locked_rows,
    rows_by_key,
    select_by_key,
    write_rows,
)
from jobquest.read.user_stats import USER_STATS

Into = Mapping[Table, Table]
"""A derived table → the one that is written in its place."""

LIVE: Into = {table: table for table in DERIVED}
WRITE_ROWS = 10_000  # of a projection, in one statement
MAX_KEPT_BYTES = 64_000_000  # of text
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
    run: Statements, ids: Collection[str], *, parked: bool = False, into: Into = LIVE
) -> dict[str, bytes]:
    """The events as JSON whose ids are processed (or `parked`, on request)."""
    if not ids:
        return {}
    found = rows_by_key(
        run,
        into[tables.events],
        [(id,) for id in ids],
        key=_ID,
        columns=_CONTENT,
        where=_COUNTED_OR_PARKED if parked else _COUNTED,
    )
    return _as_contents(found.fetchall())


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
    run: Statements, rows: Sequence[EventRow], seq: int | None = None, into: Into = LIVE
) -> list[Any]:
    """Write events' rows as changes after `seq`, in their order (None: the database numbers them).
    Returns the cursors; their `rowcount`s add up to how many were written: a row of a dead event is
    overwritten, one of a processed event is not."""
    latest = list({row.id: row for row in rows}.values())
    if seq is not None:
        return write_numbered(run, enumerate(latest, seq + 1), into)
    table = into[tables.events]
    return write_rows(run, table, latest, key=_ID, unless=_COUNTED, number=numbers.NEXT)


def write_numbered(run: Statements, rows: Iterable[tuple[int, EventRow]], into: Into) -> list[Any]:
    """Write events' rows with their `seq`; see `write_events`. No two of them have the same id."""
    numbered = [(number,) + row for number, row in rows]  # noqa: RUF005 (takes twice as long)
    return write_rows(run, into[tables.events], numbered, key=_ID, unless=_COUNTED)


def project(run: Statements, events: Sequence[Event]) -> list[LevelChange]:
    """Fold the events into the rows of every projection. Returns those that may have follow-ups.

    Nobody else can change a user's rows meanwhile: on PostgreSQL, the row of `user_stats`, which
    every event changes, is locked first. Rows of several users only grow, by SQL, and last: so
    their locks are held for no round trip.
    """
    kept = KeptRows(LIVE, most=0)
    level_changes = kept.fold(run, events)
    kept.write(run)
    return level_changes


class KeptRows:
    """The projections' rows that events have changed, in memory until `write`. `are_many`: they are
    more than `most`, or have more text than `MAX_KEPT_BYTES`.

    Nobody else may change these rows meanwhile. An error leaves rows that are half changed: then
    none of them may be written any more.
    """

    def __init__(self, into: Into, most: int) -> None:
        self._into = into
        self._most = most
        self._rows: dict[str, dict[Values, Row]] = {one.name: {} for one in PROJECTIONS}
        self._bytes = 0  # as JSON: the events, and the rows that were loaded for earlier ones

    def fold(self, run: Statements, events: Sequence[Event]) -> list[LevelChange]:
        """Fold the events into the rows. Returns those that may have follow-ups."""
        concerned = _concerned(events)
        loading = [self._load(run, one, concerned[one.name]) for one in PROJECTIONS]
        run.flush()
        level_changes: list[LevelChange] = []
        for one in loading:
            projection = one.projection
            with failing_as(projection.part):
                rows = self._rows[projection.name]
                stored = one.found.fetchall() if one.found else []
                rows |= one.rows(stored)
                if projection is USER_STATS:
                    level_changes = _fold_users(rows, one.concerned)
                else:
                    folds = projection.folds
                    for key, event in one.concerned:
                        folds[event.type](event).apply_to(rows[key])
            if stored and self._most:
                self._bytes += len(orjson.dumps(stored))
        if self._most:
            self._bytes += sum([len(event.json or event.to_json()) for event in events])
        return level_changes

    @property
    def are_many(self) -> bool:
        """Whether there are too many rows to keep, or too large ones."""
        count = sum(map(len, self._rows.values()))
        return count > self._most or self._bytes > MAX_KEPT_BYTES

    def write(self, run: Statements) -> None:
        """Write the rows, and forget them."""
        for projection in PROJECTIONS:
            self._write(run, projection)
        self._bytes = 0

    def _load(self, run: Statements, projection: Projection, events: Sequence[Event]) -> _Loading:
        """Ask for the rows that the events change and that are not in memory."""
        table, found = self._into[projection.table], None
        with failing_as(projection.part):
            keys_of_events = list(map(projection.key, events))
            concerned = list(zip(keys_of_events, events, strict=True))
            keys = sorted(set(keys_of_events).difference(self._rows[projection.name]))
            if keys and projection.of_user:
                if projection is USER_STATS and table is projection.table:
                    others = tuple(projection.new_row(keys[0]).values())[len(keys[0]) :]
                    found = locked_rows(run, table, keys, others)
                else:
                    found = rows_by_key(run, table, keys)
        return _Loading(projection, concerned, keys, found)

    def _write(self, run: Statements, projection: Projection) -> None:
        rows, table = self._rows[projection.name], self._into[projection.table]
        write = write_rows if projection.of_user else grow_rows
        with failing_as(projection.part):
            keys = sorted(rows)  # neighbours in the table, too
            for first in range(0, len(keys), WRITE_ROWS):
                portion = keys[first : first + WRITE_ROWS]
                write(run, table, [tuple(rows[key].values()) for key in portion])
        rows.clear()


@dataclass(frozen=True, slots=True)
class _Loading:
    """A projection's events with the keys of their rows, the sorted keys of rows that are not in
    memory, and the cursor with their stored state (None: there is none, or the rows only grow)."""

    projection: Projection
    concerned: Sequence[tuple[Values, Event]]
    keys: Sequence[Values]
    found: Any

    def rows(self, stored: Iterable[Values]) -> dict[Values, Row]:
        """The rows in the order of their keys; new rows for keys that have none."""
        projection = self.projection
        names, width = projection.table.columns.keys(), len(projection.key_names)
        found = {tuple(row[:width]): dict(zip(names, row, strict=True)) for row in stored}
        return {key: found.get(key) or projection.new_row(key) for key in self.keys}


def _concerned(events: Sequence[Event]) -> Mapping[str, Sequence[Event]]:
    """The events that each projection folds, by its name."""
    found: dict[str, list[Event]] = {one.name: [] for one in PROJECTIONS}
    adding = {
        event_type: [found[one.name].append for one in PROJECTIONS if event_type in one.folds]
        for event_type in {event.type for event in events}
    }
    for event in events:
        for add in adding[event.type]:
            add(event)
    return found


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
