"""A slot of the outbox: one file in the format of the embedded log, held by one process at a time.

Used by `outbox.py` alone. The hold is an flock, which the kernel frees at `kill -9`: so what a
process left behind is found by the next. It knows nothing of Kafka or of when to deliver.
"""

from __future__ import annotations

import itertools
import logging
import re
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from jobquest.clock import now_ms
from jobquest.errors import LogDamaged, LogUnavailable, RecordRefused
from jobquest.log import NewRecord, Partition, Position, Record
from jobquest.log.pending import Pending
from jobquest.log.sqlite import SqliteLog

logger = logging.getLogger(__name__)

TOPIC = "outbox"
TOPIC_HEADER = "jq-topic"  # first of the headers here: the topic that the record is for
READ_RECORDS = 500


class Kept(NamedTuple):
    """A record that waits, and where it stands in the slot."""

    offset: int
    record: NewRecord
    since_ms: int
    size: int


class Refusal(NamedTuple):
    """A record that the log refused and that nobody has taken over yet."""

    record: NewRecord
    error: RecordRefused


class Slot:
    """The slot in `path`, held by `lock`. `append` may be called by any thread, the rest by one.

    `aside` has, by offset, the refusals that nobody took over: they are kept, and block nothing.
    """

    def __init__(self, path: Path, lock: FileLock) -> None:
        """Raises LogUnavailable; LogDamaged where the file can't be used."""
        self.path = path
        self.aside: dict[int, Refusal] = {}
        self.damage: LogDamaged | None = None  # set by whoever comes upon it
        self._hold = lock
        self._log = SqliteLog(path, [TOPIC])
        self._lock = threading.Lock()  # over the next four
        self._written = 0  # how many the file has; at first as its bounds tell, which may be more
        self._on_their_way = 0
        self._appends = 0
        self._oldest_ms: int | None = None
        self._log.reach()
        [info] = self._log.describe([TOPIC])
        self._written = info.next - info.first
        oldest = self._log.read(Partition(TOPIC, 0), 0, 1)
        self._oldest_ms = oldest[0].timestamp_ms if oldest else None

    @property
    def count(self) -> int:
        """How many records wait here, those on their way into the file included."""
        with self._lock:
            return self._written + self._on_their_way

    @property
    def is_drained(self) -> bool:
        """Whether nothing is left to deliver."""
        return self.count == len(self.aside)

    @property
    def oldest_ms(self) -> int | None:
        """When the oldest came that waits, Unix milliseconds."""
        return self._oldest_ms if self.count else None

    def append(self, records: Sequence[NewRecord]) -> list[Pending[Position]]:
        """Keep records; each future resolves once its record is durable, or has failed."""
        with self._lock:
            if not self._written + self._on_their_way:
                self._oldest_ms = now_ms()
            self._on_their_way += len(records)
            self._appends += 1
        futures = self._log.append([_addressed(record) for record in records])
        for future in futures:
            future.add_done_callback(self._wrote)
        return futures

    def _wrote(self, future: Pending[Position]) -> None:
        error = future.exception()
        with self._lock:
            self._on_their_way -= 1
            self._written += error is None
        if isinstance(error, LogDamaged):
            self.damage = error

    def first(self, most_records: int, most_bytes: int) -> list[Kept]:
        """What is to be delivered first, in order. Raises LogUnavailable."""
        with self._lock:
            appends, idle = self._appends, not self._on_their_way
        batch: list[Kept] = []
        size = offset = 0
        while len(batch) < most_records and size < most_bytes:
            found = self._log.read(Partition(TOPIC, 0), offset, READ_RECORDS)
            for record in found:
                if record.offset not in self.aside:
                    batch.append(self._kept(record))
                    size += batch[-1].size
            if len(found) < READ_RECORDS:
                break
            offset = found[-1].offset + 1
        with self._lock:
            if batch:
                self._oldest_ms = batch[0].since_ms
            elif idle and appends == self._appends:
                self._written = len(self.aside)  # bounds count gaps, too
        return batch

    def discard(self, offsets: Sequence[int]) -> None:
        """Forget records that another has durably. Raises LogUnavailable."""
        if not offsets:
            return
        self._log.discard(TOPIC, offsets)
        for offset in offsets:
            self.aside.pop(offset, None)
        with self._lock:
            self._written -= len(offsets)

    def close(self, timeout: float = 0.5) -> None:
        """Write what is on its way, within `timeout` seconds, and give the slot back."""
        self._log.close(timeout)
        self._hold.release()

    def begun_anew(self) -> Slot:
        """The same slot with an empty file; the damaged one is put beside it. Raises
        LogUnavailable."""
        self._log.close(0.5)
        _move_aside(self.path, self.damage)
        return Slot(self.path, self._hold)

    def _kept(self, record: Record) -> Kept:
        if record.damage or not record.headers or record.headers[0][0] != TOPIC_HEADER:
            self.damage = LogDamaged(f"Record {record.offset} of {self.path} can't be read.")
            raise self.damage
        topic = record.headers[0][1].decode()
        new = NewRecord(topic, record.key, record.value, record.headers[1:])
        size = len(record.key or b"") + len(record.value or b"")
        return Kept(record.offset, new, record.timestamp_ms, size)


