"""Clients that wrk can't simulate: they send a request in two TCP segments (head, then body), or
keep to a rate. One light process with a single thread; run by the measures:

    python -m bench.clients URL REQUEST CONNECTIONS SPLIT SECONDS RATE [READ_SIDE]

REQUEST names a function of `workload`. The first SPLIT connections send in two segments. With a
RATE of 0, each sends its next request as soon as it has an answer. The process prints "ready" once
connected, starts with the first line on its input, and prints its `Figures` as JSON.

With a rate, times count from when a request was due, so waiting for a free connection counts too.
Requests that are unsent 3 s after the end are dropped. With READ_SIDE, it also looks for every 20th
answered event in the table `events` of that SQLite file (`Watch`), and waits at the end until all
of those are there.
"""

from __future__ import annotations

import argparse
import json
import re
import select
import socket
import sqlite3
import statistics
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import urlsplit

from bench import workload
from bench.workload import ID, Ids, Request

READ_BYTES = 262_144
LOOK_SECONDS = 0.02  # between two looks at the read side
WATCHED = 20  # every 20th answered event is watched
LOST_SECONDS = 60.0  # an event that is not processed by then counts as lost
EVEN_RATE = 500  # up to this rate, requests are due one by one; above it, in groups
GROUP_SECONDS = 0.005
LATE_SECONDS = 3.0
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")


@dataclass
class Figures:
    """A run's figures. `answered`, `refused` and `unsent` count events. `cpu` is this process's
    share of a core. `processed_…` is the time from an answer to the event's row."""

    answered: int
    seconds: float
    p50_ms: float
    p99_ms: float
    cpu: float = 0.0
    refused: int = 0
    unsent: int = 0
    processed_p50_ms: float = 0.0
    processed_p99_ms: float = 0.0


def due(rate: float, seconds: float) -> Iterator[float]:
    """When each request is due, in seconds from the start. Above `EVEN_RATE`, the requests of 5 ms
    are due together, so that this process wakes 200 times a second and not once per request."""
    for number in range(round(rate * seconds)):
        at = number / rate
        yield at if rate <= EVEN_RATE else at // GROUP_SECONDS * GROUP_SECONDS


class Requests:
    """The texts of requests in turn, with new ids; the last id in a text is the event's."""

    def __init__(self, request: Request, host: str) -> None:
        self._cut = [text.encode().split(ID.encode()) for text in request.texts(host)]
        self._ids, self._number = Ids(), 0

    def next(self) -> tuple[bytes, str]:
        """One request, and the last id in it."""
        first, *pieces = self._cut[self._number % len(self._cut)]
        self._number += 1
        parts, id = [first], ""
        for piece in pieces:
            id = self._ids.new()
            parts += (id.encode(), piece)
        return b"".join(parts), id


