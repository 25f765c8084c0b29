"""Taking events: `POST /api/kafka/events`, and the catalogue under `GET`."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response

from jobquest.errors import InvalidEvent
from jobquest.events import CATALOGUE, format_time, from_request
from jobquest.producer import Producer, Published
from jobquest.read.queries import Queries
from jobquest.web.answers import json_object, runtime, success

events = Blueprint("events", __name__, url_prefix="/api/kafka/events")

DEMO_USER = "demo-user"
_MEMBERS = ("eventType", "data", "userId", "metadata", "id", "timestamp")


@events.post("")
def publish() -> tuple[Response, int]:
    """Check one event and keep it."""
    published = _publish(runtime().producer, json_object())
    code = 201 if published.result == "accepted" else 200
    message = f"Event {published.event.type} {published.result}"
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


def _publish(producer: Producer, body: dict[str, Any]) -> Published:
    wrong = {name: ["Unknown field."] for name in body if name not in _MEMBERS}
    # Python's None means "left out" below; a null that was sent means something else.
    wrong |= {name: ["Must not be null."] for name in _MEMBERS if body.get(name, 0) is None}
    given = {name: value for name, value in body.items() if value is not None}
    if wrong:
        raise InvalidEvent("The event is not valid.", wrong | _errors(given))
    return producer.publish(**_arguments(given))


def _arguments(given: dict[str, Any]) -> dict[str, Any]:
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
        from_request(**_arguments(given))
    except InvalidEvent as error:
        return error.errors
    return {}


def _answer(published: Published, queries: Queries) -> dict[str, Any]:
    event = published.event
    place = published.position._asdict() if published.position else _stored(queries, event.id)
    return {
        "id": event.id,
        "eventType": event.type,
        "userId": event.user_id,
        "timestamp": format_time(event.timestamp),
        **place,
        "result": published.result,
    }


def _stored(queries: Queries, id: str) -> dict[str, Any]:
    """Where, and when, the first copy stands."""
    found = queries.event(id) or {}
    place = {name: found.get(name) for name in ("topic", "partition", "offset")}
    return place | {"timestamp": found.get("event", {}).get("timestamp")}
