"""The feed: sends what the read side has stored to the live viewers.

While there are viewers, one thread per process follows the number of the last change (`seq`). So it
sees the changes of all processes, and keeps the latest items in one ring. Only this thread reads
the database, and never while it holds the lock: status, heartbeats (from a second thread) and
closing frames reach the viewers whatever the database does. A frame is encoded once for each
distinct filter and sent without blocking; a viewer that is too slow is disconnected and delays
nobody. Everything is bounded in bytes and in items: if there are more changes than fit, the newest
are sent, and a `gap` names the rest. When the database has a new `epoch`, viewers have to connect
again. This module knows sockets and WebSocket frames (RFC 6455), but no Flask.
"""

from __future__ import annotations

import logging
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import orjson

from jobquest.errors import Unavailable
from jobquest.read.cursor import Cursor
from jobquest.read.event_filter import EventFilter
from jobquest.read.queries import Queries

logger = logging.getLogger(__name__)

RING_ITEMS, RING_BYTES = 1_000, 4_000_000
TICK_SECONDS = 0.05  # one frame per tick under load; otherwise, looks for other processes' changes
IDLE_SECONDS = 1.0  # between looks without viewers, only for the epoch that the status names
LOOK_BYTES = 1_000_000  # sent of what one look finds: a viewer may have to catch up with that
PORTION_ITEMS = 100  # read at a time: some megabytes of the largest items that are listed
HEARTBEAT_SECONDS = 25.0
FLUSH_SECONDS = 0.5  # between attempts to send what sockets did not accept
JOIN_SECONDS = 2.0
MAX_BACKLOG_BYTES = 1_000_000
MAX_REPLAY_BYTES = MAX_BACKLOG_BYTES // 2  # leaves a viewer that returns some room for new changes
PIECE_BYTES = 250  # the overhead of a waiting frame
MAX_STALL_SECONDS = 15.0
GOING_AWAY, SERVICE_RESTART = 1001, 1012  # RFC 6455, section 7.4.1; IANA's registry of close codes
# Windows has no such flag: there, with Flask's own server, a slow viewer delays the others.
_DO_NOT_WAIT = getattr(socket, "MSG_DONTWAIT", 0)
_TEXT, _CLOSE = 0x81, 0x88  # RFC 6455, section 5.2: final frames of these opcodes


@dataclass(frozen=True, slots=True)
class Item:
    """A changed event in the ring: the fields that filters need, and its JSON, with personal data
    masked and as it is (the same bytes if there is none)."""

    seq: int
    type: str | None
    topic: str
    user: str | None
    json: bytes
    unmasked: bytes

    def passes(self, wanted: EventFilter) -> bool:
        return wanted.matches(self.type, self.topic, self.user)


@dataclass(eq=False, slots=True)
class Viewer:
    """One open socket, and the frames that it has not accepted yet: `backlog` bytes. Viewers share
    the frames, so each viewer costs only its own backlog.

    The feed's threads send frames, and the viewer's reader answers pings. Both hold the lock, so
    that no frame starts inside another one that the socket has accepted in part.
    """

    socket: socket.socket
    filter: EventFilter
    sees_personal: bool = False  # nothing is masked
    backlog: int = 0
    stalled_since: float = 0.0
    _waiting: deque[memoryview] = field(default_factory=deque)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def send(self, frame: bytes = b"") -> bool:
        """Send what the socket accepts now; False if the viewer is gone or too slow."""
        with self._lock:
            if self._waiting and (not self._flush() or self.backlog > MAX_BACKLOG_BYTES):
                return False
            if not frame:
                return True
            if not self._waiting:
                self.stalled_since = time.monotonic()
            self._waiting.append(memoryview(frame))
            self.backlog += len(frame) + PIECE_BYTES
            return len(self._waiting) > 1 or self._flush()  # frames stay in order

    def _flush(self) -> bool:
        """Send waiting frames until the socket accepts no more. False if it has accepted nothing
        for too long, or the viewer is gone."""
        while self._waiting:
            piece = self._waiting[0]
            sent = self._write(piece)
            if sent is None:
                return False
            if sent:
                self.stalled_since = time.monotonic()
            self.backlog -= sent
            if sent < len(piece):
                self._waiting[0] = piece[sent:]
                break
            self._waiting.popleft()
            self.backlog -= PIECE_BYTES
        return not self._waiting or time.monotonic() - self.stalled_since <= MAX_STALL_SECONDS

    def _write(self, data: memoryview) -> int | None:
        """How many bytes the socket accepted; None if the viewer is gone."""
        try:
            return self.socket.send(data, _DO_NOT_WAIT)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:
            return None

    def close(self, code: int) -> None:
        """Send the reason (RFC 6455, section 7.4) and end the connection, without waiting."""
        self.send(_frame(struct.pack("!H", code), _CLOSE))
        self.cut()

    def cut(self) -> None:
        """End the connection now; this wakes its reader, whatever it waits for."""
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            logger.debug("A viewer had already gone.")


