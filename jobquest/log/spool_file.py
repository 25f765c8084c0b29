"""A spool file of the outbox: one file in the format of the embedded log, held by one process at a
time.

Used by `outbox.py` only. Each topic has its own sequence, so that a topic that the log does not
accept blocks no other. A process holds its file by an flock, which the kernel frees at `kill -9`:
so the next process finds what it has left. It knows nothing of Kafka or of when to deliver.
"""

from __future__ import annotations

import itertools
import logging
import re
import threading
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from jobquest.clock import now_ms
from jobquest.errors import LogDamaged, LogUnavailable, RecordRefused
from jobquest.log import KEPT_HEADER, NewRecord, Partition, Position, Record
from jobquest.log.pending import Pending
from jobquest.log.sqlite import SqliteLog

logger = logging.getLogger(__name__)

MIXED = "outbox"  # one sequence for every topic's records: earlier versions wrote that
TOPIC_HEADER = "jq-topic"  # the first header there: the record's topic
READ_RECORDS = 500


class Kept(NamedTuple):
    """A record that waits, and its offset in the spool file."""

    offset: int
    record: NewRecord
    since_ms: int
    size: int


class Refusal(NamedTuple):
    """A record that the log refused and that is not handed over yet."""

    kept: Kept
    error: RecordRefused


@dataclass(slots=True)
class _Queue:
    """What waits of one topic. `aside` has, by offset, what the log refused."""

    written: int = 0  # how many the file has; at first from its bounds, which may be more
    on_their_way: int = 0
    appends: int = 0
    oldest_ms: int | None = None
    aside: dict[int, Refusal] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return self.written + self.on_their_way

    @property
    def deliverable(self) -> int:
        return self.count - len(self.aside)


