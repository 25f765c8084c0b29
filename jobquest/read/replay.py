"""Finds the outcome of each record again from the log: folds records into shadow tables.

Part of the rebuild's transactions. Nothing is decided again: a record with a dead letter is dead,
one with a row in `parked` waits, and every other record counts, once per event id. Only a record
that can't be counted and has no dead letter gets one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import msgspec
from sqlalchemy import (
    ColumnElement,
    Connection,
    Index,
    MetaData,
    Select,
    Table,
    delete,
    insert,
    select,
)
from sqlalchemy.sql import quoted_name

from jobquest.errors import IdConflict, InvalidEvent, JobQuestError
from jobquest.events import Event, from_record, from_records
from jobquest.log import Origin, Record
from jobquest.read import effects, parking, tables
from jobquest.read.database_errors import is_infrastructure
from jobquest.read.dead_letters import Dead, dead_of
from jobquest.read.effects import EventRow, KeptRows
from jobquest.read.failures import Failure
from jobquest.read.projection import Row
from jobquest.read.projections import DERIVED
from jobquest.read.statements import rows_by_key, statements
from jobquest.read.tables import SHADOW_PREFIX

_T = TypeVar("_T")
BATCH_RECORDS = 20_000  # folded in one transaction, and fewer if they are large
BATCH_BYTES = 16_000_000  # of their values
CHUNK_ROWS = 2_000
MAX_KEPT_ROWS = 100_000  # of projections, in memory

shadows = MetaData()


def _shadow(table: Table) -> Table:
    """A table with the same columns and key; its other indexes are created when it is filled."""
    copy = table.to_metadata(shadows, name=f"{SHADOW_PREFIX}{table.name}")
    copy.indexes.clear()
    return copy


def shadow_indexes(live: Table) -> list[Index]:
    """The indexes of a table for its shadow, under temporary names."""
    copy = live.to_metadata(MetaData(), name=f"{SHADOW_PREFIX}{live.name}")
    for index in copy.indexes:
        index.name = quoted_name(f"{SHADOW_PREFIX}{index.name}", None)
    return sorted(copy.indexes, key=lambda index: str(index.name))


SHADOW: effects.Into = {table: _shadow(table) for table in DERIVED}
_EVENTS = SHADOW[tables.events]
_WAITING = _shadow(tables.parked)  # set aside: the events that waited at the last look


class RebuildFailed(JobQuestError):
    """The tables could not be recreated; the old ones are unchanged."""


class Place(NamedTuple):
    """The position of a record, as dead letters and parked rows name it."""

    identity: str
    topic: str
    partition: int
    offset: int

    @staticmethod
    def of(row: Mapping[str, Any]) -> Place:
        return Place(*(row[name] for name in Place._fields))


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A record, and its event if it can be read."""

    origin: Origin
    record: Record
    event: Event | None
    failure: Failure | None = None

    @property
    def place(self) -> Place:
        record = self.record
        return Place(self.origin.identity, record.topic, record.partition, record.offset)

    @property
    def own_id(self) -> str:
        """The event id of a dead letter about it that has no event, or another's event id."""
        return Dead(self.record, self.origin, _NO_FAILURE).event_id

    def dies(self, error: Exception) -> Dead:
        return Dead(self.record, self.origin, Failure.of(error, event=self.event), self.event)


_NO_FAILURE = Failure("", "")


class Folded(NamedTuple):
    """Entries that were read, and the events' rows that come of them with their `seq`, by id."""

    entries: Sequence[Entry]
    rows: Mapping[str, tuple[int, EventRow]]


