"""What clients send to publish: one event, or a batch of them, as JSON bodies.

Called by the web side. `fast_decode` takes the usual valid events; all others go to `validation`,
which says everything that is wrong with them.
"""

from __future__ import annotations

import json
import re
import time
from typing import Annotated, Any, NamedTuple

import msgspec

from jobquest.errors import InvalidEvent
from jobquest.events import fast_decode, strict_json, validation
from jobquest.events.catalogue import unknown
from jobquest.events.event import Event

DEMO_USER = "demo-user"
MAX_BATCH_EVENTS = 1_000
# A batch's answer has at most so many bytes of errors; after that, invalid events are only named.
# An answer must not be much larger than its request: a thousand events fit into three kilobytes.
MAX_ERROR_BYTES, LEAST_ERROR_BYTES = 65_536, 8_192
NO_ROOM = "Not valid; see earlier errors."
_MEMBERS = ("eventType", "data", "userId", "metadata", "id", "timestamp")


class Request(NamedTuple):
    """An event to publish. If the client gave its id, it may be a repeat."""

    event: Event
    has_id: bool


class _Batch(msgspec.Struct, forbid_unknown_fields=True):
    events: Annotated[list[msgspec.Raw], msgspec.Meta(max_length=MAX_BATCH_EVENTS)]


_BATCH = msgspec.json.Decoder(_Batch)
_LENIENT = json.JSONDecoder()
_OPENING = re.compile(r'[ \t\n\r]*{[ \t\n\r]*"events"[ \t\n\r]*:[ \t\n\r]*\[[ \t\n\r]*')
_BETWEEN = re.compile(r"[ \t\n\r]*,[ \t\n\r]*")
_CLOSING = re.compile(r"[ \t\n\r]*\][ \t\n\r]*}[ \t\n\r]*")


def read(body: bytes, user: str | None = DEMO_USER) -> Request:
    """One event. `user` is whose it is if it does not say; None: then it must. Raises InvalidEvent
    with every error at once, by path."""
    return read_plain(body, user) or read_strictly(body, user)


def read_plain(body: bytes, user: str | None = DEMO_USER) -> Request | None:
    """The same within microseconds for a usual valid event; None for every other."""
    found = fast_decode.from_request(body, user or "")
    return Request(*found) if found else None


def read_batch(body: bytes, user: str | None = DEMO_USER) -> list[Request | InvalidEvent]:
    """Each event of `{"events": [...]}`, or what is wrong with it, in order. Raises InvalidEvent
    if the body is no such list."""
    parts = _split(body) or _split_slowly(body)
    if not 1 <= len(parts) <= MAX_BATCH_EVENTS:
        if not parts:
            strict_json.loads(body)  # its message may be more exact
        line = f"Must be a list of 1 to {MAX_BATCH_EVENTS} events, and the body's only member."
        raise InvalidEvent("The batch is not valid.", {"events": [line]})
    room = min(MAX_ERROR_BYTES, LEAST_ERROR_BYTES + 4 * len(body))
    found: list[Request | InvalidEvent] = []
    for part in parts:
        try:
            found.append(read(part, user))
        except InvalidEvent as error:
            room -= _length(error)
            # A new exception: the first one's traceback keeps everything in memory.
            text, errors = (error.args[0], error.errors) if room >= 0 else (NO_ROOM, None)
            found.append(InvalidEvent(text, errors))
    return found


def read_plain_batch(
    body: bytes, seconds: float, user: str | None = DEMO_USER
) -> list[Request] | None:
    """The same within about `seconds` for usual valid events; None for every other list."""
    deadline = time.perf_counter() + seconds
    found: list[Request] = []
    for one in fast_decode.from_batch(body, user or ""):
        if one is None or len(found) == MAX_BATCH_EVENTS or time.perf_counter() > deadline:
            return None
        found.append(Request(*one))
    return found or None


def _length(error: InvalidEvent) -> int:
    """About how many bytes an error takes in an answer."""
    lines = sum(len(path) + sum(map(len, lines)) for path, lines in error.errors.items())
    return len(error.args[0]) + lines + 10 * len(error.errors)


def _split(body: bytes) -> list[bytes]:
    """The bytes of each event, so that an error in one affects no other; empty if msgspec can't
    read the list."""
    try:
        parts = [bytes(part) for part in _BATCH.decode(body).events]
    except fast_decode.UNREADABLE:
        return []
    # Outside the events there is one string, the key. A second one repeats it (see `fast_decode`).
    return parts if body.count(b'"') == 2 + sum(part.count(b'"') for part in parts) else []


def _split_slowly(body: bytes) -> list[bytes]:
    """The same if msgspec can't read an event, because of half a surrogate pair or NaN."""
    text = body.decode("utf-8", "surrogateescape")
    begin, parts = _OPENING.match(text), list[bytes]()
    while begin:
        try:
            _, end = _LENIENT.raw_decode(text, begin.end())
        except (ValueError, RecursionError):
            return []
        if len(parts) == MAX_BATCH_EVENTS:
            return [*parts, b""]  # one too many, so the batch is refused
        parts.append(text[begin.end() : end].encode("utf-8", "surrogateescape"))
        if _CLOSING.fullmatch(text, end):
            return parts
        begin = _BETWEEN.match(text, end)
    return []


def read_strictly(body: bytes, user: str | None = DEMO_USER) -> Request:
    """What `read` does with a body that `fast_decode` does not take."""
    document = strict_json.loads(body)
    if not isinstance(document, dict):
        raise InvalidEvent("The body must be a JSON object.")
    wrong = unknown(name for name in document if name not in _MEMBERS)
    # None means "left out" below, so a null from the client is refused here.
    wrong |= {name: ["Must not be null."] for name in _MEMBERS if document.get(name, 0) is None}
    given = {name: document[name] for name in _MEMBERS if document.get(name) is not None}
    if user is None and "userId" not in document:
        wrong["userId"] = ["Missing: a key or a session stands for no user."]
    given.setdefault("userId", user or DEMO_USER)  # so that other errors are found too
    if wrong:
        raise InvalidEvent("The event is not valid.", wrong | _errors(given))
    return Request(_event(given), "id" in given)


def _event(given: dict[str, Any]) -> Event:
    return validation.from_request(
        given.get("eventType"),
        given["userId"],
        given.get("data"),
        metadata=given.get("metadata", {}),
        id=given.get("id"),
        timestamp=given.get("timestamp"),
        is_json=True,
    )


def _errors(given: dict[str, Any]) -> dict[str, list[str]]:
    """What else is wrong: clients get all errors at once."""
    try:
        _event(given)
    except InvalidEvent as error:
        return error.errors
    return {}
