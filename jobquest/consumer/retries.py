"""When a failing event is tried again, how many at once, and when too many fail: the backoff, the
probes and the circuit breaker.

Used by the consumer and its reactor. None does anything by itself.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

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


class CircuitBreaker:
    """Notices when event after event fails, as when what handlers call is away, or when a
    projection has a bug: then the fault is not the events'.

    It counts events, not tries: one that fails again and again harms only itself. Nor does it count
    events that are known to fail or to wait. A row of failures ends with a success of the same part
    (a handler, a projection) for the same type of event, since others may know nothing of the
    cause; the failures of all handlers, and of a projection for all types, are rows of their own.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._failing: dict[_Row, set[str]] = {}  # the ids of events
        self._last = ""

    def handler_failed(self, event_id: str, event_type: str, failure: Failure) -> None:
        """An event's handlers failed, for the first time."""
        self._add(event_id, failure, _HANDLERS, _Row(failure.part or "", event_type))

    def handlers_succeeded(self, event_type: str, parts: Iterable[str]) -> None:
        """An event's handlers did their work."""
        if self._failing:
            for row in (_HANDLERS, *(_Row(part, event_type) for part in parts)):
                self._failing.pop(row, None)

    def write_failed(self, event_id: str, event_type: str, failure: Failure) -> None:
        """An event could not be written because of `failure.part`, or waits for one behind which
        it stays."""
        part = failure.part or "read side"
        self._add(event_id, failure, _Row(part, ""), _Row(part, event_type))

    def written(self, event_type: str, concerned: Callable[[str], bool]) -> None:
        """An event was written; whether that needed a part."""
        for row in [one for one in self._failing if not one.part.startswith("handler")]:
            if row.event_type in ("", event_type) and concerned(row.part):
                del self._failing[row]

    def reset(self) -> None:
        """Count afresh."""
        self._failing.clear()

    @property
    def open_reason(self) -> str | None:
        """Why the consumer should pause; None if it should not."""
        for row, events in self._failing.items():
            if len(events) >= self._limit:
                return f"{row.told(len(events))}, the last with {self._last}. {_ADVICE}"
        return None

    def _add(self, event_id: str, failure: Failure, *rows: _Row) -> None:
        for row in rows:
            self._failing.setdefault(row, set()).add(event_id)
        self._last = failure.error[:300]


class _Row(NamedTuple):
    """Failures in a row of one part; `event_type` "": whatever the type."""

    part: str
    event_type: str

    def told(self, count: int) -> str:
        types = f" ({self.event_type})" if self.event_type else ""
        if self == _HANDLERS:
            return f"The handlers of {count} events in a row failed"
        if self.part.startswith("handler"):
            return f"The {self.part} failed for {count} events in a row{types}"
        return f"The {self.part} could not take {count} events in a row{types}"


_HANDLERS = _Row("handlers", "")  # of whatever name
_ADVICE = "Fix the cause, then start the consumer."


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
