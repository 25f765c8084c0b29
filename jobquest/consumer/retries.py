"""When a failing event is tried again, how many at once, and when too many fail: the backoff, the
probes and the brake.

Used by the consumer and its reactor. None does anything by itself.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

from jobquest.read.failures import Failure

LONGEST_WAIT_SECONDS = 60.0
JITTER = 0.2
FIRST_PROBES, MOST_PROBES = 5, 100
PROBE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Backoff:
    """`max_attempts` tries of an event's handlers; the first wait is `base_seconds`, each further
    one twice as long, up to a minute, give or take a fifth."""

    max_attempts: int
    base_seconds: float

    def wait_ms(self, attempts: int) -> int:
        """How long to wait after that many tries."""
        seconds = min(self.base_seconds * 2 ** min(attempts - 1, 30), LONGEST_WAIT_SECONDS)
        # So that what failed together is not tried together.
        return int(seconds * 1000 * random.uniform(1 - JITTER, 1 + JITTER))  # noqa: S311


class Brake:
    """Notices when event after event fails, as when what handlers call is away, or when a
    projection has a bug: then the fault is not the events'.

    It counts events, not tries: one that fails again and again harms only itself. Nor does it count
    events that waited already when the consumer started: their failure is known. Handlers are
    counted together; each projection by itself, since events of other types know nothing of it.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._failing: dict[str | None, set[str]] = {}  # the part (None: a handler) -> events
        self._last = ""

    def handler_failed(self, event_id: str, failure: Failure) -> None:
        """An event's handlers failed, for the first time."""
        self._add(None, event_id, failure)

    def handlers_succeeded(self) -> None:
        """An event's handlers did their work."""
        if self._failing:
            self._failing.pop(None, None)

    def write_failed(self, event_id: str, failure: Failure) -> None:
        """An event could not be written because of `failure.part`, or waits for one behind which
        it stays."""
        self._add(failure.part or "the read side", event_id, failure)

    def written(self, part: str) -> None:
        """An event that concerns this part was written."""
        self._failing.pop(part, None)

    @property
    def failing_parts(self) -> list[str]:
        """The projections that have failed since they last did their work."""
        return [part for part in self._failing if part is not None]

    def release(self) -> None:
        """Count afresh."""
        self._failing.clear()

    @property
    def pulled(self) -> str | None:
        """Why the consumer should pause; None if it should not."""
        for part, events in self._failing.items():
            if len(events) >= self._limit:
                who = "The handlers of" if part is None else f"The {part} could not take"
                end = " failed" if part is None else ""
                many = f"{who} {len(events)} events in a row{end}"
                return (
                    f"{many}, the last with {self._last}. Fix the cause, then start the consumer."
                )
        return None

    def _add(self, part: str | None, event_id: str, failure: Failure) -> None:
        self._failing.setdefault(part, set()).add(event_id)
        self._last = failure.error[:300]


class Probes:
    """How many of the events that are due for another try are tried in one step: a few first, more
    if they succeed, and after a second again if none does. What made them fail may still be
    broken, or may not stand all of them at once.

    One waiter's failure holds nobody up: it matters only while more are due than are tried.
    """

    def __init__(self) -> None:
        self.most = FIRST_PROBES
        self._not_before = 0.0

    @property
    def wait(self) -> float:
        """Seconds until the next may be tried."""
        return max(0.0, self._not_before - time.monotonic())

    def tried(self, succeeded: int, *, left: bool) -> None:
        """That many succeeded of those that were tried; whether more are due."""
        if succeeded:
            self.most = min(self.most * 2, MOST_PROBES)
            return
        self.most = FIRST_PROBES
        if left:
            self._not_before = time.monotonic() + PROBE_SECONDS

    def start_again(self) -> None:
        """With a few, at once."""
        self.most, self._not_before = FIRST_PROBES, 0.0
