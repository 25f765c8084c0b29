"""The producer: validate, stamp, append. The one way in for events, from the API and from Python.

Besides `publish` it has one `publish_…` method per event type (`publish_methods.py`):
`publish_mission_completed(user_id, mission_id, mission_name, mission_type, duration, xp_earned)`.
It knows the log only by its protocol and asks the read side only for ids known already.
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
    """What became of a publish: accepted (in the log, at `position`), queued (durable in the
    outbox, which waits for Kafka), or a duplicate (processed already)."""

    event: Event
    position: Position | None
    result: Literal["accepted", "queued", "duplicate"]


class Producer(PublishMethods):
    """Publishes events to `log`, by way of the `outbox` where there is one. Any thread may call
    it."""

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

        Give an `id` to make a retry harmless. `timestamp` (an RFC 3339 text or an aware datetime)
        is when it happened; now, if left out. Raises InvalidEvent, IdConflict, RecordRefused, or
        LogUnavailable (then it may or may not be kept: publish it again under the same id).
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
        """Publish events, in their order, at the price of little more than one; what became of
        each, an IdConflict, RecordRefused or LogUnavailable of its own where it was not taken."""
        came: list[Published | JobQuestError | None] = [*self._looked_up(requests)]
        fresh = [request.event for request, known in zip(requests, came, strict=True) if not known]
        given = self._give(fresh)
        kept = [self.finish(event, future) for event, future in zip(fresh, given, strict=True)]
        log_published(kept)
        rest = iter(kept)
        return [known or next(rest) for known in came]

    def begin_all(self, groups: Sequence[Sequence[Request]]) -> list[Sequence[Pending[Any]] | None]:
        """The same without waiting for anything: for each event of a group what to give to `finish`
        once it is settled. None for a group that `publish_all` has to do: an id in it is known, or
        something would have to be waited for. Called by one thread."""
        if not (self._outbox or self._log).is_ready:
            return [None] * len(groups)
        ids = [one.event.id for group in groups for one in group if one.has_id]
        stored = self._read_side.processed_at_once(ids) if ids else {}
        if stored is None:
            return [None] * len(groups)
        fresh = [
            not any(one.has_id and one.event.id in stored for one in group) for group in groups
        ]
        events = [one.event for group in compress(groups, fresh) for one in group]
        given = iter(self._give(events))
        return [
            list(islice(given, len(group))) if is_fresh else None
            for group, is_fresh in zip(groups, fresh, strict=True)
        ]

    def finish(self, event: Event, given: Pending[Any]) -> Published | JobQuestError:
        """What became of an event that was given to the log; waits for that. `log_published` has to
        be called with it."""
        try:
            position = confirmed(given)
        except (LogUnavailable, RecordRefused) as error:
            logger.error("Failed to publish event: %s", error)
            return error
        return Published(event, position, "accepted" if position else "queued")

    def _give(self, events: Sequence[Event]) -> Sequence[Pending[Any]]:
        return (self._outbox or self._log).append([record_of(event) for event in events])

    def check_all(self, requests: Sequence[Request]) -> list[Event | IdConflict]:
        """The events as they would be published, which they are not."""
        return [
            known if isinstance(known, IdConflict) else request.event
            for request, known in zip(requests, self._looked_up(requests), strict=True)
        ]

    def _looked_up(self, requests: Sequence[Request]) -> list[Published | IdConflict | None]:
        """Of each: a duplicate where this very event is processed already, a conflict where
        another is, or None. Only an id that the client gave can be known."""
        ids = [request.event.id for request in requests if request.has_id]
        try:
            stored = self._read_side.processed(ids) if ids else {}
        except ReadSideUnavailable as error:  # the consumer drops a duplicate all the same
            logger.debug("Publishing %d events without looking for them: %s", len(ids), error)
            stored = {}
        except Exception:  # a fault of ours in the read side refuses no event
            logger.exception("Publishing %d events without looking for them", len(ids))
            stored = {}
        return [_known(request.event, stored) for request in requests]


_T = TypeVar("_T")


def confirmed(future: Pending[_T]) -> _T:
    """Wait for the log's answer. Raises LogUnavailable where none comes in time."""
    try:
        return future.result(CONFIRM_SECONDS)
    except TimeoutError:
        raise LogUnavailable(f"The log did not confirm within {CONFIRM_SECONDS:.0f} s.") from None


def log_published(came: Sequence[Published | JobQuestError]) -> None:
    """Log a line for each event that was published."""
    log_lines(logger, logging.INFO, [_line(one) for one in came if isinstance(one, Published)])


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
    """The record that stands for an event on its topic."""
    return NewRecord(event.topic, event.user_id.encode(), event.to_json(), event.headers())
