"""The threads that answer requests for `worker.py`. Python's own pool makes a future for each
request and takes several locks; this one does not.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue

from jobquest.connection import Connection


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
        try:
            threading.Thread(target=self._run, name="request", daemon=True).start()
        except RuntimeError:  # the system allows no more of them now
            with self._lock:
                self._begun -= 1
            raise

    def _run(self) -> None:
        while True:
            self._work(self._queue.get())
            if self._begun > self._most and self._may_end():
                return
            if len(self._free) < self._most:
                self._free.append(None)

    def _may_end(self) -> bool:
        with self._lock:
            if self._begun <= self._most:
                return False
            self._begun -= 1
            return True
