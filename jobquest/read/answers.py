"""The read side's rows as the API tells them: camelCase names, RFC 3339 times, plain values."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from jobquest.events import format_time
from jobquest.events.levels import xp_for_level
from jobquest.read.letters import NOWHERE

Answer = dict[str, Any]


def item_of(row: Mapping[str, Any], event: Callable[[str], Any] = orjson.loads) -> Answer:
    return {
        "seq": row["seq"],
        "topic": row["topic"],
        "partition": row["partition"],
        "offset": row["offset"],
        "outcome": row["outcome"],
        "event": event(row["body"]),
    }


def letter_of(row: Mapping[str, Any], longest: int | None = None) -> Answer:
    """A dead letter as the API tells it. `value` is text, or base64 where it is no text; one that
    was never in the log has no partition and offset."""
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
        "attempts": row["attempts"],
        "firstFailedAt": format_time(row["first_failed_ms"]),
        "diedAt": format_time(row["died_ms"]),
        "state": row["state"],
        "reason": row["reason"],
        "redrives": row["redrives"],
    }
    value, answer["encoding"] = readable(row["value"])
    answer["value"] = value and value[:longest]
    answer["truncated"] = answer["value"] != value
    answer["mended"] = readable(row["mended"])[0]
    return answer


def readable(value: bytes | None) -> tuple[str | None, str]:
    """Bytes as text, or as base64 where they are none; and which of the two it is."""
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
        "attempts": row["attempts"],
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
        name = column[:-3] + "_at" if column.endswith("_ms") else column
        if column.endswith("_ms") and value is not None:
            value = format_time(value)
        head, *rest = name.split("_")
        answer[head + "".join(word.title() for word in rest)] = value
    return answer
