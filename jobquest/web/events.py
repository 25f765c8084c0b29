"""Taking events one by one: `POST /api/kafka/events`, and the catalogue under `GET`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from flask import Blueprint, Response

from jobquest.errors import IdConflict
from jobquest.events import CATALOGUE, Event, format_time
from jobquest.events.requests import read
from jobquest.producer import Published
from jobquest.web.answers import flag_parameter, json_body, runtime, success

events = Blueprint("events", __name__, url_prefix="/api/kafka/events")

_OUTCOMES = {
    "accepted": (201, "accepted"),
    "queued": (202, "queued: it is kept here and waits for Kafka"),
    "duplicate": (200, "duplicate"),
}


@events.post("")
def publish() -> tuple[Response, int]:
    """Check one event and keep it; with `dryRun`, only check it."""
    producer, wanted = runtime().producer, read(json_body())
    if flag_parameter("dryRun"):
        [event] = producer.check_all([wanted])
        if isinstance(event, IdConflict):
            raise event
        return success(as_valid(event), f"Event {event.type} is valid; it was not published")
    published = producer.publish_one(wanted)
    code, outcome = _OUTCOMES[published.result]
    message = f"Event {published.event.type} {outcome}"
    return success(as_published(published, first_copies([published])), message, code)


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


def as_valid(event: Event) -> dict[str, Any]:
    """The answer to a dry run."""
    return {**_named(event), "topic": event.topic, "key": event.user_id, "result": "valid"}


def as_published(published: Published, first: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The answer to a publish; `first` tells where, and when, the first copy of a duplicate
    stands."""
    event = published.event
    place: dict[str, Any] = {"topic": event.topic, "partition": None, "offset": None}
    if published.position:
        place = published.position._asdict()
    elif published.result == "duplicate":
        place = first.get(event.id, place)
    return {**_named(event), **place, "result": published.result}


def first_copies(published: Iterable[Published]) -> dict[str, dict[str, Any]]:
    """By id, for `as_published`."""
    ids = [one.event.id for one in published if one.result == "duplicate"]
    return runtime().queries.places(ids) if ids else {}


def _named(event: Event) -> dict[str, Any]:
    return {
        "id": event.id,
        "eventType": event.type,
        "userId": event.user_id,
        "timestamp": format_time(event.timestamp),
    }
