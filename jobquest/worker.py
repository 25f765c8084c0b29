"""The web worker: a thread for each request, none for a client that is slow or silent.

Used by `server.py`. Only the main loop waits for clients: until a whole request has arrived, until
the client has received its answer, until it has closed a connection that we have ended. So a slow
or silent client costs some memory for some seconds, and nobody else waits for it. A plain publish
(one event or a small batch) needs no thread either: the loop receives it, has the log keep its
events (those of one turn together), and answers once the log has them. The worker relies on
gunicorn's insides: `server.worker_class` chooses it for versions that it was tried with.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from collections import deque
from contextlib import suppress
from functools import partial
from typing import Any

from gunicorn.http import errors
from gunicorn.workers.base import Worker as BaseWorker

from jobquest.connection import ANSWER_SECONDS, Connection
from jobquest.exchange import FAILED, LATE, REFUSED, Exchange, Received, Reply, error_response
from jobquest.framing import Arrived
from jobquest.log.pending import when_all
from jobquest.producer import CONFIRM_SECONDS
from jobquest.threads import Threads
from jobquest.web.entrance import Entrance

ARRIVE_SECONDS = 5.0  # for a request, from its first byte; for a new client to say anything
MAX_THREADS = 128  # for requests; viewers have none
LINGER_SECONDS = 2.0  # for a client to close a connection that we have ended
STOP_IDLE_SECONDS = 0.3  # for a request that is on its way while the worker ends
MAX_LINGERING = 256
MAX_LINGERING_BYTES = 16 << 20  # of a body that was refused
MAX_ARRIVING_BYTES = 64 << 20  # of all requests that have not arrived whole, together
MAX_UNSENT_BYTES = 64 << 20  # of all answers that wait for their clients, together
_COUNTED_BYTES = 4_096  # a shorter request is not counted
_TICK_SECONDS = 0.5  # how exactly deadlines are kept
# How long the log lines of publishes may wait: each write wakes a thread, and requests wait for it.
_LOG_SECONDS = 0.05
_EVENTS = 512  # of epoll, handled in one turn of the loop
_ACCEPTED = 64  # new connections, in one turn
_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_ANY = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
_ENDED = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR


class Worker(BaseWorker):  # type: ignore[misc]
    """Its methods run on the main thread, except those below `# --- on a thread ---`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._conns: dict[int, Connection] = {}  # by file descriptor, the oldest first
        self._lingering: dict[Connection, None] = {}  # the oldest first
        self._stalled: dict[Connection, None] = {}  # with unsent answers, the oldest first
        self._arriving = 0  # bytes of requests that are counted
        self._unsent = 0  # bytes of answers
        self._finished: deque[Connection] = deque()  # by threads; the loop goes on with them
        self._received: list[Received] = []  # publishes of this turn
        self._settled: deque[Received] = deque()  # by the log; the loop answers them
        self._asleep = False
        self._listening = False
        self._next_tick = self._next_log = 0.0
        self._threads = Threads(self._serve, MAX_THREADS)

    def run(self) -> None:
        """Serve until the server ends it; then answer what has begun."""
        self._idle_seconds: float = self.cfg.keepalive
        entrance: Entrance = self.wsgi.extensions["jobquest.entrance"]
        self._publisher = entrance.publisher
        self._exchange = Exchange(self.cfg, self.wsgi, entrance, self._let_go_of_socket)
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._epoll.register(self.PIPE[0], select.EPOLLIN)  # a signal writes there
        self._listeners = {one.fileno(): (one, one.getsockname()) for one in self.sockets}
        self._listen(True)
        while self.alive and self.ppid == os.getppid():
            self._turn()
        self._end_gracefully()

    def _end_gracefully(self) -> None:
        self._listen(False)
        for fd in self._listeners:
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
        self._publisher.log_published()

    def _turn(self, seconds: float = _TICK_SECONDS) -> None:
        """Wait at most so long for what happens next, and handle it."""
        self._asleep = True  # set first: a thread that finishes from now on wakes us
        if self._finished or self._settled:
            seconds = 0
        elif self._publisher.unlogged:
            seconds = min(seconds, _LOG_SECONDS)
        events = self._epoll.poll(seconds, _EVENTS)
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
            if not conn.busy:  # its thread may have read `pending` just before
                self._attend(conn)
        if self._settled:
            self._answer_settled()
        for _ in range(len(self._finished)):
            self._attend(self._finished.popleft())
        if self._received:
            self._keep()
        now = time.monotonic()
        if now >= self._next_log:
            self._next_log = now + _LOG_SECONDS
            self._publisher.log_published()
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
        self._listen(self.alive)
        for conn in list(self._conns.values()):
            if conn.framing.head and not (conn.busy or conn.closed or conn.asked):
                self._ask(conn)  # its body is late
            elif conn.deadline <= now and not conn.closed:
                if conn.publish:
                    conn.publish.expire()
                elif not conn.busy:
                    self._expire(conn)

    # --- connections begin ---

    def _accept(self, fd: int) -> None:
        listener, name = self._listeners[fd]
        deadline = time.monotonic() + ARRIVE_SECONDS
        for _ in range(_ACCEPTED):
            try:
                sock, client = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _NO_ROOM:
                    self._listen(False)  # until the next tick
                    self._make_room()
                    return
                continue  # the client has gone already
            conn = Connection(sock, client, name, deadline)
            if len(self._conns) >= self.cfg.worker_connections:
                self._make_room()
            self._conns[conn.fd] = conn
            self._epoll.register(conn.fd, _ANY)

    def _listen(self, wanted: bool) -> None:
        if wanted != self._listening:
            self._listening = wanted
            for fd in self._listeners:
                if wanted:
                    self._epoll.register(fd, select.EPOLLIN)
                else:
                    self._epoll.unregister(fd)

    def _make_room(self) -> None:
        """Close the oldest connection that waits for its client; preferably one that has had no
        answer yet."""
        unserved = (conn for conn in self._conns.values() if not conn.busy and not conn.served)
        waiting = (conn for conn in self._conns.values() if not conn.busy)
        conn = next(unserved, None) or next(waiting, None)
        if conn is not None:
            self._close(conn)

    # --- requests arrive, answers leave ---

    def _attend(self, conn: Connection) -> None:
        """Go on with a connection after something has happened to it."""
        if conn.busy or conn.closed:
            return
        try:
            if conn.counted or conn.waiting or conn.unsent:
                self._count_all(conn)
            if conn.unsent and not self._flush(conn):
                return
            if conn.lingering:
                self._drain(conn)
            elif conn.ending:
                self._end(conn)
            else:
                self._receive(conn)
        except Exception:  # the loop goes on, whatever one connection does
            self.log.exception("A connection failed")
            self._close(conn)

    def _receive(self, conn: Connection) -> None:
        """Read what has arrived; hand a whole request over."""
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
                conn.deadline = time.monotonic() + ARRIVE_SECONDS
            conn.add(data)
            arrived = conn.framing.look(conn.data)
            if arrived is Arrived.PART and conn.framing.head and self._may_ask(conn):
                self._ask(conn)
                return
            if arrived is Arrived.PART and not conn.pending:
                self._wait(conn)
                return
        if arrived is Arrived.LONG_HEAD:
            self._refuse(conn, *REFUSED[errors.LimitRequestHeaders])
            return
        conn.too_large = arrived is Arrived.TOO_LARGE
        self._hand_over(conn)

    def _may_ask(self, conn: Connection) -> bool:
        """Whether the guards should see a request before its body: if that is large, or the client
        waits for our word. Nearly all others arrive whole at once."""
        return not conn.asked and (conn.framing.expects or conn.framing.is_large)

    def _ask(self, conn: Connection) -> None:
        """Have a thread ask the guards, who may have to wait for a database."""
        conn.asked = conn.asks = conn.busy = True
        self._leave_to_thread(conn)

    def _wait(self, conn: Connection) -> None:
        """Wait for the rest of a request."""
        if conn.framing.expects:
            conn.framing.expects = False
            if conn.send(_CONTINUE):  # no sane client's socket is full already
                self._close(conn)
                return
        self._count(conn)

    def _hand_over(self, conn: Connection) -> None:
        self._count(conn)
        if conn.closed:
            return
        conn.busy = True
        if not conn.too_large and (received := self._exchange.receive(conn, keep=self.alive)):
            self._received.append(received)
        else:
            self._threads.put(conn)

    def _count(self, conn: Connection) -> None:
        """Count the bytes of a request that has not arrived whole. If all of these are too many,
        close the connections that are waited for longest."""
        size = len(conn.data) if len(conn.data) >= _COUNTED_BYTES else 0
        self._arriving += size - conn.counted
        conn.counted = size
        while self._arriving > MAX_ARRIVING_BYTES and not conn.closed:
            waiting = (one for one in self._conns.values() if one.counted and not one.busy)
            self._close(min(waiting, key=lambda one: one.deadline, default=conn), reset=True)

    def _cut_short(self, conn: Connection) -> None:
        """The client sends no more, or not in time."""
        if conn.framing.head:
            self._refuse(conn, *(REFUSED[errors.NoMoreData] if conn.eof else LATE))
        else:  # it may not speak HTTP at all
            self._close(conn)

    def _refuse(self, conn: Connection, status: str, message: str) -> None:
        conn.data = b""
        conn.ending = True
        conn.unsent = error_response(status, message)
        conn.deadline = time.monotonic() + ANSWER_SECONDS
        self._attend(conn)

    def _count_all(self, conn: Connection) -> None:
        """Count what the connection holds now, its unsent answer included."""
        self._count(conn)
        if conn.unsent and not conn.waiting:
            conn.waiting = len(conn.unsent)
            self._unsent += conn.waiting
            self._stalled[conn] = None
            while self._unsent > MAX_UNSENT_BYTES and not conn.closed:
                self._close(next(iter(self._stalled)), reset=True)

    def _flush(self, conn: Connection) -> bool:
        """Send what the socket takes; whether the client has its whole answer."""
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
        conn.deadline = time.monotonic() + self._idle_seconds
        return True

    # --- connections end ---

    def _expire(self, conn: Connection) -> None:
        if conn.unsent or conn.lingering or conn.ending:
            self._close(conn, reset=bool(conn.unsent))
        elif conn.data:
            self._cut_short(conn)
        else:
            self._attend(conn)  # a request may have arrived just now
            if not conn.busy and not conn.data:
                self._close(conn)

    def _end(self, conn: Connection) -> None:
        """Say that nothing more comes, and close once the client has closed too. If we closed at
        once, with something unread, the kernel would throw away our last answer."""
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

    # --- publishes without a thread ---

    def _keep(self) -> None:
        """Have the log keep the events of this turn's publishes."""
        several, self._received = self._received, []
        try:
            self._publisher.keep([received.publish for received in several])
        except Exception:  # the loop goes on; the log may have the events or not
            self.log.exception("Publishes failed")
            for received in several:
                received.conn.busy = False
                self._refuse(received.conn, *FAILED)
            return
        for received in several:
            conn, publish = received.conn, received.publish
            if not publish.pending:
                self._leave_to_thread(conn)
                continue
            conn.data = received.rest
            conn.publish = publish
            conn.deadline = time.monotonic() + CONFIRM_SECONDS
            when_all(publish.pending, partial(self._wake_to_answer, received))

    def _leave_to_thread(self, conn: Connection) -> None:
        try:
            self._threads.put(conn)
        except RuntimeError:  # the system allows no more threads now
            self.log.exception("A connection failed")
            self._close(conn)

    def answer_last(self) -> None:
        """Answer what the log has settled since the loop ended: at its own end, it settles all."""
        self._answer_settled()
        self._publisher.log_published()

    def _wake_to_answer(self, received: Received) -> None:
        """Have the loop answer. Called on the log's threads."""
        self._settled.append(received)
        if self._asleep:
            os.eventfd_write(self._wake, 1)

    def _answer_settled(self) -> None:
        for _ in range(len(self._settled)):
            received = self._settled.popleft()
            reply = self._exchange.answer_publish(received)
            conn = received.conn
            conn.publish = None
            self._let_go(conn, conn.send(reply.data), reply.keep)
            if conn.has_work:
                self._attend(conn)

    # --- on a thread ---

    def _serve(self, conn: Connection) -> None:
        """Answer one request; or, before its body has arrived, ask whether it is let in."""
        reply = Reply(b"", False)
        left: bytes | None = None
        try:
            if conn.asks:
                refusal = self._exchange.refusal(conn)
                conn.asks = False
                if refusal is None:
                    conn.pending = True  # the body may have come meanwhile
                    conn.busy = False
                    self._give_back(conn)
                    return
                reply, conn.data = refusal, b""
            else:
                reply = self._exchange.answer(conn, keep=self.alive)
            left = conn.send(reply.data) if reply.data else b""
        except Exception:  # the connection must come back to the loop
            self.log.exception("A connection failed")
        self._let_go(conn, left, reply.keep)
        if conn.has_work:
            self._give_back(conn)

    def _give_back(self, conn: Connection) -> None:
        """Have the loop go on with a connection."""
        self._finished.append(conn)
        if self._asleep:
            os.eventfd_write(self._wake, 1)

    def _let_go(self, conn: Connection, left: bytes | None, keep: bool) -> None:
        """The request is answered; the socket did not take `left` of the answer."""
        conn.unsent = left or b""
        conn.deadline = time.monotonic() + (ANSWER_SECONDS if left else self._idle_seconds)
        conn.framing.reset()
        conn.asked = False
        conn.ending = not keep or left is None
        conn.served = True
        conn.busy = False  # from here on it is the loop's

    def _let_go_of_socket(self, conn: Connection) -> None:
        """The application may keep the socket: from here on, the loop waits for nothing on it."""
        self._epoll.unregister(conn.fd)
