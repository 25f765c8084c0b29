"""Taking events: `POST /api/kafka/events`, a batch of them under `/batch`, and the catalogue under
`GET`."""

from __future__ import annotations

from flask import Blueprint, Response, request

from jobquest.events import CATALOGUE
from jobquest.web import publishing
from jobquest.web.answers import answered, flag_parameter, json_body, runtime, success

events = Blueprint("events", __name__, url_prefix="/api/kafka/events")

MAX_BATCH_BYTES = 1024 * 1024


@events.post("")
def publish() -> Response:
    """Check one event and keep it; with `dryRun`, only check it."""
    return _taken(publishing.ONE)


@events.post("/batch")
def publish_batch() -> Response:
    """The same with up to 1,000 events."""
    request.max_content_length = MAX_BATCH_BYTES
    return _taken(publishing.BATCH)


def _taken(taker: publishing.Taker) -> Response:
    take = publishing.check if flag_parameter("dryRun") else publishing.publish
    return answered(take(runtime(), taker, json_body()))


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
