"""The feed: hands what the read side has stored to the live viewers.

While somebody watches, one thread per process follows the number of the last change (`seq`), so it
shows what any process did, and keeps the last items in one ring. It alone reads the database, and
never under the lock: viewers get status, heartbeats (from a thread of its own) and good-byes
whatever the database does. A frame is encoded once per distinct filter and sent without blocking;
a viewer that does not keep up is cut and delays nobody. Everything is bounded in bytes as well as
in items: of more changes than fit the newest are shown, and a `gap` names the rest. If the database
begins a new life (`epoch`), so do the viewers. It knows sockets and WebSocket frames (RFC 6455), no
Flask.
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
from jobquest.read.event_filter import EventFilter
from jobquest.read.queries import Queries

logger = logging.getLogger(__name__)

RING_ITEMS, RING_BYTES = 1_000, 4_000_000
TICK_SECONDS = 0.05  # under load one frame per tick; else a look for what other processes did
IDLE_SECONDS = 0.25  # between looks where nobody watches
LOOK_BYTES = 1_000_000  # shown of what one look finds: what a viewer may owe
PORTION_ITEMS = 100  # read at a time: of the largest that are listed some megabytes
HEARTBEAT_SECONDS = 25.0
FLUSH_SECONDS = 0.5  # between tries of what sockets did not take
JOIN_SECONDS = 2.0
MAX_BACKLOG_BYTES = 1_000_000
MAX_REPLAY_BYTES = MAX_BACKLOG_BYTES // 2  # one that comes back must have room for what is new
PIECE_BYTES = 250  # that a frame which waits costs on top of its own
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
    """One open socket, and the frames that it did not take yet: `backlog` bytes of them. Viewers
    share the frames, so that each costs only its own.

    The feed's threads send frames, the viewer's reader answers pings: under the lock, so that no
    frame begins within another that the socket has taken in part.
    """

    socket: socket.socket
    filter: EventFilter
    backlog: int = 0
    stalled_since: float = 0.0
    _waiting: deque[memoryview] = field(default_factory=deque)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def send(self, frame: bytes = b"") -> bool:
        """Send what the socket takes now; False where the viewer is gone or too slow."""
        with self._lock:
            if self._waiting and (not self._flush() or self.backlog > MAX_BACKLOG_BYTES):
                return False
            if not frame:
                return True
            if not self._waiting:
                self.stalled_since = time.monotonic()
            self._waiting.append(memoryview(frame))
            self.backlog += len(frame) + PIECE_BYTES
            return len(self._waiting) > 1 or self._flush()  # nothing overtakes what waits

    def _flush(self) -> bool:
        """Send what waits until the socket takes no more; False where that is so for too long, or
        the viewer is gone."""
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
        self._lock = threading.Condition()  # over viewers, ring and looks
        self._viewers: set[Viewer] = set()
        self._ring: deque[Item] = deque()
        self._ring_bytes = 0
        self._floor = 0  # changes up to this one are not in the ring
        self._seq = 0
        self._asked = self._answered = 0  # looks that somebody waits for
        self._woken = threading.Event()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._looked = time.monotonic()
        self.epoch = ""

    def start(self) -> None:
        """Start the threads."""
        for name, run in (("feed", self._run), ("feed-heartbeat", self._beat)):
            self._threads.append(threading.Thread(target=run, name=name, daemon=True))
            self._threads[-1].start()

    def wake(self) -> None:
        """Look now, where somebody watches: this process applied a batch."""
        if self._viewers:
            self._woken.set()

    def begin_stop(self) -> None:
        """Have the threads send every viewer away (1001) and end. Safe in a signal handler."""
        self._stop.set()
        self._woken.set()

    def stop(self, timeout: float = 3.0) -> None:
        """The same, and wait for it."""
        self.begin_stop()
        deadline = time.monotonic() + timeout
        for thread in reversed(self._threads):  # the one that may wait for the database last
            thread.join(max(0.0, deadline - time.monotonic()))

    @property
    def viewers(self) -> int:
        """How many viewers are connected to this process."""
        return len(self._viewers)

    def join(self, viewer: Viewer, since: int | None, status: bytes) -> bool:
        """Add a viewer: greets it with the service's status (JSON), replays what came after
        `since`, then goes on live.

        False where the feed cannot serve now (the database is away, or the end has begun).
        """
        with self._lock:
            # Else it would be shown again what its page has already.
            is_behind = not self._viewers or (since is not None and since > self._seq)
            if is_behind and not self._await_look():
                return False
            if self._stop.is_set():
                return False
            hello = {"kind": "hello", "seq": self._seq, "epoch": self.epoch}
            hello["status"] = orjson.Fragment(status)
            viewer.send(_json_frame(hello))
            if since is not None and since < self._seq:
                self._replay(viewer, since)
            self._viewers.add(viewer)
            self._woken.set()  # from an idle pace to a viewer's
        return True

    def _await_look(self) -> bool:
        """Whether the thread has looked since: it lets go of the lock meanwhile."""
        self._asked += 1
        mine = self._asked
        self._woken.set()
        self._lock.wait_for(lambda: self._answered >= mine or self._stop.is_set(), JOIN_SECONDS)
        return self._answered >= mine

    def leave(self, viewer: Viewer) -> None:
        """Forget a viewer whose connection has ended."""
        with self._lock:
            self._viewers.discard(viewer)

    def show_status(self, status: bytes) -> None:
        """Tell every viewer the service's status (JSON)."""
        self._broadcast(_json_frame({"kind": "status", **orjson.loads(status)}))

    # --- the thread that viewers hear from whatever the database does ---

    def _beat(self) -> None:
        last = time.monotonic()
        while not self._stop.wait(FLUSH_SECONDS):
            frame = b""
            if time.monotonic() - last > HEARTBEAT_SECONDS:
                last = time.monotonic()
                frame = _json_frame({"kind": "heartbeat"})
            self._broadcast(frame)
        with self._lock:
            self._send_away(GOING_AWAY)
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
                logger.exception("The feed failed and goes on")
                self._stop.wait(1.0)

    def _step(self) -> None:
        pace = TICK_SECONDS if self._viewers else IDLE_SECONDS
        self._woken.wait(max(0.0, self._looked + pace - time.monotonic()))
        self._woken.clear()
        self._looked = time.monotonic()
        news = self._look()
        self._broadcast()  # what sockets did not take before
        if news:
            self._stop.wait(max(0.0, self._looked + TICK_SECONDS - time.monotonic()))

    def _look(self) -> bool:
        """Move what has changed into the ring and out to the viewers; whether anything had."""
        asked, is_watched = self._asked, bool(self._viewers)
        epoch, last = self._queries.last_change()
        if epoch != self.epoch:
            self._begin_anew(epoch, last)
        news = False
        if (is_watched or asked > self._answered) and last > self._seq:
            items, up_to = self._read(self._seq, last)
            if self._queries.last_change()[0] != epoch:
                return False  # they may be of another life, which the next look begins
            with self._lock:
                self._take(items, up_to, last)
            news = True
        with self._lock:
            self._answered = asked
            self._lock.notify_all()
        return news

    def _begin_anew(self, epoch: str, last: int) -> None:
        """Forget what another life of the database has numbered. The last items are loaded again,
        so that a viewer who was here before a restart misses nothing."""
        if self.epoch:
            logger.info("The read side was rebuilt: viewers begin again.")
        with self._lock:
            self._send_away(BEGIN_ANEW)
            self.epoch = epoch
            self._seq = max(0, last - RING_ITEMS)
            self._begin_at(self._seq)

    def _begin_at(self, seq: int) -> None:
        self._ring.clear()
        self._ring_bytes = 0
        self._floor = seq

    def _read(self, since: int, last: int) -> tuple[list[Item], int]:
        """What has changed after `since`, up to `last`, oldest first: the newest that have room.
        And the change up to which there was none: `since` where all had."""
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

    def _take(self, items: Sequence[Item], up_to: int, last: int) -> None:
        """Put what was read into the ring and show it. Holding the lock."""
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
            viewer.send(_gap_frame(since + 1, gap_to))
        if missed:
            viewer.send(_events_frame(missed))

    def _send_events(self, items: Sequence[Item]) -> None:
        frames: dict[EventFilter, bytes] = {}
        for wanted in {viewer.filter for viewer in self._viewers}:
            chosen = [item for item in items if item.passes(wanted)]
            frames[wanted] = _events_frame(chosen) if chosen else b""
        self._send({viewer: frames[viewer.filter] for viewer in self._viewers})

    def _broadcast(self, frame: bytes = b"") -> None:
        with self._lock:
            self._send(dict.fromkeys(self._viewers, frame))

    def _send(self, frames: Mapping[Viewer, bytes]) -> None:
        """Send each viewer its frame; who does not keep up is cut. Holding the lock."""
        for viewer in [viewer for viewer, frame in frames.items() if not viewer.send(frame)]:
            viewer.cut()
            self._viewers.discard(viewer)

    def _send_away(self, code: int) -> None:
        for viewer in self._viewers:
            viewer.close(code)
        self._viewers.clear()


def _gap_frame(first: int, last: int) -> bytes:
    return _json_frame({"kind": "gap", "from": first, "to": last})


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