class Replay:
    """Fills the shadow tables, on one connection. `seq` is the number of the last record: an
    event's row has the number of its record.

    `dead_lettered` are the dead letters to be written when the tables go live; `refused` is how
    many rows were not written because a processed event has their id; `is_of_others` is whether
    an event was dropped because another user's has its id.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.seq = self.refused = 0
        self.is_of_others = False
        self.dead_lettered: dict[Place, Dead] = {}
        self._kept = KeptRows(SHADOW, MAX_KEPT_ROWS)

    def fold(self, entries: Sequence[Entry]) -> None:
        """Count the events that counted, and show those that did not. If one can't be counted, the
        fault is ours, so no event dies of it: raises RebuildFailed. Then nothing of this rebuild
        may be used."""
        self.write(self.read(entries))

    def read(self, entries: Sequence[Entry], numbers: Sequence[int] = ()) -> Folded:
        """The first half of `fold`, which writes nothing. `numbers`: of the entries' records, if
        they do not follow each other. Raises as `fold` does."""
        numbers = numbers or range(self.seq + 1, self.seq + 1 + len(entries))
        folded = self._try(
            lambda: self._read(entries, numbers),
            entries,
            lambda number, entry: self._read([entry], [number]),
        )
        self.seq = numbers[-1] if entries else self.seq
        return folded

    def write(self, folded: Folded) -> None:
        """The second half. Raises as `fold` does."""
        self._try(
            lambda: self._write(folded),
            folded.entries,
            lambda number, entry: self._write(self._read([entry], [number])),
        )

    def write_kept(self) -> None:
        """Write the rows of projections that are in memory, for those who read the tables. Raises
        as `fold` does."""
        self._try(self._write_kept)

    def _try(
        self,
        step: Callable[[], _T],
        entries: Sequence[Entry] = (),
        one_by_one: Callable[[int, Entry], object] = lambda number, entry: None,
    ) -> _T:
        """Do a step with these entries. If it fails, do it with each of them to name the one that
        is to blame."""
        try:
            with self._connection.begin_nested():
                return step()
        except Exception as error:
            if is_infrastructure(error):
                raise
            raise self._failure(error, entries, one_by_one) from error

    def _read(self, entries: Sequence[Entry], numbers: Sequence[int]) -> Folded:
        rows, applied = self._judge(entries, numbers)
        with statements(self._connection) as run:
            self._kept.fold(run, applied)
        return Folded(entries, rows)

    def _write(self, folded: Folded) -> None:
        with statements(self._connection) as run:
            written = effects.write_numbered(run, folded.rows.values(), SHADOW)
        self.refused += len(folded.rows) - sum(cursor.rowcount for cursor in written)
        if self._kept.are_many:
            self._write_kept()

    def _write_kept(self) -> None:
        with statements(self._connection) as run:
            self._kept.write(run)

    def _failure(
        self,
        error: Exception,
        entries: Sequence[Entry],
        one_by_one: Callable[[int, Entry], object],
    ) -> RebuildFailed:
        self._kept = KeptRows(SHADOW, MAX_KEPT_ROWS)  # some may be half changed
        for number, entry in enumerate(entries):
            try:
                with self._connection.begin_nested():
                    one_by_one(-number, entry)
            except Exception as its_error:
                if is_infrastructure(its_error):
                    raise
                return _failed(_named(entry), its_error)
        return _failed("The events", error)

    def settle(self, done: Mapping[Origin, int]) -> None:
        """Fold the events that were set aside and no longer wait, then set aside those that wait
        now; `done` are the offsets up to which records are folded."""
        same = (tables.parked.c[name] == _WAITING.c[name] for name in ("event_id", *Place._fields))
        still = select(tables.parked.c.event_id).where(*same)
        resolved = select(_WAITING).where(~still.exists())
        resolved = resolved.order_by(_WAITING.c.appended_ms, _WAITING.c.offset).limit(CHUNK_ROWS)
        while rows := self._rows(resolved):
            ids = [row["event_id"] for row in rows]
            self._connection.execute(delete(_WAITING).where(_WAITING.c.event_id.in_(ids)))
            waited = [parking.parked_of(row) for row in rows]
            # An event that lies further on is folded there, in its order.
            past = [one for one in waited if one.record.offset < done.get(one.origin, _NO_END)]
            self.fold(decoded([(one.origin, one.record) for one in past]))
        known = select(_WAITING.c.event_id).where(_WAITING.c.event_id == tables.parked.c.event_id)
        fresh = select(tables.parked).where(~known.exists())
        self._connection.execute(insert(_WAITING).from_select(_WAITING.c.keys(), fresh))

    def add_what_the_log_has_lost(self) -> None:
        """Show dead letters and parked events that were not found in the log: their rows have the
        records."""
        dead_letters, parked, last = tables.dead_letters, tables.parked, 0
        waits = (
            select(parked.c.event_id).where(parked.c.event_id == dead_letters.c.event_id).exists()
        )
        absent = ~_shown(dead_letters.c.event_id, "processed", "dead") & ~waits
        query = select(dead_letters).where(absent).order_by(dead_letters.c.id).limit(CHUNK_ROWS)
        while rows := self._rows(query.where(dead_letters.c.id > last)):
            last = rows[-1]["id"]
            self._add([_dead_row(row) for row in rows])
        waiting = select(parked).where(~_shown(parked.c.event_id, "processed", "retrying"))
        while rows := self._rows(waiting.limit(CHUNK_ROWS)):
            self._add([effects.parked_row(parking.parked_of(row)) for row in rows])

    # --- the outcome of each record ---

    def _judge(
        self, entries: Sequence[Entry], numbers: Sequence[int]
    ) -> tuple[dict[str, tuple[int, EventRow]], list[Event]]:
        """The events' latest rows by their ids, each with its record's number, and the events that
        count."""
        ids = [entry.event.id for entry in entries if entry.event]
        waiting = self._waiting(ids)
        with statements(self._connection) as run:
            known = effects.contents(run, ids, into=SHADOW)
        dead_letters = self._dead_letters(entries)
        rows: dict[str, tuple[int, EventRow]] = {}
        applied: list[Event] = []
        for number, entry in zip(numbers, entries, strict=True):
            event, row = entry.event, None
            if dead_letters and (mine := _about(entry, dead_letters)):
                # An event's row shows the latest of its deaths.
                if mine[-1] is dead_letters[mine[-1]["event_id"]][-1]:
                    row = _shown_dead(entry, mine[-1])
            elif event is None:
                assert entry.failure
                died = Dead(entry.record, entry.origin, entry.failure)
                row = self._dead_letter(entry, died)
            elif event.id in waiting:
                if waiting[event.id] == entry.place:
                    row = effects.event_row(event, entry.record, "retrying")
            elif event.id in known:
                # Our own ids are derived from the fact: the same id is the same fact, whatever
                # event caused it.
                if event.is_internal:
                    self.is_of_others |= from_record(known[event.id]).user_id != event.user_id
                elif not event.has_content_of(known[event.id]):
                    conflict = IdConflict(f"Another event has the id {event.id}.")
                    row = self._dead_letter(entry, entry.dies(conflict))
            elif not (
                dead_letters and _came_while_it_waited(entry.place, dead_letters.get(event.id, []))
            ):
                row = effects.event_row(event, entry.record)
                known[event.id] = event.to_json()
                applied.append(event)
            if row:
                rows[row.id] = number, row
        return rows, applied

    def _waiting(self, ids: Sequence[str]) -> dict[str, Place]:
        if not ids or self._is_empty(_WAITING):
            return {}
        keys, columns = [(id,) for id in ids], ("event_id", *Place._fields)
        with statements(self._connection) as run:
            found = rows_by_key(run, _WAITING, keys, columns=columns).fetchall()
        return {row[0]: Place(*row[1:]) for row in found}

    def _dead_letters(self, entries: Sequence[Entry]) -> dict[str, list[Row]]:
        """Dead letters by event id, in the order in which they were written; mostly there are none.
        The forgotten ones come first, with the columns that are left of them."""
        # In this order, one that is forgotten meanwhile is found at least once.
        live, forgotten = (
            self._of_events(tables.dead_letters, entries),
            self._of_events(tables.forgotten_dead_letters, entries),
        )
        found: dict[str, list[Row]] = {}
        for row in (
            *sorted(forgotten, key=lambda row: (row["died_ms"], row["offset"])),
            *sorted(live, key=lambda row: row["id"]),
        ):
            found.setdefault(row["event_id"], []).append(row)
        return found

    def _of_events(self, table: Table, entries: Sequence[Entry]) -> list[Row]:
        if self._is_empty(table):
            return []
        ids = {entry.own_id for entry in entries}
        ids |= {entry.event.id for entry in entries if entry.event}
        keys, names = [(id,) for id in ids], table.columns.keys()
        with statements(self._connection) as run:
            rows = rows_by_key(run, table, keys, key=("event_id",)).fetchall()
        return [dict(zip(names, row, strict=True)) for row in rows]

    def _is_empty(self, table: Table) -> bool:
        return self._connection.execute(select(table.c.event_id).limit(1)).first() is None

    def _dead_letter(self, entry: Entry, died: Dead) -> EventRow:
        """Have a dead letter written at the end; returns the event's row."""
        self.dead_lettered[entry.place] = died
        return effects.dead_row(died)

    def _add(self, rows: Sequence[EventRow]) -> None:
        with statements(self._connection) as run:
            effects.write_events(run, rows, self.seq, SHADOW)
        self.seq += len(rows)

    def _rows(self, query: Select[Any]) -> list[Row]:
        return [dict(row) for row in self._connection.execute(query).mappings()]