class Client:
    """One kept-alive connection with at most one request in flight."""

    def __init__(self, address: tuple[str, int], *, split: bool) -> None:
        self.socket = socket.create_connection(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.split = split
        self.due, self.id = 0.0, ""
        self._got = b""

    def send(self, text: bytes) -> None:
        if self.split:
            body_at = text.index(b"\r\n\r\n") + 4
            self.socket.sendall(text[:body_at])
            text = text[body_at:]
        self.socket.sendall(text)

    def answered(self) -> bytes | None:
        """Read what has arrived. Returns the status code once the answer is complete. Raises
        OSError if the connection was closed."""
        data = self.socket.recv(READ_BYTES)
        if not data:
            raise OSError(f"a connection was closed: {self._got[:500]!r}")
        self._got += data
        head, end, body = self._got.partition(b"\r\n\r\n")
        length = _LENGTH.search(head) if end else None
        if length is None or len(body) < int(length[1]):
            return None
        self._got = b""
        return head[9:12]


@dataclass
class Watch:
    """Looks for answered events in a read side. Their age there is measured to 20 ms."""

    path: str
    ages_ms: list[float] = field(default_factory=list)
    waiting: dict[str, float] = field(default_factory=dict)
    _answers: int = 0
    _looks_at: float = 0.0

    def __post_init__(self) -> None:
        self._db = sqlite3.connect(f"file:{self.path}?mode=ro", uri=True, isolation_level=None)

    def answered(self, id: str, now: float) -> None:
        self._answers += 1
        if self._answers % WATCHED == 0:
            self.waiting[id] = now

    def look(self, now: float) -> None:
        """Find the events that are there now; at most once in 20 ms."""
        if not self.waiting or now < self._looks_at:
            return
        self._looks_at = now + LOOK_SECONDS
        ids = list(self.waiting)
        query = f"SELECT id FROM events WHERE id IN ({','.join('?' * len(ids))})"
        for (id,) in self._db.execute(query, ids).fetchall():
            self.ages_ms.append((now - self.waiting.pop(id)) * 1000)

    def finish(self) -> None:
        """Wait for the rest. Raises OSError if one does not arrive."""
        until = time.perf_counter() + LOST_SECONDS
        while self.waiting:
            now = time.perf_counter()
            if now > until:
                raise OSError(f"{len(self.waiting)} answered events were never processed")
            self.look(now)
            time.sleep(LOOK_SECONDS)  # between two looks


class Load:
    """All clients of one run."""

    def __init__(self, clients: list[Client], requests: Requests, watch: Watch | None) -> None:
        self.took_ms: list[float] = []
        self.refused = self.unsent = 0
        self._requests, self._watch = requests, watch
        self._free = deque(clients)
        self._poll = select.epoll()
        self._by_number = {client.socket.fileno(): client for client in clients}
        for number in self._by_number:
            self._poll.register(number, select.EPOLLIN)

    def at_rate(self, rate: float, seconds: float) -> float:
        """Send each request when it is due and a client is free, until all are answered. Returns
        how long that took."""
        began = time.perf_counter()
        coming, waiting = due(rate, seconds), deque[float]()
        upcoming = next(coming, None)
        while upcoming is not None or waiting or self._is_busy:
            now = time.perf_counter() - began
            while upcoming is not None and upcoming <= now:
                waiting.append(upcoming)
                upcoming = next(coming, None)
            while waiting and self._free:
                self._send(began + waiting.popleft())
            if now > seconds + LATE_SECONDS:
                self.unsent += len(waiting)
                waiting.clear()
            pause = max(0.0, upcoming - now) if upcoming is not None else LOOK_SECONDS
            self._receive(pause, in_groups=rate > EVEN_RATE)
        return time.perf_counter() - began

    def without_pause(self, seconds: float) -> float:
        """Let each client send its next request after each answer. Returns how long it took."""
        began = time.perf_counter()
        while (now := time.perf_counter()) - began < seconds or self._is_busy:
            while self._free and now - began < seconds:
                self._send(now)
            self._receive(LOOK_SECONDS)
        return time.perf_counter() - began

    @property
    def _is_busy(self) -> bool:
        return len(self._free) < len(self._by_number)

    def _send(self, since: float) -> None:
        client = self._free.popleft()
        text, client.id = self._requests.next()
        client.due = since
        client.send(text)

    def _receive(self, seconds: float, *, in_groups: bool = False) -> None:
        """Read the answers that arrive within `seconds`, at least the first of them."""
        if in_groups:
            time.sleep(min(seconds, GROUP_SECONDS))  # answers collect, and are read together
            seconds = 0.0
        # epoll counts whole milliseconds, which would be late for a request due between two.
        select.select([self._poll], [], [], min(seconds, LOOK_SECONDS))
        for number, _ in self._poll.poll(0):
            client = self._by_number[number]
            if code := client.answered():
                self._note(client, accepted=code.startswith(b"20"))
                self._free.append(client)
        if self._watch:
            self._watch.look(time.perf_counter())

    def _note(self, client: Client, *, accepted: bool) -> None:
        if not accepted:
            self.refused += 1
            return
        now = time.perf_counter()
        self.took_ms.append((now - client.due) * 1000)
        if self._watch:
            self._watch.answered(client.id, now)


def main(options: argparse.Namespace) -> Figures:
    request: Request = getattr(workload, options.request)()
    host = urlsplit(options.url)
    assert host.hostname
    assert host.port
    watch = Watch(options.read_side) if options.read_side else None
    clients = [
        Client((host.hostname, host.port), split=number < options.split)
        for number in range(options.connections)
    ]
    load = Load(clients, Requests(request, host.netloc), watch)
    print("ready", flush=True)
    sys.stdin.readline()
    cpu = time.process_time()
    if options.rate:
        seconds = load.at_rate(options.rate, options.seconds)
    else:
        seconds = load.without_pause(options.seconds)
    figures = Figures(len(load.took_ms) * request.events, seconds, *_cuts(load.took_ms))
    figures.cpu = (time.process_time() - cpu) / seconds
    figures.refused, figures.unsent = load.refused * request.events, load.unsent * request.events
    if watch:
        watch.finish()
        figures.processed_p50_ms, figures.processed_p99_ms = _cuts(watch.ages_ms)
    return figures


def _cuts(values: Sequence[float]) -> tuple[float, float]:
    """The 50th and the 99th percentile."""
    if len(values) < 2:
        return (values[0], values[0]) if values else (0.0, 0.0)
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return cuts[49], cuts[98]


def _options(arguments: list[Any] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Clients that wrk can't simulate.")
    parser.add_argument("url")
    parser.add_argument("request", choices=["realistic", "realistic_batch"])
    parser.add_argument("connections", type=int)
    parser.add_argument("split", type=int)
    parser.add_argument("seconds", type=float)
    parser.add_argument("rate", type=float)
    parser.add_argument("read_side", nargs="?")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    print(json.dumps(asdict(main(_options()))))
