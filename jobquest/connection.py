"""A client's connection as `worker.py` keeps it: what has arrived, and what is not sent yet.

Nothing here blocks, and nothing here knows what a request means.
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Any

from jobquest.framing import Framing

if TYPE_CHECKING:
    from jobquest.web.publishing import Publish

RECEIVE_BYTES = 65_536
ANSWER_SECONDS = 10.0  # for a client to receive its answer
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close at once, and drop what was not sent
_DO_NOT_WAIT = socket.MSG_DONTWAIT


class Connection:
    """One client's connection.

    It belongs to the main loop. While it is `busy` without a `publish`, it belongs to the thread
    that answers its request. Only the main loop makes it busy; the thread ends that, as the last
    thing that it does.
    """

    __slots__ = (
        "asked",
        "asks",
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
        "publish",
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
        self.deadline = deadline  # until when we wait for the client
        self.framing = Framing()
        self.data: bytes | bytearray = b""  # of requests that were not answered yet
        self.counted = 0  # bytes of `data` that are in the worker's sum
        self.unsent = b""  # of an answer
        self.waiting = 0  # bytes of `unsent` that are in the worker's sum
        self.busy = False
        self.publish: Publish | None = None  # that waits for the log, if no thread does
        self.pending = False  # the socket may have more to read
        self.too_large = False  # we don't wait for the request's body
        self.asks = False  # its thread only asks whether the request is let in, by its head
        self.asked = False  # it was asked, and the rest of the request may come
        self.served = False  # has had an answer
        self.half_closed = False  # the client sends no more than the socket has
        self.eof = False  # and we have read it all
        self.ending = False  # nothing more is read: it closes once its answer is sent
        self.lingering = 0  # of a connection that we have ended: bytes to read before it closes
        self.closed = False

    @property
    def has_work(self) -> bool:
        """Whether the loop has something to do for it after an answer."""
        return bool(self.pending or self.ending or self.data or self.unsent or self.counted)

    def receive(self) -> bytes | None:
        """What has arrived; None if nothing has. Empty at the end, whatever ended it."""
        try:
            return self.sock.recv(RECEIVE_BYTES, _DO_NOT_WAIT)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def add(self, data: bytes) -> None:
        """Put what was received behind what has arrived of the request."""
        if not self.data:
            self.data = data
        else:
            if isinstance(self.data, bytes):
                self.data = bytearray(self.data)
            self.data += data
        is_full = len(data) == RECEIVE_BYTES  # so there may be more
        self.eof = not data or (self.half_closed and not is_full)
        self.pending = is_full or self.eof

    def send(self, data: bytes) -> bytes | None:
        """Send as much as the socket takes now. What is left of `data`; None if the client is
        gone."""
        try:
            sent = self.sock.send(data, _DO_NOT_WAIT)
        except BlockingIOError:
            return data
        except OSError:
            return None
        return data[sent:] if sent < len(data) else b""

    def close(self, reset: bool = False) -> None:
        """Close it at once; with `reset`, drop what the client has not received."""
        self.closed = True
        try:
            if reset:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.sock.close()
        except OSError:
            pass  # it is closed all the same
