"""The audit trail: who did what, as events of a type of their own on the topic `operator-audit`.

The type is not in the catalogue, so nobody can publish it, and the consumer does not read the
topic: no page, number or socket of users' events shows one. Written by the web side and the
command line. The trail is read from the topic itself, newest first, by all partitions together.
"""

from __future__ import annotations

import heapq
import logging
import re
import threading
import time
from collections.abc import Iterator, Mapping
from operator import itemgetter
from typing import Any

from jobquest.clock import now_ms
from jobquest.errors import InvalidEvent, LogUnavailable
from jobquest.events import OUR_PREFIX, Event, exact_json, format_time, new_id
from jobquest.log import (
    EventLog,
    NewRecord,
    Partition,
    PartitionInfo,
    Record,
    refuse_unreadable,
)
from jobquest.log.outbox import Outbox
from jobquest.log.pending import Pending

logger = logging.getLogger(__name__)

TOPIC = "operator-audit"
TYPE = "operator.acted"
KEY_PREFIX = f"{OUR_PREFIX}operator:"
ACTIONS = (
    "start",
    "stop",
    "redrive",
    "try-now",
    "edit",
    "discard",
    "reveal",
    "key.created",
    "key.rotated",
    "key.revoked",
    "operator.added",
    "operator.changed",
    "operator.removed",
    "session.begun",
    "session.ended",
    "sign-in.failed",
)
KEPT_SECONDS = 1.0  # that an action waits until its record is durable; after that it goes on
LOOK_SECONDS = 60.0
READ_RECORDS = 500  # of a partition at a time
MAX_SCANNED, MAX_SECONDS = 20_000, 2.0  # for one answer
MAX_NAME, MAX_OBJECT, MAX_DETAILS = 110, 300, 16_000
_CURSOR = re.compile(r"[0-9]{1,10}:[0-9]{1,19}(?:-[0-9]{1,10}:[0-9]{1,19})*")
Entry = dict[str, Any]


class Audit:
    """Records actions in `log`, through the `outbox` if there is one. Any thread may call it."""

    def __init__(self, log: EventLog, outbox: Outbox | None) -> None:
        self._log = log
        self._outbox = outbox
        self._lock = threading.Lock()  # guards the next one
        self._looks: dict[tuple[str, str, bytes, str], float] = {}  # when each was recorded

    def record(
        self,
        name: str,
        action: str,
        what: str = "",
        details: Mapping[str, Any] | None = None,
        address: str = "",
    ) -> None:
        """Record that `name` did something to `what`. Returns once that is durable, or after a
        second. Never raises: what can't be kept is in the service's log."""
        event = _event(name, action, what, details or {}, address)
        body = event.to_json()

        def answered(pending: Pending[Any]) -> None:
            if error := pending.exception():
                log_lost(body, error)

        try:
            new = NewRecord(TOPIC, event.user_id.encode(), body, event.headers())
            [pending] = (self._outbox or self._log).append([new])
        except Exception as error:  # the action itself is done
            log_lost(body, error)
            return
        pending.add_done_callback(answered)
        pending.wait(KEPT_SECONDS)

    def record_look(self, name: str, what: str, details: Mapping[str, Any], address: str) -> None:
        """Record that `name` saw personal data. Who looks at the same again within a minute, as a
        page does that follows, has one record of it."""
        look, now = (name, what, exact_json.dumps(details), address), time.monotonic()
        with self._lock:
            recent = {k: at for k, at in self._looks.items() if now - at < LOOK_SECONDS}
            is_new = look not in recent
            self._looks = {**recent, look: now} if is_new else recent
        if is_new:
            self.record(name, "reveal", what, details, address)

    def entries(self, after: str | None = None) -> Iterator[tuple[Entry, str]]:
        """The trail, newest first, each entry with the place behind it, for `after`. Raises
        LogUnavailable, and InvalidEvent if `after` is no such place."""
        refuse_unreadable(self._log, TOPIC)
        infos = {info.origin.number: info for info in self._log.describe([TOPIC])}
        ends = {number: info.next for number, info in infos.items()}
        if after is not None:
            ends = {n: min(end, ends[n]) for n, end in _places(after).items() if n in ends}
        parts = [_backwards(self._log, infos[number], end) for number, end in ends.items()]
        for entry in heapq.merge(*parts, key=itemgetter("timestamp"), reverse=True):
            ends[entry["partition"]] = entry["offset"]
            yield entry, "-".join(f"{number}:{end}" for number, end in ends.items())

    def latest(
        self, person: str | None, after: str | None, limit: int
    ) -> tuple[list[Entry], str | None]:
        """A portion of the trail, or of one person's, and the place behind it; None at the end. A
        portion is bounded in time: it may be short although there is more. Raises what `entries`
        raises."""
        found: list[Entry] = []
        deadline, behind = time.monotonic() + MAX_SECONDS, after
        for scanned, (entry, place) in enumerate(self.entries(after)):
            is_wanted = person is None or entry["name"] == person
            if is_wanted and len(found) == limit:
                return found, behind
            found += [entry] if is_wanted else []
            behind = place
            if scanned == MAX_SCANNED or time.monotonic() > deadline:
                return found, behind
        return found, None


