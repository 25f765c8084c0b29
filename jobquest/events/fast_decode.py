"""Fast decoding: reads plain valid events at a fraction of what marshmallow costs (2 µs for 30).

msgspec reads them into structs made from the catalogue, with the `fast` type of each field's kind.
What it takes, `validation.py` takes with the same result. What it does not take (None) may still be
valid: `validation.py` decides then, and explains.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, Union

import msgspec
from msgspec import UNSET, Raw, UnsetType

from jobquest.clock import now_ms
from jobquest.errors import InvalidEvent
from jobquest.events import strict_json, validation
from jobquest.events.catalogue import CATALOGUE, EventType
from jobquest.events.event import (
    LAST_MS,
    OUR_PREFIX,
    Event,
    format_time,
    frozen,
    new_id,
    to_ms,
)
from jobquest.events.fields import FIELDS, UserId

# Patterns are checked here: msgspec's own take three times as long as the rest of its decoding.
_ID = re.compile(r"[A-Za-z0-9_.:-]{1,100}")
_IDS = re.compile(rf"(?:{_ID.pattern}\n)*+")  # of a list, each in a line of its own
# To ask for both with `bytes in bytes` takes twice as long, or longer.
_BACKSLASH = ord("\\")
_SPACE_FIRST = re.compile(rb'" ')
_BLANK_FIRST = re.compile(r'"\s')
# The one spelling of times that `format_time` has too.
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z")
_TIMES = re.compile(rf"(?:{_TIME.pattern}\n)*+")
_TOGETHER = 100  # records; as long as they fit into the processor's caches, more gain nothing
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises if it can't read a body."""

_NO_METADATA = Raw(b"{}")
_NOTHING: Mapping[str, Any] = MappingProxyType({})


def _data(event_type: EventType) -> type[msgspec.Struct]:
    members: list[Any] = []
    for name in event_type.fields:
        fast = FIELDS[name].kind.fast
        is_required = name in event_type.required
        members.append((name, fast) if is_required else (name, fast | UnsetType, UNSET))
    is_nested = any(FIELDS[name].kind.is_nested for name in event_type.fields)
    names = {"event_type": event_type.name, "is_nested": is_nested}
    return msgspec.defstruct("Data", members, forbid_unknown_fields=True, namespace=names)


def _union(tag: str, members: list[Any]) -> Any:
    """The type of an object with these members and `data`; `tag` names the event's type."""
    structs = [
        msgspec.defstruct(
            "Envelope",
            [("data", _data(row)), *members],
            tag_field=tag,
            tag=name,
            forbid_unknown_fields=True,
            omit_defaults=True,
        )
        for name, row in CATALOGUE.items()
    ]
    return Union[tuple(structs)]  # noqa: UP007 (made at run time)


_METADATA = ("metadata", Raw, _NO_METADATA)
_RECORD = msgspec.json.Decoder(
    _union("type", [("id", str), ("userId", UserId.fast), ("timestamp", str), _METADATA])
)
_ASKED = _union(
    "eventType",
    [
        ("userId", UserId.fast | UnsetType, UNSET),
        ("id", str | UnsetType, UNSET),
        ("timestamp", str | UnsetType, UNSET),
        _METADATA,
    ],
)
_REQUEST = msgspec.json.Decoder(_ASKED)
_BATCH = msgspec.json.Decoder(
    msgspec.defstruct("Batch", [("events", list[_ASKED])], forbid_unknown_fields=True)  # type: ignore[valid-type]
)
_EARLIEST_MS = to_ms(validation.EARLIEST)
_AHEAD_MS = validation.MAX_AHEAD // timedelta(milliseconds=1)
_encode = msgspec.json.Encoder().encode


def from_record(value: bytes, latest_ms: int = LAST_MS) -> Event | None:
    """See `validation.from_record`."""
    return from_records([value], latest_ms)[0]


