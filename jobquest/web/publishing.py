"""What the publish routes do with a body, one event or a batch of them, and what they answer.

Called by the entrance and by the views in `events.py`; no Flask here. One
bad event of a batch never sinks the rest: each has a result of its own, in their order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from jobquest.errors import IdConflict, InvalidEvent, JobQuestError, Unavailable
from jobquest.events import Event, format_time
from jobquest.events.requests import Request, read, read_batch
from jobquest.producer import Published
from jobquest.runtime import Runtime

RETRY_AFTER_SECONDS = 2
_OUTCOMES = {
    "accepted": (201, "accepted"),
    "queued": (202, "queued: it is kept here and waits for Kafka"),
    "duplicate": (200, "duplicate"),
}
_Came = Published | Event | JobQuestError
_Firsts = Mapping[str, dict[str, Any]]


class Plain(NamedTuple):
    """The events of a publish that has nothing unusual: one, or those of a batch."""

    requests: Sequence[Request]
    is_batch: bool


class Answer(NamedTuple):
    """An HTTP answer: `document` is its JSON, None if it has no body."""

    code: int
    document: dict[str, Any] | None
    headers: Mapping[str, str] = {}


def publish_one(runtime: Runtime, body: bytes, *, dry_run: bool = False) -> Answer:
    """Check one event and keep it (on a dry run, only check it). Raises JobQuestError."""
    [came] = _taken(runtime, [read(body)], dry_run)
    return _one_answer(runtime, came)


def publish_batch(runtime: Runtime, body: bytes, *, dry_run: bool = False) -> Answer:
    """The same with a list of events. Raises JobQuestError where the body is no such list."""
    wanted = read_batch(body)
    return _batch_answer(runtime, _taken(runtime, wanted, dry_run), wanted)


def plain_answer(runtime: Runtime, plain: Plain, came: Sequence[_Came]) -> Answer:
    """What is said of a plain publish. Raises JobQuestError."""
    if plain.is_batch:
        return _batch_answer(runtime, came, plain.requests)
    return _one_answer(runtime, came[0])


def _taken(
    runtime: Runtime, wanted: Sequence[Request | InvalidEvent], dry_run: bool
) -> list[_Came]:
    """What the producer says of each valid event, in its place among the invalid ones."""
    valid = [one for one in wanted if isinstance(one, Request)]
    producer = runtime.producer
    came = iter(producer.check_all(valid) if dry_run else producer.publish_all(valid))
    return [one if isinstance(one, InvalidEvent) else next(came) for one in wanted]


def _one_answer(runtime: Runtime, one: _Came) -> Answer:
    """What is said of one event. Raises JobQuestError."""
    if isinstance(one, JobQuestError):
        raise one
    if isinstance(one, Event):
        message = f"Event {one.type} is valid; it was not published"
        return _success(200, message, _as_valid(one))
    code, outcome = _OUTCOMES[one.result]
    data = _as_published(one, _first_copies(runtime, [one]))
    return _success(code, f"Event {one.event.type} {outcome}", data)


def _batch_answer(
    runtime: Runtime, came: Sequence[_Came], wanted: Sequence[Request | InvalidEvent]
) -> Answer:
    firsts = _first_copies(runtime, (one for one in came if isinstance(one, Published)))
    ids = [asked.event.id if isinstance(asked, Request) else None for asked in wanted]
    results = [_result(one, id, firsts) for one, id in zip(came, ids, strict=True)]
    refused = [one["result"] for one in results if one["result"] in ("rejected", "retry")]
    message = f"{len(results) - len(refused)} of {len(results)} events taken"
    data = {"results": results}
    if not refused:
        return _success(200 if isinstance(came[0], Event) else 201, message, data)
    if len(refused) < len(results):
        return _success(207, message, data)
    document = {"status": "error", "message": f"{message}.", "data": data}
    if "retry" in refused:
        return Answer(503, document, {"Retry-After": str(RETRY_AFTER_SECONDS)})
    return Answer(400, document)


def _result(one: _Came, id: str | None, firsts: _Firsts) -> dict[str, Any]:
    if isinstance(one, Published):
        return _as_published(one, firsts)
    if isinstance(one, Event):
        return _as_valid(one)
    if isinstance(one, Unavailable):  # it may be kept: under this id, another try is harmless
        return {"id": id, "result": "retry", "message": str(one.args[0])}
    errors = one.errors if isinstance(one, InvalidEvent) else {}
    if isinstance(one, IdConflict):
        errors = {"id": [str(one)]}
    return {"id": id, "result": "rejected", "message": str(one.args[0]), "errors": errors}


def _as_valid(event: Event) -> dict[str, Any]:
    return {**_named(event), "topic": event.topic, "key": event.user_id, "result": "valid"}


def _as_published(published: Published, firsts: _Firsts) -> dict[str, Any]:
    """`firsts` tells where, and when, the first copy of a duplicate stands."""
    event, position = published.event, published.position
    answer = _named(event)
    if position:
        answer["topic"], answer["partition"], answer["offset"] = position
    else:
        answer |= {"topic": event.topic, "partition": None, "offset": None}
        answer |= firsts.get(event.id, {})
    answer["result"] = published.result
    return answer


def _first_copies(runtime: Runtime, published: Iterable[Published]) -> _Firsts:
    ids = [one.event.id for one in published if one.result == "duplicate"]
    return runtime.queries.places(ids) if ids else {}


def _named(event: Event) -> dict[str, Any]:
    return {
        "id": event.id,
        "eventType": event.type,
        "userId": event.user_id,
        "timestamp": format_time(event.timestamp),
    }


def _success(code: int, message: str, data: dict[str, Any]) -> Answer:
    return Answer(code, {"status": "success", "message": message, "data": data})
