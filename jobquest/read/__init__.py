"""The read side: the outcomes of events, in a database (SQLite or PostgreSQL).

`apply` writes a batch's effects and its log positions in ONE transaction; that is why an event
counts exactly once. Called by the consumer, the producer (to look up known ids) and the relay;
`queries.py` reads. It knows nothing of the log, of threads or of HTTP.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from sqlalchemy import Connection, select, update

from jobquest.clock import now_ms
from jobquest.errors import PositionMoved, StateConflict
from jobquest.events import Event
from jobquest.log import Origin, Partition, Record
from jobquest.read import effects, history, numbers, parking, retry_topic, tables
from jobquest.read.database import Database
from jobquest.read.dead_letters import Dead, DeadLetters
from jobquest.read.follow_ups import follow_ups
from jobquest.read.id_lookup import IdLookup
from jobquest.read.outgoing import Outgoing, records_of
from jobquest.read.parking import OrderingKey, Parked, Tries
from jobquest.read.shared_clock import NOW
from jobquest.read.statements import Statements, Values, add_rows, rows_by_key, statements

__all__ = ["Applied", "Batch", "Dead", "OrderingKey", "Parked", "ReadSide", "Tries"]

_ORIGIN = ("topic", "partition", "identity")  # the columns, in the order of Origin's members


class Applied(NamedTuple):
    """An event to be counted, and its record."""

    event: Event
    record: Record


@dataclass(frozen=True, slots=True)
class Batch:
    """The result of one step of the consumer; `moves` maps a partition to its (stored, new) offsets
    of the next record.

    `stored` is None if no position is stored yet. `parked` are the events that wait for another try
    from now on. `released` are the old rows of events that were retried, whatever the outcome.
    """

    applied: Sequence[Applied] = ()
    dead: Sequence[Dead] = ()
    parked: Sequence[Parked] = ()
    released: Sequence[Parked] = ()
    moves: Mapping[Origin, tuple[int | None, int]] = field(default_factory=dict)

    @property
    def has_failed(self) -> bool:
        """Whether it has more than processed events."""
        return bool(self.parked or self.released or self.dead)


class ReadSide:
    """Writes the outcomes of events; `process_id` marks the records that this process relays."""

    def __init__(self, database: Database, dead_letters: DeadLetters, process_id: str) -> None:
        self._database = database
        self._dead_letters = dead_letters
        self._process_id = process_id
        self.outgoing = Outgoing(database, process_id)
        self._lookup = IdLookup(partial(effects.contents_directly, database))

    @property
    def is_shared(self) -> bool:
        """Whether several machines may write to its database."""
        return not self._database.is_file

    # --- the consumer's side ---

    def positions(self, origins: Sequence[Origin]) -> dict[Origin, int]:
        """The next offset to read, for each partition that has a stored position."""
        with self._database.reading() as connection:
            return _positions(connection, origins)

    def contents(self, ids: Iterable[str], *, parked: bool = False) -> dict[str, bytes]:
        """The JSON of those events that are processed (or parked, if `parked`), by id."""
        with self._database.asking() as connection, statements(connection) as run:
            return effects.contents(run, list(ids), parked=parked)

    def processed(self, ids: Sequence[str]) -> dict[str, bytes]:
        """The JSON of those events that are processed, by id. Threads that call at the same time
        share one query."""
        return self._lookup.contents(ids)

    def processed_at_once(self, ids: Sequence[str]) -> dict[str, bytes] | None:
        """The same for a thread that must not wait; None if it would have to."""
        return effects.contents_at_once(self._database, ids)

    # --- what waits for another try ---

    def tries(self, partitions: Collection[Partition], most: int, longest_wait_ms: int) -> Tries:
        """The retries that are due in these partitions; see `parking.tries`."""
        if not partitions:
            return Tries([], None)
        with self._database.asking() as connection:
            return parking.tries(connection, partitions, most, longest_wait_ms)

    def waiting_in(self) -> set[Partition]:
        """The partitions in which events wait."""
        with self._database.reading() as connection:
            return parking.waiting_in(connection)

    def busy(self, keys: Iterable[OrderingKey]) -> set[OrderingKey]:
        """Those of the ordering keys that have waiting events."""
        with self._database.asking() as connection:
            return parking.busy(connection, keys)

    def waiting(self, key: OrderingKey, limit: int) -> list[Parked]:
        """The first waiting events of an ordering key, in the log's order."""
        with self._database.reading() as connection:
            return parking.waiting(connection, key, limit)

    def try_now(self, event_id: str) -> None:
        """Make a parked event due now. Raises StateConflict if it can't be tried now."""
        table = tables.parked
        with self._database.writing() as connection:
            is_it = table.c.event_id == event_id
            row = connection.execute(select(table).where(is_it)).mappings().first()
            if row is None:
                raise StateConflict(f"The event {event_id} does not wait for another try.")
            if row["next_ms"] is None:
                key = parking.parked_of(dict(row)).ordering_key
                [head] = parking.waiting(connection, key, 1)
                raise StateConflict(f"It waits behind {head.event_id}: retry that event.")
            connection.execute(update(table).where(is_it).values(next_ms=now_ms()))

    # --- a batch ---

    def apply(self, batch: Batch) -> None:
        """Write a batch's effects, follow-ups, dead letters and positions: all or nothing.

        On PostgreSQL that takes two round trips for a batch of processed events, and several
        processes may do it at the same time.

        Raises PositionMoved if another consumer was faster (nothing was written: read the positions
        again), ReadSideUnavailable if the database could not accept it, and any other error if an
        event of the batch is to blame.
        """
        with self._database.applying() as connection:
            retry_rows = self._note_failed(connection, batch)
            # One event alone is not pipelined, so that an error names the projection that failed.
            with statements(connection, pipelined=len(batch.applied) != 1) as run:
                moves: Moves = {}
                if not batch.has_failed:
                    run.begin()
                    moves = batch.moves
                seq = numbers.mark(run)
                moved = _move(run, moves)
                add_rows(run, tables.outgoing, retry_rows)
                counted = [effects.event_row(*entry) for entry in batch.applied]
                written = effects.write_events(run, counted, seq) if counted else []
                others = [effects.parked_row(one) for one in batch.parked]
                others += [effects.dead_row(dead_letter) for dead_letter in batch.dead]
                if others:
                    after = None if seq is None else seq + len(counted)
                    effects.write_events(run, others, after)
                now = run.run(NOW[run.dialect])
                level_changes = effects.project(run, [entry.event for entry in batch.applied])
                _check_moved(moves, moved)
                if sum(cursor.rowcount for cursor in written) != len(counted):
                    raise PositionMoved("Another consumer has applied some of these events.")
                caused = [event for change in level_changes for event in follow_ups(change)]
                records = records_of(caused)
                add_rows(run, tables.outgoing, self.outgoing.rows(records, now.fetchone()[0]))
                history.count(run, len(batch.applied), batch.parked, len(batch.dead))
                run.commit()
        self.outgoing.keep(records)

    def _note_failed(self, connection: Connection, batch: Batch) -> Sequence[Values]:
        """Write what a batch has besides processed events, after its moves. Returns its records for
        `retries`."""
        if not batch.has_failed:
            return []
        with statements(connection) as run:
            run.begin()
            numbers.mark(run)
            _check_moved(batch.moves, _move(run, batch.moves))
        parking.move(connection, batch.released, batch.parked)
        # A batch without moves comes from retries.
        again = [] if batch.moves else [dead_letter.origin for dead_letter in batch.dead]
        self._dead_letters.dead_letter(connection, batch.dead, _positions(connection, again))
        history.note_failures(connection, batch.parked, batch.dead)
        return retry_topic.outgoing_rows(
            connection, batch.parked, batch.released, self._dead_letters.group, self._process_id
        )

    def note_lag(self, messages: int, seconds: float) -> None:
        """Store the group's lag for this minute."""
        with self._database.writing() as connection:
            history.note_lag(connection, messages, seconds)


