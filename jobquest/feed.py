"""The feed: hands what the read side has stored to the live viewers.

One thread per process follows the number of the last change (`seq`), so it shows what any process
did, keeps the last items in one ring, and is the only one that writes to viewers' sockets: a frame
is encoded once per distinct filter and sent without blocking; a viewer that does not keep up is
cut and delays nobody. It knows sockets and WebSocket frames (RFC 6455), no Flask.
"""

from __future__ import annotations

import logging
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import orjson

from jobquest.errors import Unavailable
from jobquest.read.queries import Queries

logger = logging.getLogger(__name__)

RING_ITEMS = 1_000
TICK_SECONDS = 0.05  # under load: one frame per tick
LOOK_SECONDS = 0.25  # for what other processes did
HEARTBEAT_SECONDS = 25.0
MAX_BACKLOG_BYTES = 1_000_000
MAX_STALL_SECONDS = 15.0
GOING_AWAY = 1001
# Windows has no such flag: there, on Flask's own server, a slow viewer does delay others.
_DO_NOT_WAIT = getattr(socket, "MSG_DONTWAIT", 0)
_TEXT, _CLOSE = 0x81, 0x88  # RFC 6455, section 5.2: final frames of these opcodes


@dataclass(frozen=True, slots=True)
class Filter:
    """What a viewer wants to see; an empty set means everything."""

    types: frozenset[str] = frozenset()
    topics: frozenset[str] = frozenset()
    users: frozenset[str] = frozenset()

    def takes(self, item: Item) -> bool:
        return (
            (not self.types or item.type in self.types)
            and (not self.topics or item.topic in self.topics)
            and (not self.users or item.user in self.users)
        )


@dataclass(frozen=True, slots=True)
class Item:
    """A changed event as the ring keeps it: what filters look at, and its JSON."""

    seq: int
    type: str | None
    topic: str
    user: str | None
    json: bytes


@dataclass(eq=False, slots=True)
class Viewer:
    """One open socket. Only the feed's thread sends; `backlog` is what the socket did not take."""

    socket: socket.socket
    filter: Filter
    backlog: bytearray = field(default_factory=bytearray)
    stalled_since: float | None = None

    def send(self, frame: bytes = b"") -> bool:
        """Send what the socket takes now; False where the viewer is gone or too slow."""
        self.backlog += frame
        if not self.backlog:
            return True
        try:
            sent = self.socket.send(self.backlog, _DO_NOT_WAIT)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            return False
        del self.backlog[:sent]
        now = time.monotonic()
        if sent or not self.backlog:
            self.stalled_since = now if self.backlog else None
        elif self.stalled_since is None:
            self.stalled_since = now
        stalled = self.stalled_since is not None and now - self.stalled_since > MAX_STALL_SECONDS
        return len(self.backlog) <= MAX_BACKLOG_BYTES and not stalled

    def cut(self) -> None:
        """End the connection at once: wakes its reader, wherever it waits."""
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            logger.debug("A viewer was gone already.")


