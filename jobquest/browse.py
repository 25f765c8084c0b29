"""Looks through a partition for a person: records as they stand, as text and as events.

Called by the web side. Bounded in records and time, and it says what it looked at and why it
stopped. Reads outside any group: nothing moves.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from jobquest.errors import InvalidEvent
from jobquest.events import format_time, from_record
from jobquest.log import EventLog, Partition, PartitionInfo, Record
from jobquest.read.answers import readable

READ_RECORDS = 500
MAX_SCANNED = 20_000
MAX_SECONDS = 2.0
MAX_VALUE = 20_000  # characters that are shown of one value


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What to look for: at most `limit` records from `offset` on, or from the first one appended
    at `moment_ms`; without either the last ones. With `text`, only those that contain it (in key,
    value or headers; case does not matter)."""

    offset: int | None = None
    moment_ms: int | None = None
    limit: int = 50
    text: str = ""


def browse(log: EventLog, info: PartitionInfo, wanted: Wanted) -> dict[str, Any]:
    """The records of a partition that are wanted. `stopped` says why there are no more: `end` (of
    the partition), `limit`, `scanned` (20,000 records were looked at) or `time` (2 s have passed);
    `next` is the offset to go on from. Raises LogUnavailable.
    """
    place = Partition(info.origin.topic, info.origin.number)
    start = min(max(_start(log, place, info, wanted), info.first), info.next)
    deadline = time.monotonic() + MAX_SECONDS
    found: list[dict[str, Any]] = []
    scanned, following, stopped = 0, start, "end"
    for record in _records(log, place, start, info.next):
        if len(found) == wanted.limit:
            stopped = "limit"
            break
        if scanned == MAX_SCANNED or time.monotonic() > deadline:
            stopped = "scanned" if scanned == MAX_SCANNED else "time"
            break
        scanned, following = scanned + 1, record.offset + 1
        if not wanted.text or _contains(record, wanted.text):
            found.append(_shown(record))
    else:
        if following < info.next:
            stopped = "time"  # the log gave no more in its own
    return {
        "topic": place.topic,
        "partition": place.number,
        "first": info.first,
        "end": info.next,
        "records": found,
        "scanned": {"from": start, "to": following, "records": scanned},
        "stopped": stopped,
        "next": following,
    }


def _start(log: EventLog, place: Partition, info: PartitionInfo, wanted: Wanted) -> int:
    if wanted.offset is not None:
        return wanted.offset
    if wanted.moment_ms is not None:
        at = log.offset_at(place, wanted.moment_ms)
        return info.next if at is None else at
    return info.next - (MAX_SCANNED if wanted.text else wanted.limit)


def _records(log: EventLog, place: Partition, start: int, end: int) -> Iterator[Record]:
    while start < end:
        batch = log.read(place, start, min(READ_RECORDS, end - start))
        yield from batch
        if not batch:
            return
        start = batch[-1].offset + 1


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
        "key": key,
        "keyEncoding": key_encoding,
        "value": value and value[:MAX_VALUE],
        "encoding": encoding,
        "truncated": bool(value) and len(value or "") > MAX_VALUE,
        "bytes": len(record.value or b""),
        "headers": [{"name": name, "value": readable(part)[0]} for name, part in record.headers],
        "event": event,
        "error": error,
    }


def _decoded(record: Record) -> tuple[dict[str, Any] | None, str | None]:
    """The record as an event, or why it is none."""
    try:
        if record.damage:
            raise InvalidEvent(record.damage)
        return from_record(record.value, record.timestamp_ms).to_dict(), None
    except InvalidEvent as error:
        return None, str(error)
