"""The loop of the viewers' sockets: one thread for all of them.

It alone reads them: pings, closes, and whatever else a viewer may send within bounds (RFC 6455). It
sends heartbeats, and what a socket did not accept at once as soon as it does. It ends what has
expired, hangs or has gone. A socket costs it nothing until one of this happens. This module knows
no event, no database and no HTTP.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import math
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage
from wsproto.frame_protocol import CloseReason

from jobquest.viewer import MAX_STALL_SECONDS, Viewer, frame_of

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 25.0
TICK_SECONDS = 0.1  # how exactly times are kept
LINGER_SECONDS = 2.0  # for a client to close a connection that we have ended
LINGER_BYTES = 1 << 20  # read of it meanwhile
# Viewers have nothing to send: this is enough for messages, pings and fragments that never end.
MAX_MESSAGE_BYTES = 4096
RECEIVED_BYTES, RECEIVED_BYTES_PER_SECOND = 64 * 1024, 4096
POLICY_VIOLATION = 1008  # RFC 6455, section 7.4.1
_HEARTBEAT = frame_of(b'{"kind":"heartbeat"}')
_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class Inbound:
    """What one viewer says. Whoever only listens has none."""

    __slots__ = ("_allowance", "_protocol", "_received", "_size")

    def __init__(self) -> None:
        self._protocol = Connection(ConnectionType.SERVER)
        self._allowance = float(RECEIVED_BYTES)
        self._received = time.monotonic()
        self._size = 0  # of a message that has arrived in part

    def answer(self, data: bytes) -> tuple[bytes, bool]:
        """What to answer to the next bytes, and whether that is the end."""
        now = time.monotonic()
        refilled = self._allowance + (now - self._received) * RECEIVED_BYTES_PER_SECOND
        self._received = now
        self._allowance = min(refilled, RECEIVED_BYTES) - len(data)
        if self._allowance < 0:
            return self._closed(POLICY_VIOLATION, b"")
        self._protocol.receive_data(data)
        answer = b""
        for event in self._protocol.events():
            if isinstance(event, Ping):
                answer += self._protocol.send(event.response())
            elif isinstance(event, CloseConnection):  # theirs, or what their frames broke
                return answer + self._protocol.send(event.response()), True
            elif isinstance(event, TextMessage | BytesMessage):
                self._size += _size(event.data)
                if self._size > MAX_MESSAGE_BYTES:
                    return self._closed(CloseReason.MESSAGE_TOO_BIG, answer)
                if event.message_finished:
                    self._size = 0
        return answer, False

    def _closed(self, code: int, before: bytes) -> tuple[bytes, bool]:
        return before + self._protocol.send(CloseConnection(code)), True


def _size(content: str | bytes | bytearray) -> int:
    return len(content.encode() if isinstance(content, str) else content)


class _Watched:
    """What the loop knows of a viewer."""

    __slots__ = ("beats_at", "events", "has_stall_timer", "inbound", "left", "viewer")

    def __init__(self, viewer: Viewer) -> None:
        self.viewer = viewer
        self.inbound: Inbound | None = None
        self.events = 0  # that its socket is watched for
        self.beats_at = 0.0
        self.has_stall_timer = False
        self.left = LINGER_BYTES  # to read of it after its end


Action = Callable[[_Watched, float], None]


class Sockets:
    """The loop. `run` is its thread; `watch`, `send` and `end` may be called on any thread. `gone`
    is called for each viewer whose socket was closed."""

    def __init__(self, gone: Callable[[Viewer], None]) -> None:
        self._gone = gone
        self._told: deque[Viewer] = deque()  # something is new about them
        self._is_woken = False
        self._stopping = False
        self._watched: dict[Viewer, _Watched] = {}
        self._timers: list[tuple[float, int, Action, _Watched]] = []
        self._numbers = itertools.count()
        self._theirs: socket.socket | None = None

    def open(self) -> None:
        """Open what the loop waits with. Not before: servers fork."""
        self._selector = selectors.DefaultSelector()
        self._ours, self._theirs = socket.socketpair()
        for end in (self._ours, self._theirs):
            end.setblocking(False)
        self._selector.register(self._ours, _READ)

    def run(self) -> None:
        """Serve until `begin_stop`."""
        while not self._stopping:
            try:
                self._turn()
            except Exception:  # the loop goes on, whatever one viewer does
                logger.exception("The loop of the sockets failed and continues")
                time.sleep(TICK_SECONDS)  # it may fail again at once, and would take a whole core
        self._selector.close()

    def begin_stop(self) -> None:
        """Have `run` return. Safe in a signal handler."""
        self._stopping = True
        self._wake()

    # --- on any thread ---

    def watch(self, viewer: Viewer) -> None:
        """Look after a viewer from now on, or look what is new about it."""
        self._told.append(viewer)
        if not self._is_woken:
            self._is_woken = True
            self._wake()

    def send(self, viewers: Iterable[Viewer], frame: bytes) -> None:
        """Send each viewer a frame; one that is too slow is disconnected."""
        for viewer in viewers:
            if not viewer.send(frame):
                viewer.cut()  # the loop sees that it has ended
            elif viewer.backlog and not viewer.awaits_room:
                viewer.awaits_room = True
                self.watch(viewer)

    def end(self, viewers: Iterable[Viewer], code: int) -> None:
        """Close viewers' connections for this reason."""
        for viewer in viewers:
            viewer.close(code)
            self.watch(viewer)

    def _wake(self) -> None:
        if self._theirs:
            with suppress(BlockingIOError):
                self._theirs.send(b"\0")

    # --- in the loop ---

    def _turn(self) -> None:
        for key, events in self._selector.select(self._patience()):
            if key.data is None:
                self._hear()
            else:
                self._do(self._attend, key.data, events)
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            _, _, act, watched = heapq.heappop(self._timers)
            self._do(act, watched, now)

    def _patience(self) -> float | None:
        if not self._timers:
            return None
        return max(TICK_SECONDS, self._timers[0][0] - time.monotonic())

    def _at(self, when: float, act: Action, watched: _Watched) -> None:
        heapq.heappush(self._timers, (when, next(self._numbers), act, watched))

    def _do(self, act: Callable[[_Watched, Any], None], watched: _Watched, what: Any) -> None:
        """Do something for one viewer, unless it has gone; if that fails, the others are served."""
        if watched.viewer.is_closed:
            return
        try:
            act(watched, what)
        except Exception:  # the other viewers are still served
            logger.exception("A viewer's connection failed")
            self._dispose(watched)

    def _hear(self) -> None:
        """Look what is new about the viewers that the loop was told of."""
        with suppress(BlockingIOError):
            self._ours.recv(4096)
        self._is_woken = False  # before it looks: who tells it something from now on wakes it
        now = time.monotonic()
        for _ in range(len(self._told)):
            viewer = self._told.popleft()
            watched = self._watched.get(viewer) or _Watched(viewer)
            self._do(self._look, watched, now)

    def _look(self, watched: _Watched, now: float) -> None:
        viewer = watched.viewer
        if not watched.events:
            self._watched[viewer] = watched
            watched.beats_at = now + HEARTBEAT_SECONDS
            self._beat(watched, now)
        viewer.awaits_room = False  # before it looks, as above
        viewer.awaits_room = bool(viewer.backlog) and not viewer.ended
        self._watch_for(watched, _READ | _WRITE if viewer.awaits_room else _READ)
        if viewer.ended:
            self._at(now + LINGER_SECONDS, self._give_up, watched)
        elif viewer.awaits_room and not watched.has_stall_timer:
            watched.has_stall_timer = True
            self._at(viewer.stalled_since + MAX_STALL_SECONDS, self._check_stall, watched)

    def _watch_for(self, watched: _Watched, events: int) -> None:
        if not watched.events:
            self._selector.register(watched.viewer.socket, events, watched)
        elif watched.events != events:
            self._selector.modify(watched.viewer.socket, events, watched)
        watched.events = events

    def _attend(self, watched: _Watched, events: int) -> None:
        if events & _WRITE:
            self._flush(watched)
        if events & _READ and not watched.viewer.is_closed:
            self._read(watched)

    def _flush(self, watched: _Watched) -> None:
        """Send what its socket accepts now."""
        if watched.viewer.send():
            self._look(watched, time.monotonic())
        else:
            self._dispose(watched)

    def _read(self, watched: _Watched) -> None:
        viewer = watched.viewer
        data = viewer.receive()
        if data is None:
            return
        if not data:
            self._dispose(watched)
        elif viewer.ended:
            watched.left -= len(data)
            if watched.left < 0:
                self._dispose(watched)
        else:
            watched.inbound = watched.inbound or Inbound()
            answer, is_last = watched.inbound.answer(data)
            if is_last:
                viewer.end(answer)
                self._look(watched, time.monotonic())
            elif answer:
                self.send([viewer], answer)

    def _dispose(self, watched: _Watched) -> None:
        viewer = watched.viewer
        if watched.events:
            self._selector.unregister(viewer.socket)
        self._watched.pop(viewer, None)
        viewer.dispose()
        self._gone(viewer)

    # --- when their time has come ---

    def _beat(self, watched: _Watched, now: float) -> None:
        """Send a heartbeat, or close what has expired; whichever comes first."""
        viewer = watched.viewer
        left = math.inf if viewer.expires is None else viewer.expires - time.time()
        if viewer.ended:
            return
        if left <= 0:
            self.end([viewer], POLICY_VIOLATION)
            return
        if now >= watched.beats_at:
            watched.beats_at = now + HEARTBEAT_SECONDS
            self.send([viewer], _HEARTBEAT)
        self._at(min(watched.beats_at, now + left), self._beat, watched)

    def _check_stall(self, watched: _Watched, now: float) -> None:
        viewer = watched.viewer
        watched.has_stall_timer = False
        if viewer.backlog and not viewer.ended:
            if now - viewer.stalled_since >= MAX_STALL_SECONDS:
                self._dispose(watched)
            else:
                self._look(watched, now)

    def _give_up(self, watched: _Watched, _now: float) -> None:
        self._dispose(watched)
