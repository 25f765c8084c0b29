"""Taking up to 1,000 events at once: `POST /api/kafka/events/batch`. One bad event never sinks the
rest: each has a result of its own, in their order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flask import Blueprint, Response, jsonify, request

from jobquest.errors import IdConflict, InvalidEvent, JobQuestError, Unavailable
from jobquest.events import Event
from jobquest.events.requests import Request, read_batch
from jobquest.producer import Published
from jobquest.web.answers import failure, flag_parameter, json_body, runtime, success
from jobquest.web.errors import RETRY_AFTER_SECONDS
from jobquest.web.events import as_published, as_valid, first_copies

batch = Blueprint("batch", __name__, url_prefix="/api/kafka/events/batch")

MAX_BATCH_BYTES = 1024 * 1024
Came = Published | Event | JobQuestError


@batch.post("")
def publish() -> tuple[Response, int]:
    """Check and keep events; with `dryRun`, only check them."""
    request.max_content_length = MAX_BATCH_BYTES
    wanted, producer = read_batch(json_body()), runtime().producer
    dry = flag_parameter("dryRun")
    came = _each(wanted, producer.check_all if dry else producer.publish_all)
    first = first_copies(one for one in came if isinstance(one, Published))
    ids = [asked.event.id if isinstance(asked, Request) else None for asked in wanted]
    results = [_result(one, id, first) for one, id in zip(came, ids, strict=True)]
    return _answer(results, 200 if dry else 201)


def _each(
    wanted: Sequence[Request | InvalidEvent],
    take: Callable[[Sequence[Request]], Sequence[Came]],
) -> list[Came]:
    """What `take` makes of the sound ones; the others as they are."""
    taken = iter(take([one for one in wanted if isinstance(one, Request)]))
    return [one if isinstance(one, InvalidEvent) else next(taken) for one in wanted]


def _result(one: Came, id: str | None, first: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    if isinstance(one, Published):
        return as_published(one, first)
    if isinstance(one, Event):
        return as_valid(one)
    if isinstance(one, Unavailable):  # it may be kept: under this id, another try is harmless
        return {"id": id, "result": "retry", "message": str(one.args[0])}
    errors = one.errors if isinstance(one, InvalidEvent) else {}
    if isinstance(one, IdConflict):
        errors = {"id": [str(one)]}
    return {"id": id, "result": "rejected", "message": str(one.args[0]), "errors": errors}


def _answer(results: list[dict[str, Any]], all_taken: int) -> tuple[Response, int]:
    refused = sum(one["result"] in ("rejected", "retry") for one in results)
    message = f"{len(results) - refused} of {len(results)} events taken"
    if not refused:
        return success({"results": results}, message, all_taken)
    if refused < len(results):
        return success({"results": results}, message, 207)
    answer = jsonify(failure(f"{message}.", data={"results": results}))
    if all(one["result"] == "rejected" for one in results):
        return answer, 400
    answer.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return answer, 503
