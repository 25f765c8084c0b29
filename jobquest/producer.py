"""The producer: validate, stamp, append. The one way in for events, from the API and from Python.

Besides `publish` it has one `publish_…` method per event type, made from the catalogue:
`publish_mission_completed(user_id, mission_id, mission_name, mission_type, duration, xp_earned)`.
It knows the log only by its protocol and asks the read side only for ids known already.
"""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from jobquest.errors import IdConflict, LogUnavailable, ReadSideUnavailable, RecordRefused
from jobquest.events import CATALOGUE, Event, EventType, from_request
from jobquest.log import PATIENT_SECONDS, EventLog, NewRecord, Position
from jobquest.log.outbox import Outbox
from jobquest.read import ReadSide

logger = logging.getLogger(__name__)

CONFIRM_SECONDS = PATIENT_SECONDS + 1.0  # the log answers before that


@dataclass(frozen=True, slots=True)
class Published:
    """What became of a publish: accepted (in the log, at `position`), queued (durable in the
    outbox, which waits for Kafka), or a duplicate (processed already)."""

    event: Event
    position: Position | None
    result: Literal["accepted", "queued", "duplicate"]


class Producer:
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
        timestamp: Any = None,
    ) -> Published:
        """Publish one event; returns once the log, or else the outbox, has it durably.

        Give an `id` to make a retry harmless. `timestamp` (an RFC 3339 text or an aware datetime)
        is when it happened; now, if left out. Raises InvalidEvent, IdConflict, RecordRefused, or
        LogUnavailable (then it may or may not be kept: publish it again under the same id).
        """
        event, is_known = self._checked(event_type, user_id, data, metadata, id, timestamp)
        if is_known:
            return Published(event, None, "duplicate")
        try:
            position = self._keep(record_of(event))
        except (LogUnavailable, RecordRefused) as error:
            logger.error("Failed to publish event: %s", error)
            raise
        if position is None:
            logger.info("Queued event %s for user %s", event.type, event.user_id)
            return Published(event, None, "queued")
        logger.info(
            "Published event %s to topic %s for user %s", event.type, event.topic, event.user_id
        )
        return Published(event, position, "accepted")

    def _keep(self, record: NewRecord) -> Position | None:
        if self._outbox:
            return confirmed(self._outbox.append([record])[0])
        return confirmed(self._log.append([record])[0])

    def check(
        self,
        event_type: str,
        user_id: str,
        data: Mapping[str, Any],
        *,
        metadata: Mapping[str, Any] | None = None,
        id: str | None = None,
        timestamp: Any = None,
    ) -> Event:
        """The event as `publish` would make it, which is not published. Raises InvalidEvent,
        IdConflict."""
        return self._checked(event_type, user_id, data, metadata, id, timestamp)[0]

    def _checked(
        self,
        event_type: str,
        user_id: str,
        data: Mapping[str, Any],
        metadata: Mapping[str, Any] | None,
        id: str | None,
        timestamp: Any,
    ) -> tuple[Event, bool]:
        """The event, and whether it is processed already."""
        event = from_request(
            event_type, user_id, data, metadata=metadata or {}, id=id, timestamp=timestamp
        )
        return event, id is not None and self._is_known(event)

    def _is_known(self, event: Event) -> bool:
        """Whether this very event is processed already. Raises IdConflict where another is."""
        try:
            stored = self._read_side.contents([event.id]).get(event.id)
        except ReadSideUnavailable as error:  # the consumer drops a duplicate all the same
            logger.debug("Publishing %s without looking for it: %s", event.id, error)
            return False
        if stored is None:
            return False
        if not event.has_content_of(stored):
            raise IdConflict(f"The id {event.id} belongs to another event already.")
        return True

    def __getattr__(self, name: str) -> Callable[..., Published]:
        # Only for names that are no method: the publish_… methods below are set on the class.
        raise AttributeError(f"The producer has no {name}: see the catalogue for event types.")


_T = TypeVar("_T")


def confirmed(future: Future[_T]) -> _T:
    """Wait for the log's answer. Raises LogUnavailable where none comes in time."""
    try:
        return future.result(CONFIRM_SECONDS)
    except FutureTimeout:
        raise LogUnavailable(f"The log did not confirm within {CONFIRM_SECONDS:.0f} s.") from None


def record_of(event: Event) -> NewRecord:
    """The record that stands for an event on its topic."""
    return NewRecord(event.topic, event.user_id.encode(), event.to_json(), event.headers())


def _snake(name: str) -> str:
    return re.sub("(?<=[a-z])(?=[A-Z])", "_", name).lower()


def _publish_method(event_type: EventType) -> Callable[..., Published]:
    """The method for one type: its fields as arguments, the optional ones last and None."""
    names = {_snake(name): name for name in event_type.fields}
    signature = inspect.Signature(
        [
            inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY),
            inspect.Parameter("user_id", inspect.Parameter.POSITIONAL_OR_KEYWORD),
            *(
                inspect.Parameter(
                    name,
                    inspect.Parameter.POSITIONAL_OR_KEYWORD,
                    default=inspect.Parameter.empty if field in event_type.required else None,
                )
                for name, field in names.items()
            ),
            *(
                inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None)
                for name in ("metadata", "id", "timestamp")
            ),
        ]
    )

    def publish(self: Producer, *args: Any, **kwargs: Any) -> Published:
        given = signature.bind(self, *args, **kwargs).arguments
        data = {names[name]: given[name] for name in names if given.get(name) is not None}
        options = {name: given.get(name) for name in ("metadata", "id", "timestamp")}
        return self.publish(event_type.name, given["user_id"], data, **options)

    publish.__name__ = "publish_" + event_type.name.replace(".", "_")
    publish.__qualname__ = f"Producer.{publish.__name__}"
    publish.__doc__ = f"Publish `{event_type.name}`: {event_type.description}"
    publish.__signature__ = signature  # type: ignore[attr-defined]
    return publish


for _event_type in CATALOGUE.values():
    _method = _publish_method(_event_type)
    setattr(Producer, _method.__name__, _method)