class Feed:
    """The ring and its viewers. `start` and `stop` belong to the runtime, `join` and `leave` to a
    viewer's own thread."""

    def __init__(self, queries: Queries) -> None:
        self._queries = queries
        self._lock = threading.Lock()  # over viewers and ring
        self._viewers: set[Viewer] = set()
        self._ring: deque[Item] = deque(maxlen=RING_ITEMS)
        self._floor = 0  # changes up to this one are not in the ring
        self._seq = 0
        self._woken = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._ready = threading.Event()
        self._last_beat = time.monotonic()
        self.epoch = ""

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Look now: this process applied a batch."""
        self._woken.set()

    def begin_stop(self) -> None:
        """Have the thread say good-bye to every viewer (1001) and end. Safe in a signal handler."""
        self._stop.set()
        self._woken.set()

    def stop(self, timeout: float = 3.0) -> None:
        """The same, and wait for it."""
        self.begin_stop()
        if self._thread:
            self._thread.join(timeout)

    @property
    def viewers(self) -> int:
        """How many viewers are connected to this process."""
        return len(self._viewers)

    def join(
        self, connection: socket.socket, wanted: Filter, since: int | None, status: bytes
    ) -> Viewer | None:
        """Add a viewer: greets it with the service's status (JSON), replays what came after
        `since`, then goes on live.

        None where the feed cannot serve now (the database is away, or the end has begun).
        """
        if not self._ready.wait(2.0):
            return None
        viewer = Viewer(connection, wanted)
        with self._lock:
            if self._stop.is_set():
                return None
            if since is not None and since > self._seq:
                self._catch_up()  # else it would be shown again what its page has already
            hello = {"kind": "hello", "seq": self._seq, "epoch": self.epoch}
            hello["status"] = orjson.Fragment(status)
            viewer.send(_json_frame(hello))
            if since is not None and since < self._seq:
                if since < self._floor:
                    gap = {"kind": "gap", "from": since + 1, "to": self._floor}
                    viewer.send(_json_frame(gap))
                missed = [item for item in self._ring if item.seq > since and wanted.takes(item)]
                if missed:
                    viewer.send(_events_frame(missed))
            self._viewers.add(viewer)
        return viewer

    def leave(self, viewer: Viewer) -> None:
        """Forget a viewer whose connection has ended."""
        with self._lock:
            self._viewers.discard(viewer)

    def show_status(self, status: bytes) -> None:
        """Tell every viewer the service's status (JSON)."""
        self._broadcast(_json_frame({"kind": "status", **orjson.loads(status)}))

    # --- the thread ---

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                if not self._ready.is_set():
                    self._fill()
                self._step()
            except Unavailable as error:
                logger.warning("The feed waits: %s", error)
                self._stop.wait(1.0)
            except Exception:
                logger.exception("The feed failed and goes on")
                self._stop.wait(1.0)
        with self._lock:
            for viewer in self._viewers:
                viewer.send(_frame(struct.pack("!H", GOING_AWAY), _CLOSE))
            self._cut(list(self._viewers))

    def _fill(self) -> None:
        """Load the last items, so that a viewer who was here before the restart misses nothing."""
        self.epoch = self._queries.epoch()
        last = self._queries.last_seq()
        self._floor = self._seq = max(0, last - RING_ITEMS)
        self._take()
        self._ready.set()

    def _step(self) -> None:
        self._woken.wait(LOOK_SECONDS)
        self._woken.clear()
        began = time.monotonic()
        self._take()
        if began - self._last_beat > HEARTBEAT_SECONDS:
            self._last_beat = began
            self._broadcast(_json_frame({"kind": "heartbeat"}))
        self._broadcast()  # what sockets did not take before
        self._stop.wait(max(0.0, TICK_SECONDS - (time.monotonic() - began)))

    def _take(self) -> None:
        with self._lock:
            self._catch_up()

    def _catch_up(self) -> None:
        """Move what has changed into the ring and out to the viewers. Holding the lock."""
        while changes := self._queries.changes(self._seq, RING_ITEMS):
            items = [Item(*change) for change in changes]
            overflow = len(self._ring) + len(items) - RING_ITEMS
            if overflow > 0:
                self._floor = [*self._ring, *items][overflow - 1].seq
            self._ring.extend(items)
            self._seq = items[-1].seq
            self._send_events(items)
            if len(changes) < RING_ITEMS or self._stop.is_set():
                return

    def _send_events(self, items: Sequence[Item]) -> None:
        frames: dict[Filter, bytes] = {}
        lost = []
        for viewer in self._viewers:
            if viewer.filter not in frames:
                chosen = [item for item in items if viewer.filter.takes(item)]
                frames[viewer.filter] = _events_frame(chosen) if chosen else b""
            if not viewer.send(frames[viewer.filter]):
                lost.append(viewer)
        self._cut(lost)

    def _broadcast(self, frame: bytes = b"") -> None:
        with self._lock:
            self._cut([viewer for viewer in self._viewers if not viewer.send(frame)])

    def _cut(self, viewers: Iterable[Viewer]) -> None:
        for viewer in viewers:
            viewer.cut()
            self._viewers.discard(viewer)


def _events_frame(items: Sequence[Item]) -> bytes:
    return _frame(b'{"kind":"events","items":[' + b",".join(i.json for i in items) + b"]}")


def _json_frame(message: dict[str, object]) -> bytes:
    return _frame(orjson.dumps(message))


def _frame(payload: bytes, opcode: int = _TEXT) -> bytes:
    """A server's whole frame: unmasked, uncompressed (RFC 6455, section 5.2)."""
    size = len(payload)
    if size < 126:
        return struct.pack("!BB", opcode, size) + payload
    if size < 65_536:
        return struct.pack("!BBH", opcode, 126, size) + payload
    return struct.pack("!BBQ", opcode, 127, size) + payload
