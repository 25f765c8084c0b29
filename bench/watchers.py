"""Viewers of the live stream in one light process: reads frames, records when each arrived. Run by
the measures:

    python -m bench.watchers URL VIEWERS STALLED [USERS]

It prints "ready" when all are connected, reads until its input ends, and prints as JSON how many of
the bench's events arrived and how old they were. A stalled viewer reads nothing for the first 15 s.
With USERS, each of so many users has a socket with its own events too, opened with that user's
token; their figures are `own`.
"""

from __future__ import annotations

import json
import re
import selectors
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

from bench.workload import API_KEY, token
from jobquest import open_files
from tests.frames import Upgrade

STALL_SECONDS = 15.0
READ_BYTES = 262_144
_SENT = re.compile(rb'"id":"bench-(\d+)-')
_TENTH_OF_MS = 100_000  # ns


@dataclass
class Arrivals:
    """The arrival of every frame. All viewers get the same frames, so each is parsed only once."""

    sent_ns: dict[bytes, list[int]] = field(default_factory=dict)
    arrived: list[tuple[int, bytes]] = field(default_factory=list)

    def note(self, arrived_ns: int, frame: bytes) -> None:
        begin = frame[:100]  # contains the number of its first change
        if begin not in self.sent_ns:
            self.sent_ns[begin] = [int(found) for found in _SENT.findall(frame)]
        self.arrived.append((arrived_ns, begin))

    def figures(self) -> dict[str, float]:
        ages: Counter[int] = Counter()  # in tenths of a millisecond
        for arrived_ns, begin in self.arrived:
            for sent_ns in self.sent_ns[begin]:
                ages[(arrived_ns - sent_ns) // _TENTH_OF_MS] += 1
        received = ages.total()
        return {"received": received, "p50_ms": _cut(ages, 0.5), "p99_ms": _cut(ages, 0.99)}


class Watcher:
    """One viewer's connection."""

    def __init__(self, url: str, arrivals: Arrivals, credential: str = API_KEY) -> None:
        upgraded = Upgrade(url, Authorization=f"Bearer {credential}")
        assert upgraded.code == 101, upgraded.head
        self.socket = upgraded.socket
        self.socket.setblocking(False)
        self._arrivals = arrivals
        self._buffer = b""

    def read(self) -> bool:
        """Read what has arrived; False if the connection has ended."""
        try:
            data = self.socket.recv(READ_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            return False
        arrived_ns = time.time_ns()
        self._buffer += data
        while (size := _frame_size(self._buffer)) and size <= len(self._buffer):
            self._arrivals.note(arrived_ns, self._buffer[:size])
            self._buffer = self._buffer[size:]
        return bool(data)


def _frame_size(buffer: bytes) -> int:
    """The size of the buffer's first frame (RFC 6455, section 5.2); 0 if it is not known yet."""
    if len(buffer) < 10:
        return 0
    size = buffer[1]
    if size < 126:
        return 2 + size
    if size == 126:
        return 4 + int.from_bytes(buffer[2:4])
    return 10 + int.from_bytes(buffer[2:10])


def _cut(ages: Counter[int], share: float) -> float:
    """The age in ms that the given share of all does not exceed."""
    left = ages.total() * share
    for age in sorted(ages):
        left -= ages[age]
        if left <= 0:
            return age / 10
    return 0.0


def main(url: str, viewers: int, stalled: int, users: int = 0) -> None:
    open_files.raise_limit()
    arrivals, unseen, own = Arrivals(), Arrivals(), Arrivals()
    selector = selectors.DefaultSelector()
    watchers = [Watcher(url, arrivals) for _ in range(viewers)]
    watchers += [Watcher(url, own, token(f"user_{number}")) for number in range(users)]
    for watcher in watchers:
        selector.register(watcher.socket, selectors.EVENT_READ, watcher)
    sleepers = [Watcher(url, unseen) for _ in range(stalled)]
    selector.register(sys.stdin, selectors.EVENT_READ)
    print("ready", flush=True)
    wakes_at, has_ended = time.monotonic() + STALL_SECONDS, False
    while not has_ended:
        for key, _ in selector.select(0.5):
            if key.data is None:
                has_ended = True
            elif not key.data.read():
                selector.unregister(key.fileobj)
        if sleepers and time.monotonic() > wakes_at:
            for watcher in sleepers:
                selector.register(watcher.socket, selectors.EVENT_READ, watcher)
            sleepers = []
    print(json.dumps({**arrivals.figures(), "own": own.figures()}))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
