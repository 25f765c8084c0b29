"""The threads that answer requests for `worker.py`. Python's own thread pool creates a future for
each request and acquires several locks; this one does not.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

from jobquest.connection import Connection


class Threads:
    """Starts threads as they are needed, up to `most`. Only the main loop calls `put`."""

    def __init__(self, work: Callable[[Connection], None], most: int) -> None:
        self._work = work
        self._most = most
        self._started = 0
        self._idle: list[None] = []  # one entry for each thread that waits
        self._queue: SimpleQueue[Connection] = SimpleQueue()

    def put(self, conn: Connection) -> None:
        """Have a thread work on a connection."""
        try:
            self._idle.pop()
        except IndexError:
            self._start()
        self._queue.put(conn)

    def _start(self) -> None:
        if self._started < self._most:
            # Raises RuntimeError if the system allows no more threads now.
            threading.Thread(target=self._run, name="request", daemon=True).start()
            self._started += 1

    def _run(self) -> None:
        while True:
            self._work(self._queue.get())
            if len(self._idle) < self._most:
                self._idle.append(None)
