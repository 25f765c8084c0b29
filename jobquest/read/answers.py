"""The read side's rows in the API's form: camelCase names, RFC 3339 times, plain values."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any

from jobquest.events import exact_json, format_time
from jobquest.events.levels import xp_for_level
from jobquest.read.dead_letters import NOWHERE
from jobquest.read.parking import done_of

Answer = dict[str, Any]
# No character needs more bytes in UTF-8, and base64 makes fewer characters of a byte.
BYTES_PER_CHARACTER = 4


def place_of(row: Mapping[str, Any]) -> Answer:
    """The position and the outcome of an event's row."""
    return {name: row[name] for name in ("seq", "topic", "partition", "offset", "outcome")}


def item_of(row: Mapping[str, Any], longest: int | None = None) -> Answer:
    """An event's row as lists show it. An event is `truncated`, without its metadata and data, if
    its JSON has more than `longest` bytes, was too long to be read (None), or can't be parsed."""
    event = _event_of(row["body"], longest)
    if event is not None:
        return {**place_of(row), "event": event}
    timestamp = None if row["type"] is None else format_time(row["time_ms"])
    named = {"id": row["id"], "type": row["type"], "userId": row["user_id"]}
    event = {**named, "timestamp": timestamp, "metadata": {}, "data": {}}
    return {**place_of(row), "event": event, "truncated": True}


def _event_of(body: str | None, longest: int | None) -> Answer | None:
    if body is None or (longest is not None and len(body) > longest):
        return None
    try:
        event = exact_json.loads(body)
    except ValueError:
        return None
    if not isinstance(event, dict):
        return None
    # Serialised again it may be larger: 1e15 becomes 1000000000000000.0.
    is_near = longest is not None and len(body) * BYTES_PER_CHARACTER > longest
    if is_near and len(exact_json.dumps(event)) > (longest or 0):
        return None
    for name in ("metadata", "data"):  # every event has them, whoever wrote this one
        event.setdefault(name, {})
    return event


def dead_letter_of(row: Mapping[str, Any], longest: int | None = None) -> Answer:
    """A dead letter as the API shows it. `value` is text, or base64 if it is not text. A dead
    letter that was never in the log has no partition and offset. With `longest`, values are cut to
    that many characters (the row then needs no more than `bytes_of(longest)` bytes of each), and
    the traceback is left out."""
    in_log = row["partition"] != NOWHERE
    answer = {
        "id": row["id"],
        "topic": row["topic"],
        "partition": row["partition"] if in_log else None,
        "offset": row["offset"] if in_log else None,
        "eventId": row["event_id"],
        "type": row["type"],
        "userId": row["user_id"],
        "error": row["error"],
        "errorClass": row["error_class"],
        "path": row["path"],
        "part": row["part"],
        "attempts": row["attempts"],
        "firstFailedAt": format_time(row["first_failed_ms"]),
        "diedAt": format_time(row["died_ms"]),
        "state": row["state"],
        "reason": row["reason"],
        "redrives": row["redrives"],
        "handlersDone": list(done_of(row)),
    }
    if longest is None:
        answer["trace"] = row["trace"]
    answer["value"], answer["encoding"], cut = _cut(row["value"], longest)
    answer["edited"], _, edited_cut = _cut(row["edited"], longest)
    answer["truncated"] = cut or edited_cut
    return answer


def _cut(value: bytes | None, longest: int | None) -> tuple[str | None, str, bool]:
    """A value as text or base64, which of the two it is, and whether it is cut."""
    if value is None or longest is None:
        return *readable(value), False
    most = longest * BYTES_PER_CHARACTER
    text, encoding = readable(value if len(value) <= most else whole_characters(value[:most]))
    assert text is not None
    return text[:longest], encoding, len(value) > most or len(text) > longest


def bytes_of(longest: int) -> int:
    """How many bytes of a value are enough to show its first `longest` characters and to know
    whether there are more."""
    return longest * BYTES_PER_CHARACTER + 1


def whole_characters(start: bytes) -> bytes:
    """The start of a value, without a character at its end that was cut in two."""
    try:
        start.decode()
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data":
            return start[: error.start]
    return start


def readable(value: bytes | None) -> tuple[str | None, str]:
    """Bytes as text, or as base64 if they are not UTF-8; and which of the two it is."""
    try:
        return (None if value is None else value.decode()), "text"
    except UnicodeDecodeError:
        return base64.b64encode(value or b"").decode(), "base64"


def retry_of(row: Mapping[str, Any]) -> Answer:
    return {
        "id": row["event_id"],
        "type": row["type"],
        "userId": row["user_id"],
        "topic": row["topic"],
        "partition": row["partition"],
        "offset": row["offset"],
        "error": row["error"],
        "errorClass": row["error_class"],
        "path": row["path"],
        "part": row["part"],
        "attempts": row["attempts"],
        "handlersDone": list(done_of(row)),
        "firstFailedAt": row["first_failed_ms"] and format_time(row["first_failed_ms"]),
        "nextTry": row["next_ms"] and format_time(row["next_ms"]),
        "behind": None if row["next_ms"] else row["head"],
    }


def user_of(row: Mapping[str, Any]) -> Answer:
    answer = camel(row)
    answer["reportedLevel"] = answer["reportedLevel"] or None
    answer["nextLevelXp"] = xp_for_level(row["level"] + 1)
    answer["lastSeen"] = answer.pop("lastSeenAt")
    return answer


def camel(row: Mapping[str, Any]) -> Answer:
    """A row with the API's names: `sent_ms` becomes `sentAt`, a time."""
    answer: Answer = {}
    for column, value in row.items():
        if column.endswith("_ms") and value is not None:
            value = format_time(value)
        answer[api_name(column)] = value
    return answer


def api_name(column: str) -> str:
    """The API's name of a column."""
    head, *rest = re.sub("_ms$", "_at", column).split("_")
    return head + "".join(word.title() for word in rest)
