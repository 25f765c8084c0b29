"""The feed: what viewers are sent, and that one who does not read delays nobody."""

from __future__ import annotations

import json
import socket
import statistics
import struct
import threading
import time
from collections.abc import Iterator

import pytest
from sqlalchemy import text

from jobquest.config import load
from jobquest.feed import MAX_BACKLOG_BYTES, MAX_REPLAY_BYTES, RING_ITEMS, Feed, Viewer
from jobquest.read.event_filter import EventFilter
from jobquest.read.queries import EVERY_EVENT
from jobquest.runtime import Runtime
from jobquest.web.live import _Wire
from tests.frames import Frames
from tests.samples import SAMPLES
from tests.service import wait_for


@pytest.fixture
def feed(runtime: Runtime) -> Iterator[Feed]:
    runtime.feed.start()
    yield runtime.feed
    runtime.feed.stop()


class Screen(Frames):
    """The other end of a viewer's socket."""

    def __init__(
        self, feed: Feed, wanted: EventFilter = EVERY_EVENT, since: int | None = None
    ) -> None:
        ours, theirs = socket.socketpair()
        ours.settimeout(5)
        super().__init__(ours)
        self.viewer = Viewer(theirs, wanted)
        assert feed.join(self.viewer, since, b'{"state": "idle"}')

    def ids(self, count: int) -> list[str]:
        """The ids of the next `count` items."""
        found: list[str] = []
        while len(found) < count:
            message = self.message()
            if message["kind"] == "events":
                found += [item["event"]["id"] for item in message["items"]]
        return found


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
    ada = Screen(
        feed, EventFilter(users=frozenset({"ada"}), types=frozenset({"notification.sent"}))
    )
    nobody = Screen(feed, EventFilter(topics=frozenset({"achievements"})))
    others = Screen(feed, EventFilter(not_users=frozenset({"ada"})))
    publish(runtime, "theirs", user="grace")
    publish(runtime, "hers")
    assert ada.ids(1) == ["hers"]
    assert others.ids(1) == ["theirs"]
    assert nobody.message()["kind"] == "hello"
    feed.stop()
    assert nobody.frame() == (0x88, struct.pack("!H", 1001))


def test_what_another_process_did_is_shown_as_soon(
    runtime: Runtime, feed: Feed, settings: dict[str, str], database: dict[str, str]
) -> None:
    other = Runtime(load(settings | database))
    screen = Screen(feed)
    screen.message()
    delays = []
    for n in range(15):
        publish(other, f"n{n}")
        began = time.monotonic()
        assert screen.ids(1) == [f"n{n}"]
        delays.append(time.monotonic() - began)
    other.consumer.close()
    other.stop()
    print(f"after {[round(delay, 3) for delay in delays]} s")
    assert statistics.median(delays) < 0.1


def test_whoever_comes_is_up_to_date_though_nobody_watched(runtime: Runtime, feed: Feed) -> None:
    publish(runtime, "a", "b", "c")
    first = Screen(feed)
    assert first.message()["seq"] == 3
    publish(runtime, "d")
    assert first.ids(1) == ["d"]


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
    assert len(asleep.viewer.backlog) < MAX_BACKLOG_BYTES + 200_000
    publish(runtime, "goes-on")
    assert awake.ids(1) == ["goes-on"]


def test_a_viewer_that_takes_nothing_for_long_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, _theirs = socket.socketpair()
    viewer = Viewer(ours, EventFilter())
    assert viewer.send(b"x" * 900_000)  # more than the socket takes, less than the bound
    assert viewer.backlog
    monkeypatch.setattr("jobquest.feed.MAX_STALL_SECONDS", -1.0)
    assert not viewer.send()


def test_a_viewer_whose_page_missed_much_is_not_sent_more_than_it_may_owe(
    runtime: Runtime, feed: Feed
) -> None:
    """Else it would be cut for its backlog, come back, and be cut again."""
    data = SAMPLES["notification.sent"] | {"message": "x" * 5000}
    for n in range(300):
        runtime.producer.publish("notification.sent", "ada", data, id=f"n{n}")
    while runtime.consumer.step():
        pass
    wait_for(lambda: Screen(feed).message()["seq"] == 300, 10)
    back = Screen(feed, since=1)
    assert back.message()["kind"] == "hello"
    gap = back.message()
    assert (gap["kind"], gap["from"]) == ("gap", 2)
    shown = [item["seq"] for item in back.message()["items"]]
    assert shown == list(range(gap["to"] + 1, 301))
    assert len(shown) * 5000 <= MAX_REPLAY_BYTES
    publish(runtime, "goes-on")
    assert back.ids(1) == ["goes-on"]


def test_viewers_begin_anew_when_the_read_side_does(runtime: Runtime, feed: Feed) -> None:
    publish(runtime, "a", "b", "c")
    screen = Screen(feed)
    screen.message()
    with runtime.database.writing() as connection:  # as a rebuild does, in one transaction
        connection.execute(text("DELETE FROM events WHERE id = 'a'"))
        connection.execute(text("UPDATE events SET seq = seq - 1"))
        connection.execute(text("UPDATE counter SET seq = 2, epoch = 'another'"))
    began = time.monotonic()
    assert screen.close_code() == 1012
    assert time.monotonic() - began < 1.5
    again = Screen(feed, since=1)
    hello = again.message()
    assert (hello["epoch"], hello["seq"]) == ("another", 2)
    assert again.ids(1) == ["c"]
    publish(runtime, "d")
    assert again.ids(1) == ["d"]


def test_a_read_side_made_anew_is_noticed_though_nobody_watches(
    runtime: Runtime, feed: Feed
) -> None:
    publish(runtime, "a")
    wait_for(lambda: feed.epoch, 10)
    with runtime.database.writing() as connection:
        connection.execute(text("UPDATE counter SET epoch = 'another'"))
    wait_for(lambda: feed.epoch == "another", 2)


def test_what_a_viewer_is_answered_lines_up_behind_what_it_did_not_take() -> None:
    """A pong in the middle of a frame that went in part would be read as the frame's content."""
    ours, theirs = socket.socketpair()
    viewer = Viewer(theirs, EventFilter())
    payload = json.dumps({"filler": "x" * 900_000}).encode()
    assert viewer.send(b"\x81\x7f" + len(payload).to_bytes(8, "big") + payload)
    assert viewer.backlog
    _Wire(viewer).send(b"\x8a\x04pong")
    screen = Frames(ours)
    frames: list[object] = []
    taken = threading.Thread(target=lambda: frames.extend([screen.message(), screen.frame()]))
    taken.start()
    wait_for(lambda: viewer.send() and len(frames) == 2, 10)
    taken.join()
    assert frames[1] == (0x8A, b"pong")