def _positions(connection: Connection, origins: Collection[Origin]) -> dict[Origin, int]:
    if not origins:
        return {}
    with statements(connection) as run:
        found = rows_by_key(run, tables.positions, origins, key=_ORIGIN, columns=(*_ORIGIN, "next"))
        return {Origin(*row[:3]): row[3] for row in found.fetchall()}


Moves = Mapping[Origin, tuple[int | None, int]]


def _move(run: Statements, moves: Moves) -> list[Any]:
    """Move the positions that are still the stored ones; the cursors say which were."""
    mark = "?" if run.dialect == "sqlite" else "%s"
    first, then = _FIRST_MOVE.replace("?", mark), _NEXT_MOVE.replace("?", mark)
    return [
        run.run(first, (*origin, following))
        if stored is None
        else run.run(then, (following, *origin, stored))
        for origin, (stored, following) in sorted(moves.items())
    ]


_FIRST_MOVE = (
    "INSERT INTO positions (topic, partition, identity, next) VALUES (?, ?, ?, ?)"
    " ON CONFLICT DO NOTHING"
)
_NEXT_MOVE = (
    "UPDATE positions SET next = ? WHERE topic = ? AND partition = ? AND identity = ? AND next = ?"
)


def _check_moved(moves: Moves, moved: Sequence[Any]) -> None:
    for origin, cursor in zip(sorted(moves), moved, strict=True):
        if cursor.rowcount != 1:
            raise PositionMoved(f"Another consumer reads partition {origin.topic}/{origin.number}.")
