"""The web worker: gunicorn's threads, where a busy connection keeps its thread for a moment.

Used by `server.py` alone. gunicorn hands a connection back to its main loop after every request:
two more switches between threads, which cost as much as our own work. A client that sends its next
request at once is served by the same thread instead.
"""

from __future__ import annotations

import select
import threading
from typing import Any

from gunicorn.workers.gthread import ThreadWorker

LINGER_MS = 20  # for the next request of a connection
MAX_LINGERING = 64  # threads; viewers and new connections have the others


class Worker(ThreadWorker):  # type: ignore[misc]
    """Threads that linger on busy connections."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._seats = threading.Semaphore(MAX_LINGERING)

    def handle(self, conn: Any) -> Any:
        """Serve requests of a connection as long as they come; what is left, to the main loop."""
        result = super().handle(conn)
        if result is not True or not self._seats.acquire(blocking=False):
            return result
        try:
            while result is True and self.alive and _is_readable(conn):
                result = super().handle(conn)
        finally:
            self._seats.release()
        return result


def _is_readable(conn: Any) -> bool:
    if conn.parser.unreader.buf.getvalue():  # it has been read already
        return True
    poll = select.poll()
    poll.register(conn.sock, select.POLLIN)
    return bool(poll.poll(LINGER_MS))
