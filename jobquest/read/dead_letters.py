"""Dead letters: records that were not counted, why, and the operator's decision about each.

A dead letter is a row (its state is open, redriven or discarded) and a record on the topic
`dead-letters`. That record has the original bytes, and headers with the names that Kafka's own dead
letter queues use (KIP-1191). Decisions are records there too, so that the table can be recreated
from the topic. This module publishes nothing: the relay brings rows of `outgoing` to the log.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Connection, select, update

from jobquest.clock import now_ms
from jobquest.errors import InvalidEvent, StateConflict
from jobquest.events import OUR_PREFIX, Event, from_record
from jobquest.events.event import LAST_MS
from jobquest.log import Headers, NewRecord, Origin, Record, dump_headers, rescued_headers
from jobquest.read import tables
from jobquest.read.database import Database, inserting
from jobquest.read.failures import COLUMNS as FAILURE_COLUMNS
from jobquest.read.failures import Failure
from jobquest.read.parking import done_of, failure_of, stored_record
from jobquest.read.shared_clock import database_ms

logger = logging.getLogger(__name__)

TOPIC = "dead-letters"
NOWHERE = -1  # the partition and offset of a record that was never in the log
REDRIVES_HEADER = "jobquest.redrives"
DONE_HEADER = "jobquest.handlers.done"  # a JSON list of handlers that are not called again
_KAFKA_PREFIX = "__dlq.errors."
_OWN_PREFIX = "jobquest.dlq."
_PLACE = ("identity", "topic", "partition", "offset")
_NONE: Mapping[Origin, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Dead:
    """A record that will not be counted, and why. `event` is None if it could not be read."""

    record: Record
    origin: Origin
    failure: Failure
    event: Event | None = None
    attempts: int = 1
    first_failed_ms: int | None = None  # None: now
    done: tuple[str, ...] = ()  # the handlers that have succeeded

    @property
    def event_id(self) -> str:
        """The event's id; if it has no usable one, an id made from the record's position."""
        if self.event and self.failure.error_class != "IdConflict":
            return self.event.id
        record = self.record
        place = f"{record.topic}:{record.partition}:{record.offset}:{self.origin.identity[:8]}"
        return f"{OUR_PREFIX}dead:{place}"


def dead_before_the_log(record: NewRecord, error: Exception) -> Dead:
    """A record that the log refused after it was accepted: it has no position, so its event's id
    takes the place of one."""
    event = from_record(record.value, now_ms())
    refused = Record(
        record.topic, NOWHERE, NOWHERE, record.key, record.value, record.headers, now_ms()
    )
    return Dead(
        refused, Origin(record.topic, NOWHERE, event.id), Failure.of(error, event=event), event
    )


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A dead letter as it is in its table, for redriving and editing."""

    id: int
    state: str
    event_id: str
    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers
    edited: bytes | None
    redrives: int
    done: str | None
    appended_ms: int
    error_class: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterFilter:
    """Which dead letters are selected; None: any."""

    state: str | None = None
    topic: str | None = None
    type: str | None = None
    user_id: str | None = None
    event_id: str | None = None
    error_class: str | None = None
    error: str | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        """As SQL."""
        table = tables.dead_letters
        wanted = {name: getattr(self, name) for name in self.__slots__}
        return [table.c[name] == value for name, value in wanted.items() if value is not None]


