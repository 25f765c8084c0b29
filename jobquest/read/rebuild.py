"""The rebuild: recreates the derived tables from the log and swaps them with the live ones.

`flask events rebuild` calls it. The consumer may continue meanwhile: the log is folded into shadow
tables up to the stored positions, and then again up to their new values, without blocking anybody.
Only the last part and the swap hold the consumer's lock. No handler runs, and nothing is published
except the dead letters of records that had none.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

from filelock import FileLock, Timeout
from sqlalchemy import (
    Connection,
    Select,
    func,
    insert,
    select,
    update,
)

from jobquest.errors import StateConflict
from jobquest.log import EventLog, Origin, Record
from jobquest.read import numbers, retry_topic, schema, tables
from jobquest.read.attached import attached
from jobquest.read.database import Database
from jobquest.read.dead_letters import TOPIC as DEAD_LETTERS
from jobquest.read.dead_letters import DeadLetters
from jobquest.read.history import forget_old
from jobquest.read.merge import bounded, in_order
from jobquest.read.replay import (
    BATCH_BYTES,
    BATCH_RECORDS,
    SHADOW,
    Entry,
    RebuildFailed,
    Replay,
    decoded,
    without_lock,
)
from jobquest.read.retry_topic import TOPIC as RETRIES
from jobquest.read.shares import SharesDepend, fold_in_processes
from jobquest.read.swap import (
    at_home,
    create_shadows,
    drop_shadows,
    hold_readers,
    index_shadows,
    refusals_told,
    swap,
)

SHARED_RECORDS = 50_000  # from so many on, it is worth it to start processes
LAST_RECORDS = 5_000  # folded while the consumer waits
MAX_ROUNDS = 10  # without the lock, if the consumer is as fast as the rebuild
_LOCK_NUMBER = 7317002  # PostgreSQL's advisory locks have numbers instead of names

Progress = Callable[[int, int], None]
"""Called with how many records are done, and how many there are."""


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """The result of a rebuild: `records` were read in `seconds`, and became `events` rows.

    `lost` rows of the old tables could not be recreated: the log no longer has their records.
    `dead_lettered` records became dead letters now. If the read side was new (otherwise these are
    None), `restored` dead letters and `waiting` events were restored from their topics.
    """

    events: int
    records: int
    seconds: float
    lost: int
    dead_lettered: int
    restored: int | None
    waiting: int | None


class Rebuild:
    """Rebuilds the read side of the `topics` of `log`. Only one at a time works on a database."""

    def __init__(
        self,
        database: Database,
        dead_letters: DeadLetters,
        log: EventLog,
        topics: Sequence[str],
        group: str,
        *,
        keep_days: int,
    ) -> None:
        self._keep_days = keep_days
        self._database = database
        self.dead_letters = dead_letters
        self.log = log
        self.topics = topics
        self.group = group

    def recover(self, progress: Progress = lambda done, total: None) -> Rebuilt | None:
        """Rebuild a read side that is new although the group has committed offsets, up to these:
        no handler is called again for events that the group has processed. Returns None if there
        is nothing to do.

        Raises as `run` does.
        """
        with self._database.reading() as connection:
            if connection.execute(select(tables.positions.c.topic).limit(1)).first():
                return None
        if not self.log.committed(self.group, self.topics):
            return None
        return self.run(progress)

    def is_due(self) -> bool:
        """Whether a migration has left the derived tables without something that only past events
        tell. Raises ReadSideUnavailable."""
        with self._database.asking() as connection:
            return bool(connection.execute(select(tables.epoch.c.is_outdated)).scalar_one())

    def run(self, progress: Progress = lambda done, total: None, processes: int = 1) -> Rebuilt:
        """Recreate the derived tables. With more than one of `processes`, they count the events, if
        there are many and the database is SQLite, and this one reads.

        Raises StateConflict if another rebuild runs, RebuildFailed and Unavailable: then the old
        tables are unchanged.
        """
        # One connection for all of it: it holds the lock, so when it is lost, nothing is written.
        with self._database.reading() as connection:
            connection.execution_options(write=True)
            with _alone(connection), refusals_told(), at_home(connection):
                run = _Run(connection, self, progress, processes)
                try:
                    made = run.run()
                finally:
                    drop_shadows(connection)  # after a swap, none is left
        if made.restored is not None:
            while forget_old(self._database, self._keep_days):
                pass  # the topic may have dead letters that are too old to be kept
        return made


@contextmanager
def _alone(connection: Connection) -> Iterator[None]:
    """Hold a lock that only one rebuild can hold; it is freed if the process dies."""
    busy = StateConflict("Another rebuild of this read side is running: wait until it has ended.")
    if connection.dialect.name == "sqlite":
        lock = FileLock(f"{connection.engine.url.database}.rebuild", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise busy from None
        try:
            yield
        finally:
            lock.release()
        return
    with connection.begin():
        free = select(func.pg_try_advisory_lock(_LOCK_NUMBER))
        if not connection.execute(free).scalar_one():
            raise busy
    try:
        yield
    finally:
        if not connection.invalidated:
            with connection.begin():
                connection.execute(select(func.pg_advisory_unlock(_LOCK_NUMBER)))


class _Run:
    """One rebuild, on one connection."""

    def __init__(
        self, connection: Connection, settings: Rebuild, progress: Progress, processes: int
    ) -> None:
        self._connection = connection
        self._processes = processes
        self._dead_letters = settings.dead_letters
        self._log = settings.log
        self._topics = settings.topics
        self._group = settings.group
        self._progress = progress
        self._is_sqlite = connection.dialect.name == "sqlite"
        self._done: dict[Origin, int] = {}  # for each partition, the next offset to fold
        # If the read side is new: the group's offsets. Records from there on are not processed yet.
        self._new: dict[Origin, int] | None = None
        self._restored: tuple[int | None, int | None] = (None, None)  # dead letters, waiting events
        self._records = 0
        self._total = 0

    def run(self) -> Rebuilt:
        began = time.monotonic()
        with self._connection.begin():
            _check_revision(self._connection)
            _check_attached(self._connection)
        self._create_shadows()
        self._begin()
        self._fold_in_processes()
        for round in range(MAX_ROUNDS):
            with self._connection.begin():
                ends = self._ends()
            if round and self._expect(ends) <= LAST_RECORDS:
                break
            for batch in self._batches(ends):
                with without_lock(self._connection):
                    folded = self._replay.read(batch)
                with self._connection.begin():
                    self._replay.write(folded)
            with self._connection.begin():
                self._replay.write_kept()
                if not round and not self._is_sqlite:
                    index_shadows(self._connection)
        with self._connection.begin():
            numbers.hold_writers(self._connection)
            ends = self._ends()
            for batch in self._batches(ends):
                self._replay.fold(batch)
            self._replay.write_kept()
            events, lost = self._finish()
        return Rebuilt(
            events=events,
            records=self._records,
            seconds=time.monotonic() - began,
            lost=lost,
            dead_lettered=len(self._replay.dead_lettered),
            restored=self._restored[0],
            waiting=self._restored[1],
        )

    def _create_shadows(self) -> None:
        create_shadows(self._connection)
        self._replay = Replay(self._connection)

    def _fold_in_processes(self) -> None:
        """Have several processes fold most of the log, if that is possible."""
        if self._processes == 1 or not self._is_sqlite:
            return
        with self._connection.begin():
            ends = self._ends()
        if self._expect(ends) < SHARED_RECORDS:
            return
        url = self._connection.engine.url.render_as_string(hide_password=False)
        records, processes = self._records_to(ends), self._processes
        try:
            self._replay.seq = fold_in_processes(url, records, processes, self._note_done)
        except SharesDepend:
            self._records = 0
            self._create_shadows()
        else:
            self._done |= {origin: max(self._done[origin], end) for origin, end in ends.items()}

    def _note_done(self, records: int) -> None:
        self._records += records
        self._progress(self._records, self._total)

    # --- how far ---

    def _begin(self) -> None:
        """If no position is stored, use the group's committed offsets, and restore dead letters and
        parked events from their topics."""
        found = self._log.describe(self._topics)
        self._done = {info.origin: info.first for info in found}
        with self._connection.begin():
            if self._positions():
                return
        committed = self._log.committed(self._group, self._topics)
        self._new = {
            info.origin: max(info.first, min(info.next, committed.get(info.origin, 0)))
            for info in found
        }
        dead_letters = self._all_of(DEAD_LETTERS)
        while batch := list(islice(dead_letters, BATCH_RECORDS)):
            with self._connection.begin():
                for record in batch:
                    self._dead_letters.restore(self._connection, record)
        with self._connection.begin():
            restored = self._count(select(tables.dead_letters.c.id))
            self._restored = (
                restored,
                retry_topic.restore(self._connection, self._all_of(RETRIES), self._group),
            )

    def _all_of(self, topic: str) -> Iterator[Record]:
        for info in self._log.describe([topic]):
            for _, record in in_order(self._log, {info.origin: (info.first, info.next)}):
                yield record

    def _ends(self) -> dict[Origin, int]:
        """The offsets below which every record's outcome is known now; parked events are set aside.

        The order of the queries matters while the lock is not held: positions, then parked events,
        then (with each batch) dead letters. A record moves only in that direction.
        """
        if self._new is not None:
            ends = self._new
        else:
            stored, ends = self._positions(), {}
            for info in self._log.describe(self._topics):  # sorted, so ties are always the same
                if info.origin in stored:
                    self._done.setdefault(info.origin, info.first)
                    ends[info.origin] = min(stored[info.origin], info.next)
        self._replay.settle(self._done)
        return ends

    def _positions(self) -> dict[Origin, int]:
        rows = self._connection.execute(select(tables.positions))
        return {Origin(row.topic, row.partition, row.identity): row.next for row in rows}

    def _expect(self, ends: Mapping[Origin, int]) -> int:
        """How many records are left to fold; reports the progress."""
        left = sum(max(0, end - self._done[origin]) for origin, end in ends.items())
        self._total = self._records + left
        self._progress(self._records, self._total)
        return left

    def _batches(self, ends: Mapping[Origin, int]) -> Iterator[list[Entry]]:
        """The records up to `ends`, as the log accepted them: by the time of appending, and by
        offset within each partition."""
        self._expect(ends)
        records = self._records_to(ends)
        while batch := bounded(records, BATCH_RECORDS, BATCH_BYTES):
            yield decoded(batch)
            self._done |= {origin: record.offset + 1 for origin, record in batch}
            self._note_done(len(batch))
        # The last offsets of a partition may have no record: they count as read, too.
        self._done |= {origin: max(self._done[origin], end) for origin, end in ends.items()}

    def _records_to(self, ends: Mapping[Origin, int]) -> Iterator[tuple[Origin, Record]]:
        return in_order(self._log, {o: (self._done[o], end) for o, end in ends.items()})

    # --- the end, all in one transaction ---

    def _finish(self) -> tuple[int, int]:
        """Complete the shadow tables and swap them in. Returns how many events they have, and how
        many events only the old tables had."""
        _check_revision(self._connection)
        self._check_origins()
        self._replay.add_what_the_log_has_lost()
        for died in self._replay.dead_lettered.values():
            self._dead_letters.dead_letter(self._connection, [died])
        new, old = SHADOW[tables.events], tables.events
        again = select(new.c.id).where(new.c.id == old.c.id).exists()
        events, lost = self._count(select(new.c.id)), self._count(select(old.c.id).where(~again))
        if self._new:
            rows = [
                {"identity": o.identity, "topic": o.topic, "partition": o.number, "next": end}
                for o, end in self._new.items()
            ]
            self._connection.execute(insert(tables.positions), rows)
        # A new epoch tells viewers that the numbers now mean something else.
        self._connection.execute(
            update(tables.epoch).values(name=str(uuid.uuid4()), is_outdated=None)
        )
        numbers.begin_after(self._connection, self._replay.seq)
        hold_readers(self._connection)
        _check_attached(self._connection)
        swap(self._connection)
        return events, lost

    def _check_origins(self) -> None:
        """Raise RebuildFailed if the partitions that were read are no longer the same ones."""
        gone = self._done.keys() - {info.origin for info in self._log.describe(self._topics)}
        if gone:
            names = ", ".join(sorted({origin.topic for origin in gone}))
            raise RebuildFailed(f"Recreated during the rebuild: topic {names}. Rebuild again.")
        if self._new is not None and self._positions():
            raise RebuildFailed(
                "A consumer has started to read meanwhile. Stop the service, move the new read side"
                " away, rebuild again."
            )

    def _count(self, query: Select[Any]) -> int:
        counted = select(func.count()).select_from(query.subquery())
        count: int = self._connection.execute(counted).scalar_one()
        return count


def _check_revision(connection: Connection) -> None:
    """Refuse tables that a newer version has expanded: those of the rebuild would lack columns."""
    if (found := schema.revision(connection)) != schema.REVISION:
        raise StateConflict(
            f"A newer version has expanded the tables (revision {found}): rebuild with that one."
        )


def _check_attached(connection: Connection) -> None:
    if lost := attached(connection, SHADOW):
        raise RebuildFailed(
            "A rebuild replaces its tables, and would lose what is attached to them"
            f" ({'; '.join(lost)}). Drop that, rebuild, and create it again."
        )
