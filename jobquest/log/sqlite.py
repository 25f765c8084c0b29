"""The embedded event log: an SQLite file, used if no Kafka is configured.

Durable (`synchronous=FULL`), and still fast: one writer thread commits all queued records in one
transaction (group commit), so there is one fsync per batch, not per record. Each topic has one
partition. Other processes may append too (the command line does); only one process consumes.
It knows bytes and offsets, not events.
"""

from __future__ import annotations

import logging
import queue
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from filelock import FileLock, Timeout

from jobquest.clock import now_ms
from jobquest.errors import LogDamaged, LogUnavailable, RecordRefused
from jobquest.log import (
    PROMPT_SECONDS,
    Found,
    Member,
    Mode,
    NewRecord,
    Origin,
    Partition,
    PartitionInfo,
    Position,
    Record,
    StartPositions,
    dump_headers,
)
from jobquest.log.pending import Pending
from jobquest.log.sqlite_file import (
    MAX_READ_BYTES,
    SCHEMA,
    bounds,
    connect,
    errors_of,
    failure,
    first_since,
    identities,
    select,
    topics_with_records,
)

logger = logging.getLogger(__name__)

MAX_VALUE_BYTES = 1_048_576  # Kafka's default: a value that fits here fits there
MAX_QUEUED_RECORDS = 20_000
GROUP_COMMIT_RECORDS = 2_000
CROSS_PROCESS_POLL_SECONDS = 0.2


