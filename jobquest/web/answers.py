"""How views read requests and shape answers: the API's two shapes and its strict parameters."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson
from flask import Response, jsonify, request

from jobquest.errors import Forbidden, InvalidEvent, NotRead
from jobquest.events import exact_json, format_time, parse_time, strict_json
from jobquest.events.event import LAST_MS, to_ms
from jobquest.read.cursor import Cursor
from jobquest.read.event_filter import EventFilter
from jobquest.read.portions import Portion
from jobquest.web import personal
from jobquest.web.current import CALLER as CALLER
from jobquest.web.current import caller as caller
from jobquest.web.current import runtime as runtime

AT_ONCE = "jobquest.at_once"
"""In the environ, if the guards must not wait: what they can't tell at once, they refuse."""

RETRY_AFTER_SECONDS = 2
OUTCOMES = ("processed", "retrying", "dead")
_FILTERS = {
    "types": "type",
    "topics": "topic",
    "users": "userId",
    "outcomes": "outcome",
    "not_types": "notType",
    "not_topics": "notTopic",
    "not_users": "notUserId",
    "not_outcomes": "notOutcome",
}
# What a field for a time sends if no script adds the zone, which is UTC then.
_ZONELESS = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d)(:\d\d(?:\.\d{1,3})?)?")
_FLAGS = {"0": False, "false": False, "1": True, "true": True}


class Answer(NamedTuple):
    """An HTTP answer: `document` is its JSON, None if it has no body."""

    code: int
    document: dict[str, Any] | None
    headers: Mapping[str, str] = {}


class UnsupportedMediaType(NotRead):
    """The body is not declared to be JSON."""


def whose(user_id: str) -> str:
    """The user whose data an address names; `me` is the user of the token. Raises Forbidden if a
    user asks for another one's."""
    own = caller().user
    if own is None:
        return user_id
    if user_id != "me":
        raise Forbidden("A user's token reads /api/users/me and what is below it.")
    return own


def success(
    data: Any, message: str | None = None, code: int = 200, *, masks: bool = True
) -> tuple[Response, int]:
    """`{"status": "success", "message"?, "data"}`, in UTF-8: with escapes, some texts would be
    three times as long. Personal data is masked, unless the sender may see it."""
    answer = {"status": "success"} | ({"message": message} if message else {}) | {"data": data}
    body = exact_json.dumps(answer, orjson.OPT_APPEND_NEWLINE)
    if masks and (seen := personal.shown(answer, body)) is not answer:
        body = exact_json.dumps(seen, orjson.OPT_APPEND_NEWLINE)
    return Response(body, mimetype="application/json"), code


def listed(name: str, found: Portion) -> tuple[Response, int]:
    """A portion of a list under the list's name, and `next`, where the following portion begins."""
    return success({name: found, "next": found.next})


def answered(answer: Answer) -> Response:
    """An answer as Flask's."""
    response = jsonify(answer.document)
    response.status_code = answer.code
    response.headers.update(answer.headers)
    return response


def failure(
    message: str, errors: dict[str, list[str]] | None = None, **more: Any
) -> dict[str, Any]:
    """`{"status": "error", "message", "errors"?}`, and whatever else the answer has."""
    answer: dict[str, Any] = {"status": "error", "message": message}
    return answer | ({"errors": errors} if errors else {}) | more


def json_body() -> bytes:
    """The request's body, which is declared to be JSON. Raises UnsupportedMediaType."""
    if not request.is_json:
        raise UnsupportedMediaType
    return request.get_data(cache=False)


def json_object() -> dict[str, Any]:
    """The request's body. Raises UnsupportedMediaType, InvalidEvent."""
    body = strict_json.loads(json_body())
    if not isinstance(body, dict):
        raise InvalidEvent("The body must be a JSON object.")
    return body


def whole_parameter(name: str, default: int | None, low: int, high: int) -> int | None:
    """A whole number from the query string; empty is absent. Raises InvalidEvent."""
    text = request.args.get(name)
    if not text:  # forms send their empty fields too
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 20 and low <= int(text) <= high):
        raise InvalidEvent(
            "A parameter is not valid.", {name: [f"Must be a whole number from {low} to {high}."]}
        )
    return int(text)


def cursor_parameter(name: str) -> Cursor | None:
    """A place in the list of events from the query string: an answer's `next`, or only the number
    of a change; empty is absent. Raises InvalidEvent."""
    text = request.args.get(name)
    try:
        return Cursor.parse(text) if text else None
    except ValueError as error:
        raise InvalidEvent("A parameter is not valid.", {name: [str(error)]}) from None


def after_parameter() -> str | None:
    """The place in a list behind which it goes on; empty is absent."""
    return request.args.get("after") or None


def flag_parameter(name: str) -> bool:
    """A yes or no from the query string; no, if absent. Raises InvalidEvent."""
    word = request.args.get(name, "0")
    if word not in _FLAGS:
        raise InvalidEvent("A parameter is not valid.", {name: ["Must be 0, 1, true or false."]})
    return _FLAGS[word]


def time_parameter(name: str) -> int | None:
    """A time from the query string, as Unix milliseconds; empty is absent. A time before 1970
    becomes 1970: no event and no record is older. Raises InvalidEvent."""
    text = request.args.get(name)
    if not text:
        return None
    zoneless = _ZONELESS.fullmatch(text)
    if zoneless:
        text = f"{zoneless[1]}{zoneless[2] or ':00'}Z"
    try:
        # A "+" that was not escaped arrives as a blank.
        return min(max(0, to_ms(parse_time(text.replace(" ", "+")))), LAST_MS)
    except ValueError as error:
        raise InvalidEvent("A parameter is not valid.", {name: [str(error)]}) from None


def time_value(name: str) -> str:
    """The same as RFC 3339, for the form that sent it; empty if it is absent or no time."""
    try:
        moment = time_parameter(name)
    except InvalidEvent:
        moment = None
    return "" if moment is None else format_time(moment)


def choice_parameter(name: str, choices: tuple[str, ...], default: str | None) -> str | None:
    """One of a few words from the query string. Raises InvalidEvent."""
    word = request.args.get(name, default)
    if word is not None and word not in choices:
        raise InvalidEvent(
            "A parameter is not valid.", {name: [f"Must be one of {', '.join(choices)}."]}
        )
    return word


def event_filter(**fixed: Any) -> EventFilter:
    """Which events the query string asks for: `type`, `topic`, `userId` and `outcome`, each
    repeatable, the same with `not` before it (`notType`), `from` and `to`. Raises InvalidEvent."""
    sets = {
        column: frozenset(value for value in request.args.getlist(name) if value)
        for column, name in _FILTERS.items()
    }
    for name in ("outcome", "notOutcome"):
        for word in request.args.getlist(name):
            if word and word not in OUTCOMES:
                line = f"Must be one of {', '.join(OUTCOMES)}."
                raise InvalidEvent("A parameter is not valid.", {name: [line]})
    times = {"from_ms": time_parameter("from"), "to_ms": time_parameter("to")}
    return EventFilter(**{**sets, **times, **fixed})
