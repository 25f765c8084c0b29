"""The loop of the viewers' sockets: what a viewer may say, and what it is ended for."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from jobquest.audience import Audience, Item, NoSeat, NoSeatForOwner
from jobquest.config import load
from jobquest.feed import TRY_AGAIN_LATER, Feed
from jobquest.read.event_filter import EventFilter
from jobquest.read.queries import EVERY_EVENT
from jobquest.runtime import Runtime
from jobquest.sockets import MAX_MESSAGE_BYTES, RECEIVED_BYTES, Inbound
from jobquest.viewer import Viewer
from tests.frames import CLOSE, PING, PONG, TEXT, Frames, client_frame, client_header
from tests.service import wait_for
from tests.test_feed import happen

BINARY = 0x2
PROTOCOL_ERROR, NOT_TEXT, POLICY_VIOLATION, TOO_BIG = 1002, 1007, 1008, 1009
SHOWN_SECONDS = 2.0  # within which a socket ends after its credential


@pytest.fixture
def runtime(settings: dict[str, str], made_read_side: None) -> Iterator[Runtime]:
    """On SQLite alone: sockets have nothing to do with the database."""
    made = Runtime(load(settings))
    yield made
    made.stop()


@pytest.fixture
def feed(runtime: Runtime) -> Iterator[Feed]:
    runtime.feed.start()
    yield runtime.feed
    runtime.feed.stop()


class Screen(Frames):
    """The other end of a viewer's socket, which has read its `hello`."""

    def __init__(self, feed: Feed, wanted: EventFilter = EVERY_EVENT, **more: Any) -> None:
        ours, theirs = socket.socketpair()
        ours.settimeout(5)
        super().__init__(ours)
        self.viewer = Viewer(theirs, wanted, **more)
        feed.admit(self.viewer)
        assert feed.join(self.viewer, None, b"{}")
        assert self.message()["kind"] == "hello"

    def say(self, *frames: bytes) -> None:
        self.socket.sendall(b"".join(frames))


def of(*users: str) -> EventFilter:
    return EventFilter(users=frozenset(users))


def item(user: str | None, seq: int = 1) -> Item:
    return Item(seq, "user.login", "user-events", user, b"{}", b"{}")


# --- what a viewer may say ---


def test_a_ping_is_answered_in_the_midst_of_a_message_too(feed: Feed) -> None:
    screen = Screen(feed)
    screen.say(client_frame(TEXT, b"hel", final=False), client_frame(PING, b"there?"))
    assert screen.frame() == (0x80 | PONG, b"there?")
    screen.say(client_frame(0, b"lo"), client_frame(PONG), client_frame(PING, b"x" * 125))
    assert screen.frame() == (0x80 | PONG, b"x" * 125)


def test_frames_that_come_byte_by_byte_are_understood(feed: Feed) -> None:
    screen = Screen(feed)
    for byte in client_frame(TEXT, "ä".encode()) + client_frame(PING, b"1"):
        screen.say(bytes([byte]))
    assert screen.frame() == (0x80 | PONG, b"1")


@pytest.mark.parametrize(
    "payload", [b"", struct.pack("!H", 1000), struct.pack("!H", 1001) + b"bye"]
)
def test_a_close_is_answered_with_its_own_code_and_ends_it(
    feed: Feed, monkeypatch: pytest.MonkeyPatch, payload: bytes
) -> None:
    monkeypatch.setattr("jobquest.sockets.LINGER_SECONDS", 60.0)  # it is our turn to end it
    screen = Screen(feed)
    screen.say(client_frame(CLOSE, payload))
    assert screen.frame() == (0x80 | CLOSE, payload)
    with pytest.raises(EOFError):
        screen.frame()
    screen.socket.close()
    wait_for(lambda: feed.viewers == 0 and screen.viewer.is_closed, 5)


