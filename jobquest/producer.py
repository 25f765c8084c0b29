"""The producer: validates, stamps and appends. All events come in through it, from the API and from
Python.

Besides `publish` it has one `publish_…` method per event type (`publish_methods.py`):
`publish_mission_completed(user_id, mission_id, mission_name, mission_type, duration, xp_earned)`.
It knows the log only by its protocol, and asks the read side only which ids are processed already.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import compress, islice
from typing import Any, Literal, NamedTuple, TypeVar

from jobquest.errors import (
    IdConflict,
    JobQuestError,
    LogUnavailable,
    ReadSideUnavailable,
    RecordRefused,
)
from jobquest.events import Event, from_request
from jobquest.events.requests import Request
from jobquest.log import PATIENT_SECONDS, EventLog, NewRecord, Position
from jobquest.log.outbox import Outbox
from jobquest.log.pending import Pending
from jobquest.log_lines import log_lines
from jobquest.publish_methods import PublishMethods
from jobquest.read import ReadSide

logger = logging.getLogger(__name__)

CONFIRM_SECONDS = PATIENT_SECONDS + 1.0  # the log answers before that


class Published(NamedTuple):
    """The outcome of a publish: accepted (in the log, at `position`), queued (durable in the
    outbox, which waits for Kafka), or a duplicate (processed already)."""

    event: Event
    position: Position | None
    result: Literal["accepted", "queued", "duplicate"]


class Producer(PublishMethods):
    """Publishes events to `log`, through the `outbox` if there is one. Any thread may call it."""

    def __init__(self, log: EventLog, read_side: ReadSide, outbox: Outbox | None = None) -> None:
        self._log = log
        self._outbox = outbox
        self._read_side = read_side

    def publish(
        self,
        event_type: str,
        user_id: str,
        data: Mapping[str, Any],
        *,
        metadata: Mapping[str, Any] | None = None,
        id: str | None = None,
        timestamp: str | datetime | None = None,
    ) -> Published:
        """Publish one event; returns once the log, or else the outbox, has it durably.

        With an `id`, a retry is harmless. `timestamp` (an RFC 3339 text or an aware datetime) is
        when it happened; now, if left out. Raises InvalidEvent, IdConflict, RecordRefused, or
        LogUnavailable (then it may be kept or not: publish it again with the same id).
        """
        event = from_request(
            event_type, user_id, data, metadata=metadata or {}, id=id, timestamp=timestamp
        )
        return self.publish_one(Request(event, id is not None))

    def publish_one(self, request: Request) -> Published:
        """See `publish`."""
        [published] = self.publish_all([request])
        if isinstance(published, JobQuestError):
            raise published
        return published

    def publish_all(self, requests: Sequence[Request]) -> list[Published | JobQuestError]:
        """Publish events, in their order, for little more than the price of one. The outcome of
        each: an event that was not accepted has its own IdConflict, RecordRefused or
        LogUnavailable."""
        looked_up: list[Published | JobQuestError | None] = [*self._looked_up(requests)]
        fresh = [one.event for one, known in zip(requests, looked_up, strict=True) if not known]
        kept = zip(fresh, self._keep(fresh), strict=True)
        outcomes = [self.outcome(event, pending) for event, pending in kept]
        log_published(outcomes)
        rest = iter(outcomes)
        return [known or next(rest) for known in looked_up]

    def keep_all(self, groups: Sequence[Sequence[Request]]) -> list[Sequence[Pending[Any]]]:
        """Have the log keep groups of events, all together, without waiting for anything. Returns
        for each group what is pending of its events; `outcome` reads that once it is settled. It is
        empty for a group that needs `publish_all`: one of its ids is known, or publishing it would
        have to wait. Called by one thread."""
        if not (self._outbox or self._log).is_ready:
            return [()] * len(groups)
        ids = [one.event.id for group in groups for one in group if one.has_id]
        stored = self._read_side.processed_at_once(ids) if ids else {}
        if stored is None:
            return [()] * len(groups)
        fresh = [
            not any(one.has_id and one.event.id in stored for one in group) for group in groups
        ]
        kept = iter(self._keep([one.event for group in compress(groups, fresh) for one in group]))
        return [
            list(islice(kept, len(group))) if is_fresh else ()
            for group, is_fresh in zip(groups, fresh, strict=True)
        ]

    def outcome(self, event: Event, pending: Pending[Any]) -> Published | JobQuestError:
        """The outcome of an event that was published; waits for it. The caller then has to call
        `log_published`."""
        try:
            position = confirmed(pending)
        except (LogUnavailable, RecordRefused) as error:
            logger.error("Failed to publish event: %s", error)
            return error
        return Published(event, position, "accepted" if position else "queued")

    def _keep(self, events: Sequence[Event]) -> Sequence[Pending[Any]]:
        return (self._outbox or self._log).append([record_of(event) for event in events])

    def check_all(self, requests: Sequence[Request]) -> list[Event | IdConflict]:
        """The events as they would be published, which they are not."""
        return [
            known if isinstance(known, IdConflict) else request.event
            for request, known in zip(requests, self._looked_up(requests), strict=True)
        ]

    def _looked_up(self, requests: Sequence[Request]) -> list[Published | IdConflict | None]:
        """For each: a duplicate if this very event is processed already, a conflict if another
        event with its id is, else None. Only an id that the client gave can be known."""
        ids = [request.event.id for request in requests if request.has_id]
        try:
            stored = self._read_side.processed(ids) if ids else {}
        except ReadSideUnavailable as error:  # the consumer drops duplicates anyway
            logger.debug("Publishing %d events without looking up their ids: %s", len(ids), error)
            stored = {}
        except Exception:  # a fault of ours in the read side refuses no event
            logger.exception("Publishing %d events without looking up their ids", len(ids))
            stored = {}
        return [_known(request.event, stored) for request in requests]


_T = TypeVar("_T")


def confirmed(future: Pending[_T]) -> _T:
    """Wait for the log's answer. Raises LogUnavailable if none comes in time."""
    try:
        return future.result(CONFIRM_SECONDS)
    except TimeoutError:
        raise LogUnavailable(f"The log did not confirm within {CONFIRM_SECONDS:.0f} s.") from None


def log_published(outcomes: Sequence[Published | JobQuestError]) -> None:
    """Log a line for each event that was published."""
    log_lines(logger, logging.INFO, [_line(one) for one in outcomes if isinstance(one, Published)])


def _line(published: Published) -> str:
    event = published.event
    if published.position is None:
        return f"Queued event {event.type} for user {event.user_id}"
    return f"Published event {event.type} to topic {event.topic} for user {event.user_id}"


def _known(event: Event, stored: Mapping[str, bytes]) -> Published | IdConflict | None:
    if event.id not in stored:
        return None
    if event.has_content_of(stored[event.id]):
        return Published(event, None, "duplicate")
    return IdConflict(f"The id {event.id} belongs to another event already.")


def record_of(event: Event) -> NewRecord:
    """The record of an event for its topic."""
    return NewRecord(event.topic, event.user_id.encode(), event.to_json(), event.headers())
