"""The feed: what viewers are sent, and that one who does not read delays nobody."""

from __future__ import annotations

import json
import os
import socket
import statistics
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import text

from jobquest.config import load
from jobquest.events.personal import MASK
from jobquest.feed import LOOK_BYTES, MAX_REPLAY_BYTES, RING_BYTES, RING_ITEMS, Feed
from jobquest.read import numbers
from jobquest.read.cursor import Cursor
from jobquest.read.event_filter import EventFilter
from jobquest.read.queries import EVERY_EVENT
from jobquest.runtime import Runtime
from jobquest.viewer import MAX_BACKLOG_BYTES, Viewer
from tests.frames import Frames
from tests.load import forget_peak, peak_memory_of
from tests.postgres import Postgres
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
        self,
        feed: Feed,
        wanted: EventFilter = EVERY_EVENT,
        since: int | str | None = None,
        sees_personal: bool = False,
    ) -> None:
        ours, theirs = socket.socketpair()
        ours.settimeout(5)
        super().__init__(ours)
        self.viewer = Viewer(theirs, wanted, sees_personal)
        feed.admit(self.viewer)
        assert feed.join(self.viewer, since and Cursor.parse(str(since)), b'{"state": "idle"}')

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


def happen(runtime: Runtime, count: int, body: int = 300) -> None:
    """So many events of `body` bytes, all at once, as if another process had applied them."""
    id = "'h' || (before.seq + n)"
    rows = f"""INSERT INTO events (seq, id, outcome, topic, partition, "offset", type, user_id,
                                  time_ms, received_ms, body)
              WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < :count)
              SELECT before.seq + n, {id}, 'processed', 'notifications', 0, n,
                     'notification.sent', 'ada', 0, 0,
                     '{{"id": "' || {id} || '", "data": {{"message": "' || :text || '"}}}}'
              FROM n, (SELECT coalesce(max(seq), 0) AS seq FROM events) AS before"""
    with runtime.database.writing() as connection:
        connection.execute(text(rows), {"count": count, "text": "x" * body})
        numbers.begin_after(connection, numbers.last(connection) + count)


def test_the_epoch_is_known_soon_after_the_start(feed: Feed, runtime: Runtime) -> None:
    wait_for(lambda: feed.epoch, 0.5)
    assert feed.epoch == runtime.queries.epoch()


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


def test_personal_data_goes_only_to_viewers_who_see_it(runtime: Runtime, feed: Feed) -> None:
    publish(runtime, "before")
    masked, whole = Screen(feed), Screen(feed, sees_personal=True)
    runtime.producer.publish("user.login", "ada", SAMPLES["user.login"], id="login")
    publish(runtime, "other")
    late = Screen(feed, since=1)
    for screen, shown in ((masked, False), (whole, True), (late, False)):
        found: dict[str, Any] = {}
        while "login" not in found:
            message = screen.message()
            items = message["items"] if message["kind"] == "events" else []
            found |= {item["event"]["id"]: item["event"]["data"] for item in items}
        data = found["login"]
        hidden = dict.fromkeys(data, MASK)
        assert data == (SAMPLES["user.login"] if shown else hidden)
        assert hidden


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


def test_sixty_thousand_events_at_once_are_a_gap_and_the_newest_for_forty_viewers(
    runtime: Runtime, feed: Feed
) -> None:
    """Handed on one by one they took 3 s, in which nobody was sent anything, and 773 MB."""
    publish(runtime, "before")
    screens = [Screen(feed) for _ in range(40)]
    assert {screen.message()["seq"] for screen in screens} == {1}
    count = 60_000
    memory = forget_peak(os.getpid())
    happen(runtime, count)
    began = time.monotonic()
    newest = count + 1 - RING_ITEMS
    for screen in screens:
        assert screen.message() == {"kind": "gap", "from": 2, "to": newest}
    assert screens[0].ids(RING_ITEMS) == [f"h{n}" for n in range(newest + 1, count + 2)]
    growth = peak_memory_of(os.getpid()) - memory
    print(f"{time.monotonic() - began:.2f} s, {growth:,} B more")
    assert growth < 60_000_000
    publish(runtime, "goes-on")
    assert screens[0].ids(1) == ["goes-on"]


def test_a_thousand_events_at_once_are_shown_without_a_gap(runtime: Runtime, feed: Feed) -> None:
    screen = Screen(feed)
    screen.message()
    happen(runtime, RING_ITEMS)
    assert screen.ids(RING_ITEMS) == [f"h{n}" for n in range(1, RING_ITEMS + 1)]
    happen(runtime, 1)
    shown = screen.message()
    assert [item["seq"] for item in shown["items"]] == [RING_ITEMS + 1]


def test_large_events_are_bounded_in_bytes_for_the_ring_and_for_viewers(
    runtime: Runtime, feed: Feed
) -> None:
    reads, asleep = Screen(feed), Screen(feed)
    reads.message()
    memory = forget_peak(os.getpid())
    size = 90_000
    for n in range(8):  # each of them is some 18 MB, of which a look has room for the newest
        happen(runtime, 200, size)
        gap = reads.message()
        assert (gap["kind"], gap["from"]) == ("gap", 200 * n + 1)
        shown = [item["seq"] for item in reads.message()["items"]]
        assert shown == list(range(gap["to"] + 1, 200 * n + 201))
        assert LOOK_BYTES - size <= len(shown) * size <= LOOK_BYTES
        assert sum(len(item.json) for item in feed._ring) <= RING_BYTES
    growth = peak_memory_of(os.getpid()) - memory
    print(f"{growth:,} B more")
    assert asleep.viewer.backlog <= MAX_BACKLOG_BYTES + LOOK_BYTES
    assert growth < 100_000_000  # PORTION_ITEMS of the largest are read at a time


