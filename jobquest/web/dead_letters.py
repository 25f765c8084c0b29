"""Dead letters and parked events: `/api/kafka/dead-letters`, `/api/kafka/retries`."""

from __future__ import annotations

from typing import Any

import orjson
from flask import Blueprint, Response, abort, request

from jobquest.access.caller import OPERATE, READ
from jobquest.consumer.redrive import MAX_DEAD_LETTERS, Redriven
from jobquest.errors import InvalidEvent
from jobquest.read.dead_letters import DeadLetterFilter
from jobquest.read.queries import MAX_LIMIT
from jobquest.web import answers
from jobquest.web.answers import (
    caller,
    choice_parameter,
    flag_parameter,
    json_object,
    runtime,
    success,
    whole_parameter,
)
from jobquest.web.audited import audited, noted
from jobquest.web.needs import needs

dead_letters = Blueprint("dead_letters", __name__, url_prefix="/api/kafka")

DEFAULT_LIMIT = 50
MAX_ID = 2**31 - 1
STATES = ("open", "redriven", "discarded")
# The API's name of a filter → the name of its column.
FILTERS = {
    "state": "state",
    "topic": "topic",
    "type": "type",
    "userId": "user_id",
    "eventId": "event_id",
    "errorClass": "error_class",
    "error": "error",
}


@dead_letters.get("/dead-letters")
@needs(READ)
def listed() -> tuple[Response, int]:
    """Dead letters by filter, newest first, and the number of dead letters with each error."""
    choice_parameter("state", STATES, None)
    wanted = DeadLetterFilter(**{FILTERS[k]: v for k, v in request.args.items() if k in FILTERS})
    limit = whole_parameter("limit", DEFAULT_LIMIT, 1, MAX_LIMIT) or DEFAULT_LIMIT
    after = whole_parameter("after", None, 0, MAX_ID)
    return success(runtime().queries.dead_letters(wanted, after, limit))


@dead_letters.get("/dead-letters/<int:id>")
@needs(READ)
def one(id: int) -> tuple[Response, int]:
    """One dead letter with its whole value."""
    return success(_dead_letter(id))


@dead_letters.patch("/dead-letters/<int:id>")
@needs(OPERATE)
@audited("edit", what="dead letter {id}")
def edit(id: int) -> tuple[Response, int]:
    """Replace the value to redrive; with `dryRun`, only check the new value."""
    dry = flag_parameter("dryRun")
    body = json_object()
    _dead_letter(id)
    value = body.get("value")
    if set(body) != {"value"} or not isinstance(value, dict | str):
        line = "Must be the event, as an object or as JSON text."
        raise InvalidEvent("The body is not valid.", {"value": [line]})
    text = value.encode() if isinstance(value, str) else orjson.dumps(value)
    try:
        (runtime().redrive.check if dry else runtime().redrive.edit)(id, text)
    except InvalidEvent as error:
        errors = {f"value.{path}": lines for path, lines in error.errors.items()}
        raise InvalidEvent(error.args[0], errors or {"value": [str(error)]}) from None
    return success(
        _dead_letter(id), "The value is valid" if dry else "The dead letter is edited; redrive it"
    )


@dead_letters.post("/dead-letters/<int:id>/discard")
@needs(OPERATE)
@audited("discard", what="dead letter {id}")
def discard(id: int) -> tuple[Response, int]:
    """Discard a dead letter."""
    reason = json_object().get("reason")
    _dead_letter(id)
    noted(reason=reason)
    runtime().redrive.discard(id, reason if isinstance(reason, str) else "")
    return success(_dead_letter(id), "The dead letter is discarded")


@dead_letters.post("/dead-letters/redrive")
@needs(OPERATE)
@audited("redrive", what="dead letters")
def redrive() -> tuple[Response, int]:
    """Process dead letters again."""
    runtime().access.bounds.redrive(caller())
    body = json_object()
    if set(body) == {"ids"}:
        ids = _ids(body["ids"])
        noted(ids=ids)
        return _answered(runtime().redrive.redrive(ids))
    if set(body) == {"filter"}:
        wanted = _filter(body["filter"])
        noted(filter=body["filter"])
        return _answered(runtime().redrive.redrive_matching(wanted))
    line = 'Send {"ids": [1, 2]} or {"filter": {"errorClass": "ValueError"}}.'
    raise InvalidEvent("The body is not valid.", {"ids": [line]})


@dead_letters.get("/retries")
@needs(READ)
def retries() -> tuple[Response, int]:
    """The events that wait for another try of their handlers."""
    limit = whole_parameter("limit", DEFAULT_LIMIT, 1, MAX_LIMIT) or DEFAULT_LIMIT
    return answers.listed("retries", runtime().queries.retries(limit, answers.after_parameter()))


@dead_letters.post("/retries/<segment:id>/now")
@needs(OPERATE)
@audited("try-now", what="event {id}")
def try_now(id: str) -> tuple[Response, int]:
    """Retry the head of an ordering key now."""
    if runtime().queries.retry(id) is None:
        abort(404, "No event with this id waits for another try.")
    runtime().read_side.try_now(id)
    return success(runtime().queries.retry(id), "It is being retried")


def _dead_letter(id: int) -> dict[str, Any]:
    found = runtime().queries.dead_letter(id) if id <= MAX_ID else None
    return found or abort(404, "There is no dead letter with this id.")


def _ids(ids: Any) -> list[int]:
    fine = isinstance(ids, list) and 1 <= len(ids) <= MAX_DEAD_LETTERS
    if not fine or not all(type(id) is int and 0 <= id <= MAX_ID for id in ids):
        line = f"Must be a list of 1 to {MAX_DEAD_LETTERS} dead letters' ids."
        raise InvalidEvent("The body is not valid.", {"ids": [line]})
    return list(ids)


def _filter(wanted: Any) -> DeadLetterFilter:
    known = isinstance(wanted, dict) and wanted.keys() <= FILTERS.keys()
    if not known or not all(isinstance(value, str) for value in wanted.values()):
        line = f"Must be an object with texts for any of {', '.join(FILTERS)}."
        raise InvalidEvent("The body is not valid.", {"filter": [line]})
    return DeadLetterFilter(**{"state": "open"} | {FILTERS[k]: v for k, v in wanted.items()})


def _answered(result: Redriven) -> tuple[Response, int]:
    noted(redriven=result.redriven, refused=len(result.refused))
    refused = [{"id": id, "reason": reason} for id, reason in result.refused]
    return success({"redriven": result.redriven, "refused": refused})