def _named(entry: Entry) -> str:
    place = f"{entry.record.topic}/{entry.record.partition}@{entry.record.offset}"
    return f"Event {entry.event.id if entry.event else 'unknown'} ({place})"


def _failed(what: str, error: Exception) -> RebuildFailed:
    failure = Failure.of(error)
    return RebuildFailed(
        f"{what} can't be counted: {failure.error} in the {failure.part or 'read side'}."
        " Nothing was changed."
    )


@contextmanager
def without_lock(connection: Connection) -> Iterator[None]:
    """A transaction that only reads, on a connection whose others hold SQLite's write lock."""
    connection.execution_options(write=False)
    with connection.begin():
        yield
    connection.execution_options(write=True)


_NO_END = 2**63  # for a partition whose records are lost


def decoded(records: Sequence[tuple[Origin, Record]]) -> list[Entry]:
    """Records with their events, or with the reasons why they have none."""
    events = from_records([record.value for _, record in records])
    return [
        Entry(origin, record, event) if event and not record.damage else _decoded(origin, record)
        for (origin, record), event in zip(records, events, strict=True)
    ]


def _decoded(origin: Origin, record: Record) -> Entry:
    try:
        if record.damage:
            raise InvalidEvent(record.damage)
        return Entry(origin, record, from_record(record.value))
    except InvalidEvent as error:
        return Entry(origin, record, None, Failure.of(error))