def test_an_event_that_is_too_long_for_lists_is_named_and_whole_on_its_own(
    runtime: Runtime, feed: Feed
) -> None:
    screen = Screen(feed)
    screen.message()
    happen(runtime, 1, 1_000_000)
    [item] = screen.message()["items"]
    assert item["truncated"] is True
    named = {"id": "h1", "type": "notification.sent", "userId": "ada"}
    assert item["event"].items() >= named.items()
    assert item["event"]["data"] == {}
    assert runtime.queries.events()["events"] == [item]
    whole = runtime.queries.event("h1")
    assert whole
    assert len(whole["event"]["data"]["message"]) == 1_000_000


@pytest.mark.postgres
def test_viewers_and_other_processes_hear_from_one_whose_feed_waits_for_the_database(
    settings: dict[str, str], postgres_server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobquest.sockets.HEARTBEAT_SECONDS", 0.2)
    shared = settings | {"DATABASE_URL": postgres_server.new_database()}
    runtime, other = Runtime(load(shared)), Runtime(load(shared))
    runtime.start()
    wait_for(lambda: other.report.processes(), 10)
    screen = Screen(runtime.feed)
    screen.message()
    with other.database.engine.connect() as connection, connection.begin():
        connection.execute(text("LOCK TABLE events IN ACCESS EXCLUSIVE MODE"))
        with runtime.database.writing() as beside:
            numbers.begin_after(beside, 5)
        waiting = text("SELECT 1 FROM pg_locks WHERE NOT granted")
        wait_for(lambda: connection.execute(waiting).first(), 10)  # the feed reads now
        until = time.monotonic() + 4
        kinds = []
        while time.monotonic() < until:
            kinds.append(screen.message()["kind"])
            assert all(one["silent_ms"] < 3_000 for one in other.state.processes())
        assert kinds.count("heartbeat") > 3
        began = time.monotonic()
        runtime.feed.show_status(b'{"state": "asked"}')
        runtime.begin_stop()
        assert screen.close_code() == 1001
        assert time.monotonic() - began < 1
    runtime.stop()
    other.stop()


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
    assert asleep.viewer.backlog < MAX_BACKLOG_BYTES + 200_000
    publish(runtime, "goes-on")
    assert awake.ids(1) == ["goes-on"]


def test_a_viewer_that_takes_nothing_for_long_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, _theirs = socket.socketpair()
    viewer = Viewer(ours, EventFilter())
    assert viewer.send(b"x" * 900_000)  # more than the socket takes, less than the bound
    assert viewer.backlog
    monkeypatch.setattr("jobquest.viewer.MAX_STALL_SECONDS", -1.0)
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
        connection.execute(text("UPDATE epoch SET name = 'another'"))
    began = time.monotonic()
    assert screen.close_code() == 1012
    assert time.monotonic() - began < 1.5
    again = Screen(feed, since=1)
    hello = again.message()
    assert (hello["epoch"], hello["seq"]) == ("another", runtime.queries.last_seq())
    assert again.ids(1) == ["c"]
    publish(runtime, "d")
    assert again.ids(1) == ["d"]


def test_a_viewer_from_before_a_rebuild_is_sent_nothing_that_its_number_does_not_mean(
    runtime: Runtime, feed: Feed
) -> None:
    publish(runtime, "a", "b", "c")
    epoch = runtime.queries.epoch()
    same = Screen(feed, since=f"1.{epoch}")
    assert same.message()["epoch"] == epoch
    assert same.ids(2) == ["b", "c"]
    runtime.rebuild.run()
    assert same.close_code() == 1012
    back = Screen(feed, since=f"1.{epoch}")
    assert back.message()["epoch"] == runtime.queries.epoch() != epoch
    publish(runtime, "d")
    assert back.ids(1) == ["d"], "nothing is replayed"


def test_a_read_side_created_again_is_noticed_though_nobody_watches(
    runtime: Runtime, feed: Feed
) -> None:
    publish(runtime, "a")
    wait_for(lambda: feed.epoch, 10)
    with runtime.database.writing() as connection:
        connection.execute(text("UPDATE epoch SET name = 'another'"))
    wait_for(lambda: feed.epoch == "another", 2)


def test_what_a_viewer_is_answered_lines_up_behind_what_it_did_not_take() -> None:
    """A pong in the middle of a frame that went in part would be read as the frame's content."""
    ours, theirs = socket.socketpair()
    viewer = Viewer(theirs, EventFilter())
    payload = json.dumps({"filler": "x" * 900_000}).encode()
    assert viewer.send(b"\x81\x7f" + len(payload).to_bytes(8, "big") + payload)
    assert viewer.backlog
    assert viewer.send(b"\x8a\x04pong")
    screen = Frames(ours)
    frames: list[object] = []
    taken = threading.Thread(target=lambda: frames.extend([screen.message(), screen.frame()]))
    taken.start()
    wait_for(lambda: viewer.send() and len(frames) == 2, 10)
    taken.join()
    assert frames[1] == (0x8A, b"pong")
