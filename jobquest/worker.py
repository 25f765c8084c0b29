"""The web worker: gunicorn's parser and answers, a thread for each request, none for a client.

Used by `server.py`. The main loop alone waits for clients: until a whole request has arrived, until
an answer is taken, until a connection that we end is closed by its other side. So a client that is
slow or silent costs some memory for some seconds, and nobody else waits for it. It relies on
gunicorn's insides: `server.worker_class` chooses it for versions that it was tried with.
"""

from __future__ import annotations

import io
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from queue import SimpleQueue
from typing import Any

import orjson
from gunicorn import http
from gunicorn.http import errors, wsgi
from gunicorn.util import http_date
from gunicorn.workers.base import Worker as BaseWorker

from jobquest.connection import ANSWER_SECONDS, RECEIVE_BYTES, ClientGone, Connection, Outlet
from jobquest.framing import Arrived

ARRIVE_SECONDS = 5.0  # for a request, from its first byte; for a new client to say anything
MAX_THREADS = 128  # viewers have theirs beside these
LINGER_SECONDS = 2.0  # for a client to close what we have ended
STOP_IDLE_SECONDS = 0.3  # for a request that is on its way while the worker ends
MAX_LINGERING = 256
MAX_LINGERING_BYTES = 16 << 20  # of a body that was refused
MAX_ARRIVING_BYTES = 64 << 20  # all requests in part together
MAX_UNSENT_BYTES = 64 << 20  # all answers that wait for their clients together
_COUNTED_BYTES = 4_096  # a shorter request is too small to count
_TICK_SECONDS = 0.5  # how exactly deadlines are kept
_EVENTS = 512
_ACCEPTED = 64  # at once
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_ANY = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
_ENDED = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR

_REFUSED: dict[type[Exception], tuple[str, str]] = {
    errors.LimitRequestLine: ("414 URI Too Long", "The address is too long."),
    errors.LimitRequestHeaders: ("431 Request Header Fields Too Large", "The head is too large."),
    errors.ExpectationFailed: ("417 Expectation Failed", "Only 100-continue can be expected."),
    errors.UnsupportedTransferCoding: (
        "501 Not Implemented",
        "Of transfer codings only chunked is understood.",
    ),
    errors.NoMoreData: ("400 Bad Request", "The request ends early."),
    errors.ParseException: ("400 Bad Request", "This is not a valid HTTP request."),
}
_LATE = ("408 Request Timeout", f"The request did not arrive within {ARRIVE_SECONDS:.0f} seconds.")
_FAILED = ("500 Internal Server Error", "Something failed here; the log says what.")


class Threads:
    """As many threads as there is work for at a time, up to `most` and those that are lent."""

    def __init__(self, work: Callable[[Connection], None], most: int) -> None:
        self._work = work
        self._most = most
        self._begun = 0
        self._lock = threading.Lock()  # over these two
        self._free: list[None] = []  # one for each thread that waits
        self._queue: SimpleQueue[Connection] = SimpleQueue()

    def put(self, conn: Connection) -> None:
        """Have a thread work on it. Called by the main loop only."""
        try:
            self._free.pop()
        except IndexError:
            self._begin()
        self._queue.put(conn)

    @contextmanager
    def lent(self) -> Iterator[None]:
        """The thread that calls is away for long: until it is back, another may begin."""
        with self._lock:
            self._most += 1
        try:
            yield
        finally:
            with self._lock:
                self._most -= 1

    def _begin(self) -> None:
        with self._lock:
            if self._begun == self._most:
                return
            self._begun += 1
        threading.Thread(target=self._run, name="request", daemon=True).start()

    def _run(self) -> None:
        while self._begun <= self._most:
            self._work(self._queue.get())
            if len(self._free) < self._most:
                self._free.append(None)
        with self._lock:
            self._begun -= 1


