"""Reads through a partition for a person: shows records as they are stored, and as events.

Called by the web side. Bounded in records and time; the answer says what was scanned and why it
stopped. It reads outside any group, so no position moves.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from jobquest.errors import InvalidEvent
from jobquest.events import PERSONAL_FIELDS, exact_json, format_time, from_record, judged_from
from jobquest.events.personal import MASK, masked_json
from jobquest.log import EventLog, Found, Partition, PartitionInfo, Record, received_ms
from jobquest.read.answers import readable
from jobquest.read.portions import MAX_BYTES

FIRST_RECORDS, READ_RECORDS = 20, 500  # in one read: few at first, because they may be large
MAX_READ_BYTES = 2_000_000  # after a read of more, the next one is not larger
MAX_SCANNED = 20_000
MAX_SECONDS = 2.0
MAX_VALUE = 20_000  # characters shown of one value
MAX_HEADERS, MAX_HEADER = 100, 1_000  # headers of one record; characters of a name or a value
MAX_ERROR = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What to search for: at most `limit` records from `offset` on, or from the first one appended
    at `moment_ms` or later; without either, the last ones. With `text`, only records that contain
    it (in key, value or headers; case does not matter)."""

    offset: int | None = None
    moment_ms: int | None = None
    limit: int = 50
    text: str = ""
    in_personal: bool = False  # whether `text` may be found in personal data
    room: int = MAX_BYTES  # for the records as JSON; one record is always returned


def browse(log: EventLog, info: PartitionInfo, wanted: Wanted) -> dict[str, Any]:
    """The records of a partition that match `wanted`. `stopped` says why there are no more: `end`
    (of the partition), `limit`, `size` (the next one does not fit), `scanned` (20,000 records were
    scanned) or `time` (2 s have passed); `next` is the offset to continue from. Raises
    LogUnavailable.
    """
    deadline = time.monotonic() + MAX_SECONDS
    place = Partition(info.origin.topic, info.origin.number)
    start = min(max(_start(log, place, info, wanted), info.first), info.next)
    scan = _scan(log, place, start, info.next, wanted, deadline)
    of_the_end = wanted.offset is None and wanted.moment_ms is None and not wanted.text
    if of_the_end and len(scan.found) < wanted.limit and start > info.first:
        start = _further_back(log, place, info, wanted.limit, deadline)
        scan = _scan(log, place, start, info.next, wanted, deadline)
    return {
        "topic": place.topic,
        "partition": place.number,
        "first": info.first,
        "end": info.next,
        "records": scan.found,
        "scanned": {"from": start, "to": scan.next, "records": scan.scanned},
        "stopped": scan.stopped,
        "next": scan.next,
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
    """The offset where the last `limit` records begin, if many of the last offsets have none."""
    span = limit
    while True:
        span = min(span * 8, MAX_SCANNED)
        start = max(info.first, info.next - span)
        batches = _batches(log, place, start, info.next)
        offsets = deque((record.offset for batch in batches for record in batch.records), limit)
        is_far = start == info.first or span == MAX_SCANNED or time.monotonic() > deadline
        if is_far or len(offsets) == limit:
            return offsets[0] if offsets else start


def _scan(
    log: EventLog, place: Partition, start: int, end: int, wanted: Wanted, deadline: float
) -> _Scan:
    scan = _Scan(wanted, start, deadline)
    for batch in _batches(log, place, start, end):
        scan.add(batch)
        if scan.stopped:
            return scan
    scan.stopped = "end" if scan.next == end else "time"  # the log's own time limit
    return scan


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


class _Scan:
    """What a scan has found so far; `stopped` is set when it must not continue."""

    def __init__(self, wanted: Wanted, start: int, deadline: float) -> None:
        self.found: list[dict[str, Any]] = []
        self.scanned = 0
        self.next = start
        self.stopped = ""
        self._wanted = wanted
        self._deadline = deadline
        self._room = wanted.room

    def add(self, batch: Found) -> None:
        """Scan these records, and continue behind them."""
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
        """Add a record if it matches. Returns whether it fitted."""
        if self._wanted.text and not _contains(record, self._wanted):
            return True
        shown = _fitted(_shown(record), self._wanted.room)
        self._room -= len(exact_json.dumps(shown))
        if self.found and self._room < 0:
            self.stopped = "size"
            return False
        self.found.append(shown)
        return True


def _contains(record: Record, wanted: Wanted) -> bool:
    needle = wanted.text.encode().lower()
    parts = [record.key, record.value]
    for name, value in record.headers:
        is_hidden = name in PERSONAL_FIELDS and not wanted.in_personal
        parts += [name.encode(), MASK.encode() if is_hidden else value]
    if not wanted.in_personal:  # what is masked can't be guessed by searching for it
        parts = [part and masked_json(part) for part in parts]
    return any(needle in part.lower() for part in parts if part)


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
    """A record, without its event's metadata and data if they do not fit."""
    event = shown["event"]
    if event is None or len(exact_json.dumps(shown)) <= room:
        return shown
    named = {name: event[name] for name in ("id", "type", "userId", "timestamp")}
    return {**shown, "event": {**named, "metadata": {}, "data": {}}, "truncated": True}


def _decoded(record: Record) -> tuple[dict[str, Any] | None, str | None]:
    """The record as an event, or the reason why it is not one."""
    try:
        if record.damage:
            raise InvalidEvent(record.damage)
        return from_record(record.value, judged_from(received_ms(record))).to_dict(), None
    except InvalidEvent as error:
        return None, str(error)
