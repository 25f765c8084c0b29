"""The feed: what viewers are sent, and that one who does not read delays nobody."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any

import pytest

from jobquest.feed import MAX_BACKLOG_BYTES, RING_ITEMS, Feed, Filter, Viewer
from jobquest.runtime import Runtime
from tests.samples import SAMPLES


@pytest.fixture
def feed(runtime: Runtime) -> Iterator[Feed]:
    runtime.feed.start()
    yield runtime.feed
    runtime.feed.stop()


class Screen:
    """The other end of a viewer's socket: decodes frames as a browser would."""

    def __init__(self, feed: Feed, wanted: Filter = Filter(), since: int | None = None) -> None:  # noqa: B008
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(5)
        self._buffer = b""
        self.viewer = feed.join(theirs, wanted, since, b'{"state": "idle"}')
        assert self.viewer

    def frame(self) -> tuple[int, bytes]:
        first, size = self._take(2)
        if size == 126:
            (size,) = struct.unpack("!H", self._take(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", self._take(8))
        return first, self._take(size)

    def message(self) -> dict[str, Any]:
        opcode, payload = self.frame()
        assert opcode == 0x81
        found: dict[str, Any] = json.loads(payload)
        return found

    def ids(self, count: int) -> list[str]:
        """The ids of the next `count` items."""
        found: list[str] = []
        while len(found) < count:
            message = self.message()
            if message["kind"] == "events":
                found += [item["event"]["id"] for item in message["items"]]
        return found

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            more = self._socket.recv(65536)
            assert more, "the connection ended"
            self._buffer += more
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken


def publish(runtime: Runtime, *ids: str, user: str = "ada") -> None:
    for id in ids:
        runtime.producer.publish("notification.sent", user, SAMPLES["notification.sent"], id=id)
    while runtime.consumer.step():
        pass


def test_a_viewer_is_greeted_and_then_sees_what_happens(runtime: Runtime, feed: Feed) -> None:
    publish(runtime, "before")
    screen = Screen(feed)
    hello = screen.message()
    assert hello["kind"] == "hello"
    assert hello["epoch"] == runtime.queries.epoch()
    assert hello["status"] == {"state": "idle"}
    publish(runtime, "one", "two")
    shown = screen.ids(2)
    assert shown[-1] == "two"


def test_a_filter_lets_only_its_own_through(runtime: Runtime, feed: Feed) -> None:
    ada = Screen(feed, Filter(users=frozenset({"ada"}), types=frozenset({"notification.sent"})))
    nobody = Screen(feed, Filter(topics=frozenset({"achievements"})))
    publish(runtime, "theirs", user="grace")
    publish(runtime, "hers")
    assert ada.ids(1) == ["hers"]
    assert nobody.message()["kind"] == "hello"
    feed.stop()
    assert nobody.frame() == (0x88, struct.pack("!H", 1001))


def test_what_came_while_a_viewer_was_away_is_replayed(runtime: Runtime, feed: Feed) -> None:
    publish(runtime, "a", "b", "c")
    first = Screen(feed, since=1)
    assert first.ids(2) == ["b", "c"]


def test_a_gap_is_told_where_too_much_came(runtime: Runtime, feed: Feed) -> None:
    count = RING_ITEMS + 50
    publish(runtime, *(f"n{n}" for n in range(count)))
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        screen = Screen(feed, since=10)
        if screen.message()["seq"] == count:
            break
    assert screen.message() == {"kind": "gap", "from": 11, "to": 50}
    assert screen.ids(RING_ITEMS)[0] == "n50"


def test_after_a_restart_a_viewer_misses_nothing(runtime: Runtime) -> None:
    publish(runtime, "a", "b", "c")
    runtime.feed.start()
    assert Screen(runtime.feed, since=1).ids(2) == ["b", "c"]


def test_a_viewer_that_does_not_read_is_cut_and_delays_nobody(runtime: Runtime, feed: Feed) -> None:
    asleep, awake = Screen(feed), Screen(feed)
    assert feed.viewers == 2
    rounds, sent = 0, 0
    while feed.viewers == 2:
        feed.show_status(json.dumps({"n": rounds, "filler": "x" * 100_000}).encode())
        while awake.message().get("n") != rounds:
            pass
        rounds += 1
        sent += 100_000
        assert sent < 10 * MAX_BACKLOG_BYTES, "it was never cut"
    assert asleep.viewer
    assert len(asleep.viewer.backlog) < MAX_BACKLOG_BYTES + 200_000
    publish(runtime, "goes-on")
    assert awake.ids(1) == ["goes-on"]


def test_a_viewer_that_takes_nothing_for_long_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, _theirs = socket.socketpair()
    viewer = Viewer(ours, Filter())
    assert viewer.send(b"x" * 900_000)  # more than the socket takes, less than the bound
    assert viewer.backlog
    monkeypatch.setattr("jobquest.feed.MAX_STALL_SECONDS", -1.0)
    assert not viewer.send()