def test_messages_of_the_longest_kind_are_taken_however_they_are_cut(feed: Feed) -> None:
    screen = Screen(feed)
    text = "ä".encode() * (MAX_MESSAGE_BYTES // 2)
    for opcode in (TEXT, BINARY):
        screen.say(client_frame(opcode, text))
        screen.say(client_frame(opcode, text[:1], final=False), client_frame(0, text[1:]))
    screen.say(client_frame(PING, b"still"))
    assert screen.frame() == (0x80 | PONG, b"still")


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([b"\x81\x05hello"], PROTOCOL_ERROR),  # not masked
        ([client_frame(TEXT, b"a", compressed=True)], PROTOCOL_ERROR),  # nothing was agreed on
        ([client_frame(0x3, b"a")], PROTOCOL_ERROR),  # no such opcode
        ([client_frame(0xB)], PROTOCOL_ERROR),
        ([client_frame(PING, b"a", final=False)], PROTOCOL_ERROR),  # a control frame in fragments
        ([client_frame(PING, b"a" * 126)], PROTOCOL_ERROR),
        ([client_frame(0, b"a")], PROTOCOL_ERROR),  # goes on with nothing
        ([client_frame(TEXT, b"a", final=False), client_frame(TEXT, b"b")], PROTOCOL_ERROR),
        ([client_frame(CLOSE, b"a")], PROTOCOL_ERROR),  # half a code
        ([client_frame(CLOSE, struct.pack("!H", 999))], PROTOCOL_ERROR),
        ([client_frame(CLOSE, struct.pack("!H", 1005))], PROTOCOL_ERROR),  # may not be sent
        ([client_frame(CLOSE, struct.pack("!H", 1000) + b"\xff")], NOT_TEXT),
        ([client_frame(TEXT, b"\xff\xfe")], NOT_TEXT),
        ([client_frame(TEXT, b"\xc3", final=False), client_frame(0, b"a")], NOT_TEXT),
        ([client_frame(TEXT, b"a" * (MAX_MESSAGE_BYTES + 1))], TOO_BIG),
        ([client_frame(TEXT, "ä".encode() * (MAX_MESSAGE_BYTES // 2 + 1))], TOO_BIG),
        ([client_header(0x80 | BINARY, 1 << 40), b"a" * 5000], TOO_BIG),
        (
            [client_frame(TEXT, b"a" * 4096, final=False), client_frame(0, b"a", final=False)],
            TOO_BIG,
        ),
        ([client_frame(TEXT, b"a" * 1000)] * (RECEIVED_BYTES // 1000 + 1), POLICY_VIOLATION),
    ],
)
def test_what_the_protocol_forbids_ends_it_with_the_right_code(
    feed: Feed, frames: list[bytes], code: int
) -> None:
    screen, other = Screen(feed), Screen(feed)
    screen.say(*frames)
    assert screen.close_code() == code
    other.say(client_frame(PING, b"here"))
    assert other.frame() == (0x80 | PONG, b"here")


def test_what_a_viewer_may_say_is_refilled(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    monkeypatch.setattr("jobquest.sockets.time.monotonic", lambda: now)
    inbound = Inbound()
    kilobyte = client_frame(TEXT, b"a" * 1014)
    for _ in range(RECEIVED_BYTES // len(kilobyte)):
        assert inbound.answer(kilobyte) == (b"", False)
    now += 1.0
    for _ in range(4):
        assert inbound.answer(kilobyte) == (b"", False)
    assert inbound.answer(kilobyte)[1] is True


def test_a_viewer_that_is_closed_while_it_speaks_is_told_why(feed: Feed) -> None:
    """If the socket were closed at once, the kernel would drop the reason with what is unread."""
    screen = Screen(feed)
    screen.say(client_frame(0x7), client_frame(TEXT, b"a" * 3000) * 20)
    assert screen.close_code() == PROTOCOL_ERROR
    screen.say(client_frame(TEXT, b"goes on"))


def test_a_viewer_that_does_not_close_after_its_end_is_given_up(
    feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobquest.sockets.LINGER_SECONDS", 0.2)
    screen = Screen(feed)
    screen.say(client_frame(0x7))
    wait_for(lambda: screen.viewer.is_closed, 5)
    monkeypatch.setattr("jobquest.sockets.LINGER_SECONDS", 60.0)
    talks = Screen(feed)
    talks.say(client_frame(0x7))
    with pytest.raises(OSError):  # noqa: PT012 (whichever of them is the first)
        while True:
            talks.say(b"a" * 65_536)
    wait_for(lambda: feed.viewers == 0, 5)


def test_the_files_of_those_that_have_gone_are_closed(feed: Feed) -> None:
    screens = [Screen(feed) for _ in range(50)]
    for screen in screens[:25]:
        screen.socket.close()
    for screen in screens[25:]:
        screen.say(client_frame(CLOSE))
        screen.close_code()
        screen.socket.close()
    wait_for(lambda: feed.viewers == 0, 5)
    assert all(screen.viewer.is_closed for screen in screens)


# --- who is ended ---


def test_a_viewer_whose_credential_expires_is_closed_within_two_seconds(feed: Feed) -> None:
    stays = Screen(feed, expires=time.time() + 60)
    ends = Screen(feed, expires=(at := time.time() + 1.0))
    assert ends.close_code() == POLICY_VIOLATION
    assert 0 <= time.time() - at < SHOWN_SECONDS
    ends.socket.close()
    wait_for(lambda: feed.viewers == 1, 5)
    late = Screen(feed, expires=time.time() - 1)
    assert late.close_code() == POLICY_VIOLATION
    stays.say(client_frame(PING))
    assert stays.frame() == (0x80 | PONG, b"")


def test_all_sockets_of_a_credential_end_with_it_and_no_others(feed: Feed) -> None:
    revoked = [Screen(feed, credential="key:1") for _ in range(3)]
    others = [Screen(feed, credential="key:2"), Screen(feed)]
    began = time.monotonic()
    feed.end("key:1")
    assert [screen.close_code() for screen in revoked] == [POLICY_VIOLATION] * 3
    assert time.monotonic() - began < SHOWN_SECONDS
    assert feed.viewers == 2
    feed.end_if(lambda viewer: viewer.credential.startswith("key:"))
    assert others[0].close_code() == POLICY_VIOLATION
    feed.show_status(b'{"n": 1}')
    assert others[1].message()["n"] == 1


def test_a_credential_that_ends_during_the_handshake_does_not_get_in(feed: Feed) -> None:
    ours, theirs = socket.socketpair()
    viewer = Viewer(theirs, EVERY_EVENT, credential="key:1")
    feed.admit(viewer)
    feed.end("key:1")
    assert not feed.join(viewer, None, b"{}")
    assert Frames(ours).close_code() == TRY_AGAIN_LATER
    assert feed.viewers == 0


def test_the_eleventh_socket_of_an_owner_has_no_seat_until_one_is_left(feed: Feed) -> None:
    mine = [Screen(feed, owner="ada", most=10) for _ in range(10)]
    eleventh = Viewer(socket.socket(), EVERY_EVENT, owner="ada", most=10)
    with pytest.raises(NoSeatForOwner):
        feed.admit(eleventh)
    hers = Screen(feed, owner="grace", most=10)
    mine[0].socket.close()
    wait_for(lambda: feed.viewers == 10, 5)
    feed.admit(eleventh)
    feed.leave(eleventh)
    feed.leave(eleventh)
    feed.admit(eleventh)
    with pytest.raises(NoSeatForOwner):
        feed.admit(Viewer(socket.socket(), EVERY_EVENT, owner="ada", most=10))
    assert not hers.viewer.ended


def test_seats_are_bounded_and_given_back() -> None:
    audience = Audience(2)
    first, second, third = (Viewer(socket.socket(), EVERY_EVENT) for _ in range(3))
    audience.admit(first, 5)
    with pytest.raises(NoSeat):
        audience.admit(second, 1)
    audience.admit(second, 5)
    with pytest.raises(NoSeat):
        audience.admit(third, 5)
    audience.remove(first)
    audience.admit(third, 5)


# --- who is sent what ---


def shown(audience: Audience, *items: Item) -> list[tuple[Viewer, list[int]]]:
    return [
        (viewer, [one.seq for one in chosen])
        for viewers, chosen in audience.addressed(items)
        for viewer in viewers
    ]


def test_an_event_finds_its_user_s_viewers_and_asks_no_other_filter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[EventFilter] = []
    passes = Item.passes

    def passes_and_noted(one: Item, wanted: EventFilter) -> bool:
        asked.append(wanted)
        return passes(one, wanted)

    monkeypatch.setattr(Item, "passes", passes_and_noted)
    audience = Audience(10_000)
    wanted = [of(f"user_{n}") for n in range(1000)] + [EVERY_EVENT, of("user_1", "user_2")]
    strict = EventFilter(users=frozenset({"user_7"}), types=frozenset({"xp.earned"}))
    viewers = [Viewer(socket.socket(), one) for one in [*wanted, strict]]
    for viewer in viewers:
        audience.admit(viewer, 10_000)
        audience.show(viewer)
    asked.clear()
    found = shown(audience, item("user_7", 1), item("user_7", 2), item(None, 3), item("none", 4))
    assert sorted(found, key=lambda one: len(one[1])) == [
        (viewers[7], [1, 2]),
        (viewers[1000], [1, 2, 3, 4]),
    ]
    assert set(asked) == {of("user_7"), EVERY_EVENT, of("user_1", "user_2"), strict}
    for viewer in viewers:
        audience.remove(viewer)
    assert shown(audience, item("user_7")) == []
    assert not audience.present
    assert not audience._groups, "whoever comes and goes leaves nothing behind"
    assert not audience._of_user


def test_only_those_are_visited_who_have_something_to_send(
    runtime: Runtime, feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    hers, others = Screen(feed, of("ada")), [Screen(feed, of(f"user_{n}")) for n in range(50)]
    visited: list[Viewer] = []
    send = Viewer.send

    def send_and_note(one: Viewer, frame: bytes = b"") -> bool:
        visited.append(one)
        return send(one, frame)

    monkeypatch.setattr(Viewer, "send", send_and_note)
    happen(runtime, 1)  # ada's
    assert hers.message()["kind"] == "events"
    threading.Event().wait(1.0)  # long enough for a look at all of them
    assert visited == [hers.viewer]
    assert len(others) == 50


def test_what_a_socket_did_not_take_is_sent_as_soon_as_it_has_room(feed: Feed) -> None:
    slow = Screen(feed)
    frame = '{"filler": "%s"}' % ("x" * 300_000)
    for _ in range(3):
        feed.show_status(frame.encode())
    wait_for(lambda: slow.viewer.backlog, 5)
    began = time.monotonic()
    for _ in range(3):
        assert slow.message()["kind"] == "status"
    print(f"after {time.monotonic() - began:.3f} s")
    assert time.monotonic() - began < 0.4
    wait_for(lambda: not slow.viewer.backlog, 5)
    for _ in range(3):  # and again, when it is slow again
        feed.show_status(frame.encode())
    for _ in range(3):
        assert slow.message()["kind"] == "status"


def test_a_backlog_that_went_before_the_loop_looked_does_not_hide_the_next(feed: Feed) -> None:
    slow = Screen(feed)
    slow.viewer.awaits_room = True  # the loop is told of a backlog, and finds none
    feed._sockets.watch(slow.viewer)
    wait_for(lambda: not slow.viewer.awaits_room, 5)
    for _ in range(3):
        feed.show_status(b'{"filler": "%s"}' % (b"x" * 300_000))
    for _ in range(3):
        assert slow.message()["kind"] == "status"


def test_a_viewer_that_hangs_is_cut_though_nothing_is_sent_to_it(
    feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobquest.sockets.MAX_STALL_SECONDS", 0.5)
    hangs, reads = Screen(feed), Screen(feed)
    feed.show_status(b'{"filler": "%s"}' % (b"x" * 600_000))
    assert reads.message()["kind"] == "status"
    assert hangs.viewer.backlog
    wait_for(lambda: hangs.viewer.is_closed, 5)
    assert feed.viewers == 1
    assert not reads.viewer.is_closed


def test_a_status_reaches_everyone_however_many_and_with_pauses(
    feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobquest.feed.STATUS_PORTION", 10)
    monkeypatch.setattr("jobquest.feed.STATUS_PAUSE_SECONDS", 0.1)
    screens = [Screen(feed) for _ in range(25)]
    began = time.monotonic()
    feed.show_status(b'{"n": 1}')
    assert time.monotonic() - began >= 0.2
    assert [screen.message()["n"] for screen in screens] == [1] * 25


def test_each_viewer_has_a_heartbeat_at_its_own_time(
    feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobquest.sockets.HEARTBEAT_SECONDS", 0.6)
    first = Screen(feed)
    threading.Event().wait(0.3)  # so that their times differ
    second = Screen(feed)
    times: list[float] = []
    for screen in (first, second, first, second):
        assert screen.message() == {"kind": "heartbeat"}
        times.append(time.monotonic())
    gaps = [after - before for before, after in pairwise(times)]
    print(gaps)
    assert all(gap > 0.1 for gap in gaps)


def test_a_viewer_whose_connection_fails_harms_no_other(
    feed: Feed, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bad, good = Screen(feed), Screen(feed)

    def fail(_inbound: Inbound, data: bytes) -> tuple[bytes, bool]:
        raise RuntimeError("a bug")

    with monkeypatch.context() as patched:
        patched.setattr(Inbound, "answer", fail)
        bad.say(client_frame(PING))
        wait_for(lambda: bad.viewer.is_closed, 5)
    assert "a bug" in caplog.text
    good.say(client_frame(PING))
    assert good.frame() == (0x80 | PONG, b"")


def test_whoever_is_there_at_the_end_is_told_and_nobody_joins_after_it(
    feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    screens = [Screen(feed) for _ in range(20)]
    feed.stop()
    assert [screen.close_code() for screen in screens] == [1001] * 20
    monkeypatch.setattr(feed, "_await_look", lambda: True)  # the last look answers it
    ours, theirs = socket.socketpair()
    viewer = Viewer(theirs, EVERY_EVENT)
    feed.admit(viewer)
    assert not feed.join(viewer, None, b"{}")
    assert Frames(ours).close_code() == TRY_AGAIN_LATER
