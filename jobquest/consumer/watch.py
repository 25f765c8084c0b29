"""What the consumer's thread is doing, and since when: how a hang is noticed, reported and stored.

The consumer's thread writes it, the supervisor reads it. No thread can be ended from outside, so a
hanging handler is stored as a failed try of its event. The process has to be restarted; after that,
the event waits for its next try, and the events of everyone else continue.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace

from jobquest.clock import now_ms
from jobquest.consumer.outcomes import Outcome
from jobquest.consumer.retries import Backoff
from jobquest.errors import PositionMoved
from jobquest.read import Batch, Parked, ReadSide
from jobquest.read.failures import Failure

STALL_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Doing:
    """One piece of work; `outcome` is set if a handler runs, for its event."""

    what: str
    since: float
    outcome: Outcome | None = None


class Watch:
    """Watches the consumer's thread; one per consumer."""

    def __init__(self, read_side: ReadSide, backoff: Backoff) -> None:
        self._read_side = read_side
        self._backoff = backoff
        self._doing: Doing | None = None
        self._lock = threading.Lock()  # guards the next two
        self._noted: Doing | None = None
        self._row: Parked | None = None

    def begin(self, what: str, outcome: Outcome | None = None) -> None:
        """The thread begins a piece of work."""
        self._doing = Doing(what, time.monotonic(), outcome)

    def end(self) -> Parked | None:
        """The work ended. Returns the row that `note` has written for it meanwhile, if any."""
        doing, self._doing = self._doing, None
        if doing is None or time.monotonic() - doing.since < STALL_SECONDS:
            return None
        with self._lock:
            row = self._row if self._noted is doing else None
            self._noted = self._row = None
            return row

    @property
    def stalled(self) -> str | None:
        """What hangs, and for how long; None if nothing hangs."""
        doing = self._doing
        if doing is None:
            return None
        seconds = time.monotonic() - doing.since
        return None if seconds < STALL_SECONDS else f"{_named(doing)} for {seconds:.0f} s now."

    def note(self) -> None:
        """Store a hanging handler as a failed try, once. Raises Unavailable."""
        with self._lock:
            doing = self._doing
            hangs = doing and time.monotonic() - doing.since >= STALL_SECONDS
            if not hangs or doing is None or doing.outcome is None or self._noted is doing:
                return
            tried = doing.outcome.failed(
                Failure(f"{_named(doing)}.", "HandlerStalled", part=_part(doing)),
                now_ms(),
                self._backoff,
            )
            # Even after the last try: an event whose record is not passed yet can't die.
            row = replace(tried.parked(), next_ms=now_ms() + self._backoff.wait_ms(tried.attempts))
            released = [tried.parked_row] if tried.parked_row else []
            try:
                self._read_side.apply(Batch(parked=[row], released=released))
                self._noted, self._row = doing, row
            except PositionMoved:  # another process has the event now
                self._noted, self._row = doing, None


def _part(doing: Doing) -> str:
    return doing.what.replace("The handler", "handler", 1)


def _named(doing: Doing) -> str:
    if doing.outcome is None or doing.outcome.event is None:
        return f"{doing.what} has hung"
    event = doing.outcome.event
    return f"{doing.what} has not returned from event {event.id} ({event.type})"
