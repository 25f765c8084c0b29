"""The vocabulary: the frozen Event, the catalogue of types, and the two ways an event comes in.

`from_request` is the strict door (the API, the producer); `from_record` reads what stands on a
topic and is tolerant of what a newer producer adds. Knows neither logs nor databases nor HTTP.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

import orjson
import uuid_utils
from marshmallow import ValidationError

from jobquest.errors import InvalidEvent
from jobquest.events import strict_json
from jobquest.events.catalogue import CATALOGUE, TOPICS, EventType
from jobquest.events.fields import PERSONAL_FIELDS, UserId

__all__ = [
    "CATALOGUE",
    "OUR_PREFIX",
    "PERSONAL_FIELDS",
    "TOPICS",
    "Event",
    "EventType",
    "format_time",
    "from_record",
    "from_request",
    "new_id",
]

OUR_PREFIX = "jq:"
"""Ids of events that this service publishes by itself begin with it; the door refuses it."""

SOURCE = "/jobquest/events"
MAX_METADATA_BYTES = 8 * 1024
MAX_METADATA_DEPTH = 16
MAX_AHEAD = timedelta(minutes=5)
EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_ID = re.compile(r"[A-Za-z0-9_.:-]{1,100}")
# RFC 3339, section 5.6; datetime.fromisoformat takes more than that.
_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)")
_NOTHING: Mapping[str, Any] = MappingProxyType({})
_USER_ID = UserId()


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a user. Nobody can change it, handlers included.

    `timestamp` is when it happened: UTC, whole milliseconds. `extra` holds members of the
    envelope that this version does not know.
    """

    id: str
    type: str
    user_id: str
    timestamp: datetime
    metadata: Mapping[str, Any]
    data: Mapping[str, Any]
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def topic(self) -> str:
        """The topic of its type."""
        return CATALOGUE[self.type].topic

    @property
    def time_ms(self) -> int:
        """When it happened, Unix milliseconds."""
        return (self.timestamp - _EPOCH) // _MILLISECOND

    @property
    def is_ours(self) -> bool:
        """Whether this service published it by itself."""
        return self.id.startswith(OUR_PREFIX)

    @property
    def cause(self) -> str | None:
        """The id of the event that one of ours follows from."""
        cause = self.metadata.get("causedBy") if self.is_ours else None
        return cause if isinstance(cause, str) else None

    def to_dict(self) -> dict[str, Any]:
        """The event as it stands on the topic, as plain values."""
        document: dict[str, Any] = orjson.loads(self.to_json())
        return document

    def to_json(self) -> bytes:
        """The event as it stands on the topic: UTF-8 JSON."""
        return orjson.dumps(
            {
                "id": self.id,
                "type": self.type,
                "userId": self.user_id,
                "timestamp": format_time(self.timestamp),
                "metadata": self.metadata,
                "data": self.data,
                **self.extra,
            },
            default=dict,
        )

    def headers(self) -> tuple[tuple[str, bytes], ...]:
        """Its record's headers, as the CloudEvents 1.0 Kafka protocol binding names them (section
        3.2, binary mode)."""
        return (
            ("ce_specversion", b"1.0"),
            ("ce_id", self.id.encode()),
            ("ce_type", self.type.encode()),
            ("ce_source", SOURCE.encode()),
            ("ce_time", format_time(self.timestamp).encode()),
            ("content-type", b"application/json"),
        )

    def has_content_of(self, stored: bytes) -> bool:
        """Whether `stored` (an event as JSON) says the same. The time is left out: where a client
        sends none, each of its retries is stamped anew."""
        other = orjson.loads(stored)
        return self.to_dict() == {**other, "id": self.id, "timestamp": format_time(self.timestamp)}


def new_id() -> str:
    """A new event id. Ordered by time (UUIDv7), which keeps a database index on it small."""
    return str(uuid_utils.uuid7())


