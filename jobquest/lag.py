"""How far the group is behind the log, and how fast both grow. Called by the runtime."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jobquest.clock import now_ms
from jobquest.errors import ReadSideUnavailable, Unavailable
from jobquest.log import EventLog, Origin, Partition, PartitionInfo
from jobquest.read import ReadSide
from jobquest.read.failures import read_side_failed

logger = logging.getLogger(__name__)

FRESH_SECONDS = 1.0
RATE_SECONDS = 10.0  # over which a rate is measured
SHORTEST_SECONDS = 0.5  # a rate over less time means nothing


@dataclass(frozen=True, slots=True)
class Progress:
    """`lag`: `messages`, the `seconds` since the oldest of them was appended, and `caughtUpIn`, the
    seconds until the group has caught up at this rate. `rate`: records per second that the log has
    accepted (`taken`) and the group has `processed`. `topics`: accepted records per second, by
    topic. None: unknown. `left`: for each partition (`topic/number`) that is behind, how many of
    its records are left, and when the first of them was appended (Unix milliseconds).
    """

    lag: dict[str, Any]
    rate: dict[str, float | None]
    topics: Mapping[str, float] = field(default_factory=dict)
    left: Mapping[str, tuple[int, int | None]] = field(default_factory=dict)
    error: Unavailable | None = None

    def lag_of(self, partitions: Collection[str]) -> dict[str, Any]:
        """The `messages` and `seconds` of some partitions; None if unknown."""
        if self.lag["messages"] is None:
            return {"messages": None, "seconds": None}
        return _summed([self.left[place] for place in partitions if place in self.left])


@dataclass(frozen=True, slots=True)
class _Sample:
    """For each partition: the log's next offset, and the group's."""

    at: float
    offsets: Mapping[Origin, tuple[int, int]]


class Lag:
    """Measures at most once a second, however often it is called."""

    def __init__(self, log: EventLog, read_side: ReadSide, topics: Sequence[str]) -> None:
        self._log = log
        self._read_side = read_side
        self._topics = topics
        self._lock = threading.Lock()
        self._measured = -FRESH_SECONDS
        self._samples: deque[_Sample] = deque()
        self._last = _unknown(None)

    def now(self) -> Progress:
        """The current progress. Concurrent callers share one measurement, so that only one of them
        waits for a log that is away; the others get the latest result."""
        never = self._measured < 0
        if self._lock.acquire(blocking=never):
            try:
                if time.monotonic() - self._measured >= FRESH_SECONDS:
                    self._last = self._answer()
                    self._measured = time.monotonic()
            finally:
                self._lock.release()
        return self._last

    @property
    def partitions(self) -> frozenset[str]:
        """The partitions that existed at the last look: `topic/number`."""
        offsets = self._samples[-1].offsets if self._samples else ()
        return frozenset(f"{origin.topic}/{origin.number}" for origin in offsets)

    def sample(self) -> None:
        """Record the offsets of log and group, for later rates. Never waits for another caller."""
        if self._lock.acquire(blocking=False):
            try:
                self._offsets()
            except Exception as error:
                logger.debug("The lag could not be measured: %s", error)  # `now` reports it
            finally:
                self._lock.release()

    def _answer(self) -> Progress:
        try:
            return self._measure()
        except Unavailable as error:
            return _unknown(error)
        except Exception as error:
            return _unknown(ReadSideUnavailable(read_side_failed(error)))

    def _measure(self) -> Progress:
        offsets = self._offsets()
        left = left_of(self._log, offsets)
        behind = _summed(left.values())
        messages = behind["messages"]
        accepted, processed, topics = self._rates()
        gain = (processed or 0.0) - (accepted or 0.0)
        return Progress(
            {
                **behind,
                "caughtUpIn": round(messages / gain, 1) if messages and gain > 0 else None,
            },
            {"taken": accepted, "processed": processed},
            topics,
            {f"{one.topic}/{one.number}": found for one, found in left.items()},
        )

    def _offsets(self) -> Mapping[Origin, tuple[int, int]]:
        found = self._log.describe(self._topics)
        stored = self._read_side.positions([info.origin for info in found])
        offsets = {info.origin: (info.next, next_to_read(info, stored)) for info in found}
        self._remember(_Sample(time.monotonic(), offsets))
        return offsets

    def _remember(self, sample: _Sample) -> None:
        self._samples.append(sample)
        while len(self._samples) > 2 and sample.at - self._samples[1].at >= RATE_SECONDS:
            self._samples.popleft()

    def _rates(self) -> tuple[float | None, float | None, dict[str, float]]:
        first, last = self._samples[0], self._samples[-1]
        seconds = last.at - first.at
        if seconds < SHORTEST_SECONDS:
            return None, None, {}
        accepted = processed = 0.0
        topics: dict[str, float] = {}
        for origin, (end, at) in last.offsets.items():
            # A partition that is new counts from its first sample on.
            was_end, was_at = first.offsets.get(origin, (end, at))
            topics[origin.topic] = topics.get(origin.topic, 0.0) + (end - was_end) / seconds
            accepted += (end - was_end) / seconds
            processed += (at - was_at) / seconds
        rounded = {topic: round(rate, 2) for topic, rate in topics.items()}
        return round(accepted, 2), round(processed, 2), rounded


def left_of(
    log: EventLog, offsets: Mapping[Origin, tuple[int, int]]
) -> dict[Origin, tuple[int, int | None]]:
    """For each partition that is behind: how many offsets are left, from the first one that has a
    record (there may be none, because offsets after a transaction have no record), and when that
    record was appended. `offsets` are the log's next offset and the group's. For a topic that may
    not be read, all offsets are left. Raises LogUnavailable."""
    unreadable = {topic for topic, rights in log.missing_rights().items() if "READ" in rights}
    behind = {
        Partition(origin.topic, origin.number): (at, end)
        for origin, (end, at) in offsets.items()
        if at < end and origin.topic not in unreadable
    }
    found = log.read_each(behind, 1) if behind else {}
    left: dict[Origin, tuple[int, int | None]] = {}
    for origin, (end, at) in offsets.items():
        if origin.topic in unreadable:
            left[origin] = (end - at, None)
        if head := found.get(Partition(origin.topic, origin.number)):
            first = head.records[0] if head.records else None
            at = first.offset if first else head.next
            left[origin] = (end - at, first.timestamp_ms if first else None)
    return left


def _summed(left: Collection[tuple[int, int | None]]) -> dict[str, Any]:
    times = [since_ms for _, since_ms in left if since_ms is not None]
    age_ms = max(0, now_ms() - min(times)) if times else 0
    return {"messages": sum(count for count, _ in left), "seconds": round(age_ms / 1000, 3)}


def _unknown(error: Unavailable | None) -> Progress:
    nothing = {"messages": None, "seconds": None, "caughtUpIn": None}
    return Progress(nothing, {"taken": None, "processed": None}, error=error)


def next_to_read(info: PartitionInfo, stored: Mapping[Origin, int]) -> int:
    """The group's next offset, within what the log still has."""
    return min(max(stored.get(info.origin, info.first), info.first), info.next)
