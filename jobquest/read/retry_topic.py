"""Parked events as records of the topic `retries`, so that they survive the loss of the read side.

A record's key names the position of the event's own record and the group for which it waits. Its
value and its first headers are those of that record; our own headers after them describe its tries.
A tombstone says that the event no longer waits: the topic is compacted. The relay brings the
records to the log; a rebuild of a lost read side reads them.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterable, Sequence
from typing import Any

import orjson
from sqlalchemy import Connection, insert

from jobquest.errors import InvalidEvent
from jobquest.events import from_record
from jobquest.log import Headers, Origin, Record, dump_headers
from jobquest.read import parking, tables
from jobquest.read.failures import COLUMNS, Failure
from jobquest.read.parking import Parked
from jobquest.read.shared_clock import database_ms
from jobquest.read.statements import Values

logger = logging.getLogger(__name__)

TOPIC = "retries"
_PREFIX = "jobquest.retry."
_FIRST = f"{_PREFIX}topic"  # the first of our headers


def outgoing_rows(
    connection: Connection,
    parked: Sequence[Parked],
    released: Sequence[Parked],
    group: str,
    process_id: str,
) -> list[Values]:
    """Rows of `outgoing`: a record for each event that waits now, and a tombstone for each that no
    longer waits."""
    if not parked and not released:
        return []
    now, waits = database_ms(connection), {_place(one) for one in parked}
    rows: list[Values] = []

    def add(place: str, value: bytes | None, headers: Headers) -> None:
        id, key = f"retry:{place}:{uuid.uuid4().hex[:8]}"[-200:], f"{place}:{group}".encode()
        rows.append((id, process_id, now, TOPIC, key, value, dump_headers(headers)))

    for one in parked:
        add(_place(one), one.record.value, (*one.record.headers, *_headers(one)))
    for one in released:
        if _place(one) not in waits:
            add(_place(one), None, ())
    return rows


def restore(connection: Connection, records: Iterable[Record], group: str) -> int:
    """Park the events that, by the records of the topic, still wait for the group. Returns how many
    there are."""
    waiting: dict[bytes, Record] = {}
    for record in records:
        if record.key is None or record.key.split(b":", 4)[4:] != [group.encode()]:
            continue  # it waits for another group, or somebody else wrote it
        waiting.pop(record.key, None)
        if record.value is not None:
            waiting[record.key] = record
    found = [parked for record in waiting.values() if (parked := _read(record))]
    if found:
        rows = {one.event_id: parking.row_of(one) for one in found}
        connection.execute(insert(tables.parked), list(rows.values()))
    for key in {one.ordering_key for one in found}:
        parking.promote(connection, key)
    return len(found)


def _place(one: Parked) -> str:
    record = one.record
    return f"{one.origin.identity}:{record.topic}:{record.partition}:{record.offset}"


def _headers(one: Parked) -> Headers:
    record, failure = one.record, one.failure
    values: dict[str, Any] = {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "topic.id": one.origin.identity,
        "appended.ms": record.timestamp_ms,
        "attempts": one.attempts,
        "first.failed.ms": one.first_failed_ms,
        "done": orjson.dumps(one.done).decode(),
        **{name: failure and getattr(failure, name) for name in COLUMNS},
    }
    headers = [
        (_PREFIX + name, str(value).encode()) for name, value in values.items() if value is not None
    ]
    if record.key is not None:
        headers.append((f"{_PREFIX}key", record.key))
    return tuple(headers)


def _read(record: Record) -> Parked | None:
    """The parked event that a record describes; None if somebody else wrote the record."""
    try:
        return _parked(record)
    except (KeyError, ValueError, InvalidEvent) as error:
        logger.warning("Skipped %s@%d: %r", record.topic, record.offset, error)
        return None


def _parked(record: Record) -> Parked:
    names = [name for name, _ in record.headers]
    first = len(names) - 1 - names[::-1].index(_FIRST)
    values = dict(record.headers[first:])

    def text(name: str) -> str | None:
        value = values.get(_PREFIX + name)
        return None if value is None else value.decode()

    def number(name: str) -> int:
        return int(values[_PREFIX + name])

    original = Record(
        values[_FIRST].decode(),
        number("partition"),
        number("offset"),
        values.get(f"{_PREFIX}key"),
        record.value,
        record.headers[:first],
        number("appended.ms"),
    )
    event = from_record(original.value)
    error, first_failed = text("error"), text("first.failed.ms")
    failure = None
    if error is not None:
        error_class, *rest = (text(name) for name in COLUMNS[1:])
        failure = Failure(error, error_class or "", *rest)
    return Parked(
        event_id=event.id,
        user_id=event.user_id,
        type=event.type,
        record=original,
        origin=Origin(original.topic, original.partition, values[f"{_PREFIX}topic.id"].decode()),
        attempts=number("attempts"),
        failure=failure,
        first_failed_ms=int(first_failed) if first_failed else None,
        done=tuple(map(str, orjson.loads(text("done") or "[]"))),
    )
