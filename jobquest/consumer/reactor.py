"""The reactor decides the outcome of each record: it decodes, drops duplicates and runs handlers.

Called by the consumer, in its thread. It writes nothing: its outcomes are written in one
transaction.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import orjson
from msgspec.structs import replace

from jobquest.clock import now_ms
from jobquest.consumer.handlers import Handlers
from jobquest.consumer.outcomes import Outcome
from jobquest.consumer.retries import Backoff, CircuitBreaker
from jobquest.consumer.watch import Watch
from jobquest.errors import IdConflict, InvalidEvent, NotRetryable
from jobquest.events import Event, from_record, from_records, judged_from
from jobquest.log import Headers, Origin, Partition, Record, received_ms
from jobquest.log_lines import log_lines
from jobquest.read import OrderingKey, Parked, ReadSide
from jobquest.read.dead_letters import DONE_HEADER
from jobquest.read.failures import Failure

logger = logging.getLogger(__name__)

HANDLER_SECONDS = 0.5  # a batch ends after handlers have run this long
PORTION = 3_000  # of a batch, decoded together: what the handlers' time cuts off is decoded again
KEY_EVENTS = 500  # of one ordering key, retried in one call


class Reactor:
    """Belongs to the consumer's thread."""

    def __init__(
        self,
        read_side: ReadSide,
        handlers: Handlers,
        backoff: Backoff,
        breaker: CircuitBreaker,
        watch: Watch,
    ) -> None:
        self._read_side = read_side
        self._handlers = handlers
        self._backoff = backoff
        self._breaker = breaker
        self._watch = watch
        self._lines: list[str] = []  # for the log, not written yet

    def react(
        self, records: Sequence[Record], assigned: Mapping[Partition, Origin], *, waits: bool
    ) -> list[Outcome]:
        """The outcomes of polled records; `waits`: events may be parked in these partitions.

        May end before the last record: when the handlers' time is over or the circuit breaker
        opens.
        """
        outcomes: list[Outcome] = []
        spent = 0.0  # on handlers
        for decoded, known, busy in self._portions(records, assigned, waits=waits):
            may_continue, began = self._bounded(spent), time.monotonic()
            for outcome in decoded:
                if outcome.event and outcome.verdict == "applied":
                    outcome = self._judge(outcome, outcome.event, known, busy)
                outcomes.append(outcome)
                if outcome.failure:
                    self._log_failure(outcome, outcome.failure)
                # Without a handler, an event takes no time and can't open the circuit breaker.
                if (outcome.done or outcome.failure) and not may_continue():
                    self._write_lines()
                    return outcomes
            spent += time.monotonic() - began
        self._write_lines()
        return outcomes

    def _portions(
        self, records: Sequence[Record], assigned: Mapping[Partition, Origin], *, waits: bool
    ) -> Iterator[tuple[list[Outcome], dict[str, bytes], set[OrderingKey]]]:
        """The records decoded, with the known events and the waiting keys that matter to them."""
        origins: dict[tuple[str, int], Origin] = dict(assigned.items())
        known: dict[str, bytes] = {}
        busy: set[OrderingKey] = set()
        for begin in range(0, len(records), PORTION):
            decoded = _all_decoded(records[begin : begin + PORTION], origins)
            ids = [one.event.id for one in decoded if one.event]
            known |= self._read_side.contents(ids, parked=True)
            keys = {key for one in decoded if (key := one.ordering_key)} if waits else set()
            busy |= self._read_side.busy(keys) if keys else set()
            yield decoded, known, busy

    def retry(self, key: OrderingKey) -> list[Outcome]:
        """Retry the events of a key in their order, up to the first that fails again."""
        parked = self._read_side.waiting(key, KEY_EVENTS)
        known = self._read_side.contents([one.event_id for one in parked])
        may_continue = self._bounded()
        outcomes: list[Outcome] = []
        for one in parked:
            outcome = self._tried_again(one, known)
            if outcome.failure:
                self._log_failure(outcome, outcome.failure)
            outcomes.append(outcome)
            if outcome.verdict == "parked" or not may_continue():
                break
        self._write_lines()
        return outcomes

    def _bounded(self, spent: float = 0.0) -> Callable[[], bool]:
        deadline = time.monotonic() + HANDLER_SECONDS - spent
        return lambda: time.monotonic() <= deadline and not self._breaker.open_reason

    def _judge(
        self, outcome: Outcome, event: Event, known: dict[str, bytes], busy: set[OrderingKey]
    ) -> Outcome:
        if event.id in known:
            # Our own ids are derived from the fact: the same id is the same fact, whatever event
            # caused it.
            if event.is_internal or event.has_content_of(known[event.id]):
                return replace(outcome, verdict="known")
            return outcome.dies(IdConflict(f"Another event has the id {event.id}."))
        if busy and outcome.ordering_key in busy:
            outcome = outcome.waits_behind()
        else:
            outcome = self._handle(outcome, event)
            if outcome.verdict == "parked" and outcome.ordering_key:
                busy.add(outcome.ordering_key)
        if outcome.verdict != "dead":
            known[event.id] = event.to_json()
        return outcome

    def _tried_again(self, parked: Parked, known: Mapping[str, bytes]) -> Outcome:
        outcome = replace(
            _decoded(parked.record, parked.origin),
            attempts=parked.attempts,
            first_failed_ms=parked.first_failed_ms,
            parked_row=parked,
            polled=False,
            done=parked.done,
        )
        if parked.event_id in known:
            return replace(outcome, verdict="known")
        if outcome.event is None or outcome.verdict == "dead":  # it is no longer accepted
            return outcome
        if parked.failure and parked.attempts >= self._backoff.max_attempts:
            return replace(outcome, verdict="dead", failure=parked.failure)
        return self._handle(outcome, outcome.event)

    def _handle(self, outcome: Outcome, event: Event) -> Outcome:
        """Run those handlers of an event's type that have not succeeded yet."""
        self._lines.append(f"Processing event: {event.type} for user: {event.user_id}")
        handlers = self._handlers.of(event.type)
        if not handlers:
            return outcome
        self._write_lines()  # before they run: if a handler hangs, this is the last line of the log
        if outcome.parked_row is None:  # headers are unpacked only for events that have a handler
            outcome = replace(outcome, done=_done_before(outcome.record.headers))
        before = outcome.done
        for name, handler in handlers:
            if name in outcome.done:
                continue
            failure, final = None, False
            self._watch.begin(f"The handler {name}", outcome)
            try:
                handler(event)
            except BaseException as error:
                failure = Failure.of(error, f"handler {name}", event)
                final = isinstance(error, NotRetryable)
            if noted := self._watch.end():
                outcome = replace(outcome, parked_row=noted, first_failed_ms=noted.first_failed_ms)
            if failure:
                return self._failed(outcome, event, failure, final)
            outcome = replace(outcome, done=(*outcome.done, name))
        if outcome.done != before:
            self._breaker.handlers_succeeded(
                event.type, [f"handler {name}" for name, _ in handlers]
            )
        return outcome

    def _write_lines(self) -> None:
        """Write the collected lines to the log."""
        lines, self._lines = self._lines, []
        log_lines(logger, logging.INFO, lines)

    def _failed(self, outcome: Outcome, event: Event, failure: Failure, final: bool) -> Outcome:
        if not outcome.attempts:  # otherwise it is already known to fail
            self._breaker.handler_failed(event.id, event.type, failure)
        return outcome.failed(failure, now_ms(), self._backoff, final=final)

    def _log_failure(self, outcome: Outcome, failure: Failure) -> None:
        self._write_lines()
        logger.error("Failed to process event: %s", failure.text)
        if outcome.verdict == "parked" and outcome.event:
            tries = f"{outcome.attempts} of {self._backoff.max_attempts} tries"
            reason = f"{failure.error_class} in {failure.part}"
            logger.info(
                "Event %s waits for another try after %s: %s", outcome.event.id, tries, reason
            )


def _all_decoded(
    records: Sequence[Record], origins: Mapping[tuple[str, int], Origin]
) -> list[Outcome]:
    # Each event is judged from now or later, so what is valid now is valid.
    events = from_records([record.value for record in records], now_ms())
    return [
        Outcome(record, origins[record[:2]], event)
        if event and not record.damage
        else _decoded(record, origins[record[:2]])
        for record, event in zip(records, events, strict=True)
    ]


def _decoded(record: Record, origin: Origin) -> Outcome:
    latest_ms = judged_from(received_ms(record))
    try:
        outcome = Outcome(record, origin, from_record(record.value, latest_ms))
    except InvalidEvent as error:
        outcome = Outcome(record, origin).dies(error)
    # Parts of a damaged record may be sound: the dead letter shows the event that they describe.
    return outcome.dies(InvalidEvent(record.damage)) if record.damage else outcome


def _done_before(headers: Headers) -> tuple[str, ...]:
    """The handlers that had succeeded before the event died and was redriven."""
    for name, value in headers:
        if name == DONE_HEADER:
            try:
                return tuple(map(str, orjson.loads(value)))
            except (ValueError, TypeError):  # written by somebody else
                return ()
    return ()