class SpoolFile:
    """The spool file in `path`, held by `lock`. `append` may be called by any thread, the rest by
    one."""

    def __init__(self, path: Path, lock: FileLock) -> None:
        """Raises LogUnavailable; LogDamaged if the file can't be used."""
        self.path = path
        self.damage: LogDamaged | None = None  # set by the thread that finds it
        self._hold = lock
        self._log = SqliteLog(path)
        self._lock = threading.Lock()  # over what is in the next one
        self._queues: defaultdict[str, _Queue] = defaultdict(_Queue)
        self._log.reach()
        for topic, (first, following) in self._log.bounds().items():
            oldest = self._log.read(Partition(topic, 0), first, 1)
            since_ms = oldest[0].timestamp_ms if oldest else None
            self._queues[topic] = _Queue(following - first, oldest_ms=since_ms)
        self._sort_in()

    @property
    def count(self) -> int:
        """How many records wait here, those on their way into the file included."""
        with self._lock:
            return sum(one.count for one in self._queues.values())

    @property
    def topics(self) -> set[str]:
        """The topics of which records wait here."""
        with self._lock:
            return {topic for topic, one in self._queues.items() if one.count}

    def deliverable(self, barred: Collection[str] = ()) -> int:
        """How many records can be delivered, if the log accepts none of the topics in `barred`."""
        with self._lock:
            found = (one for topic, one in self._queues.items() if topic not in barred)
            return sum(one.deliverable for one in found)

    @property
    def oldest_ms(self) -> int | None:
        """When the oldest record that waits was appended, Unix milliseconds."""
        with self._lock:
            waiting = [one.oldest_ms for one in self._queues.values() if one.count]
        return min((at for at in waiting if at is not None), default=None)

    def append(self, records: Sequence[NewRecord]) -> list[Pending[Position]]:
        """Keep records; each future resolves once its record is durable, or has failed."""
        with self._lock:
            for record in records:
                queue = self._queues[record.topic]
                if not queue.count:
                    queue.oldest_ms = now_ms()
                queue.on_their_way += 1
                queue.appends += 1
        futures = self._log.append(records)
        for record, future in zip(records, futures, strict=True):
            future.add_done_callback(partial(self._wrote, record.topic))
        return futures

    def _wrote(self, topic: str, future: Pending[Position]) -> None:
        error = future.exception()
        with self._lock:
            queue = self._queues[topic]
            queue.on_their_way -= 1
            queue.written += error is None
        if isinstance(error, LogDamaged):
            self.damage = error

    def first(self, most_records: int, most_bytes: int, barred: Collection[str] = ()) -> list[Kept]:
        """The records to deliver first, of each topic in order, but of none in `barred`. Raises
        LogUnavailable."""
        with self._lock:
            topics = [
                topic
                for topic, one in self._queues.items()
                if one.deliverable and topic not in barred
            ]
        share = max(1, most_records // max(1, len(topics)))
        batch: list[Kept] = []
        for topic in topics:
            batch += self.first_of(topic, share, most_bytes // len(topics))
        return batch

    def first_of(self, topic: str, most_records: int, most_bytes: int) -> list[Kept]:
        """The records of a topic to deliver first, in order. Raises LogUnavailable."""
        with self._lock:
            queue = self._queues[topic]
            appends, idle = queue.appends, not queue.on_their_way
        batch: list[Kept] = []
        size, offset, count = 0, 0, min(most_records, READ_RECORDS)
        while len(batch) < most_records and size < most_bytes:
            found = self._log.read(Partition(topic, 0), offset, count)
            for record in found:
                if record.offset not in queue.aside:
                    batch.append(self._kept(record))
                    size += batch[-1].size
            if len(found) < count:
                break
            offset = found[-1].offset + 1
        with self._lock:
            if batch:
                queue.oldest_ms = batch[0].since_ms
            elif idle and appends == queue.appends:
                queue.written = len(queue.aside)  # bounds count gaps, too
        return batch

    def put_aside(self, kept: Kept, error: RecordRefused) -> None:
        """Keep a record that the log refuses, so that it blocks no other."""
        with self._lock:
            self._queues[kept.record.topic].aside[kept.offset] = Refusal(kept, error)

    @property
    def aside(self) -> list[Refusal]:
        """What the log refused and is not handed over yet."""
        with self._lock:
            return [one for each in self._queues.values() for one in each.aside.values()]

    def discard(self, several: Sequence[Kept]) -> None:
        """Delete records that are durable elsewhere. Raises LogUnavailable."""
        if not several:
            return
        self._log.discard([(kept.record.topic, kept.offset) for kept in several])
        with self._lock:
            for kept in several:
                queue = self._queues[kept.record.topic]
                queue.written -= 1
                queue.aside.pop(kept.offset, None)

    def _sort_in(self) -> None:
        """Move what an earlier version wrote into one sequence to the sequences of its topics. If
        this ends halfway, some records are there twice, which is harmless."""
        while mixed := self._log.read(Partition(MIXED, 0), 0, READ_RECORDS):
            futures = self.append([_unmixed(self._kept(record)) for record in mixed])
            for future in futures:
                future.result()
            self._log.discard([(MIXED, record.offset) for record in mixed])
        self._queues.pop(MIXED, None)

    def close(self, timeout: float = 0.5) -> None:
        """Write what is on its way, within `timeout` seconds, and release the spool file."""
        self._log.close(timeout)
        self._hold.release()

    def with_new_file(self) -> SpoolFile:
        """This spool file with an empty file; the damaged one is renamed. Raises LogUnavailable."""
        self._log.close(0.5)
        _move_aside(self.path, self.damage)
        return SpoolFile(self.path, self._hold)

    def _kept(self, record: Record) -> Kept:
        if record.damage:
            self.damage = LogDamaged(f"Record {record.offset} of {self.path} can't be read.")
            raise self.damage
        headers, since_ms = record.headers, record.timestamp_ms
        if since_ms > now_ms():  # by a clock that was wrong, from which its event has a time, too
            headers = (*headers, (KEPT_HEADER, b"%d" % since_ms))
        new = NewRecord(record.topic, record.key, record.value, headers)
        size = len(record.key or b"") + len(record.value or b"")
        return Kept(record.offset, new, since_ms, size)


def claim(folder: Path, *, with_records: bool) -> SpoolFile:
    """Claim a spool file in `folder`: the first free one with records, if `with_records` and there
    is one; else an empty one. Raises LogUnavailable."""
    if with_records:
        for spool_file in _free(folder):
            if spool_file.count:
                return spool_file
            spool_file.close()
    for number in itertools.count():
        found = _held(folder / f"outbox-{number}.db")
        if found and (with_records or not found.count):
            return found
        if found:
            found.close()
    raise AssertionError("there is always a next number")


def orphans(folder: Path) -> Iterator[SpoolFile]:
    """Claim the spool files with records that no living process holds."""
    for spool_file in _free(folder):
        if spool_file.count:
            yield spool_file
        else:
            spool_file.close()


def _free(folder: Path) -> Iterator[SpoolFile]:
    numbered = {
        int(found[1]): path
        for path in folder.glob("outbox-*.db")
        if (found := re.fullmatch(r"outbox-(\d+)\.db", path.name))
    }
    for _, path in sorted(numbered.items()):
        if spool_file := _held(path):
            yield spool_file


def _held(path: Path) -> SpoolFile | None:
    """The spool file, if nobody holds it; a damaged file is renamed. Raises LogUnavailable."""
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
            return SpoolFile(path, lock)
        except LogDamaged as damage:
            _move_aside(path, damage)
            return SpoolFile(path, lock)
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
        "The outbox %s is damaged (%s). It is now %s, and a new file replaces it. Its events were"
        " answered 202 and may not be in Kafka: sqlite3 %s .recover reads what is left of it.",
        path,
        (damage and damage.__cause__) or damage,
        moved,
        moved,
    )


def _unmixed(kept: Kept) -> NewRecord:
    """A record of the mixed sequence as its own topic has it. Raises LogDamaged."""
    record = kept.record
    if not record.headers or record.headers[0][0] != TOPIC_HEADER:
        raise LogDamaged(f"Record {kept.offset} does not say for which topic it is.")
    return record._replace(topic=record.headers[0][1].decode(), headers=record.headers[1:])
