"""Writes the outcomes of records: a batch in one transaction, or one by one if that fails.

Called by the consumer, in its thread. If an outcome can't be written, the fault is ours unless the
error says that the event is wrong. Then the event waits, and so do the events behind it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from jobquest.clock import now_ms
from jobquest.consumer.outcomes import Outcome, batch_of
from jobquest.consumer.retries import Backoff, CircuitBreaker
from jobquest.consumer.watch import Watch
from jobquest.errors import IdConflict, InvalidEvent, NotRetryable, PositionMoved, Unavailable
from jobquest.log import Origin
from jobquest.read import Batch, OrderingKey, ReadSide
from jobquest.read.effects import concerns
from jobquest.read.failures import Failure

logger = logging.getLogger(__name__)


class Writer:
    """Belongs to the consumer's thread. `stored` holds the positions in the read side."""

    def __init__(
        self,
        read_side: ReadSide,
        backoff: Backoff,
        breaker: CircuitBreaker,
        watch: Watch,
        written: Callable[[Batch, int], None],
    ) -> None:
        """`written` is called after each transaction, with its batch and the number of outcomes."""
        self.stored: dict[Origin, int | None] = {}
        self._read_side = read_side
        self._backoff = backoff
        self._breaker = breaker
        self._watch = watch
        self._written = written

    def write(self, outcomes: Sequence[Outcome]) -> None:
        """Write outcomes. Raises Unavailable and PositionMoved (nothing is lost), and any other
        error if not even the failure can be written."""
        try:
            self._write(outcomes)
        except (Unavailable, PositionMoved):
            raise
        except Exception as error:
            if len(outcomes) == 1:
                self._blame(outcomes[0], error)
                return
            logger.warning("A batch failed (%s): applying it one by one.", Failure.of(error).error)
            self._write_one_by_one(outcomes)

    def pass_over(self, reached: Mapping[Origin, int]) -> None:
        """Move the positions of partitions to offsets before which no record is left to apply."""
        moves = {
            origin: (self.stored.get(origin), at)
            for origin, at in reached.items()
            if at > (self.stored.get(origin) or 0)
        }
        if moves:
            self._apply(Batch(moves=moves), 0)

    def _write_one_by_one(self, outcomes: Sequence[Outcome]) -> None:
        held: dict[OrderingKey, Failure] = {}
        for outcome in outcomes:
            key = outcome.ordering_key
            if key in held and outcome.event and outcome.verdict in ("applied", "parked"):
                if outcome.parked_row is None:  # otherwise it is already known to wait
                    self._breaker.write_failed(outcome.event.id, outcome.event.type, held[key])
                outcome = outcome.waits_behind()
            try:
                self._write([outcome])
            except (Unavailable, PositionMoved):
                raise
            except Exception as error:
                failed = self._blame(outcome, error)
                if failed.verdict == "parked" and failed.failure and key:
                    held[key] = failed.failure

    def _blame(self, outcome: Outcome, error: Exception) -> Outcome:
        """Handle an outcome that can't be written: its event dies if the error says that it is
        wrong, and waits for another try if the fault may be ours. Raises the error if that can't be
        written either."""
        if outcome.verdict in ("dead", "parked"):
            raise error
        failure = Failure.of(error)
        if isinstance(error, InvalidEvent | IdConflict | NotRetryable):
            failed = outcome.dies(error)
        else:
            failed = outcome.failed(failure, now_ms(), self._backoff)
            if outcome.event and not outcome.attempts:  # otherwise it is already known to fail
                self._breaker.write_failed(outcome.event.id, outcome.event.type, failure)
        logger.error("Failed to process event: %s", failure.text)
        logger.info("%s in %s", failure.error_class, failure.part or "the read side")
        self._write([failed])
        return failed

    def _write(self, outcomes: Sequence[Outcome]) -> None:
        batch = batch_of(outcomes, self.stored)
        self._watch.begin("The transaction of a batch")
        try:
            self._apply(batch, len(outcomes))
        finally:
            self._watch.end()
        for event_type in {applied.event.type for applied in batch.applied}:
            self._breaker.written(event_type, partial(concerns, event_type))

    def _apply(self, batch: Batch, outcomes: int) -> None:
        self._read_side.apply(batch)
        self.stored |= {origin: following for origin, (_, following) in batch.moves.items()}
        self._written(batch, outcomes)