class Feed:
    """The ring and its viewers. The runtime calls `start` and `stop`, a viewer's own thread calls
    `join` and `leave`."""

    def __init__(self, queries: Queries) -> None:
        self._queries = queries
        self._lock = threading.Condition()  # guards viewers, ring and looks
        self._viewers: set[Viewer] = set()
        self._ring: deque[Item] = deque()
        self._ring_bytes = 0
        self._floor = 0  # changes up to this one are not in the ring
        self._seq = 0
        self._requested = self._answered = 0  # looks that somebody waits for
        self._woken = threading.Event()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._looked = float("-inf")  # at once: the status names the epoch
        self.epoch = ""

    def start(self) -> None:
        """Start the threads."""
        for name, run in (("feed", self._run), ("feed-heartbeat", self._beat)):
            self._threads.append(threading.Thread(target=run, name=name, daemon=True))
            self._threads[-1].start()

    def wake(self) -> None:
        """Look now, if there are viewers: this process has applied a batch."""
        if self._viewers:
            self._woken.set()

    def begin_stop(self) -> None:
        """Tell the threads to disconnect every viewer (1001) and end. Safe in a signal handler."""
        self._stop.set()
        self._woken.set()

    def stop(self, timeout: float = 3.0) -> None:
        """Call `begin_stop`, and wait for the threads."""
        self.begin_stop()
        deadline = time.monotonic() + timeout
        for thread in reversed(self._threads):  # last, the one that may wait for the database
            thread.join(max(0.0, deadline - time.monotonic()))

    @property
    def viewers(self) -> int:
        """How many viewers are connected to this process."""
        return len(self._viewers)

    def join(self, viewer: Viewer, since: Cursor | None, status: bytes) -> bool:
        """Add a viewer: send it the service's status (JSON), replay the changes after `since`, then
        continue live. If `since` is of another epoch, nothing is replayed: the viewer has to begin
        again, as `hello` says.

        False if the feed can't serve now (the database is away, or the service is stopping).
        """
        with self._lock:
            # Without a look, it would be sent again what its page already shows.
            is_behind = not self._viewers or (since is not None and since.seq > self._seq)
            if is_behind and not self._await_look():
                return False
            if self._stop.is_set():
                return False
            hello = {"kind": "hello", "seq": self._seq, "epoch": self.epoch}
            hello["status"] = orjson.Fragment(status)
            viewer.send(_json_frame(hello))
            if since is not None and since.is_of(self.epoch) and since.seq < self._seq:
                self._replay(viewer, since.seq)
            self._viewers.add(viewer)
            self._woken.set()  # from the idle pace to that of viewers
        return True

    def _await_look(self) -> bool:
        """Wait for a look that starts after this call; the lock is free meanwhile. False if there
        was none in time."""
        self._requested += 1
        mine = self._requested
        self._woken.set()
        self._lock.wait_for(lambda: self._answered >= mine or self._stop.is_set(), JOIN_SECONDS)
        return self._answered >= mine

    def leave(self, viewer: Viewer) -> None:
        """Remove a viewer whose connection has ended."""
        with self._lock:
            self._viewers.discard(viewer)

    def show_status(self, status: bytes) -> None:
        """Send the service's status (JSON) to every viewer."""
        self._broadcast(_json_frame({"kind": "status", **orjson.loads(status)}))

    # --- the thread that serves viewers whatever the database does ---

    def _beat(self) -> None:
        last = time.monotonic()
        while not self._stop.wait(FLUSH_SECONDS):
            frame = b""
            if time.monotonic() - last > HEARTBEAT_SECONDS:
                last = time.monotonic()
                frame = _json_frame({"kind": "heartbeat"})
            self._broadcast(frame)
        with self._lock:
            self._disconnect_all(GOING_AWAY)
            self._lock.notify_all()

    # --- the thread that reads the database ---

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._step()
            except Unavailable as error:
                logger.warning("The feed waits: %s", error)
                self._stop.wait(1.0)
            except Exception:
                logger.exception("The feed failed and continues")
                self._stop.wait(1.0)

    def _step(self) -> None:
        pace = TICK_SECONDS if self._viewers else IDLE_SECONDS
        self._woken.wait(max(0.0, self._looked + pace - time.monotonic()))
        self._woken.clear()
        self._looked = time.monotonic()
        news = self._look()
        self._broadcast()  # frames that sockets did not accept before
        if news:
            self._stop.wait(max(0.0, self._looked + TICK_SECONDS - time.monotonic()))

    def _look(self) -> bool:
        """Put what has changed into the ring and send it to the viewers. Returns whether anything
        had changed."""
        requested, is_watched = self._requested, bool(self._viewers)
        epoch, last = self._queries.last_change()
        if epoch != self.epoch:
            self._begin_epoch(epoch, last)
        news = False
        if (is_watched or requested > self._answered) and last > self._seq:
            items, up_to = self._read(self._seq, last)
            if self._queries.last_change()[0] != epoch:
                return False  # the items may be of a new epoch, which the next look begins
            with self._lock:
                self._add(items, up_to, last)
            news = True
        with self._lock:
            self._answered = requested
            self._lock.notify_all()
        return news

    def _begin_epoch(self, epoch: str, last: int) -> None:
        """Forget the numbers of the epoch before. The last items are loaded again, so that a viewer
        from before a restart misses nothing."""
        if self.epoch:
            logger.info("The read side was rebuilt: viewers have to connect again.")
        with self._lock:
            self._disconnect_all(SERVICE_RESTART)
            self.epoch = epoch
            self._seq = max(0, last - RING_ITEMS)
            self._begin_at(self._seq)

    def _begin_at(self, seq: int) -> None:
        self._ring.clear()
        self._ring_bytes = 0
        self._floor = seq

    def _read(self, since: int, last: int) -> tuple[list[Item], int]:
        """The changes after `since` up to `last`, oldest first: the newest ones that fit. And the
        change up to which they did not fit: `since` if all did."""
        found: list[Item] = []
        size, below = 0, last + 1
        while below > since + 1:
            changes = self._queries.changes(since, PORTION_ITEMS, below)
            for change in reversed(changes):
                item = Item(*change)
                size += len(item.json)
                if len(found) == RING_ITEMS or size > LOOK_BYTES:
                    return found[::-1], item.seq
                found.append(item)
            below = found[-1].seq if len(changes) == PORTION_ITEMS else since + 1
        return found[::-1], since

    def _add(self, items: Sequence[Item], up_to: int, last: int) -> None:
        """Put items into the ring and send them. Called with the lock held."""
        before, self._seq = self._seq, last
        if up_to > before:
            self._begin_at(up_to)
            self._send({viewer: _gap_frame(before + 1, up_to) for viewer in self._viewers})
        self._ring.extend(items)
        self._ring_bytes += sum(len(item.json) for item in items)
        while len(self._ring) > RING_ITEMS or self._ring_bytes > RING_BYTES:
            oldest = self._ring.popleft()
            self._ring_bytes -= len(oldest.json)
            self._floor = oldest.seq
        self._send_events(items)

    def _replay(self, viewer: Viewer, since: int) -> None:
        """Send the ring's items after `since`: the newest that fit, and a gap for the rest."""
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
            viewer.send(_gap_frame(since + 1, gap_to))
        if missed:
            viewer.send(_events_frame(missed, viewer.sees_personal))

    def _send_events(self, items: Sequence[Item]) -> None:
        frames: dict[tuple[EventFilter, bool], bytes] = {}
        for wanted, personal in {(one.filter, one.sees_personal) for one in self._viewers}:
            chosen = [item for item in items if item.passes(wanted)]
            frames[wanted, personal] = _events_frame(chosen, personal) if chosen else b""
        self._send({one: frames[one.filter, one.sees_personal] for one in self._viewers})

    def _broadcast(self, frame: bytes = b"") -> None:
        with self._lock:
            self._send(dict.fromkeys(self._viewers, frame))

    def _send(self, frames: Mapping[Viewer, bytes]) -> None:
        """Send each viewer its frame; disconnect a viewer that is too slow. Called with the lock
        held."""
        for viewer in [viewer for viewer, frame in frames.items() if not viewer.send(frame)]:
            viewer.cut()
            self._viewers.discard(viewer)

    def _disconnect_all(self, code: int) -> None:
        for viewer in self._viewers:
            viewer.close(code)
        self._viewers.clear()


def _gap_frame(first: int, last: int) -> bytes:
    return _json_frame({"kind": "gap", "from": first, "to": last})


def _events_frame(items: Iterable[Item], personal: bool) -> bytes:
    shown = (item.unmasked if personal else item.json for item in items)
    return _frame(b'{"kind":"events","items":[' + b",".join(shown) + b"]}")


def _json_frame(message: dict[str, object]) -> bytes:
    return _frame(orjson.dumps(message))


def _frame(payload: bytes, opcode: int = _TEXT) -> bytes:
    """A complete frame of a server: unmasked, uncompressed (RFC 6455, section 5.2)."""
    size = len(payload)
    if size < 126:
        return struct.pack("!BB", opcode, size) + payload
    if size < 65_536:
        return struct.pack("!BBH", opcode, 126, size) + payload
    return struct.pack("!BBQ", opcode, 127, size) + payload
