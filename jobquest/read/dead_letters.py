"""Dead letters: records that were not counted, why, and what an operator decided about each.

A dead letter is a row (its state is open, redriven or discarded) and a record on the topic
`dead-letters`, which carries the original bytes under the header names that Kafka's own dead letter
queues use (KIP-1191). Decisions are records there too, so that dead letters can be made anew from
it. It publishes nothing: rows of `outgoing` are brought to the log by the relay.
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
NOWHERE = -1  # the partition and offset of what was never in the log
REDRIVES_HEADER = "jobquest.redrives"
DONE_HEADER = "jobquest.handlers.done"  # a JSON list: these are not called for it again
_KAFKAS = "__dlq.errors."
_OURS = "jobquest.dlq."
_PLACE = ("identity", "topic", "partition", "offset")
_NONE: Mapping[Origin, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Dead:
    """A record that will not be counted, and why. `event` is None where it could not be read."""

    record: Record
    origin: Origin
    failure: Failure
    event: Event | None = None
    attempts: int = 1
    first_failed_ms: int | None = None  # None: now
    done: tuple[str, ...] = ()  # the handlers that have succeeded

    @property
    def event_id(self) -> str:
        """Its event's id; where it has none of its own, one made from where it stands."""
        if self.event and self.failure.error_class != "IdConflict":
            return self.event.id
        record = self.record
        place = f"{record.topic}:{record.partition}:{record.offset}:{self.origin.identity[:8]}"
        return f"{OUR_PREFIX}dead:{place}"


def dead_before_the_log(record: NewRecord, error: Exception) -> Dead:
    """A record that the log refused after it was taken: it has no position, and its event's id
    stands for it."""
    event = from_record(record.value, now_ms())
    taken = Record(
        record.topic, NOWHERE, NOWHERE, record.key, record.value, record.headers, now_ms()
    )
    return Dead(taken, Origin(record.topic, NOWHERE, event.id), Failure.of(error), event)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A dead letter as it stands in its table, for whoever redrives or edits it."""

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
    """Which dead letters are meant; None: any."""

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
    """The table of dead letters; `process_id` marks the records that this process brings to the
    log.

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
        """Write dead letters, and queue their records for the topic; a dead letter known already
        stays.

        `waited`: they were parked until now, when their partitions are read up to these offsets.
        """
        for one in dead:
            row = _row(one) | {"repeats_below": waited.get(one.origin)}
            once = inserting(connection.dialect.name, tables.dead_letters).on_conflict_do_nothing()
            connection.execute(once, row)
            self._queue(connection, row, "died")

    # --- part of a rebuild's transaction ---

    def restore(self, connection: Connection, record: Record) -> None:
        """Do again what a record of the topic tells.

        A dead letter that is there stays as it is, save that one that is open takes the decision.
        """
        of_group = [value for name, value in record.headers if name == f"{_KAFKAS}group"]
        if of_group and of_group[-1] != self.group.encode():
            return  # it counted for us, or died by itself
        try:
            told = _told(record)
        except (KeyError, ValueError) as error:  # somebody else wrote it
            logger.warning("Passed over %s@%d: %r", record.topic, record.offset, error)
            return
        if told is None:
            return
        row, action = told
        table = tables.dead_letters
        once = inserting(connection.dialect.name, table).on_conflict_do_nothing()
        connection.execute(once, row)
        if action != "died":
            decided: dict[str, Any] = {"edited": record.value}  # whatever an old version called it
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
        """Give a dead letter up. Raises StateConflict."""
        self._decide(id, "discarded", state="discarded", reason=reason)

    def mark_redriven(self, id: int) -> None:
        """Its record is in the log again. Raises StateConflict where somebody was faster."""
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
                    f"Dead letter {id} is {state} already: only open ones can change."
                )
            self._queue(connection, dict(found), action)

    def _queue(self, connection: Connection, row: Mapping[str, Any], action: str) -> None:
        place = f"{row['identity']}:{row['topic']}:{row['partition']}:{row['offset']}"
        # A dead letter's death is one fact; decisions are each their own.
        unique = "" if action == "died" else f":{uuid.uuid4().hex[:8]}"
        value = row["edited"] if action == "edited" else row["value"]
        # No client can send a record with neither key nor value.
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
    """What the record on the topic says beside the original's own headers."""
    said = {
        f"{_KAFKAS}topic": row["topic"],
        f"{_KAFKAS}partition": row["partition"],
        f"{_KAFKAS}offset": row["offset"],
        f"{_KAFKAS}group": group,
        f"{_KAFKAS}delivery.count": row["attempts"],
        f"{_KAFKAS}message": row["error"],
        f"{_OURS}action": action,
        f"{_OURS}class": row["error_class"],
        f"{_OURS}path": row["path"],
        f"{_OURS}part": row["part"],
        f"{_OURS}trace": row["trace"],
        f"{_OURS}redrives": row["redrives"],
        f"{_OURS}done": row["done"],
        f"{_OURS}repeats.below": row["repeats_below"],
        f"{_OURS}reason": row["reason"],
        f"{_OURS}topic.id": row["identity"],
        f"{_OURS}event.id": row["event_id"],
        f"{_OURS}appended.ms": row["appended_ms"],
        f"{_OURS}first.failed.ms": row["first_failed_ms"],
        f"{_OURS}died.ms": row["died_ms"],
    }
    ours = tuple((name, str(value).encode()) for name, value in said.items() if value is not None)
    return rescued_headers(row["headers"]) + ours


