"""Writes the outcomes of records: a batch in one transaction, or in halves if that fails.

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
        self.parked = False  # whether an event was parked; the caller sets it back
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
            # Its text may have personal data of any of these events.
            name = Failure.of(error).error_class
            logger.warning("A batch failed (%s): applying it in halves.", name)
            self._write_in_halves(outcomes, {})

    def pass_over(self, reached: Mapping[Origin, int]) -> None:
        """Move the positions of partitions to offsets before which no record is left to apply."""
        moves = {
            origin: (self.stored.get(origin), at)
            for origin, at in reached.items()
            if at > (self.stored.get(origin) or 0)
        }
        if moves:
            self._apply(Batch(moves=moves), 0)

    def _write_in_halves(
        self, outcomes: Sequence[Outcome], held: dict[OrderingKey, Failure]
    ) -> None:
        """Write each half by itself, down to the events that can't be written. `held` gets the keys
        of those that wait from now on: what comes after them in the batch waits too."""
        half = len(outcomes) // 2
        for part in (outcomes[:half], outcomes[half:]):
            kept = [self._behind(outcome, held) for outcome in part]
            try:
                self._write(kept)
            except (Unavailable, PositionMoved):
                raise
            except Exception as error:
                if len(kept) > 1:
                    self._write_in_halves(kept, held)
                    continue
                failed = self._blame(kept[0], error)
                if failed.verdict == "parked" and failed.failure and failed.ordering_key:
                    held[failed.ordering_key] = failed.failure

    def _behind(self, outcome: Outcome, held: Mapping[OrderingKey, Failure]) -> Outcome:
        key, waits = outcome.ordering_key, outcome.verdict == "parked" and outcome.next_ms is None
        if not key or key not in held or not outcome.event or waits or outcome.verdict == "dead":
            return outcome
        if outcome.parked_row is None:  # otherwise it is already known to wait
            self._breaker.write_failed(outcome.event.id, outcome.event.type, held[key])
        return outcome.waits_behind()

    def _blame(self, outcome: Outcome, error: Exception) -> Outcome:
        """Handle an outcome that can't be written: its event dies if the error says that it is
        wrong, and waits for another try if the fault may be ours. Raises the error if that can't be
        written either."""
        if outcome.verdict in ("dead", "parked"):
            raise error
        failure = Failure.of(error, event=outcome.event)
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
        self.parked |= bool(batch.parked)
        self.stored |= {origin: following for origin, (_, following) in batch.moves.items()}
        self._written(batch, outcomes)
