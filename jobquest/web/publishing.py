"""What the publish routes do with a body, one event or a batch of them, and what they answer.

Called by the views in `events.py` and by the short way past them in `door.py`; no Flask here. One
bad event of a batch never sinks the rest: each has a result of its own, in their order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
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


class Answer(NamedTuple):
    """An HTTP answer: `document` is its JSON."""

    code: int
    document: dict[str, Any]
    headers: Mapping[str, str] = {}


def publish_one(runtime: Runtime, body: bytes) -> Answer:
    """Check one event and keep it. Raises JobQuestError."""
    published = runtime.producer.publish_one(read(body))
    code, outcome = _OUTCOMES[published.result]
    data = _as_published(published, _first_copies(runtime, [published]))
    return _success(code, f"Event {published.event.type} {outcome}", data)


def check_one(runtime: Runtime, body: bytes) -> Answer:
    """Only check it. Raises JobQuestError."""
    [event] = runtime.producer.check_all([read(body)])
    if isinstance(event, IdConflict):
        raise event
    message = f"Event {event.type} is valid; it was not published"
    return _success(200, message, _as_valid(event))


def publish_batch(runtime: Runtime, body: bytes) -> Answer:
    """Check events and keep them. Raises InvalidEvent where the body is no list of events."""
    return _batch(runtime, body, runtime.producer.publish_all, 201)


def check_batch(runtime: Runtime, body: bytes) -> Answer:
    """Only check them. Raises InvalidEvent where the body is no list of events."""
    return _batch(runtime, body, runtime.producer.check_all, 200)


def _batch(
    runtime: Runtime,
    body: bytes,
    take: Callable[[Sequence[Request]], Sequence[_Came]],
    all_taken: int,
) -> Answer:
    wanted = read_batch(body)
    taken = iter(take([one for one in wanted if isinstance(one, Request)]))
    came = [one if isinstance(one, InvalidEvent) else next(taken) for one in wanted]
    firsts = _first_copies(runtime, (one for one in came if isinstance(one, Published)))
    ids = [asked.event.id if isinstance(asked, Request) else None for asked in wanted]
    return _batch_answer(
        [_result(one, id, firsts) for one, id in zip(came, ids, strict=True)], all_taken
    )


def _batch_answer(results: list[dict[str, Any]], all_taken: int) -> Answer:
    refused = [one["result"] for one in results if one["result"] in ("rejected", "retry")]
    message = f"{len(results) - len(refused)} of {len(results)} events taken"
    data = {"results": results}
    if len(refused) < len(results):
        return _success(207 if refused else all_taken, message, data)
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
