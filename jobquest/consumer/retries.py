"""When a failing event is tried again, and when too many fail: the backoff and the brake.

Used by the reactor. Neither does anything by itself.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from jobquest.read.failures import Failure

LONGEST_WAIT_SECONDS = 60.0
JITTER = 0.2


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
    """Notices when events fail one after the other, as they do when what handlers call is away.

    It counts events, not tries: one that fails again and again harms only itself.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._failing: set[str] = set()
        self._last = ""

    def failed(self, event_id: str, failure: Failure) -> None:
        """An event's handlers failed."""
        self._failing.add(event_id)
        self._last = f"{failure.error_class}: {failure.error}"[:300]

    def succeeded(self) -> None:
        """An event's handlers did their work."""
        if self._failing:
            self._failing.clear()

    def release(self) -> None:
        """Count afresh."""
        self._failing.clear()

    @property
    def pulled(self) -> str | None:
        """Why the consumer should pause; None where it should not."""
        if len(self._failing) < self._limit:
            return None
        many = f"The handlers of {len(self._failing)} events in a row failed"
        return f"{many}, the last with {self._last}. Mend the cause, then start the consumer."
