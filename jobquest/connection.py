"""A client's connection as `worker.py` keeps it: what has arrived, what waits to be taken.

Nothing here blocks, and nothing here knows what a request means.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from typing import Any

from jobquest.framing import Framing

RECEIVE_BYTES = 65_536
ANSWER_SECONDS = 10.0  # for a client to take its answer
MAX_ANSWER_BYTES = 4 << 20  # kept for a client; a longer one is a stream, whose thread waits
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close at once, and forget what was not taken
_DO_NOT_WAIT = socket.MSG_DONTWAIT


class ClientGone(Exception):
    """The client of a stream has gone, or takes too long."""


class Connection:
    """One client's connection.

    It belongs to the main loop or, while it is `busy` and has no publish `begun`, to the thread
    that answers its request. Only the main loop makes it busy; the thread ends that, as the last
    thing that it does.
    """

    __slots__ = (
        "begun",
        "busy",
        "client",
        "closed",
        "counted",
        "data",
        "deadline",
        "ending",
        "eof",
        "fd",
        "framing",
        "half_closed",
        "lingering",
        "pending",
        "served",
        "server",
        "sock",
        "too_large",
        "unsent",
        "waiting",
    )

    def __init__(self, sock: socket.socket, client: Any, server: Any, deadline: float) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.fd = sock.fileno()
        self.client = client
        self.server = server
        self.deadline = deadline  # by when the client must do what it is waited for
        self.framing = Framing()
        self.data: bytes | bytearray = b""  # of requests that were not answered yet
        self.counted = 0  # of `data`, in the sum of what all connections hold
        self.unsent = b""  # of an answer, what the socket did not take yet
        self.waiting = 0  # how long that was, in the sum of what all connections hold
        self.busy = False
        self.begun: Any = None  # the publish that waits for the log, if no thread does
        self.pending = False  # the socket may have more to read
        self.too_large = False  # the request's body is not waited for
        self.served = False  # has had an answer
        self.half_closed = False  # the client will say no more than the socket has
        self.eof = False  # and we have read it all
        self.ending = False  # nothing more is read: it closes once its answer is taken
        self.lingering = 0  # of a connection that we have ended: bytes to read before it closes
        self.closed = False

    def receive(self) -> bytes | None:
        """What has arrived; None if nothing has. Empty at the end, whatever ended it."""
        try:
            return self.sock.recv(RECEIVE_BYTES, _DO_NOT_WAIT)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def send(self, data: bytes) -> bytes | None:
        """Send what the socket takes now. What is left of `data`; None if the client is gone."""
        try:
            sent = self.sock.send(data, _DO_NOT_WAIT)
        except BlockingIOError:
            return data
        except OSError:
            return None
        return data[sent:] if sent < len(data) else b""

    def close(self, reset: bool = False) -> None:
        """Close it at once; with `reset`, without what the client has not taken."""
        self.closed = True
        try:
            if reset:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.sock.close()
        except OSError:
            pass  # it is closed all the same


class Outlet:
    """Stands in for the socket while gunicorn writes an answer: collects it, so that head and body
    leave together and no thread waits for a client."""

    __slots__ = ("_conn", "_parts", "_size", "streamed")

    def __init__(self, conn: Connection) -> None:
        self._conn = conn
        self._parts: list[bytes] = []
        self._size = 0
        self.streamed = False  # a part has left: the answer can't be another one any more

    def sendall(self, data: bytes) -> None:
        """Take a piece of the answer."""
        self._parts.append(data)
        self._size += len(data)
        if self._size > MAX_ANSWER_BYTES:
            self._stream()

    def collected(self) -> bytes:
        """The answer, or what is left of one that was streamed."""
        return b"".join(self._parts)

    def _stream(self) -> None:
        """Wait until the client has taken what was collected."""
        self.streamed = True
        left: bytes | None = self.collected()
        self._parts, self._size = [], 0
        poll = select.poll()
        poll.register(self._conn.fd, select.POLLOUT)
        deadline = time.monotonic() + ANSWER_SECONDS
        while left := self._conn.send(left):  # type: ignore[arg-type]
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                break
        if left != b"":
            raise ClientGone
