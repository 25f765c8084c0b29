"""Decides which offsets the group may commit: those for which all of our own records (follow-ups,
dead letters, parked events) from events before them have reached the log.

A lost read side is rebuilt up to the group's committed offsets. So whatever only the database knows
must come from events behind them. Belongs to the consumer's thread; it commits nothing itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from jobquest.log import Partition

LOOK_SECONDS = 0.2  # between two looks at the records that wait for the log
LOOK_SHARE = 0.05  # of the time, at most: the database may be far away


class Offsets:
    """`outgoing_since` returns since when our oldest record waits for the log (None if none does),
    and the current time, both in Unix milliseconds of the same clock."""

    def __init__(self, outgoing_since: Callable[[], tuple[int | None, int]]) -> None:
        self._outgoing_since = outgoing_since
        self._reached: dict[Partition, int] = {}
        self._settling: dict[Partition, int] = {}  # ready once the records of that time are sent
        self._settling_ms = 0
        self._next_look = 0.0

    def reach(self, offsets: Mapping[Partition, int]) -> None:
        """Events before these offsets are applied."""
        self._reached |= offsets

    def ready(self, *, at_once: bool = False) -> dict[Partition, int]:
        """The offsets to commit, each returned once. Looks every LOOK_SECONDS or less often, or now
        if `at_once`. Raises Unavailable."""
        began = time.monotonic()
        if not (self._reached or self._settling) or not (at_once or began > self._next_look):
            return {}
        self._next_look = began + LOOK_SECONDS
        oldest_ms, now_ms = self._outgoing_since()
        self._next_look = began + max(LOOK_SECONDS, (time.monotonic() - began) / LOOK_SHARE)
        if oldest_ms is None:
            ready, self._reached, self._settling = self._settling | self._reached, {}, {}
            return ready
        ready = {}
        if oldest_ms > self._settling_ms:
            ready, self._settling = self._settling, {}
        if not self._settling:
            self._settling, self._reached, self._settling_ms = self._reached, {}, now_ms
        return ready