def format_time(moment: datetime | int) -> str:
    """UTC with milliseconds and Z, from an aware datetime or Unix milliseconds."""
    if isinstance(moment, int):
        moment = _EPOCH + moment * _MILLISECOND
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_time(text: Any) -> datetime:
    """Read an RFC 3339 time as UTC, cut to milliseconds. Raises ValueError with a line to show."""
    if not isinstance(text, str) or not _RFC_3339.fullmatch(text):
        raise ValueError("Not an RFC 3339 time, such as 2026-11-24T06:00:00.000Z.")
    try:
        moment = datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("No such time.") from None
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def from_request(
    event_type: Any,
    user_id: Any,
    data: Any,
    *,
    metadata: Any = _NOTHING,
    id: Any = None,
    timestamp: Any = None,
    now: datetime | None = None,
) -> Event:
    """The strict door: check values that somebody sent and stamp what is missing.

    `id` and `timestamp` None: made here. Raises InvalidEvent with every error at once, by path.
    """
    now = now or datetime.now(UTC)
    errors: dict[str, list[str]] = {}
    _check_plain(data, "data", errors)
    _check_plain(metadata, "metadata", errors)
    _check_type(event_type, "eventType", errors)
    _check_user(user_id, errors)
    _check_metadata(metadata, errors)
    if id is not None:
        _check_id(id, errors)
        if isinstance(id, str) and id.startswith(OUR_PREFIX):
            errors.setdefault("id", []).append(f"Must not begin with {OUR_PREFIX}.")
    moment = now if timestamp is None else _check_time(timestamp, now, errors)
    if "data" not in errors:
        _check_data(event_type, data, errors, strict=True)
    if errors or moment is None:
        raise InvalidEvent("The event is not valid.", errors)
    return Event(
        id=id or new_id(),
        type=event_type,
        user_id=user_id,
        timestamp=moment.replace(microsecond=moment.microsecond // 1000 * 1000),
        metadata=_frozen(metadata),
        data=_frozen(data),
    )


def from_record(value: bytes | None, appended_ms: int) -> Event:
    """Read an event from a topic, tolerant of unknown fields.

    `appended_ms` (Unix milliseconds) is when the log took it: "ahead" is measured from there, so
    that reading it again later gives the same answer. Raises InvalidEvent.
    """
    if value is None:
        raise InvalidEvent("The record has no value.")
    document = strict_json.loads(value)
    if not isinstance(document, dict):
        raise InvalidEvent("The record is not a JSON object.")
    errors: dict[str, list[str]] = {}
    members = {"metadata": {}, **document}
    _check_type(members.get("type"), "type", errors)
    _check_user(members.get("userId"), errors)
    _check_id(members.get("id"), errors)
    _check_metadata(members["metadata"], errors)
    appended = _EPOCH + appended_ms * _MILLISECOND
    moment = _check_time(members.get("timestamp"), appended, errors)
    _check_data(members.get("type"), members.get("data"), errors, strict=False)
    if errors or moment is None:
        raise InvalidEvent("The event is not valid.", errors)
    return Event(
        id=members.pop("id"),
        type=members.pop("type"),
        user_id=members.pop("userId"),
        timestamp=moment,
        metadata=_frozen(members.pop("metadata")),
        data=_frozen(members.pop("data")),
        extra=_frozen({k: v for k, v in members.items() if k != "timestamp"}),
    )


def _check_plain(value: Any, path: str, errors: dict[str, list[str]]) -> None:
    """Callers in Python can pass what no JSON could: refuse it like the JSON reader does."""
    try:
        strict_json.check(dict(value) if isinstance(value, Mapping) else value)
        orjson.dumps(value, default=dict)
    except (InvalidEvent, TypeError, ValueError) as error:
        errors.setdefault(path, []).append(str(error))


def _check_type(name: Any, path: str, errors: dict[str, list[str]]) -> None:
    if not isinstance(name, str):
        errors[path] = ["Missing." if name is None else "Not a string."]
    elif name not in CATALOGUE:
        errors[path] = [f"Unknown event type. Known: {', '.join(CATALOGUE)}."]


def _check_user(user_id: Any, errors: dict[str, list[str]]) -> None:
    try:
        _USER_ID.deserialize(user_id)
    except ValidationError as error:
        errors["userId"] = [str(line) for line in error.messages]


def _check_id(id: Any, errors: dict[str, list[str]]) -> None:
    if not isinstance(id, str) or not _ID.fullmatch(id):
        errors["id"] = ["Must be 1 to 100 of the characters A-Z a-z 0-9 _ . : -"]


def _check_metadata(metadata: Any, errors: dict[str, list[str]]) -> None:
    if not isinstance(metadata, Mapping):
        errors["metadata"] = ["Not an object."]
    elif "metadata" not in errors:
        if strict_json.depth_of(dict(metadata)) > MAX_METADATA_DEPTH:
            errors["metadata"] = [f"Nests deeper than {MAX_METADATA_DEPTH} levels."]
        elif len(orjson.dumps(metadata, default=dict)) > MAX_METADATA_BYTES:
            errors["metadata"] = [f"Larger than {MAX_METADATA_BYTES} bytes."]


def _check_time(text: Any, now: datetime, errors: dict[str, list[str]]) -> datetime | None:
    try:
        moment = text.astimezone(UTC) if isinstance(text, datetime) else parse_time(text)
        if moment < EARLIEST:
            raise ValueError("Lies before the year 2000.")
        if moment > now + MAX_AHEAD:
            raise ValueError("Lies more than 5 minutes ahead.")
    except (ValueError, OverflowError) as error:
        errors["timestamp"] = [str(error)]
        return None
    return moment


def _check_data(name: Any, data: Any, errors: dict[str, list[str]], *, strict: bool) -> None:
    if not isinstance(data, Mapping):
        errors["data"] = ["Missing." if data is None else "Not an object."]
    elif isinstance(name, str) and name in CATALOGUE:
        found = CATALOGUE[name].check(data, strict=strict)
        errors.update({f"data.{path}": lines for path, lines in found.items()})


def _frozen(value: Any) -> Any:
    """`value` so that nobody can change it: mappings read-only, lists as tuples."""
    if isinstance(value, Mapping):
        return MappingProxyType({key: _frozen(member) for key, member in value.items()})
    if isinstance(value, list | tuple):
        return tuple(map(_frozen, value))
    return value