def log_lost(record: bytes, error: BaseException) -> None:
    """Write a record that the trail will never have to the service's log."""
    logger.error("Not in the audit trail: %s (%s)", record.decode("utf-8", "replace"), error)


def _event(name: str, action: str, what: str, details: Mapping[str, Any], address: str) -> Event:
    if len(exact_json.dumps(details)) > MAX_DETAILS:
        details = {"truncated": True}
    data = {"action": action, "object": what[:MAX_OBJECT], "details": details, "address": address}
    user_id = f"{KEY_PREFIX}{name[:MAX_NAME]}"
    return Event(f"{OUR_PREFIX}{new_id()}", TYPE, user_id, now_ms(), {}, data)


# --- reading ---


def _backwards(log: EventLog, info: PartitionInfo, end: int) -> Iterator[Entry]:
    """The entries of a partition before an offset, the last one first."""
    place = Partition(TOPIC, info.origin.number)
    while end > info.first:
        start = max(info.first, end - READ_RECORDS)
        yield from map(_entry, reversed(_span(log, place, start, end)))
        end = start


def _span(log: EventLog, place: Partition, start: int, end: int) -> list[Record]:
    """All records of a span. Raises LogUnavailable rather than leave one out."""
    records: list[Record] = []
    while start < end:
        found = log.read_each({place: (start, end)}, READ_RECORDS)[place]
        if found.next == start:
            raise LogUnavailable(f"Partition {place.number} of {TOPIC} was not read in time.")
        records += found.records
        start = found.next
    return records


def _entry(record: Record) -> Entry:
    """A record as the trail shows it, whoever wrote it."""
    try:
        event = exact_json.loads(record.value or b"")
        data = event["data"]
        name = str(event["userId"]).removeprefix(KEY_PREFIX)
        known: Entry = {"id": str(event["id"]), "timestamp": str(event["timestamp"]), "name": name}
        known |= {part: str(data[part]) for part in ("action", "object", "address")}
        known["details"] = data["details"] if isinstance(data["details"], dict) else {}
    except (ValueError, KeyError, TypeError):
        known = {"id": "", "timestamp": format_time(record.timestamp_ms), "name": ""}
        known |= {"action": "unreadable", "object": "", "address": "", "details": {}}
    return {**known, "partition": record.partition, "offset": record.offset}


def _places(after: str) -> dict[int, int]:
    if len(after) > 100_000 or not _CURSOR.fullmatch(after):
        raise InvalidEvent("A parameter is not valid.", {"after": ["Not a place in the trail."]})
    return {int(n): int(end) for n, _, end in (one.partition(":") for one in after.split("-"))}
