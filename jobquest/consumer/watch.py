"""What the consumer's thread is at, and since when: how a hang is noticed, told and remembered.

The consumer's thread writes it, the supervisor reads it. No thread can be ended from outside, so a
handler that hangs is written down as a failed try of its event: after the restart that it takes,
the event waits for its next try, and everyone else's go on.
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
    """One piece of work; `outcome` is the event's where a handler runs."""

    what: str
    since: float
    outcome: Outcome | None = None


class Watch:
    """One per consumer."""

    def __init__(self, read_side: ReadSide, backoff: Backoff) -> None:
        self._read_side = read_side
        self._backoff = backoff
        self._doing: Doing | None = None
        self._lock = threading.Lock()  # over the two below
        self._noted: Doing | None = None
        self._row: Parked | None = None

    def begin(self, what: str, outcome: Outcome | None = None) -> None:
        """The thread begins something."""
        self._doing = Doing(what, time.monotonic(), outcome)

    def end(self) -> Parked | None:
        """It came to an end; returns the row that `note` has written for it meanwhile."""
        doing, self._doing = self._doing, None
        if doing is None or time.monotonic() - doing.since < STALL_SECONDS:
            return None
        with self._lock:
            row = self._row if self._noted is doing else None
            self._noted = self._row = None
            return row

    @property
    def stalled(self) -> str | None:
        """What hangs, and for how long; None where nothing does."""
        doing = self._doing
        if doing is None:
            return None
        seconds = time.monotonic() - doing.since
        return None if seconds < STALL_SECONDS else f"{_named(doing)} for {seconds:.0f} s now."

    def note(self) -> None:
        """Write down a hanging handler as a failed try, once. Raises Unavailable."""
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
            # The last try too: an event that is not in the log's past yet can't die.
            row = replace(tried.parked(), next_ms=now_ms() + self._backoff.wait_ms(tried.attempts))
            released = [tried.was] if tried.was else []
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
