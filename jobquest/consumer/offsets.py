"""Which offsets the group may commit: those before which the log has every record of our own, too
(follow-ups, dead letters, what waits).

A read side that is lost is rebuilt up to the group's offsets, so what the database alone knows must
lie behind them. Belongs to the consumer's thread; commits nothing by itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from jobquest.log import Partition

LOOK_SECONDS = 0.2  # from one look at what waits for the log to the next


class Offsets:
    """`outgoing_since` tells since when the oldest of our records waits for the log (None: none
    does), and now, in Unix milliseconds of one clock."""

    def __init__(self, outgoing_since: Callable[[], tuple[int | None, int]]) -> None:
        self._outgoing_since = outgoing_since
        self._reached: dict[Partition, int] = {}
        self._settling: dict[Partition, int] = {}  # reached before the next
        self._settling_ms = 0
        self._looked = 0.0

    def reach(self, offsets: Mapping[Partition, int]) -> None:
        """Events before these offsets are applied."""
        self._reached |= offsets

    def ready(self, *, at_once: bool = False) -> dict[Partition, int]:
        """The offsets to commit, each once. Looks from time to time, unless `at_once`. Raises
        Unavailable."""
        is_over = time.monotonic() - self._looked > LOOK_SECONDS
        if not (self._reached or self._settling) or not (at_once or is_over):
            return {}
        self._looked = time.monotonic()
        oldest_ms, now_ms = self._outgoing_since()
        if oldest_ms is None:
            ready, self._reached, self._settling = self._settling | self._reached, {}, {}
            return ready
        ready = {}
        if oldest_ms > self._settling_ms:
            ready, self._settling = self._settling, {}
        if not self._settling:
            self._settling, self._reached, self._settling_ms = self._reached, {}, now_ms
        return ready
