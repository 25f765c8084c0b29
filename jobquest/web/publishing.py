"""Publishing over HTTP: events are checked, kept and answered, one or a batch of them.

The entrance and the views in `events.py` call `publish_one` and `publish_batch`, on a thread. For
most publishes, which are plain, the worker's loop calls the steps of `AsyncPublisher` instead, and
answers once the log has the events. Both give the same answers. One bad event of a batch never
sinks the rest: each has its own result, in their order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobquest.access.caller import LOCAL, PROXY, Caller
from jobquest.errors import (
    Forbidden,
    IdConflict,
    InvalidEvent,
    JobQuestError,
    LogUnavailable,
    Unavailable,
)
from jobquest.events import Event, format_time
from jobquest.events.requests import (
    DEMO_USER,
    Request,
    read,
    read_batch,
    read_plain,
    read_plain_batch,
)
from jobquest.log.pending import Pending
from jobquest.producer import Published, log_published
from jobquest.runtime import Runtime
from jobquest.web.answers import RETRY_AFTER_SECONDS, Answer
from jobquest.web.errors import answer_to, unexpected

# Without a thread: one event of so many bytes, the oddest of which takes 3 ms to read; a batch that
# is read within so many seconds (the oddest single event in one takes 4 ms by itself).
PROMPT_BYTES, PROMPT_SECONDS = 4_096, 0.003
# Events at a time without a thread. Beyond them, threads answer, which take turns. Without a bound,
# three hundred clients with a batch each took 550 MB, and for seconds everyone else's publish was
# refused because the log was behind.
MAX_UNDER_WAY = 2_000
_OUTCOMES = {
    "accepted": (201, "accepted"),
    "queued": (202, "queued: it is kept here and waits for Kafka"),
    "duplicate": (200, "duplicate"),
}
_Outcome = Published | Event | JobQuestError
_Firsts = Mapping[str, dict[str, Any]]


# --- on a thread ---


def publish_one(runtime: Runtime, body: bytes, caller: Caller, *, dry_run: bool = False) -> Answer:
    """Check one event and keep it, unless it is a dry run. Raises JobQuestError."""
    request = read(body, _default_user(caller))
    _refuse_others([request], caller)
    runtime.access.bounds.refuse_publish(caller, 1)
    [outcome] = _keep(runtime, [request], dry_run)
    return _one_answer(runtime, outcome)


def publish_batch(
    runtime: Runtime, body: bytes, caller: Caller, *, dry_run: bool = False
) -> Answer:
    """The same with a list of events. Raises JobQuestError if the body is no such list."""
    requests = read_batch(body, _default_user(caller))
    _refuse_others(requests, caller)
    runtime.access.bounds.refuse_publish(caller, len(requests))
    return _batch_answer(runtime, _keep(runtime, requests, dry_run), requests)


def _default_user(caller: Caller) -> str | None:
    """Whose an event is that does not say: the user's own, or nobody's if credentials are asked
    for."""
    return caller.user or (DEMO_USER if caller.kind in (LOCAL.kind, PROXY.kind) else None)


def _refuse_others(requests: Sequence[Request | InvalidEvent], caller: Caller) -> None:
    """Raise Forbidden if a user publishes for another one: that is no error of one event."""
    if not _are_own(requests, caller):
        raise Forbidden(f"This token publishes for {caller.name} alone, not for another userId.")


def _are_own(requests: Sequence[Request | InvalidEvent], caller: Caller) -> bool:
    own = caller.user
    return own is None or all(
        one.event.user_id == own for one in requests if isinstance(one, Request)
    )


def _keep(
    runtime: Runtime, requests: Sequence[Request | InvalidEvent], dry_run: bool
) -> list[_Outcome]:
    """The outcome of each event: of a valid one from the producer, of any other its error."""
    valid = [one for one in requests if isinstance(one, Request)]
    producer = runtime.producer
    outcomes = iter(producer.check_all(valid) if dry_run else producer.publish_all(valid))
    return [one if isinstance(one, InvalidEvent) else next(outcomes) for one in requests]


# --- without a thread ---


@dataclass(slots=True, eq=False)
class Publish:
    """A publish without a thread: its valid events, and what is pending of each once the log has
    been given them."""

    requests: Sequence[Request]
    is_batch: bool
    caller: Caller
    pending: Sequence[Pending[Any]] = ()

    def expire(self) -> None:
        """Settle what the log does not settle in time."""
        for one in self.pending:
            one.fail(LogUnavailable("The log did not confirm in time."))


class AsyncPublisher:
    """The steps of publishes that need no thread: check, keep, answer. For one thread, which must
    not wait."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._under_way = 0  # events that are valid and not answered yet
        self.unlogged: list[Published | JobQuestError] = []

    @property
    def is_worth_it(self) -> bool:
        """Whether enough publishes need no thread. Most events have an id, and only a read side in
        a file can be asked about ids without waiting."""
        return self._runtime.database.is_file

    def check(self, body: bytes, caller: Caller, *, is_batch: bool) -> Publish | None:
        """The events of a body, if all are plain and valid; None if a thread has to check it, or to
        wait because too many events are under way."""
        if self._under_way >= MAX_UNDER_WAY:
            return None
        user = _default_user(caller)
        if is_batch:
            requests = read_plain_batch(body, PROMPT_SECONDS, user)
        else:
            one = read_plain(body, user) if len(body) <= PROMPT_BYTES else None
            requests = [one] if one else None
        if not requests or not _are_own(requests, caller):
            return None
        if self._runtime.access.bounds.publish(caller, len(requests)):
            return None
        self._under_way += len(requests)
        return Publish(requests, is_batch, caller)

    def keep(self, several: Sequence[Publish]) -> None:
        """Have the log keep the events of several publishes, together. If nothing of a publish is
        pending afterwards, it needs a thread: nothing has happened to its events."""
        try:
            groups = [publish.requests for publish in several]
            pending_of = self._runtime.producer.keep_all(groups)
            for publish, pending in zip(several, pending_of, strict=True):
                publish.pending = pending
        finally:
            for publish in several:
                if not publish.pending:  # the thread counts them
                    self._under_way -= len(publish.requests)
                    bounds = self._runtime.access.bounds
                    bounds.forget_publish(publish.caller, len(publish.requests))

    def answer(self, publish: Publish) -> Answer:
        """The answer to a publish, once nothing of it is pending any more."""
        producer, requests = self._runtime.producer, publish.requests
        self._under_way -= len(requests)
        try:
            outcomes = [
                producer.outcome(request.event, pending)
                for request, pending in zip(requests, publish.pending, strict=True)
            ]
            self.unlogged += outcomes
            if publish.is_batch:
                return _batch_answer(self._runtime, outcomes, requests)
            return _one_answer(self._runtime, outcomes[0])
        except JobQuestError as error:
            return answer_to(error)
        except Exception as error:
            return unexpected(error)

    def log_published(self) -> None:
        """Write the log lines of what was published since the last call."""
        outcomes, self.unlogged = self.unlogged, []
        log_published(outcomes)