def _dead_row(dead_letter: Row) -> EventRow:
    return effects.dead_row(dead_of(dead_letter))._replace(id=dead_letter["event_id"])


def _shown_dead(entry: Entry, dead_letter: Row) -> EventRow:
    """The row of a record with a dead letter. For a forgotten one, it is made from the record."""
    if "value" in dead_letter:
        return _dead_row(dead_letter)
    died = Dead(entry.record, entry.origin, entry.failure or _NO_FAILURE, entry.event)
    return effects.dead_row(died)._replace(id=dead_letter["event_id"])


def _about(entry: Entry, dead_letters: Mapping[str, Sequence[Row]]) -> list[Row]:
    """The dead letters about exactly this record."""
    place, of_event = entry.place, dead_letters.get(entry.event.id, []) if entry.event else []
    found = [*of_event, *dead_letters.get(entry.own_id, [])]
    return [row for row in found if Place.of(row) == place]


def _came_while_it_waited(place: Place, dead_letters: Sequence[Row]) -> bool:
    """Whether a record is a repeat that was dropped because its event was parked at that time: the
    event died later, and the repeat with it."""
    return any(
        place[:3] == Place.of(dead_letter)[:3]
        and dead_letter["offset"] < place.offset < (dead_letter["repeats_below"] or 0)
        for dead_letter in dead_letters
    )


def _shown(id: ColumnElement[Any], *outcomes: str) -> ColumnElement[bool]:
    """Whether the event has a row with one of these outcomes."""
    return select(_EVENTS.c.id).where(_EVENTS.c.id == id, _EVENTS.c.outcome.in_(outcomes)).exists()