class SqliteLog:
    """The embedded log in `path`; creates missing `topics`. Without `topics`, it accepts records of
    every topic. Safe to build before a fork: it opens files and threads at the first use."""

    mode: Mode = "embedded"

    def __init__(self, path: Path, topics: Sequence[str] = ()) -> None:
        self._path = path
        self._topics = tuple(topics)
        self._lock = threading.Lock()
        self._writer: _Writer | None = None
        self._prepared = False
        self._preparing = threading.Lock()
        self._closed = False
        self._appended = threading.Condition()

    def append(
        self, records: Sequence[NewRecord], timeout: float = PROMPT_SECONDS
    ) -> list[Pending[Position]]:
        """Queue records for the writer; see `EventLog.append`."""
        futures: list[Pending[Position]] = [Pending() for _ in records]
        try:
            writer = self._started_writer()
        except LogUnavailable as error:
            for future in futures:
                future.fail(error)
            return futures
        writer.put(list(zip(records, futures, strict=True)))
        return futures

    @property
    def is_ready(self) -> bool:
        """See `EventLog.is_ready`."""
        return self._writer is not None

    def reach(self, timeout: float = PROMPT_SECONDS) -> None:
        """See `EventLog.reach`."""
        self._started_writer()
        self._raise_damage()

    def subscribe(
        self, topics: Sequence[str], group: str, start: StartPositions
    ) -> SqliteSubscription:
        """Become the only consumer, or wait for that: until then, `poll` returns nothing."""
        with errors_of(self._path, "be opened"):
            self._prepare()
            return SqliteSubscription(self._path, topics, group, start, self._appended)

    def describe(self, topics: Sequence[str]) -> list[PartitionInfo]:
        """The one partition of every topic; see `EventLog.describe`."""
        self._raise_damage()
        with errors_of(self._path, "be read"):
            self._prepare()
            with closing(connect(self._path)) as connection:
                return [
                    PartitionInfo(Origin(topic, 0, identity), *bounds(connection, topic))
                    for topic, identity in identities(connection, topics).items()
                ]

    def committed(self, group: str, topics: Sequence[str]) -> dict[Origin, int]:
        """See `EventLog.committed`."""
        with errors_of(self._path, "be read"):
            self._prepare()
            with closing(connect(self._path)) as connection:
                found = dict(
                    connection.execute(
                        'SELECT topic, next FROM committed WHERE "group" = ?', (group,)
                    )
                )
                ids = identities(connection, topics)
                return {Origin(t, 0, ids[t]): n for t, n in found.items() if t in ids}

    def read(self, partition: Partition, offset: int, limit: int) -> list[Record]:
        """Records of one topic; see `EventLog.read`."""
        with errors_of(self._path, "be read"):
            self._prepare()
            with closing(connect(self._path)) as connection:
                return select(connection, partition.topic, offset, limit)

    def read_each(
        self, spans: Mapping[Partition, tuple[int, int]], limit: int
    ) -> dict[Partition, Found]:
        """See `EventLog.read_each`."""
        with errors_of(self._path, "be read"):
            self._prepare()
            with closing(connect(self._path)) as connection:
                return {
                    partition: _within(select(connection, partition.topic, start, limit), end)
                    for partition, (start, end) in spans.items()
                }

    def offset_at(self, partition: Partition, moment_ms: int) -> int | None:
        """See `EventLog.offset_at`."""
        with errors_of(self._path, "be read"):
            self._prepare()
            with closing(connect(self._path)) as connection:
                return first_since(connection, partition.topic, moment_ms)

    def missing_rights(self) -> Mapping[str, Sequence[str]]:
        """See `EventLog.missing_rights`: a process that may use the file may use every topic."""
        return {}

    def members(self, group: str) -> Sequence[Member]:
        """See `EventLog.members`: a lock makes sure that only one of our processes reads."""
        return ()

    def discard(self, records: Iterable[tuple[str, int]]) -> None:
        """Delete records for good, given by topic and offset. For a log that only holds records
        until another log has them."""
        with errors_of(self._path, "delete"), closing(connect(self._path)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("DELETE FROM records WHERE topic = ? AND offset = ?", records)
            connection.execute("COMMIT")

    def count(self, topic: str) -> int:
        """How many records there are. Reads all of them, so call it only once."""
        with errors_of(self._path, "be read"):
            self._prepare()
            with closing(connect(self._path)) as connection:
                query = "SELECT count(*) FROM records WHERE topic = ?"
                found: int = connection.execute(query, (topic,)).fetchone()[0]
                return found

    def bounds(self) -> dict[str, tuple[int, int]]:
        """For each topic with records: the first offset that is kept, and the next offset."""
        self._raise_damage()
        with errors_of(self._path, "be read"):
            self._prepare()
            with closing(connect(self._path)) as connection:
                topics = list(topics_with_records(connection))
                return {topic: bounds(connection, topic) for topic in topics}

    def close(self, timeout: float = 5.0) -> None:
        """Write what is queued, within `timeout` seconds; later appends fail."""
        with self._lock:
            self._closed = True
            writer, self._writer = self._writer, None
        if writer:
            writer.close(timeout)

    def _raise_damage(self) -> None:
        """Raise damage that only the writer has found so far for other callers too."""
        writer = self._writer
        if writer and writer.damage:
            raise writer.damage

    def _started_writer(self) -> _Writer:
        with self._lock:
            if self._closed:
                raise LogUnavailable("The embedded log is closed.")
            if self._writer is None:
                with errors_of(self._path, "be opened"):
                    self._prepare()
                    self._writer = _Writer(self._path, self._topics, self._appended)
            return self._writer

    def _prepare(self) -> None:
        """Create the file, the tables and the missing topics, once per process."""
        if self._prepared:
            return
        with self._preparing:  # two threads that create the file at once would lock each other out
            self._create()
            self._prepared = True

    def _create(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            line = f"The folder {self._path.parent} can't be created: {error}"
            raise LogUnavailable(line) from None
        with closing(connect(self._path)) as connection:
            connection.executescript(SCHEMA)
            connection.executemany(
                "INSERT OR IGNORE INTO topics VALUES (?, ?)",
                [(topic, str(uuid.uuid4())) for topic in self._topics],
            )


Appended = tuple[NewRecord, "Pending[Position]"]


class _Writer:
    """The thread that writes. Owns the queue and one connection; ended by `close`."""

    def __init__(self, path: Path, topics: Sequence[str], appended: threading.Condition) -> None:
        self.damage: LogDamaged | None = None  # set while writes fail of it; any thread may read it
        self._path = path
        self._connection = connect(path)
        self._topics = topics
        self._appended = appended
        self._queue: queue.SimpleQueue[list[Appended] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()  # guards the next two: nothing is queued after the end mark
        self._queued = 0
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def put(self, batch: list[Appended]) -> None:
        with self._lock:
            if not self._closing and self._queued < MAX_QUEUED_RECORDS:
                self._queued += len(batch)
                self._queue.put(batch)
                return
            reason = "is closed" if self._closing else "is behind: too much is queued"
        _fail(batch, LogUnavailable(f"The embedded log {reason}."))

    def close(self, timeout: float) -> None:
        with self._lock:
            self._closing = True
            self._queue.put(None)
        self._thread.join(timeout)
        while not self._queue.empty():  # only if the writer did not end in time
            _fail(self._queue.get() or [], LogUnavailable("The embedded log is closed."))

    def _run(self) -> None:
        running = True
        while running:
            batch, running = self._next_batch()
            if batch:
                self._write(batch)
                with self._lock:
                    self._queued -= len(batch)
        self._connection.close()

    def _next_batch(self) -> tuple[list[Appended], bool]:
        """Wait for one entry, then take everything that is queued behind it."""
        batch: list[Appended] = []
        entry = self._queue.get()
        while entry is not None:
            batch += entry
            if len(batch) >= GROUP_COMMIT_RECORDS:
                return batch, True
            try:
                entry = self._queue.get_nowait()
            except queue.Empty:
                return batch, True
        return batch, False

    def _write(self, batch: list[Appended]) -> None:
        accepted = [entry for entry in batch if not self._refused(*entry)]
        try:
            positions = self._commit([record for record, _ in accepted])
        except Exception as error:  # any error: this thread must go on, and every future resolve
            failed = failure(self._path, "write", error)
            self.damage = failed if isinstance(failed, LogDamaged) else None
            logger.warning("%s", failed, exc_info=not isinstance(error, sqlite3.Error))
            _fail(accepted, failed)
            return
        self.damage = None
        with self._appended:
            self._appended.notify_all()
        for (_, future), position in zip(accepted, positions, strict=True):
            future.resolve(position)

    def _refused(self, record: NewRecord, future: Pending[Position]) -> bool:
        if self._topics and record.topic not in self._topics:
            future.fail(RecordRefused(f"There is no topic {record.topic}."))
        elif record.key is None and record.value is None:
            future.fail(RecordRefused("A record needs a key or a value."))
        elif len(record.value or b"") > MAX_VALUE_BYTES:
            future.fail(RecordRefused(f"Larger than {MAX_VALUE_BYTES} bytes."))
        return future.done()

    def _commit(self, records: list[NewRecord]) -> list[Position]:
        """Write all records or none. Offsets are read in the transaction: others write too."""
        now = now_ms()
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            following = {
                topic: bounds(self._connection, topic)[1] for topic in {r.topic for r in records}
            }
            rows = []
            for record in records:
                offset = following[record.topic]
                following[record.topic] += 1
                headers = dump_headers(record.headers)
                rows.append((record.topic, offset, record.key, record.value, headers, now))
            self._connection.executemany("INSERT INTO records VALUES (?, ?, ?, ?, ?, ?)", rows)
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise
        return [Position(row[0], 0, row[1]) for row in rows]


class SqliteSubscription:
    """The consumer's subscription; see `Subscription`.

    A lock file makes sure that only one process reads; the kernel frees the lock when its process
    dies, whatever the cause.
    """

    def __init__(
        self,
        path: Path,
        topics: Sequence[str],
        group: str,
        start: StartPositions,
        appended: threading.Condition,
    ) -> None:
        self._path = path
        self._connection = connect(path)
        # It writes only offsets for lag tools: no append should wait for an fsync of those.
        self._connection.execute("PRAGMA synchronous=NORMAL")
        self._topics = topics
        self._group = group
        self._start = start
        self._appended = appended
        self._lock = FileLock(f"{path}.{group}.consumer", timeout=0, thread_local=False)
        self._next: dict[Origin, int] = {}

    def poll(self, timeout: float, max_records: int) -> list[Record]:
        deadline = time.monotonic() + timeout
        while True:
            with errors_of(self._path, "be read"):
                records = self._read(max_records) if self._holds_the_lock() else []
            remaining = deadline - time.monotonic()
            if records or remaining <= 0:
                return records
            with self._appended:  # notified by our writer; other processes' records are polled for
                self._appended.wait(min(remaining, CROSS_PROCESS_POLL_SECONDS))

    def stay(self) -> None:
        """Nothing to do: nobody else can join while this process holds the file's lock."""

    def assignment(self) -> Mapping[Partition, Origin]:
        return {Partition(origin.topic, 0): origin for origin in self._next}

    def reached(self) -> Mapping[Partition, int]:
        return {Partition(origin.topic, 0): offset for origin, offset in self._next.items()}

    def rewind(self) -> None:
        self._next = {}

    def commit(self, next_offsets: Mapping[Partition, int]) -> None:
        rows = [(self._group, partition.topic, n) for partition, n in next_offsets.items()]
        try:
            self._connection.executemany("INSERT OR REPLACE INTO committed VALUES (?, ?, ?)", rows)
        except sqlite3.Error as error:
            logger.debug("The group's offsets could not be committed: %s", error)

    def close(self) -> None:
        self._connection.close()
        self._lock.release()

    def _holds_the_lock(self) -> bool:
        if not self._lock.is_locked:
            try:
                self._lock.acquire()
            except Timeout:
                return False
        return True

    def _read(self, max_records: int) -> list[Record]:
        self._assign()
        records: list[Record] = []
        size = 0
        for origin, offset in self._next.items():
            found = select(self._connection, origin.topic, offset, max_records - len(records))
            if found:
                self._next[origin] = found[-1].offset + 1
                records += found
                size += sum(len(record.value or b"") for record in found)
            if len(records) >= max_records or size >= MAX_READ_BYTES:
                break
        # The first topic goes to the end for the next time, so that no topic has to wait for ever.
        if records:
            first = next(iter(self._next))
            self._next[first] = self._next.pop(first)
        return records

    def _assign(self) -> None:
        """Seek topics that are new here, or recreated, to where `start` says."""
        present = {Origin(t, 0, i) for t, i in identities(self._connection, self._topics).items()}
        for gone in self._next.keys() - present:
            del self._next[gone]
        fresh = sorted(present - self._next.keys())
        if fresh:
            positions = self._start(fresh)
            for origin in fresh:
                self._next[origin] = self._valid(origin, positions.get(origin, 0))

    def _valid(self, origin: Origin, offset: int) -> int:
        first, following = bounds(self._connection, origin.topic)
        if first <= offset <= following:
            return offset
        if offset < first:
            logger.warning("%d records of topic %s are gone.", first - offset, origin.topic)
        else:
            logger.warning(
                "Topic %s ends at %d, before the stored position %d: reading it from its start.",
                origin.topic,
                following,
                offset,
            )
        return first


def _within(records: list[Record], end: int) -> Found:
    following = min(records[-1].offset + 1, end) if records else end
    return Found([record for record in records if record.offset < end], following)


def _fail(batch: Sequence[Appended], error: Exception) -> None:
    for _, future in batch:
        future.fail(error)