# --- answers ---


def _one_answer(runtime: Runtime, one: _Outcome) -> Answer:
    """The answer to a publish of one event. Raises JobQuestError."""
    if isinstance(one, JobQuestError):
        raise one
    if isinstance(one, Event):
        message = f"Event {one.type} is valid; it was not published"
        return _success(200, message, _as_valid(one))
    code, outcome = _OUTCOMES[one.result]
    data = _as_published(one, _first_copies(runtime, [one]))
    return _success(code, f"Event {one.event.type} {outcome}", data)


def _batch_answer(
    runtime: Runtime, outcomes: Sequence[_Outcome], requests: Sequence[Request | InvalidEvent]
) -> Answer:
    firsts = _first_copies(runtime, (one for one in outcomes if isinstance(one, Published)))
    ids = [one.event.id if isinstance(one, Request) else None for one in requests]
    results = [_result(one, id, firsts) for one, id in zip(outcomes, ids, strict=True)]
    refused = [one["result"] for one in results if one["result"] in ("rejected", "retry")]
    message = f"{len(results) - len(refused)} of {len(results)} events accepted"
    data = {"results": results}
    if not refused:
        return _success(200 if isinstance(outcomes[0], Event) else 201, message, data)
    if len(refused) < len(results):
        return _success(207, message, data)
    document = {"status": "error", "message": f"{message}.", "data": data}
    if "retry" in refused:
        return Answer(503, document, {"Retry-After": str(RETRY_AFTER_SECONDS)})
    return Answer(400, document)


def _result(one: _Outcome, id: str | None, firsts: _Firsts) -> dict[str, Any]:
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
    """`firsts` has the place and the time of a duplicate's first copy."""
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
        "timestamp": format_time(event.time_ms),
    }


def _success(code: int, message: str, data: dict[str, Any]) -> Answer:
    return Answer(code, {"status": "success", "message": message, "data": data})