def claim(folder: Path, *, with_records: bool) -> Slot:
    """A slot of our own in `folder`: the first free one, where there is one with records if that
    is wanted, else an empty one. Raises LogUnavailable."""
    if with_records:
        for slot in _free(folder):
            if slot.count:
                return slot
            slot.close()
    for number in itertools.count():
        found = _held(folder / f"outbox-{number}.db")
        if found and (with_records or not found.count):
            return found
        if found:
            found.close()
    raise AssertionError("there is always a next number")


def orphans(folder: Path) -> Iterator[Slot]:
    """Slots with records that no living process holds; now we do."""
    for slot in _free(folder):
        if slot.count:
            yield slot
        else:
            slot.close()


def _free(folder: Path) -> Iterator[Slot]:
    numbered = {
        int(found[1]): path
        for path in folder.glob("outbox-*.db")
        if (found := re.fullmatch(r"outbox-(\d+)\.db", path.name))
    }
    for _, path in sorted(numbered.items()):
        if slot := _held(path):
            yield slot


def _held(path: Path) -> Slot | None:
    """The slot, if nobody holds it; a damaged file is put beside it. Raises LogUnavailable."""
    lock = FileLock(f"{path}.lock", timeout=0, thread_local=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        return None
    except OSError as error:
        raise LogUnavailable(f"The outbox can't use {path}: {error}.") from error
    try:
        try:
            return Slot(path, lock)
        except LogDamaged as damage:
            _move_aside(path, damage)
            return Slot(path, lock)
    except BaseException:
        lock.release()
        raise


def _move_aside(path: Path, damage: LogDamaged | None) -> None:
    moved = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%dT%H%M%S')}")
    try:
        for suffix in ("-wal", "-shm", ""):
            part = path.with_name(path.name + suffix)
            if part.exists():
                part.rename(moved.with_name(moved.name + suffix))
    except OSError as error:
        raise LogUnavailable(f"The damaged outbox {path} can't be moved: {error}.") from error
    logger.error(
        "The outbox %s is damaged (%s). It is now %s, and a new one is begun. Events in it were"
        " taken and may not be in Kafka: sqlite3 %s .recover reads what is left of it.",
        path,
        (damage and damage.__cause__) or damage,
        moved,
        moved,
    )


def _addressed(record: NewRecord) -> NewRecord:
    """The record as it is kept: every one in the slot's one topic."""
    headers = ((TOPIC_HEADER, record.topic.encode()), *record.headers)
    return record._replace(topic=TOPIC, headers=headers)
