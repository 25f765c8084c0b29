"""The threads that answer requests for `worker.py`. Python's own thread pool creates a future for
each request and acquires several locks; this one does not.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue

from jobquest.connection import Connection


class Threads:
    """Starts threads as they are needed, up to `most` plus one for each call of `lent`."""

    def __init__(self, work: Callable[[Connection], None], most: int) -> None:
        self._work = work
        self._most = most
        self._started = 0
        self._lock = threading.Lock()  # guards these two
        self._idle: list[None] = []  # one entry for each thread that waits
        self._queue: SimpleQueue[Connection] = SimpleQueue()

    def put(self, conn: Connection) -> None:
        """Have a thread work on a connection. Only the main loop calls it."""
        try:
            self._idle.pop()
        except IndexError:
            self._start()
        self._queue.put(conn)

    @contextmanager
    def lent(self) -> Iterator[None]:
        """The calling thread is busy for long: until it is done, one more thread may start."""
        with self._lock:
            self._most += 1
        try:
            yield
        finally:
            with self._lock:
                self._most -= 1

    def _start(self) -> None:
        with self._lock:
            if self._started == self._most:
                return
            self._started += 1
        try:
            threading.Thread(target=self._run, name="request", daemon=True).start()
        except RuntimeError:  # the system allows no more threads now
            with self._lock:
                self._started -= 1
            raise

    def _run(self) -> None:
        while True:
            self._work(self._queue.get())
            if self._started > self._most and self._may_end():
                return
            if len(self._idle) < self._most:
                self._idle.append(None)

    def _may_end(self) -> bool:
        with self._lock:
            if self._started <= self._most:
                return False
            self._started -= 1
            return True
