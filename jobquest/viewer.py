"""A viewer: one open WebSocket, and what it has not accepted yet.

Nothing here waits. This module knows frames (RFC 6455), and not what they say.
"""

from __future__ import annotations

import logging
import socket
import struct
import threading
import time
from dataclasses import dataclass, field

from jobquest.read.event_filter import EventFilter

logger = logging.getLogger(__name__)

RECEIVE_BYTES = 4096
MAX_BACKLOG_BYTES = 1_000_000
PIECE_BYTES = 250  # the overhead of a waiting frame
MAX_STALL_SECONDS = 15.0
# Windows has no such flag: there, with Flask's own server, a slow viewer delays the others.
_DO_NOT_WAIT = getattr(socket, "MSG_DONTWAIT", 0)
_TEXT, _CLOSE = 0x81, 0x88  # RFC 6455, section 5.2: final frames of these opcodes


@dataclass(eq=False, slots=True)
class Viewer:
    """One open socket, which it owns, and the frames that the socket has not accepted yet:
    `backlog` bytes. Viewers share the frames, so each viewer costs only its own backlog.

    Several threads send frames. All hold the lock, so that no frame starts inside another one that
    the socket has accepted in part, and that nobody sends to the next connection of that number.
    """

    socket: socket.socket
    filter: EventFilter
    sees_personal: bool = False  # nothing is masked
    sees_status: bool = True  # of the service; its hosts concern no user of the front end
    credential: str = ""  # what it was let in by, and what can be revoked
    expires: float | None = None  # when that ends, in Unix seconds
    owner: str = ""  # whose sockets are counted together
    most: int | None = None  # sockets that this owner may have open
    over: threading.Event | None = None  # set at the end, where a thread waits for that
    backlog: int = 0
    stalled_since: float = 0.0
    awaits_room: bool = False  # the loop of the sockets knows that it has a backlog
    ended: bool = False  # nothing more is sent
    _waiting: list[memoryview] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def send(self, frame: bytes = b"") -> bool:
        """Send what the socket accepts now; False if the viewer is gone or too slow."""
        with self._lock:
            return self.ended or self._send(frame)

    def _send(self, frame: bytes) -> bool:
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
            del self._waiting[0]
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

    def receive(self) -> bytes | None:
        """What has arrived; None if nothing has. Empty at the end, whatever ended it."""
        try:
            return self.socket.recv(RECEIVE_BYTES, _DO_NOT_WAIT)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError:
            return b""

    def close(self, code: int) -> None:
        """Send the reason (RFC 6455, section 7.4) as the last frame, without waiting."""
        self.end(frame_of(struct.pack("!H", code), _CLOSE))

    def end(self, last: bytes) -> None:
        """Send the last frame, and say that nothing follows. The client's turn is to close."""
        with self._lock:
            if not self.ended:
                self._send(last)
                self.ended = True
                self._shut(socket.SHUT_WR)

    def cut(self) -> None:
        """End the connection now. Whoever reads the socket finds its end, and disposes of it."""
        with self._lock:
            self.ended = True
            self._shut(socket.SHUT_RDWR)

    def dispose(self) -> None:
        """Close the socket. Only who reads it may do this."""
        with self._lock:
            self.ended = True
            self._shut(socket.SHUT_RDWR)  # a server may have a copy of it
            self.socket.close()
            self._waiting.clear()
        if self.over:
            self.over.set()

    @property
    def is_closed(self) -> bool:
        """Whether it was disposed of."""
        return self.socket.fileno() < 0

    def _shut(self, how: int) -> None:
        try:
            self.socket.shutdown(how)
        except OSError:
            logger.debug("A viewer had already gone.")


def frame_of(payload: bytes, opcode: int = _TEXT) -> bytes:
    """A complete frame of a server: unmasked, uncompressed (RFC 6455, section 5.2)."""
    size = len(payload)
    if size < 126:
        return struct.pack("!BB", opcode, size) + payload
    if size < 65_536:
        return struct.pack("!BBH", opcode, 126, size) + payload
    return struct.pack("!BBQ", opcode, 127, size) + payload