def from_records(values: Sequence[bytes], latest_ms: int = LAST_MS) -> list[Event | None]:
    """The same for many records. To check the parts of a hundred as one text takes half as long as
    to check them one by one: so they are read together, and in halves if one of them is odd."""
    if len(values) <= _TOGETHER and (events := _all_plain(values, latest_ms)):
        return [*events]
    if len(values) <= 1:
        return [None] * len(values)
    size = min(_TOGETHER, (len(values) + 1) // 2)
    portions = [values[first : first + size] for first in range(0, len(values), size)]
    return [event for portion in portions for event in from_records(portion, latest_ms)]


def _all_plain(values: Sequence[bytes], latest_ms: int) -> list[Event] | None:
    """The events of these records, if all of them are plain and valid."""
    found = _read_all(values)
    if not found:
        return None
    times_ms = _all_times_ms([one.timestamp for one in found])
    if not times_ms or min(times_ms) < _EARLIEST_MS or max(times_ms) > latest_ms + _AHEAD_MS:
        return None
    if not _IDS.fullmatch(_lines([one.id for one in found])):
        return None
    if not _are_plain([one.userId for one in found]):
        return None
    events = []
    for one, time_ms, value in zip(found, times_ms, values, strict=True):
        raw = one.metadata
        metadata = _NOTHING if bytes(raw) == b"{}" else _metadata(raw, huge_numbers=True)
        if metadata is None:
            return None
        # The bytes say all six members only if they have the one that may be left out.
        json = None if raw is _NO_METADATA else value
        data, type = _frozen_data(one.data), one.data.event_type
        events.append(Event(one.id, type, one.userId, time_ms, metadata, data, _NOTHING, json))
    return events


def _read_all(values: Sequence[bytes]) -> list[Any] | None:
    """See `_read`."""
    body = b"\n".join(values)
    if _BACKSLASH in body:
        return None
    try:
        if _may_hold_a_blank(body):
            return None
        found = list(map(_RECORD.decode, values))
    except UNREADABLE:
        return None
    return None if _has_repeated_key(body, found) else found


def from_request(body: bytes, default_user: str) -> tuple[Event, bool] | None:
    """The event that a client's body asks for, stamped with what it left out, and whether the
    client gave its id. Without a default user (empty), one that names none is not taken. See
    `validation.from_request` and `requests.read`."""
    found = _read(_REQUEST, body)
    return None if found is None else _asked(found, default_user)


def from_batch(body: bytes, default_user: str) -> Iterator[tuple[Event, bool] | None]:
    """The same for each event of `{"events": [...]}`; nothing if the body can't be read."""
    found = _read(_BATCH, body)
    return (_asked(one, default_user) for one in (found.events if found else ()))


def _asked(found: Any, default_user: str) -> tuple[Event, bool] | None:
    now = now_ms()
    time_ms = now if found.timestamp is UNSET else _time_ms(found.timestamp)
    metadata = _metadata(found.metadata)
    user = default_user if found.userId is UNSET else found.userId
    has_id = found.id is not UNSET
    if time_ms is None or metadata is None or not _is_plain(user):
        return None
    if not _EARLIEST_MS <= time_ms <= now + _AHEAD_MS:
        return None
    if has_id and (not _ID.fullmatch(found.id) or found.id.startswith(OUR_PREFIX)):
        return None
    id, type = found.id if has_id else new_id(), found.data.event_type
    document = {
        "id": id,
        "type": type,
        "userId": user,
        "timestamp": format_time(time_ms),
        "metadata": found.metadata,
        "data": found.data,
    }
    data = _frozen_data(found.data)
    return Event(id, type, user, time_ms, metadata, data, json=_encode(document)), has_id


def _read(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    """The struct that `body` spells; None if it is unusual.

    Without backslashes there are no escapes, so no NUL and no half of a surrogate pair either.
    """
    if _BACKSLASH in body:
        return None
    try:
        if _may_hold_a_blank(body):
            return None
        found = decoder.decode(body)
    except UNREADABLE:
        return None
    return None if _has_repeated_key(body, found) else found


def _has_repeated_key(body: bytes, found: Any) -> bool:
    """Whether an object in `body` has a key twice. msgspec keeps the last member and drops the
    others: then what it has found has fewer strings, and so fewer quotes, once it is JSON again.
    Without escapes, no other quotes are in it."""
    return _encode(found).count(b'"') < body.count(b'"')


def _may_hold_a_blank(body: bytes) -> bool:
    """Whether a string begins with white space, so that it may have nothing else."""
    return bool(_SPACE_FIRST.search(body) if body.isascii() else _BLANK_FIRST.search(body.decode()))


def _metadata(raw: Raw, *, huge_numbers: bool = False) -> Mapping[str, Any] | None:
    """Metadata may have any members, so `validation` checks them; most events have none."""
    if raw is _NO_METADATA or bytes(raw) == b"{}":
        return _NOTHING
    errors: dict[str, list[str]] = {}
    try:
        metadata: dict[str, Any] = strict_json.loads(bytes(raw), huge_numbers=huge_numbers)
    except InvalidEvent:
        return None
    validation.check_metadata(metadata, errors)
    return None if errors else frozen(metadata)


def _time_ms(text: str) -> int | None:
    if not _TIME.fullmatch(text):
        return None
    try:
        return to_ms(datetime.fromisoformat(text))
    except ValueError:
        return None


def _all_times_ms(texts: Sequence[str]) -> list[int] | None:
    """See `_time_ms`."""
    if not _TIMES.fullmatch(_lines(texts)):
        return None
    try:
        return [to_ms(moment) for moment in map(datetime.fromisoformat, texts)]
    except ValueError:
        return None


def _is_plain(user: str) -> bool:
    """Whether it is not empty and every character of it is printable ASCII."""
    return bool(user) and user.isascii() and user.isprintable() and not user.isspace()


def _are_plain(users: Sequence[str]) -> bool:
    """See `_is_plain`."""
    together = "".join(users)
    if not all(users) or any(map(str.isspace, users)):
        return False
    return together.isascii() and together.isprintable()


def _lines(texts: Sequence[str]) -> str:
    return "\n".join([*texts, ""])


def _frozen_data(data: Any) -> Any:
    members = msgspec.to_builtins(data)
    return frozen(members) if data.is_nested else MappingProxyType(members)
