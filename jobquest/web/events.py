"""Receiving events: `POST /api/kafka/events`, a batch of them under `/batch`; and the catalogue
under `GET`.

The entrance answers most publishes with the same functions, before a request gets to these views.
"""

from __future__ import annotations

from flask import Blueprint, Response

from jobquest.access.caller import WRITE
from jobquest.events import CATALOGUE
from jobquest.web import publishing
from jobquest.web.answers import answered, caller, flag_parameter, json_body, runtime, success
from jobquest.web.audited import unaudited
from jobquest.web.needs import ANYBODY, needs

events = Blueprint("events", __name__, url_prefix="/api/kafka/events")


@events.post("")
@needs(WRITE)
@unaudited
def publish() -> Response:
    """Check one event and keep it; with `dryRun`, only check it."""
    dry_run = flag_parameter("dryRun")
    return answered(publishing.publish_one(runtime(), json_body(), caller(), dry_run=dry_run))


@events.post("/batch")
@needs(WRITE)
@unaudited
def publish_batch() -> Response:
    """The same with up to 1,000 events."""
    dry_run = flag_parameter("dryRun")
    return answered(publishing.publish_batch(runtime(), json_body(), caller(), dry_run=dry_run))


@events.get("")
@needs(ANYBODY)
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
    return success({"eventTypes": types}, masks=False)  # examples are nobody's data
