"""The frozen Event, its times and its ids. Knows neither schemas nor where events come from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import msgspec
import uuid_utils

from jobquest.events import exact_json
from jobquest.events.catalogue import CATALOGUE

OUR_PREFIX = "jq:"
"""Ids of events that this service itself publishes begin with it; requests must not use it."""

SOURCE = "/jobquest/events"
_NOTHING: Mapping[str, Any] = MappingProxyType({})
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
# What a datetime can hold. A record's time may be outside: other producers choose it freely.
_FIRST_MS = (datetime.min.replace(tzinfo=UTC) - _EPOCH) // _MILLISECOND
LAST_MS = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _MILLISECOND
# RFC 3339, section 5.6; datetime.fromisoformat takes more.
_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)")


class Event(msgspec.Struct, frozen=True, eq=False, gc=False):
    """Something that happened to a user. Nobody can change it, handlers included.

    `time_ms` is when it happened, in Unix milliseconds. `extra` holds members of the envelope that
    this version does not know. `json` is its JSON, if the reader had it already.
    """

    id: str
    type: str
    user_id: str
    time_ms: int
    metadata: Mapping[str, Any]
    data: Mapping[str, Any]
    extra: Mapping[str, Any] = _NOTHING
    json: bytes | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Event) and self._content == other._content

    @property
    def _content(self) -> tuple[Any, ...]:
        """All members but `json`, which repeats others."""
        return msgspec.structs.astuple(self)[:-1]

    @property
    def topic(self) -> str:
        """The topic of its type."""
        return CATALOGUE[self.type].topic

    @property
    def timestamp(self) -> datetime:
        """When it happened, in UTC."""
        return at_ms(self.time_ms)

    @property
    def is_internal(self) -> bool:
        """Whether this service itself published it."""
        return self.id.startswith(OUR_PREFIX)

    @property
    def cause(self) -> str | None:
        """The id of the event that caused this one, if it is internal."""
        cause = self.metadata.get("causedBy")
        return cause if isinstance(cause, str) and self.is_internal else None

    def to_dict(self) -> dict[str, Any]:
        """The event as on its topic, as plain values."""
        document: dict[str, Any] = exact_json.loads(self.to_json())
        return document

    def to_json(self) -> bytes:
        """The event as on its topic: UTF-8 JSON."""
        if self.json is not None:
            return self.json
        return exact_json.dumps(
            {
                "id": self.id,
                "type": self.type,
                "userId": self.user_id,
                "timestamp": format_time(self.time_ms),
                "metadata": self.metadata,
                "data": self.data,
                **self.extra,
            }
        )

    def headers(self) -> tuple[tuple[str, bytes], ...]:
        """Its record's headers, as the CloudEvents 1.0 Kafka protocol binding names them (section
        3.2, binary mode)."""
        return (
            ("ce_specversion", b"1.0"),
            ("ce_id", self.id.encode()),
            ("ce_type", self.type.encode()),
            ("ce_source", SOURCE.encode()),
            ("ce_time", format_time(self.time_ms).encode()),
            ("content-type", b"application/json"),
        )

    def has_content_of(self, stored: bytes) -> bool:
        """Whether `stored` (an event as JSON) has the same content, apart from the time: without a
        client's own, each retry gets a new one. Unreadable JSON is different content."""
        try:
            other = exact_json.loads(stored)
        except ValueError:
            return False
        if not isinstance(other, dict):
            return False
        return self.to_dict() == {**other, "id": self.id, "timestamp": format_time(self.time_ms)}


def new_id() -> str:
    """A new event id. Ordered by time (UUIDv7), which keeps a database index on it small."""
    return str(uuid_utils.uuid7())


@lru_cache(maxsize=256)  # the events of a batch share their moment
def format_time(moment: datetime | int) -> str:
    """UTC with milliseconds and Z, from an aware datetime or Unix milliseconds."""
    if isinstance(moment, int):
        moment = at_ms(moment)
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_time(text: Any) -> datetime:
    """Read an RFC 3339 time as UTC, cut to milliseconds. Raises ValueError with a line to show."""
    if not isinstance(text, str) or not _RFC_3339.fullmatch(text):
        raise ValueError("Not an RFC 3339 time, such as 2026-11-24T06:00:00.000Z.")
    try:
        moment = datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("No such time.") from None
    return whole_ms(moment)


def at_ms(milliseconds: int) -> datetime:
    """Unix milliseconds as a time in UTC; the nearest one that a datetime can hold."""
    return _EPOCH + min(max(milliseconds, _FIRST_MS), LAST_MS) * _MILLISECOND


def to_ms(moment: datetime) -> int:
    """Unix milliseconds of an aware time."""
    return (moment - _EPOCH) // _MILLISECOND


def whole_ms(moment: datetime) -> datetime:
    """The time, cut to milliseconds."""
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def frozen(value: Any) -> Any:
    """An immutable copy of `value`: mappings are read-only, lists become tuples."""
    if isinstance(value, Mapping):
        return MappingProxyType({key: frozen(member) for key, member in value.items()})
    if isinstance(value, list | tuple):
        return tuple(map(frozen, value))
    return value