class Worker(BaseWorker):  # type: ignore[misc]
    """Its methods run on the main thread, except `_serve` and what that calls."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._conns: dict[int, Connection] = {}  # by file descriptor, the oldest first
        self._lingering: dict[Connection, None] = {}  # the oldest first
        self._stalled: dict[Connection, None] = {}  # answers not taken, the oldest first
        self._arriving = 0  # bytes of requests that are counted
        self._unsent = 0
        self._finished: deque[Connection] = deque()  # by threads, for the loop to go on with
        self._asleep = False
        self._next_tick = 0.0
        self._date = (0, "")
        self._threads = Threads(self._serve, MAX_THREADS)

    def run(self) -> None:
        """Serve until told to end; then answer what has begun."""
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._epoll.register(self.PIPE[0], select.EPOLLIN)  # a signal writes there
        self._listeners = {one.fileno(): (one, one.getsockname()) for one in self.sockets}
        for fd in self._listeners:
            self._epoll.register(fd, select.EPOLLIN)
        while self.alive and self.ppid == os.getppid():
            self._turn()
        self._end_gracefully()

    def _end_gracefully(self) -> None:
        for fd in self._listeners:
            self._epoll.unregister(fd)
            self._accept(fd)  # these have connected already
        for one, _ in self._listeners.values():
            one.close()
        now = time.monotonic()
        idle_until, deadline = now + STOP_IDLE_SECONDS, now + self.cfg.graceful_timeout
        while now < deadline and any(
            one.busy or one.data or one.unsent or (now < idle_until and not one.lingering)
            for one in self._conns.values()
        ):
            self._turn(0.05)
            now = time.monotonic()

    def _turn(self, seconds: float = _TICK_SECONDS) -> None:
        """Wait for what happens next, at most so long, and see to it."""
        self._asleep = True  # before the look: a thread that finishes now will wake us
        events = self._epoll.poll(0 if self._finished else seconds, _EVENTS)
        self._asleep = False
        for fd, mask in events:
            conn = self._conns.get(fd)
            if conn is None:
                self._other(fd)
                continue
            if mask & _ENDED:
                conn.half_closed = True
            if conn.busy:
                conn.pending = True
            if not conn.busy:  # its thread may have looked at `pending` just before
                self._attend(conn)
        for _ in range(len(self._finished)):
            self._attend(self._finished.popleft())
        now = time.monotonic()
        if now >= self._next_tick:
            self._next_tick = now + _TICK_SECONDS
            self._tick(now)

    def _other(self, fd: int) -> None:
        if fd in self._listeners:
            self._accept(fd)
        elif fd in (self._wake, self.PIPE[0]):
            with suppress(BlockingIOError):
                os.read(fd, 4096)

    def _tick(self, now: float) -> None:
        self.notify()
        for conn in list(self._conns.values()):
            if conn.deadline <= now and not conn.busy and not conn.closed:
                self._expire(conn)

    # --- connections come ---

    def _accept(self, fd: int) -> None:
        listener, name = self._listeners[fd]
        deadline = time.monotonic() + ARRIVE_SECONDS
        for _ in range(_ACCEPTED):
            try:
                sock, client = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:  # no more files, or the client has gone already
                self.log.debug("Could not accept a connection: %s", error)
                self._make_room()
                return
            conn = Connection(sock, client, name, deadline)
            if len(self._conns) >= self.cfg.worker_connections:
                self._make_room()
            self._conns[conn.fd] = conn
            self._epoll.register(conn.fd, _ANY)

    def _make_room(self) -> None:
        """Close the connection that has waited longest for its client, one without an answer so
        far if there is any."""
        waiting = [conn for conn in self._conns.values() if not conn.busy]
        if waiting:
            self._close(next((conn for conn in waiting if not conn.served), waiting[0]))

    # --- requests arrive, answers leave ---

    def _attend(self, conn: Connection) -> None:
        """Go on with a connection of which something is new."""
        if conn.busy or conn.closed:
            return
        try:
            if conn.counted or conn.waiting or conn.unsent:
                self._settle(conn)
            if conn.unsent and not self._flush(conn):
                return
            if conn.lingering:
                self._drain(conn)
            elif conn.ending:
                self._end(conn)
            else:
                self._read(conn)
        except Exception:  # the loop goes on, whatever one connection does
            self.log.exception("A connection failed")
            self._close(conn)

    def _read(self, conn: Connection) -> None:
        """Take what has arrived; hand a whole request to a thread."""
        arrived = conn.framing.look(conn.data) if conn.data else Arrived.PART
        while arrived is Arrived.PART:
            if conn.eof:
                self._cut_short(conn)
                return
            data = conn.receive()
            if data is None:
                self._wait(conn)
                return
            if not conn.data:
                conn.data = data
                conn.deadline = time.monotonic() + ARRIVE_SECONDS
            else:
                if isinstance(conn.data, bytes):
                    conn.data = bytearray(conn.data)
                conn.data += data
            is_full = len(data) == RECEIVE_BYTES  # so there may be more
            conn.eof = not data or (conn.half_closed and not is_full)
            conn.pending = is_full or conn.eof
            arrived = conn.framing.look(conn.data)
            if arrived is Arrived.PART and not conn.pending:
                self._wait(conn)
                return
        if arrived is Arrived.LONG_HEAD:
            self._refuse(conn, *_REFUSED[errors.LimitRequestHeaders])
            return
        conn.too_large = arrived is Arrived.TOO_LARGE
        self._hand_over(conn)

    def _wait(self, conn: Connection) -> None:
        """Wait for the rest of a request."""
        if conn.framing.expects:
            conn.framing.expects = False
            if conn.send(_CONTINUE):  # a socket that is full already has a strange client
                self._close(conn)
                return
        self._count(conn)

    def _hand_over(self, conn: Connection) -> None:
        self._count(conn)
        if not conn.closed:
            conn.busy = True
            self._threads.put(conn)

    def _count(self, conn: Connection) -> None:
        """See to it that all requests that have arrived in part are no more than fits."""
        size = len(conn.data) if len(conn.data) >= _COUNTED_BYTES else 0
        self._arriving += size - conn.counted
        conn.counted = size
        while self._arriving > MAX_ARRIVING_BYTES and not conn.closed:
            waiting = (one for one in self._conns.values() if one.counted and not one.busy)
            self._close(min(waiting, key=lambda one: one.deadline, default=conn), reset=True)

    def _cut_short(self, conn: Connection) -> None:
        """The client will say no more, or not in time."""
        if conn.framing.head:
            self._refuse(conn, *(_REFUSED[errors.NoMoreData] if conn.eof else _LATE))
        else:  # nobody knows whether it speaks HTTP
            self._close(conn)

    def _refuse(self, conn: Connection, status: str, message: str) -> None:
        conn.data = b""
        conn.ending = True
        conn.unsent = self._spelled(status, message)
        conn.deadline = time.monotonic() + ANSWER_SECONDS
        self._attend(conn)

    def _settle(self, conn: Connection) -> None:
        """Bring the sums up to what the connection holds now."""
        self._count(conn)
        if conn.unsent and not conn.waiting:
            conn.waiting = len(conn.unsent)
            self._unsent += conn.waiting
            self._stalled[conn] = None
            while self._unsent > MAX_UNSENT_BYTES and not conn.closed:
                self._close(next(iter(self._stalled)), reset=True)

    def _flush(self, conn: Connection) -> bool:
        """Whether the client has its whole answer."""
        if conn.closed:
            return False
        left = conn.send(conn.unsent)
        if left is None:
            self._close(conn)
            return False
        conn.unsent = left
        if left:
            return False
        self._unsent -= conn.waiting
        conn.waiting = 0
        self._stalled.pop(conn, None)
        conn.deadline = time.monotonic() + self.cfg.keepalive
        return True

    # --- connections go ---

    def _expire(self, conn: Connection) -> None:
        if conn.unsent or conn.lingering or conn.ending:
            self._close(conn, reset=bool(conn.unsent))
        elif conn.data:
            self._cut_short(conn)
        else:
            self._close(conn)

    def _end(self, conn: Connection) -> None:
        """Say that nothing more comes, and close once the client has closed too: closed at once,
        with something unread, the kernel would take our last answer back."""
        try:
            conn.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._close(conn)
            return
        conn.data = b""
        conn.lingering = MAX_LINGERING_BYTES
        conn.deadline = time.monotonic() + LINGER_SECONDS
        self._lingering[conn] = None
        if len(self._lingering) > MAX_LINGERING:
            self._close(next(iter(self._lingering)))
        self._drain(conn)

    def _drain(self, conn: Connection) -> None:
        while not conn.closed:
            data = conn.receive()
            if data is None:
                return
            conn.lingering -= len(data)
            if not data or conn.lingering <= 0:
                self._close(conn)

    def _close(self, conn: Connection, reset: bool = False) -> None:
        if self._conns.get(conn.fd) is conn:
            del self._conns[conn.fd]
        self._lingering.pop(conn, None)
        self._stalled.pop(conn, None)
        self._arriving -= conn.counted
        self._unsent -= conn.waiting
        conn.counted = conn.waiting = 0
        conn.close(reset)

    # --- on a thread ---

    def _serve(self, conn: Connection) -> None:
        """Answer one request."""
        keep = False
        try:
            answer, keep = self._answer(conn)
            left = conn.send(answer) if answer else b""
            keep = keep and left is not None
            conn.unsent = left or b""
        except Exception:  # the connection must come back to the loop
            self.log.exception("A connection failed")
        now = time.monotonic()
        conn.deadline = now + (ANSWER_SECONDS if conn.unsent else self.cfg.keepalive)
        conn.framing.reset()
        conn.ending = not keep
        conn.served = True
        conn.busy = False  # from here on it is the loop's
        if conn.pending or not keep or conn.data or conn.unsent or conn.counted:
            self._finished.append(conn)
            if self._asleep:
                os.eventfd_write(self._wake, 1)

    def _answer(self, conn: Connection) -> tuple[bytes, bool]:
        """The answer, and whether another request may follow on the connection."""
        data, conn.data = bytes(conn.data), b""
        parser = http.get_parser(self.cfg, (data,), conn.client)
        try:
            request = next(parser)
            body = b"" if conn.too_large else _body(request)
            if conn.framing.chunked:
                _tell_length(request, len(data) if conn.too_large else len(body))
        except (errors.ParseException, errors.NoMoreData) as error:
            return self._refusal(conn, error), False
        if not conn.too_large:
            conn.data = parser.unreader.take_buffered()
        outlet = Outlet(conn)
        try:
            return self._respond(conn, request, body, outlet)
        except StopIteration:  # a WebSocket was served, and has ended
            return b"", False
        except ClientGone:
            return b"", False
        except Exception:
            self.log.exception("Error handling request %s %s", request.method, request.uri)
            return (b"" if outlet.streamed else self._spelled(*_FAILED)), False

    def _respond(
        self, conn: Connection, request: Any, body: bytes, outlet: Outlet
    ) -> tuple[bytes, bool]:
        """Have the application answer."""
        request._expected_100_continue = False  # the loop has seen to that
        response, environ = wsgi.create(request, outlet, conn.client, conn.server, self.cfg)
        environ["wsgi.multithread"] = True
        environ["wsgi.input"] = io.BytesIO(body)
        del environ["gunicorn.socket"]
        is_viewer = "websocket" in environ.get("HTTP_UPGRADE", "").lower()
        if is_viewer:
            self._lend(conn, environ)
        if is_viewer or conn.too_large or not self.alive:
            response.force_close()
        with self._threads.lent() if is_viewer else nullcontext():
            pieces = self.wsgi(environ, response.start_response)
            try:
                for piece in pieces:
                    response.write(piece)
                response.close()
            finally:
                if hasattr(pieces, "close"):
                    pieces.close()
        return outlet.collected(), not response.should_close()

    def _lend(self, conn: Connection, environ: dict[str, Any]) -> None:
        """Give the application the socket itself, which reads and writes there as it likes."""
        self._epoll.unregister(conn.fd)
        conn.sock.setblocking(True)
        environ["gunicorn.socket"] = conn.sock

    def _refusal(self, conn: Connection, error: Exception) -> bytes:
        self.log.info("Invalid request from %s: %s", conn.client[0], error)
        kind = next(kind for kind in _REFUSED if isinstance(error, kind))
        return self._spelled(*_REFUSED[kind])

    def _spelled(self, status: str, message: str) -> bytes:
        """An error of ours, as the application spells its errors; the connection then closes."""
        body = orjson.dumps({"status": "error", "message": message}) + b"\n"
        head = (
            f"HTTP/1.1 {status}\r\nServer: gunicorn\r\nDate: {http_date()}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode("latin-1") + body


def _body(request: Any) -> bytes:
    body: bytes = request.body.read()
    return body


def _tell_length(request: Any, length: int) -> None:
    """A body whose chunks were read has a length (RFC 9112, section 7.1.3)."""
    kept = [(name, value) for name, value in request.headers if name != "TRANSFER-ENCODING"]
    request.headers = [*kept, ("CONTENT-LENGTH", str(length))]
