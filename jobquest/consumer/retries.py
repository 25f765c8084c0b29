"""When a failing event is retried, how many are retried at once, and when the consumer pauses: the
backoff, the probes, the calm and the circuit breaker.

The consumer and its reactor use them. They only decide; they start nothing.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from jobquest.log import Partition
from jobquest.read.failures import Failure

LONGEST_WAIT_SECONDS = 60.0
JITTER = 0.2
FIRST_PROBES, MOST_PROBES = 5, 100
PROBE_SECONDS = 1.0
CALM_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Backoff:
    """`max_attempts` tries of an event's handlers. The first wait is `base_seconds`; each further
    wait is twice as long, up to a minute, plus or minus a fifth."""

    max_attempts: int
    base_seconds: float

    def wait_ms(self, attempts: int) -> int:
        """How long to wait after this many tries."""
        seconds = min(self.base_seconds * 2 ** min(attempts - 1, 30), LONGEST_WAIT_SECONDS)
        # Random, so that events that failed together are not retried together.
        return int(seconds * 1000 * random.uniform(1 - JITTER, 1 + JITTER))  # noqa: S311  # nosec B311


class CircuitBreaker:
    """Opens when event after event fails: then the cause is not the events, but a service that the
    handlers call or a bug in a projection.

    It counts events, not tries, because one event that fails again and again harms only itself.
    Events that are already known to fail or to wait are not counted either. A streak of failures
    ends with a success of the same part (a handler, a projection) for the same type of event: other
    successes may have nothing to do with the cause. Two more streaks are counted: the failures of
    all handlers together, and those of a projection for all types.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._failing: dict[_Streak, set[str]] = {}  # the ids of events
        self._last = ""

    def handler_failed(self, event_id: str, event_type: str, failure: Failure) -> None:
        """An event's handlers failed for the first time."""
        self._add(event_id, failure, _HANDLERS, _Streak(failure.part or "", event_type))

    def handlers_succeeded(self, event_type: str, parts: Iterable[str]) -> None:
        """An event's handlers succeeded."""
        if self._failing:
            for streak in (_HANDLERS, *(_Streak(part, event_type) for part in parts)):
                self._failing.pop(streak, None)

    def write_failed(self, event_id: str, event_type: str, failure: Failure) -> None:
        """An event could not be written because of `failure.part`, or it waits behind an event that
        could not."""
        part = failure.part or "read side"
        self._add(event_id, failure, _Streak(part, ""), _Streak(part, event_type))

    def written(self, event_type: str, concerned: Callable[[str], bool]) -> None:
        """An event was written; `concerned(part)` says whether the event needs a part."""
        for streak in [one for one in self._failing if not one.part.startswith("handler")]:
            if streak.event_type in ("", event_type) and concerned(streak.part):
                del self._failing[streak]

    def reset(self) -> None:
        """Forget all failures."""
        self._failing.clear()

    @property
    def open_reason(self) -> str | None:
        """Why the consumer should pause; None if it should not."""
        for streak, events in self._failing.items():
            if len(events) >= self._limit:
                return f"{streak.describe(len(events))}, the last with {self._last}. {_ADVICE}"
        return None

    def _add(self, event_id: str, failure: Failure, *streaks: _Streak) -> None:
        for streak in streaks:
            self._failing.setdefault(streak, set()).add(event_id)
        self._last = failure.error[:300]


class _Streak(NamedTuple):
    """Failures of one part, one after another; an empty `event_type` means all types."""

    part: str
    event_type: str

    def describe(self, count: int) -> str:
        types = f" ({self.event_type})" if self.event_type else ""
        if self == _HANDLERS:
            return f"The handlers of {count} events in a row failed"
        if self.part.startswith("handler"):
            return f"The {self.part} failed for {count} events in a row{types}"
        return f"The {self.part} could not write {count} events in a row{types}"


_HANDLERS = _Streak("handlers", "")  # all handlers together
_ADVICE = "Fix the cause, then start the consumer."


class Probes:
    """How many of the events that are due are retried in one step: a few at first, more if they
    succeed, and if none succeeds, a few again after a second. The cause of the failures may still
    exist, or may not bear all of the events at once.

    The failure of a single waiting event delays nobody: the pause applies only if more are due than
    were retried.
    """

    def __init__(self) -> None:
        self.most = FIRST_PROBES
        self._not_before = 0.0

    @property
    def wait(self) -> float:
        """Seconds until the next retry is allowed."""
        return max(0.0, self._not_before - time.monotonic())

    def tried(self, succeeded: int, *, left: bool) -> None:
        """Report that `succeeded` of the retried events succeeded, and whether more are due."""
        if succeeded:
            self.most = min(self.most * 2, MOST_PROBES)
            return
        self.most = FIRST_PROBES
        if left:
            self._not_before = time.monotonic() + PROBE_SECONDS

    def start_again(self) -> None:
        """Retry a few, now."""
        self.most, self._not_before = FIRST_PROBES, 0.0


class Calm:
    """The partitions in which nothing waits for another try, so that each step need not ask.

    Only their reader parks events there. A reader before it may have parked one after the last
    look; then a position has moved too, and the first batch is refused. Only a rebuild of a lost
    read side restores waiting events beside the reader, therefore nothing is believed for long.
    """

    def __init__(self) -> None:
        self._partitions: Collection[Partition] = ()
        self._until = 0.0

    def begin(self, partitions: Collection[Partition]) -> None:
        """Nothing waits in these partitions now."""
        self._partitions, self._until = partitions, time.monotonic() + CALM_SECONDS

    def holds(self, partitions: Collection[Partition]) -> bool:
        """Whether that was said of these partitions, not long ago."""
        return partitions == self._partitions and time.monotonic() < self._until

    def end(self) -> None:
        """Something may wait."""
        self._until = 0.0