class DeadLetters:
    """The table of dead letters; `process_id` marks the records that this process publishes.

    All methods raise ReadSideUnavailable when the database is away.
    """

    def __init__(self, database: Database, process_id: str, group: str) -> None:
        self._database = database
        self._process_id = process_id
        self.group = group

    # --- part of a batch's transaction ---

    def dead_letter(
        self, connection: Connection, dead: Sequence[Dead], waited: Mapping[Origin, int] = _NONE
    ) -> None:
        """Write dead letters, and queue their records for the topic. A known dead letter stays as
        it is.

        `waited`: the dead events were parked until now, and these are the offsets up to which their
        partitions have been read.
        """
        for one in dead:
            row = _row(one) | {"repeats_below": waited.get(one.origin)}
            once = inserting(connection.dialect.name, tables.dead_letters).on_conflict_do_nothing()
            connection.execute(once, row)
            self._queue(connection, row, "died")

    # --- part of a rebuild's transaction ---

    def restore(self, connection: Connection, record: Record) -> None:
        """Apply a record of the topic again.

        An existing dead letter stays as it is, except that an open one accepts the decision.
        """
        of_group = [value for name, value in record.headers if name == f"{_KAFKA_PREFIX}group"]
        if of_group and of_group[-1] != self.group.encode():
            return  # another group's: for ours it counted, or died by itself
        try:
            parsed = _parsed(record)
        except (KeyError, ValueError) as error:  # somebody else wrote it
            logger.warning("Skipped %s@%d: %r", record.topic, record.offset, error)
            return
        if parsed is None:
            return
        row, action = parsed
        table = tables.dead_letters
        once = inserting(connection.dialect.name, table).on_conflict_do_nothing()
        connection.execute(once, row)
        if action != "died":
            decided: dict[str, Any] = {"edited": record.value}  # old versions had another name
            if action == "discarded":
                decided = {"state": "discarded", "reason": row["reason"]}
            elif action == "redriven":
                decided = {"state": "redriven"}
            place = [table.c[name] == row[name] for name in _PLACE]
            is_open = table.c.state == "open"
            connection.execute(update(table).where(*place, is_open).values(**decided))

    # --- decisions ---

    def edit(self, id: int, value: bytes) -> None:
        """Have `value` redriven instead of the original. Raises StateConflict."""
        self._decide(id, "edited", edited=value)

    def discard(self, id: int, reason: str) -> None:
        """Discard a dead letter. Raises StateConflict."""
        self._decide(id, "discarded", state="discarded", reason=reason)

    def mark_redriven(self, id: int) -> None:
        """Its record is in the log again. Raises StateConflict if somebody else was faster."""
        self._decide(id, "redriven", state="redriven")

    def _decide(self, id: int, action: str, **values: Any) -> None:
        table = tables.dead_letters
        with self._database.writing() as connection:
            mine = (table.c.id == id) & (table.c.state == "open")
            changed = connection.execute(update(table).where(mine).values(**values)).rowcount
            found = connection.execute(select(table).where(table.c.id == id)).mappings().first()
            if found is None or not changed:
                state = found["state"] if found else "unknown"
                raise StateConflict(
                    f"Dead letter {id} is already {state}: only open ones can change."
                )
            self._queue(connection, dict(found), action)

    def _queue(self, connection: Connection, row: Mapping[str, Any], action: str) -> None:
        place = f"{row['identity']}:{row['topic']}:{row['partition']}:{row['offset']}"
        # The death of a dead letter is one fact; each decision is a separate one.
        unique = "" if action == "died" else f":{uuid.uuid4().hex[:8]}"
        value = row["edited"] if action == "edited" else row["value"]
        # The API can't send a record with neither key nor value.
        nothing = row["key"] is None and value is None
        once = inserting(connection.dialect.name, tables.outgoing).on_conflict_do_nothing()
        connection.execute(
            once,
            {
                "id": f"{action}:{place}{unique}"[-200:],
                "process": self._process_id,
                "created_ms": database_ms(connection),
                "topic": TOPIC,
                "key": row["event_id"].encode() if nothing else row["key"],
                "value": value,
                "headers": dump_headers(_headers(row, action, self.group)),
            },
        )

    # --- questions ---

    def get(self, id: int) -> DeadLetter | None:
        """One dead letter."""
        table = tables.dead_letters
        with self._database.reading() as connection:
            row = connection.execute(select(table).where(table.c.id == id)).mappings().first()
        return _dead_letter(dict(row)) if row else None

    def ids(self, wanted: DeadLetterFilter, limit: int) -> list[int]:
        """The ids of matching dead letters, oldest first."""
        table = tables.dead_letters
        query = select(table.c.id).where(*wanted.conditions()).order_by(table.c.id).limit(limit)
        with self._database.reading() as connection:
            return list(connection.execute(query).scalars())


def _dead_letter(row: Mapping[str, Any]) -> DeadLetter:
    plain = {name: row[name] for name in DeadLetter.__slots__ if name != "headers"}
    return DeadLetter(headers=rescued_headers(row["headers"]), **plain)


def _row(dead: Dead) -> dict[str, Any]:
    record = dead.record
    redrives = dict(record.headers).get(REDRIVES_HEADER, b"0")
    return {
        "identity": dead.origin.identity,
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "appended_ms": record.timestamp_ms,
        "event_id": dead.event_id,
        "type": dead.event.type if dead.event else None,
        "user_id": dead.event.user_id if dead.event else None,
        **{name: getattr(dead.failure, name) for name in FAILURE_COLUMNS},
        "attempts": dead.attempts,
        "first_failed_ms": dead.first_failed_ms or now_ms(),
        "died_ms": now_ms(),
        "key": record.key,
        "value": record.value,
        "headers": dump_headers(record.headers),
        "edited": None,
        "repeats_below": None,
        "redrives": int(redrives) if redrives.isdigit() and len(redrives) < 4 else 0,
        "done": orjson.dumps(dead.done).decode(),
        "state": "open",
        "reason": None,
    }