def _told(record: Record) -> tuple[dict[str, Any], str] | None:
    """The dead letter's row as it was when it died, and the action, of a record of the topic; None
    where it is none of ours."""
    names = [name for name, _ in record.headers]
    if f"{_OURS}action" not in names or f"{_KAFKAS}topic" not in names:
        return None
    # The original's own headers stand before ours, and may have the same names.
    first = len(names) - 1 - names[::-1].index(f"{_KAFKAS}topic")
    said = {name: value.decode() for name, value in record.headers[first:]}

    def number(name: str) -> int:
        return int(said[name])

    below = said.get(f"{_OURS}repeats.below")
    appended_ms = number(f"{_OURS}appended.ms")
    died_ms = number(f"{_OURS}died.ms")
    # As it was judged then: by the later of the record's time and ours.
    event = _readable(record.value, max(appended_ms, died_ms))
    row = {
        "identity": said[f"{_OURS}topic.id"],
        "topic": said[f"{_KAFKAS}topic"],
        "partition": number(f"{_KAFKAS}partition"),
        "offset": number(f"{_KAFKAS}offset"),
        "appended_ms": appended_ms,
        "event_id": said[f"{_OURS}event.id"],
        "type": event and event.type,
        "user_id": event and event.user_id,
        "error": said[f"{_KAFKAS}message"],
        "error_class": said[f"{_OURS}class"],
        "path": said.get(f"{_OURS}path"),
        "part": said.get(f"{_OURS}part"),
        "trace": said.get(f"{_OURS}trace"),
        "attempts": number(f"{_KAFKAS}delivery.count"),
        "first_failed_ms": number(f"{_OURS}first.failed.ms"),
        "died_ms": died_ms,
        "key": record.key,
        "value": record.value,
        "headers": dump_headers(record.headers[:first]),
        "edited": None,
        "repeats_below": None if below is None else int(below),
        "redrives": number(f"{_OURS}redrives"),
        "done": said.get(f"{_OURS}done"),
        "state": "open",
        "reason": said.get(f"{_OURS}reason"),
    }
    return row, said[f"{_OURS}action"]


def _readable(value: bytes | None, latest_ms: int = LAST_MS) -> Event | None:
    try:
        return from_record(value, latest_ms)
    except InvalidEvent:
        return None


def dead_of(row: Mapping[str, Any]) -> Dead:
    """The record that a dead letter's row is about, and why it died; `event` only where it could be
    read then."""
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
