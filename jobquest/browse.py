"""Looks through a partition for a person: records as they stand, as text and as events.

Called by the web side. Bounded in records and time, and it says what it looked at and why it
stopped. Reads outside any group: nothing moves.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from jobquest.errors import InvalidEvent
from jobquest.events import exact_json, format_time, from_record, judged_from
from jobquest.log import EventLog, Found, Partition, PartitionInfo, Record
from jobquest.read.answers import readable
from jobquest.read.portions import MAX_BYTES

FIRST_RECORDS, READ_RECORDS = 20, 500  # at one go: few at first, as they may be large
MAX_READ_BYTES = 2_000_000  # in one go, above which the next is no larger
MAX_SCANNED = 20_000
MAX_SECONDS = 2.0
MAX_VALUE = 20_000  # characters that are shown of one value
MAX_HEADERS, MAX_HEADER = 100, 1_000  # of one record; characters of a name or a value
MAX_ERROR = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What to look for: at most `limit` records from `offset` on, or from the first one appended
    at `moment_ms`; without either the last ones. With `text`, only those that contain it (in key,
    value or headers; case does not matter)."""

    offset: int | None = None
    moment_ms: int | None = None
    limit: int = 50
    text: str = ""
    room: int = MAX_BYTES  # for records as JSON; one is shown all the same


def browse(log: EventLog, info: PartitionInfo, wanted: Wanted) -> dict[str, Any]:
    """The records of a partition that are wanted. `stopped` says why there are no more: `end` (of
    the partition), `limit`, `size` (no room for the next one), `scanned` (20,000 records were
    looked at) or `time` (2 s have passed); `next` is the offset to go on from. Raises
    LogUnavailable.
    """
    deadline = time.monotonic() + MAX_SECONDS
    place = Partition(info.origin.topic, info.origin.number)
    start = min(max(_start(log, place, info, wanted), info.first), info.next)
    look = _look(log, place, start, info.next, wanted, deadline)
    of_the_end = wanted.offset is None and wanted.moment_ms is None and not wanted.text
    if of_the_end and len(look.found) < wanted.limit and start > info.first:
        start = _further_back(log, place, info, wanted.limit, deadline)
        look = _look(log, place, start, info.next, wanted, deadline)
    return {
        "topic": place.topic,
        "partition": place.number,
        "first": info.first,
        "end": info.next,
        "records": look.found,
        "scanned": {"from": start, "to": look.next, "records": look.scanned},
        "stopped": look.stopped,
        "next": look.next,
    }


def _start(log: EventLog, place: Partition, info: PartitionInfo, wanted: Wanted) -> int:
    if wanted.offset is not None:
        return wanted.offset
    if wanted.moment_ms is not None:
        at = log.offset_at(place, wanted.moment_ms)
        return info.next if at is None else at
    return info.next - (MAX_SCANNED if wanted.text else wanted.limit)


def _further_back(
    log: EventLog, place: Partition, info: PartitionInfo, limit: int, deadline: float
) -> int:
    """Where the last `limit` records begin, if many of the last offsets have none."""
    span = limit
    while True:
        span = min(span * 8, MAX_SCANNED)
        start = max(info.first, info.next - span)
        batches = _batches(log, place, start, info.next)
        offsets = deque((one.offset for batch in batches for one in batch.records), limit)
        is_far = start == info.first or span == MAX_SCANNED or time.monotonic() > deadline
        if is_far or len(offsets) == limit:
            return offsets[0] if offsets else start


def _look(
    log: EventLog, place: Partition, start: int, end: int, wanted: Wanted, deadline: float
) -> _Look:
    look = _Look(wanted, start, deadline)
    for batch in _batches(log, place, start, end):
        look.take(batch)
        if look.stopped:
            return look
    look.stopped = "end" if look.next == end else "time"  # the log gave no more in its own
    return look


def _batches(log: EventLog, place: Partition, start: int, end: int) -> Iterator[Found]:
    count = FIRST_RECORDS
    while start < end:
        batch = log.read_each({place: (start, end)}, count)[place]
        if batch.next == start:
            return
        yield batch
        start = batch.next
        if sum(len(record.value or b"") for record in batch.records) < MAX_READ_BYTES:
            count = min(count * 5, READ_RECORDS)


class _Look:
    """What a look has found so far; `stopped` once there is to be no more."""

    def __init__(self, wanted: Wanted, start: int, deadline: float) -> None:
        self.found: list[dict[str, Any]] = []
        self.scanned = 0
        self.next = start
        self.stopped = ""
        self._wanted = wanted
        self._deadline = deadline
        self._room = wanted.room

    def take(self, batch: Found) -> None:
        """Look at these records, and go on behind them."""
        for record in batch.records:
            if self._is_over() or not self._fits(record):
                return
            self.scanned, self.next = self.scanned + 1, record.offset + 1
        self.next = batch.next

    def _is_over(self) -> bool:
        if len(self.found) == self._wanted.limit:
            self.stopped = "limit"
        elif self.scanned == MAX_SCANNED:
            self.stopped = "scanned"
        elif time.monotonic() > self._deadline:
            self.stopped = "time"
        return bool(self.stopped)

    def _fits(self, record: Record) -> bool:
        """Add a record if it is wanted; whether there was room."""
        if self._wanted.text and not _contains(record, self._wanted.text):
            return True
        one = _fitted(_shown(record), self._wanted.room)
        self._room -= len(exact_json.dumps(one))
        if self.found and self._room < 0:
            self.stopped = "size"
            return False
        self.found.append(one)
        return True


def _contains(record: Record, text: str) -> bool:
    needle = text.encode().lower()
    headers = [part for name, value in record.headers for part in (name.encode(), value)]
    return any(needle in part.lower() for part in (record.key, record.value, *headers) if part)


def _shown(record: Record) -> dict[str, Any]:
    value, encoding = readable(record.value)
    key, key_encoding = readable(record.key)
    event, error = _decoded(record)
    return {
        "offset": record.offset,
        "timestamp": format_time(record.timestamp_ms),
        "key": key and key[:MAX_VALUE],
        "keyEncoding": key_encoding,
        "value": value and value[:MAX_VALUE],
        "encoding": encoding,
        "truncated": bool(value) and len(value or "") > MAX_VALUE,
        "bytes": len(record.value or b""),
        "headers": [_header(*header) for header in record.headers[:MAX_HEADERS]],
        "event": event,
        "error": error and error[:MAX_ERROR],
    }


def _header(name: str, value: bytes) -> dict[str, Any]:
    return {"name": name[:MAX_HEADER], "value": (readable(value)[0] or "")[:MAX_HEADER]}


def _fitted(shown: dict[str, Any], room: int) -> dict[str, Any]:
    """A record without its event's metadata and data, if there is no room for them."""
    event = shown["event"]
    if event is None or len(exact_json.dumps(shown)) <= room:
        return shown
    named = {name: event[name] for name in ("id", "type", "userId", "timestamp")}
    return {**shown, "event": {**named, "metadata": {}, "data": {}}, "truncated": True}


def _decoded(record: Record) -> tuple[dict[str, Any] | None, str | None]:
    """The record as an event, or why it is none."""
    try:
        if record.damage:
            raise InvalidEvent(record.damage)
        return from_record(record.value, judged_from(record.timestamp_ms)).to_dict(), None
    except InvalidEvent as error:
        return None, str(error)