def _headers(row: Mapping[str, Any], action: str, group: str) -> Headers:
    """The original's own headers, and after them what the record on the topic adds."""
    values = {
        f"{_KAFKA_PREFIX}topic": row["topic"],
        f"{_KAFKA_PREFIX}partition": row["partition"],
        f"{_KAFKA_PREFIX}offset": row["offset"],
        f"{_KAFKA_PREFIX}group": group,
        f"{_KAFKA_PREFIX}delivery.count": row["attempts"],
        f"{_KAFKA_PREFIX}message": row["error"],
        f"{_OWN_PREFIX}action": action,
        f"{_OWN_PREFIX}class": row["error_class"],
        f"{_OWN_PREFIX}path": row["path"],
        f"{_OWN_PREFIX}part": row["part"],
        f"{_OWN_PREFIX}trace": row["trace"],
        f"{_OWN_PREFIX}redrives": row["redrives"],
        f"{_OWN_PREFIX}done": row["done"],
        f"{_OWN_PREFIX}repeats.below": row["repeats_below"],
        f"{_OWN_PREFIX}reason": row["reason"],
        f"{_OWN_PREFIX}topic.id": row["identity"],
        f"{_OWN_PREFIX}event.id": row["event_id"],
        f"{_OWN_PREFIX}appended.ms": row["appended_ms"],
        f"{_OWN_PREFIX}first.failed.ms": row["first_failed_ms"],
        f"{_OWN_PREFIX}died.ms": row["died_ms"],
    }
    ours = tuple((name, str(value).encode()) for name, value in values.items() if value is not None)
    return rescued_headers(row["headers"]) + ours


def _parsed(record: Record) -> tuple[dict[str, Any], str] | None:
    """The dead letter's row as it was when it died, and the action, from a record of the topic;
    None if the record is not ours."""
    names = [name for name, _ in record.headers]
    if f"{_OWN_PREFIX}action" not in names or f"{_KAFKA_PREFIX}topic" not in names:
        return None
    # The original's own headers come before ours, and may have the same names.
    first = len(names) - 1 - names[::-1].index(f"{_KAFKA_PREFIX}topic")
    values = {name: value.decode() for name, value in record.headers[first:]}

    def number(name: str) -> int:
        return int(values[name])

    below = values.get(f"{_OWN_PREFIX}repeats.below")
    appended_ms = number(f"{_OWN_PREFIX}appended.ms")
    died_ms = number(f"{_OWN_PREFIX}died.ms")
    # Judged as at that time: by the later of the record's time and ours.
    event = _readable(record.value, max(appended_ms, died_ms))
    row = {
        "identity": values[f"{_OWN_PREFIX}topic.id"],
        "topic": values[f"{_KAFKA_PREFIX}topic"],
        "partition": number(f"{_KAFKA_PREFIX}partition"),
        "offset": number(f"{_KAFKA_PREFIX}offset"),
        "appended_ms": appended_ms,
        "event_id": values[f"{_OWN_PREFIX}event.id"],
        "type": event and event.type,
        "user_id": event and event.user_id,
        "error": values[f"{_KAFKA_PREFIX}message"],
        "error_class": values[f"{_OWN_PREFIX}class"],
        "path": values.get(f"{_OWN_PREFIX}path"),
        "part": values.get(f"{_OWN_PREFIX}part"),
        "trace": values.get(f"{_OWN_PREFIX}trace"),
        "attempts": number(f"{_KAFKA_PREFIX}delivery.count"),
        "first_failed_ms": number(f"{_OWN_PREFIX}first.failed.ms"),
        "died_ms": died_ms,
        "key": record.key,
        "value": record.value,
        "headers": dump_headers(record.headers[:first]),
        "edited": None,
        "repeats_below": None if below is None else int(below),
        "redrives": number(f"{_OWN_PREFIX}redrives"),
        "done": values.get(f"{_OWN_PREFIX}done"),
        "state": "open",
        "reason": values.get(f"{_OWN_PREFIX}reason"),
    }
    return row, values[f"{_OWN_PREFIX}action"]


def _readable(value: bytes | None, latest_ms: int = LAST_MS) -> Event | None:
    try:
        return from_record(value, latest_ms)
    except InvalidEvent:
        return None


def dead_of(row: Mapping[str, Any]) -> Dead:
    """The record of a dead letter's row, and why it died; `event` only if it could be read at that
    time."""
    failure = failure_of(row)
    assert failure
    return Dead(
        stored_record(row),
        Origin(row["topic"], row["partition"], row["identity"]),
        failure,
        _readable(row["value"]) if row["type"] else None,
        row["attempts"],
        row["first_failed_ms"],
        done_of(row),
    )
