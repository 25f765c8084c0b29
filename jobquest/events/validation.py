"""Validation: marshmallow's schemas and the strict reader decide, and say what is wrong.

`from_request` is strict (for the API and the producer); `from_record` reads a record's value and
tolerates what a newer producer adds. `fast_decode.py` must give the same results.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

import orjson
from marshmallow import ValidationError

from jobquest.clock import now_ms
from jobquest.errors import InvalidEvent
from jobquest.events import exact_json, strict_json
from jobquest.events.catalogue import CATALOGUE
from jobquest.events.event import (
    LAST_MS,
    OUR_PREFIX,
    Event,
    at_ms,
    frozen,
    new_id,
    parse_time,
    to_ms,
)
from jobquest.events.fields import UserId, unseen_in

MAX_METADATA_BYTES = 8 * 1024
MAX_METADATA_DEPTH = 16
MAX_AHEAD = timedelta(minutes=5)
EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
_ID = re.compile(r"[A-Za-z0-9_.:-]{1,100}")
_NOTHING: Mapping[str, Any] = MappingProxyType({})
_USER_ID = UserId()


def from_request(
    event_type: Any,
    user_id: Any,
    data: Any,
    *,
    metadata: Any = _NOTHING,
    id: Any = None,
    timestamp: Any = None,
    now: datetime | None = None,
    is_json: bool = False,
) -> Event:
    """Check values from a client strictly, and add an id and a time if they are None.

    `is_json`: the strict reader has checked the values already. Raises InvalidEvent with every
    error at once, by path.
    """
    now = now or datetime.now(UTC)
    errors: dict[str, list[str]] = {}
    if not is_json:
        _check_plain(data, "data", errors)
        _check_plain(metadata, "metadata", errors)
    _check_type(event_type, "eventType", errors)
    if wrong := wrong_with_user_id(user_id):
        errors["userId"] = wrong
    check_metadata(metadata, errors)
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
        time_ms=to_ms(moment),
        metadata=frozen(metadata),
        data=frozen(data),
    )


def from_record(value: bytes | None, latest_ms: int = LAST_MS) -> Event:
    """Read an event from a topic, tolerant of unknown fields and of numbers of any size in them.

    The time may be ahead of `latest_ms` (Unix milliseconds, see `judged_from`) by five minutes.
    Without it the time is not checked: a repeated reading of a valid event must not refuse it. Nor
    is that of a follow-up, which has the time of its cause. Raises InvalidEvent.
    """
    if value is None:
        raise InvalidEvent("The record has no value.")
    document = strict_json.loads(value, huge_numbers=True)
    if not isinstance(document, dict):
        raise InvalidEvent("The record is not a JSON object.")
    errors: dict[str, list[str]] = {}
    members = {"metadata": {}, **document}
    _check_type(members.get("type"), "type", errors)
    if wrong := _wrong_with_any_user_id(members.get("userId")):
        errors["userId"] = wrong
    _check_id(members.get("id"), errors)
    check_metadata(members["metadata"], errors)
    if str(members.get("id")).startswith(OUR_PREFIX):
        latest_ms = LAST_MS
    moment = _check_time(members.get("timestamp"), at_ms(latest_ms), errors)
    _check_data(members.get("type"), members.get("data"), errors, strict=False)
    if errors or moment is None:
        raise InvalidEvent("The event is not valid.", errors)
    return Event(
        id=members.pop("id"),
        type=members.pop("type"),
        user_id=members.pop("userId"),
        time_ms=to_ms(moment),
        metadata=frozen(members.pop("metadata")),
        data=frozen(members.pop("data")),
        extra=frozen({k: v for k, v in members.items() if k != "timestamp"}),
    )


def judged_from(appended_ms: int) -> int:
    """The time with which a record's event is compared: the record's own time, which the producer
    may have set, or ours if that is later. So an event does not depend on a slow clock."""
    return max(appended_ms, now_ms())


def _check_plain(value: Any, path: str, errors: dict[str, list[str]]) -> None:
    """Callers in Python can pass values that JSON can't have: refuse them like the JSON reader."""
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


def wrong_with_user_id(user_id: Any) -> list[str]:
    """Why a `userId` from a client is refused, a line each; empty if it is valid."""
    if wrong := _wrong_with_any_user_id(user_id):
        return wrong
    character = unseen_in(user_id)
    return [f"Must not contain {character}, which can't be seen."] if character else []


def _wrong_with_any_user_id(user_id: Any) -> list[str]:
    try:
        _USER_ID.deserialize(user_id)
    except ValidationError as error:
        return [str(line) for line in error.messages]
    return []


def _check_id(id: Any, errors: dict[str, list[str]]) -> None:
    if not isinstance(id, str) or not _ID.fullmatch(id):
        errors["id"] = ["Must be 1 to 100 of the characters A-Z a-z 0-9 _ . : -"]


def check_metadata(metadata: Any, errors: dict[str, list[str]]) -> None:
    if not isinstance(metadata, Mapping):
        errors["metadata"] = ["Not an object."]
    elif "metadata" not in errors:
        if len(exact_json.dumps(metadata)) > MAX_METADATA_BYTES:
            errors["metadata"] = [f"Larger than {MAX_METADATA_BYTES} bytes."]
        elif strict_json.depth_of(dict(metadata)) > MAX_METADATA_DEPTH:
            errors["metadata"] = [f"Nests deeper than {MAX_METADATA_DEPTH} levels."]


def _check_time(text: Any, now: datetime, errors: dict[str, list[str]]) -> datetime | None:
    try:
        moment = text.astimezone(UTC) if isinstance(text, datetime) else parse_time(text)
        if moment < EARLIEST:
            raise ValueError("Lies before the year 2000.")
        if moment - MAX_AHEAD > now:  # no sum: the record's time may be the last one possible
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
