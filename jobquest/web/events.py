"""Taking events: `POST /api/kafka/events`, and the catalogue under `GET`."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response

from jobquest.errors import InvalidEvent
from jobquest.events import CATALOGUE, Event, format_time, from_request
from jobquest.producer import Published
from jobquest.read.queries import Queries
from jobquest.web.answers import flag_parameter, json_object, runtime, success

events = Blueprint("events", __name__, url_prefix="/api/kafka/events")

DEMO_USER = "demo-user"
_MEMBERS = ("eventType", "data", "userId", "metadata", "id", "timestamp")
_OUTCOMES = {
    "accepted": (201, "accepted"),
    "queued": (202, "queued: it is kept here and waits for Kafka"),
    "duplicate": (200, "duplicate"),
}


@events.post("")
def publish() -> tuple[Response, int]:
    """Check one event and keep it; with `dryRun`, only check it."""
    producer = runtime().producer
    if flag_parameter("dryRun"):
        event = producer.check(**_arguments(json_object()))
        place = {"topic": event.topic, "key": event.user_id}
        message = f"Event {event.type} is valid; it was not published"
        return success({**_named(event), **place, "result": "valid"}, message)
    published = producer.publish(**_arguments(json_object()))
    code, outcome = _OUTCOMES[published.result]
    message = f"Event {published.event.type} {outcome}"
    return success(_answer(published, runtime().queries), message, code)


@events.get("")
def catalogue() -> tuple[Response, int]:
    """Every event type."""
    types = {
        row.name: {
            "required": row.required,
            "optional": row.optional,
            "topic": row.topic,
            "description": row.description,
            "example": row.example,
        }
        for row in CATALOGUE.values()
    }
    return success({"eventTypes": types})


def _arguments(body: dict[str, Any]) -> dict[str, Any]:
    """The body as the producer's arguments. Raises InvalidEvent."""
    wrong = {name: ["Unknown field."] for name in body if name not in _MEMBERS}
    # Python's None means "left out" below; a null that was sent means something else.
    wrong |= {name: ["Must not be null."] for name in _MEMBERS if body.get(name, 0) is None}
    given = {name: value for name, value in body.items() if value is not None}
    if wrong:
        raise InvalidEvent("The event is not valid.", wrong | _errors(given))
    return _named_for_python(given)


def _named_for_python(given: dict[str, Any]) -> dict[str, Any]:
    return {
        "event_type": given.get("eventType"),
        "user_id": given.get("userId", DEMO_USER),
        "data": given.get("data"),
        "metadata": given.get("metadata", {}),
        "id": given.get("id"),
        "timestamp": given.get("timestamp"),
    }


def _errors(given: dict[str, Any]) -> dict[str, list[str]]:
    """What else is wrong, so that the client learns everything at once."""
    try:
        from_request(**_named_for_python(given))
    except InvalidEvent as error:
        return error.errors
    return {}


def _answer(published: Published, queries: Queries) -> dict[str, Any]:
    event = published.event
    place: dict[str, Any] = {"topic": event.topic, "partition": None, "offset": None}
    if published.position:
        place = published.position._asdict()
    elif published.result == "duplicate":
        place = _stored(queries, event.id)
    return {**_named(event), **place, "result": published.result}


def _named(event: Event) -> dict[str, Any]:
    return {
        "id": event.id,
        "eventType": event.type,
        "userId": event.user_id,
        "timestamp": format_time(event.timestamp),
    }


def _stored(queries: Queries, id: str) -> dict[str, Any]:
    """Where, and when, the first copy stands."""
    found = queries.event(id) or {}
    place = {name: found.get(name) for name in ("topic", "partition", "offset")}
    return place | {"timestamp": found.get("event", {}).get("timestamp")}
