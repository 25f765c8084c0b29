"""The web worker: gunicorn's threads, and a loop that answers plain publishes without one.

Used by `server.py` alone. A thread per request waits for the log, and is waited for: the switches
cost more than our own work. So on a connection that is kept alive, the worker's own loop reads a
plain request (see `web/plain.py`), begins it, and writes the answer once the log has told; all else
goes to gunicorn's parser and threads as always. It knows HTTP, no events.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from gunicorn.util import http_date
from gunicorn.workers.gthread import ThreadWorker

from jobquest.web.plain import Application, PlainAnswer, plain_request

RECEIVE_BYTES = 65_536  # what does not come at once goes to a thread


class _Exchange:
    """A request that was begun, and where its answer goes."""

    __slots__ = ("answer", "conn")

    def __init__(self, conn: Any) -> None:
        self.conn = conn
        self.answer: Callable[[], PlainAnswer] | None = None


class Worker(ThreadWorker):  # type: ignore[misc]
    """gunicorn's worker with that loop. Its methods run on the main thread, save `_done`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lock = threading.Lock()  # over the next one
        self._to_write: deque[_Exchange] = deque()
        self._date = (0, "")

    def on_client_socket_readable(self, conn: Any, client: Any) -> None:
        """A connection that was kept alive has something to say."""
        exchange = self._begun(conn, client)
        if exchange is None:
            super().on_client_socket_readable(conn, client)
            return
        self.poller.unregister(client)
        self.keepalived_conns.remove(conn)

    def _begun(self, conn: Any, client: Any) -> _Exchange | None:
        try:
            data = client.recv(RECEIVE_BYTES)
        except OSError:
            return None
        exchange = _Exchange(conn)
        request = plain_request(data)
        if request:
            application: Application = self.app.callable.wsgi_app
            exchange.answer = application.begin(request, lambda: self._done(exchange))
        if exchange.answer is None:
            conn.parser.unreader.unread(data)
            return None
        return exchange

    def _done(self, exchange: _Exchange) -> None:
        with self._lock:
            self._to_write.append(exchange)
            is_first = len(self._to_write) == 1
        if is_first:  # the others are written with it
            self.method_queue.defer(self._write_answers)

    def _write_answers(self) -> None:
        with self._lock:
            exchanges = list(self._to_write)
            self._to_write.clear()
        for exchange in exchanges:
            assert exchange.answer
            keep = self.alive
            self._write(exchange.conn, self._spelled(exchange.answer(), keep), keep)

    def _write(self, conn: Any, answer: bytes, keep: bool) -> None:
        sent: Future[bool] = Future()
        try:
            left = answer[conn.sock.send(answer) :]
        except BlockingIOError:
            left = answer
        except OSError:  # the client has gone
            left, keep = b"", False
        if left:  # the client is slow: a thread may wait for it
            sent = self.tpool.submit(_send, conn, left, keep)
            sent.add_done_callback(
                lambda done: self.method_queue.defer(self.finish_request, conn, done)
            )
            return
        sent.set_result(keep)
        self.finish_request(conn, sent)

    def _spelled(self, answer: PlainAnswer, keep: bool) -> bytes:
        """As gunicorn spells its answers."""
        lines = [
            f"HTTP/1.1 {answer.status}",
            "Server: gunicorn",
            f"Date: {self._now()}",
            f"Connection: {'keep-alive' if keep else 'close'}",
            *(f"{name}: {value}" for name, value in answer.headers),
        ]
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + answer.body

    def _now(self) -> str:
        second = int(time.time())
        if self._date[0] != second:
            self._date = (second, http_date(second))
        return self._date[1]


def _send(conn: Any, answer: bytes, keep: bool) -> bool:
    conn.sock.setblocking(True)
    conn.sock.sendall(answer)
    return keep
