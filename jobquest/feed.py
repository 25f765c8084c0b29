"""The feed: hands what the read side has stored to the live viewers.

One thread per process follows the number of the last change (`seq`) while somebody watches, so it
shows what any process did, keeps the last items in one ring, and is the only one that writes to
viewers' sockets: a frame is encoded once per distinct filter and sent without blocking; a viewer
that does not keep up is cut and delays nobody. Where the database begins a new life (`epoch`), so
do the viewers. It knows sockets and WebSocket frames (RFC 6455), no Flask.
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
from jobquest.read.event_filter import EventFilter
from jobquest.read.queries import Change, Queries

logger = logging.getLogger(__name__)

RING_ITEMS = 1_000
TICK_SECONDS = 0.05  # under load one frame per tick; else a look for what other processes did
IDLE_SECONDS = 0.25  # between looks where nobody watches
LOOK_ITEMS = 200  # so that a frame of the largest events is some megabytes
HEARTBEAT_SECONDS = 25.0
MAX_BACKLOG_BYTES = 1_000_000
MAX_REPLAY_BYTES = MAX_BACKLOG_BYTES // 2  # one that comes back must have room for what is new
MAX_STALL_SECONDS = 15.0
GOING_AWAY, BEGIN_ANEW = 1001, 1012  # RFC 6455, section 7.4.1; IANA's registry of close codes
# Windows has no such flag: there, on Flask's own server, a slow viewer does delay others.
_DO_NOT_WAIT = getattr(socket, "MSG_DONTWAIT", 0)
_TEXT, _CLOSE = 0x81, 0x88  # RFC 6455, section 5.2: final frames of these opcodes


@dataclass(frozen=True, slots=True)
class Item:
    """A changed event as the ring keeps it: what filters look at, and its JSON."""

    seq: int
    type: str | None
    topic: str
    user: str | None
    json: bytes

    def passes(self, wanted: EventFilter) -> bool:
        return wanted.takes(self.type, self.topic, self.user)


@dataclass(eq=False, slots=True)
class Viewer:
    """One open socket, and in `backlog` what it did not take yet.

    The feed's thread sends frames, the viewer's reader answers pings: under the lock, so that no
    frame begins within another that the socket has taken in part.
    """

    socket: socket.socket
    filter: EventFilter
    backlog: bytearray = field(default_factory=bytearray)
    stalled_since: float | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def send(self, frame: bytes = b"") -> bool:
        """Send what the socket takes now; False where the viewer is gone or too slow."""
        with self._lock:
            if self.backlog:
                if not self._flush() or len(self.backlog) > MAX_BACKLOG_BYTES:
                    return False
                if self.backlog:  # nothing overtakes what waits
                    self.backlog += frame
                    return True
            sent = self._write(frame) if frame else 0
            if sent is not None and sent < len(frame):
                self.backlog += frame[sent:]
                self.stalled_since = time.monotonic()
            return sent is not None

    def _flush(self) -> bool:
        sent = self._write(self.backlog)
        if sent is None:
            return False
        now = time.monotonic()
        if sent:
            del self.backlog[:sent]
            self.stalled_since = now
        return self.stalled_since is None or now - self.stalled_since <= MAX_STALL_SECONDS

    def _write(self, data: bytes | bytearray) -> int | None:
        """How many bytes the socket took; None where the viewer is gone."""
        try:
            return self.socket.send(data, _DO_NOT_WAIT)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:
            return None

    def close(self, code: int) -> None:
        """Say why (RFC 6455, section 7.4) and end the connection, without waiting."""
        self.send(_frame(struct.pack("!H", code), _CLOSE))
        self.cut()

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
        self._last_beat = self._looked = time.monotonic()
        self.epoch = ""

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Look now, where somebody watches: this process applied a batch."""
        if self._viewers:
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

    def join(self, viewer: Viewer, since: int | None, status: bytes) -> bool:
        """Add a viewer: greets it with the service's status (JSON), replays what came after
        `since`, then goes on live.

        False where the feed cannot serve now (the database is away, or the end has begun).
        """
        if not self._ready.wait(2.0):
            return False
        with self._lock:
            if self._stop.is_set():
                return False
            try:
                if not self._viewers or (since is not None and since > self._seq):
                    self._catch_up()  # else it would be shown again what its page has already
            except Unavailable:
                return False
            hello = {"kind": "hello", "seq": self._seq, "epoch": self.epoch}
            hello["status"] = orjson.Fragment(status)
            viewer.send(_json_frame(hello))
            if since is not None and since < self._seq:
                self._replay(viewer, since)
            self._viewers.add(viewer)
            self._woken.set()  # from an idle pace to a viewer's
        return True

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
            self._send_away(GOING_AWAY)

    def _fill(self) -> None:
        """Load the last items, so that a viewer who was here before the restart misses nothing."""
        with self._lock:
            self._begin_anew(*self._queries.last_change())
        self._ready.set()

    def _begin_anew(self, epoch: str, last: int) -> None:
        """Forget what another life of the database has numbered. Holding the lock."""
        if self.epoch:
            logger.info("The read side was made anew: viewers begin anew.")
        self._send_away(BEGIN_ANEW)
        self.epoch = epoch
        self._begin_at(max(0, last - RING_ITEMS))

    def _begin_at(self, seq: int) -> None:
        self._ring.clear()
        self._floor = self._seq = seq

    def _step(self) -> None:
        pace = TICK_SECONDS if self._viewers else IDLE_SECONDS
        self._woken.wait(max(0.0, self._looked + pace - time.monotonic()))
        self._woken.clear()
        self._looked = time.monotonic()
        news = self._look()
        if self._looked - self._last_beat > HEARTBEAT_SECONDS:
            self._last_beat = self._looked
            self._broadcast(_json_frame({"kind": "heartbeat"}))
        self._broadcast()  # what sockets did not take before
        if news:
            self._stop.wait(max(0.0, self._looked + TICK_SECONDS - time.monotonic()))

    def _look(self) -> bool:
        """Whether the viewers were told anything."""
        with self._lock:
            if self._viewers:
                return self._catch_up()
            epoch, last = self._queries.last_change()
            if epoch != self.epoch:
                self._begin_anew(epoch, last)
            return False

    def _catch_up(self) -> bool:
        """Move what has changed into the ring and out to the viewers; whether anything had. Holding
        the lock."""
        seen = self._seq
        changes: list[Change] = []
        while not self._stop.is_set():
            epoch, last = self._queries.last_change()  # after the changes: they may be of that life
            if epoch != self.epoch:
                self._begin_anew(epoch, last)
                changes = []
            if changes:
                self._take([Item(*change) for change in changes])
            if not self._viewers and last - self._seq > RING_ITEMS:
                self._begin_at(last - RING_ITEMS)  # nobody misses what nobody was shown
            if self._seq >= last or 0 < len(changes) < LOOK_ITEMS:
                break
            changes = self._queries.changes(self._seq, LOOK_ITEMS)
            if not changes:
                self._seq = last
        return self._seq != seen

    def _take(self, items: Sequence[Item]) -> None:
        overflow = len(self._ring) + len(items) - RING_ITEMS
        if overflow > 0:
            self._floor = self._ring[overflow - 1].seq
        self._ring.extend(items)
        self._seq = items[-1].seq
        self._send_events(items)

    def _replay(self, viewer: Viewer, since: int) -> None:
        """Send what the ring has after `since`, the newest that fit, and tell of the rest."""
        missed: deque[Item] = deque()
        size, gap_to = 0, self._floor
        for item in reversed(self._ring):
            if item.seq <= since:
                break
            if item.passes(viewer.filter):
                size += len(item.json)
                if size > MAX_REPLAY_BYTES:
                    gap_to = item.seq
                    break
                missed.appendleft(item)
        if since < gap_to:
            viewer.send(_json_frame({"kind": "gap", "from": since + 1, "to": gap_to}))
        if missed:
            viewer.send(_events_frame(missed))

    def _send_events(self, items: Sequence[Item]) -> None:
        frames: dict[EventFilter, bytes] = {}
        lost = []
        for viewer in self._viewers:
            frame = frames.get(viewer.filter)
            if frame is None:
                chosen = [item for item in items if item.passes(viewer.filter)]
                frame = frames[viewer.filter] = _events_frame(chosen) if chosen else b""
            if not viewer.send(frame):
                lost.append(viewer)
        self._cut(lost)

    def _broadcast(self, frame: bytes = b"") -> None:
        with self._lock:
            self._cut([viewer for viewer in self._viewers if not viewer.send(frame)])

    def _send_away(self, code: int) -> None:
        for viewer in self._viewers:
            viewer.close(code)
        self._viewers.clear()

    def _cut(self, viewers: Iterable[Viewer]) -> None:
        for viewer in viewers:
            viewer.cut()
            self._viewers.discard(viewer)


def _events_frame(items: Iterable[Item]) -> bytes:
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
