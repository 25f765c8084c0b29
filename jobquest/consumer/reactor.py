"""The reactor: decides what becomes of each record. Decodes, drops what is known, runs handlers.

Called by the consumer, in its thread. It writes nothing: its outcomes go into one transaction.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence

from jobquest.clock import now_ms
from jobquest.consumer.handlers import Handler, Handlers
from jobquest.consumer.outcomes import Outcome
from jobquest.consumer.retries import Backoff, Brake
from jobquest.consumer.watch import Watch
from jobquest.errors import IdConflict, InvalidEvent, NotRetryable
from jobquest.events import Event, from_record, judged_from
from jobquest.log import Origin, Partition, Record
from jobquest.log_lines import log_lines
from jobquest.read import Lane, Parked, ReadSide
from jobquest.read.failures import Failure
from jobquest.read.parking import lane_of

logger = logging.getLogger(__name__)

HANDLER_SECONDS = 0.5  # of handlers' time after which a batch ends
LANE_EVENTS = 500  # of one lane, at one go


class Reactor:
    """Belongs to the consumer's thread."""

    def __init__(
        self, read_side: ReadSide, handlers: Handlers, backoff: Backoff, brake: Brake, watch: Watch
    ) -> None:
        self._read_side = read_side
        self._handlers = handlers
        self._backoff = backoff
        self._brake = brake
        self._watch = watch
        self._lines: list[str] = []

    def react(
        self,
        records: Sequence[Record],
        assigned: Mapping[Partition, Origin],
        waiting: Collection[Lane],
    ) -> list[Outcome]:
        """The outcomes of polled records; `waiting` are the lanes in which something is parked.

        May end before the last record, when handlers have had their time or the brake is pulled.
        """
        origins: dict[tuple[str, int], Origin] = dict(assigned.items())
        decoded = [_decoded(one, origins[one[:2]]) for one in records]
        known = self._read_side.contents([o.event.id for o in decoded if o.event], parked=True)
        busy = set(waiting)
        go_on = self._bounded()
        outcomes: list[Outcome] = []
        for outcome in decoded:
            if outcome.event and outcome.verdict == "applied":
                outcome = self._judge(outcome, outcome.event, known, busy)
            outcomes.append(outcome)
            if outcome.failure:
                self._tell(outcome, outcome.failure)
            if not go_on():
                break
        self._say()
        return outcomes

    def retry(self, lane: Lane) -> list[Outcome]:
        """Try a lane's events again, in their order, up to the first that fails once more."""
        parked = self._read_side.waiting(lane, LANE_EVENTS)
        known = self._read_side.contents([one.event_id for one in parked])
        go_on = self._bounded()
        outcomes: list[Outcome] = []
        for one in parked:
            outcome = self._tried_again(one, known)
            if outcome.failure:
                self._tell(outcome, outcome.failure)
            outcomes.append(outcome)
            if outcome.verdict == "parked" or not go_on():
                break
        self._say()
        return outcomes

    def _bounded(self) -> Callable[[], bool]:
        deadline = time.monotonic() + HANDLER_SECONDS
        return lambda: time.monotonic() <= deadline and not self._brake.pulled

    def _judge(
        self, outcome: Outcome, event: Event, known: dict[str, bytes], busy: set[Lane]
    ) -> Outcome:
        if event.id in known:
            # Ours name a fact by their id: whichever event caused it, it is the same one.
            if event.is_ours or event.has_content_of(known[event.id]):
                return outcome._replace(verdict="known")
            return outcome.dies(IdConflict(f"Another event has the id {event.id}."))
        if busy and lane_of(outcome.record) in busy:
            outcome = outcome._replace(verdict="parked")  # behind the one that failed
        else:
            outcome = self._handle(outcome, event)
            if outcome.verdict == "parked":
                busy.add(lane_of(outcome.record))
        if outcome.verdict != "dead":
            known[event.id] = event.to_json()
        return outcome

    def _tried_again(self, one: Parked, known: Mapping[str, bytes]) -> Outcome:
        outcome = _decoded(one.record, one.origin)._replace(
            attempts=one.attempts,
            first_failed_ms=one.first_failed_ms,
            was=one,
            polled=False,
        )
        if one.event_id in known:
            return outcome._replace(verdict="known")
        if outcome.event is None or outcome.verdict == "dead":  # it is not taken any more
            return outcome
        if one.failure and one.attempts >= self._backoff.max_attempts:
            return outcome._replace(verdict="dead", failure=one.failure)
        return self._handle(outcome, outcome.event)

    def _handle(self, outcome: Outcome, event: Event) -> Outcome:
        """Run the handlers of an event's type."""
        self._lines.append(f"Processing event: {event.type} for user: {event.user_id}")
        handlers = self._handlers.of(event.type)
        if not handlers:
            return outcome
        self._say()  # before they run: where one hangs, this is the log's last line
        for handler in handlers:
            failure, final = None, False
            self._watch.begin(_name(handler), outcome)
            try:
                handler(event)
            except BaseException as error:
                failure, final = Failure.of(error), isinstance(error, NotRetryable)
            if noted := self._watch.end():
                outcome = outcome._replace(was=noted, first_failed_ms=noted.first_failed_ms)
            if failure:
                return self._failed(outcome, event, failure, final)
        self._brake.succeeded()
        return outcome

    def _say(self) -> None:
        """Write the lines that have come together."""
        lines, self._lines = self._lines, []
        log_lines(logger, logging.INFO, lines)

    def _failed(self, outcome: Outcome, event: Event, failure: Failure, final: bool) -> Outcome:
        self._brake.failed(event.id, failure)
        return outcome.failed(failure, now_ms(), self._backoff, final=final)

    def _tell(self, outcome: Outcome, failure: Failure) -> None:
        self._say()
        logger.error("Failed to process event: %s", failure.error)
        if outcome.verdict == "parked" and outcome.event:
            tries = f"{outcome.attempts} of {self._backoff.max_attempts} tries"
            logger.info("Event %s waits for another try after %s", outcome.event.id, tries)


def _decoded(record: Record, origin: Origin) -> Outcome:
    latest_ms = judged_from(record.timestamp_ms)
    try:
        outcome = Outcome(record, origin, from_record(record.value, latest_ms))
    except InvalidEvent as error:
        outcome = Outcome(record, origin).dies(error)
    # Of a damaged record some parts may be sound: it dies as the event that these still tell of.
    return outcome.dies(InvalidEvent(record.damage)) if record.damage else outcome


def _name(handler: Handler) -> str:
    return f"The handler {getattr(handler, '__qualname__', None) or repr(handler)}"
