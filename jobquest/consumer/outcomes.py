"""The outcome of a record: the value that the reactor hands to the read side's transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec
from msgspec.structs import replace

from jobquest.consumer.retries import Backoff
from jobquest.events import Event
from jobquest.log import Origin, Record
from jobquest.read import Applied, Batch, Dead, OrderingKey, Parked
from jobquest.read.failures import Failure
from jobquest.read.parking import ordering_key

Verdict = Literal["applied", "known", "parked", "dead"]


class Outcome(msgspec.Struct, frozen=True, eq=False, gc=False):
    """One record and its outcome. `attempts` counts its tries; `done` names the handlers that have
    succeeded.

    `verdict`: applied (the event counts: `processed` in the tables and the API), parked (it waits:
    `retrying`), dead (a dead letter), known (a duplicate, which is dropped).

    `parked_row` is its row in the table of parked events, if it was parked. `polled` is true if the
    record was just read from the log, so that its partition's position moves.
    """

    record: Record
    origin: Origin
    event: Event | None = None
    verdict: Verdict = "applied"
    failure: Failure | None = None
    attempts: int = 0
    first_failed_ms: int | None = None
    next_ms: int | None = None
    parked_row: Parked | None = None
    polled: bool = True
    done: tuple[str, ...] = ()

    @property
    def ordering_key(self) -> OrderingKey | None:
        """The key within which its event stays in order; None if the event can't be read."""
        return ordering_key(self.record, self.event.user_id) if self.event else None

    def waits_behind(self) -> Outcome:
        """The event waits for an earlier event of its key."""
        return replace(self, verdict="parked", next_ms=None)

    def dies(self, error: Exception) -> Outcome:
        """The event can't be counted, now or later."""
        return replace(self, verdict="dead", failure=Failure.of(error, event=self.event))

    def failed(
        self, failure: Failure, now_ms: int, backoff: Backoff, *, final: bool = False
    ) -> Outcome:
        """One more try failed. The event waits for the next try; after the last try, or a `final`
        failure, it dies."""
        attempts = self.attempts + 1
        last = final or attempts >= backoff.max_attempts
        return replace(
            self,
            verdict="dead" if last else "parked",
            failure=failure,
            attempts=attempts,
            first_failed_ms=self.first_failed_ms or now_ms,
            next_ms=None if last else now_ms + backoff.wait_ms(attempts),
        )

    def parked(self) -> Parked:
        """The row under which the event waits."""
        assert self.event
        return Parked(
            event_id=self.event.id,
            user_id=self.event.user_id,
            type=self.event.type,
            record=self.record,
            origin=self.origin,
            attempts=self.attempts,
            failure=self.failure,
            first_failed_ms=self.first_failed_ms,
            next_ms=self.next_ms,
            done=self.done,
        )

    def dead(self) -> Dead:
        """The dead letter of this record."""
        assert self.failure
        return Dead(
            self.record,
            self.origin,
            self.failure,
            self.event,
            attempts=max(1, self.attempts),
            first_failed_ms=self.first_failed_ms,
            done=self.done,
        )


def batch_of(outcomes: Sequence[Outcome], stored: Mapping[Origin, int | None]) -> Batch:
    """The batch for the read side to write; `stored` are the positions that it has now."""
    # The last record of each partition decides its position.
    ends = {o.origin: o.record.offset + 1 for o in outcomes if o.polled}
    return Batch(
        applied=[
            Applied(o.event, o.record) for o in outcomes if o.event and o.verdict == "applied"
        ],
        dead=[o.dead() for o in outcomes if o.verdict == "dead"],
        parked=[o.parked() for o in outcomes if o.verdict == "parked"],
        released=[o.parked_row for o in outcomes if o.parked_row],
        moves={origin: (stored.get(origin), end) for origin, end in ends.items()},
    )
