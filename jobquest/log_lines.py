"""Log lines at a low price: many lines are one record, a thread writes them, and lines that a
library repeats are seldom written.

The consumer and the producer log the lines of a batch as one record; `server.py` puts a prefix
before each line and has a thread write them.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Sequence
from logging.handlers import QueueHandler, QueueListener
from queue import SimpleQueue

MAX_WAITING = 10_000  # records; a batch's lines are one
SELDOM_SECONDS = 10.0
MAX_KINDS = 1_000  # of lines, each with its own count
_NUMBER = re.compile(r"\d+(\.\d+)?")


class Lines:
    """A log record's message that is several lines."""

    def __init__(self, lines: Sequence[str]) -> None:
        self.lines = lines

    def __str__(self) -> str:
        return "\n".join(self.lines)


def log_lines(logger: logging.Logger, level: int, lines: Sequence[str]) -> None:
    """Log these lines, in their order; nothing if there are none. They must not change later."""
    if lines:
        logger.log(level, Lines(lines))


def _is_of_connection(error: BaseException | None) -> bool:
    # kafka-python 3 sets the socket of a connection that it closes to None, and may read from it
    # once more: `_read_from_sock` in kafka/net/transport.py.
    was_closed = isinstance(error, AttributeError) and error.obj is None and error.name == "recv"
    return was_closed or isinstance(error, OSError)


class Seldom(logging.Filter):
    """For a handler: lets a line of the logger `name`, or of one below it, pass once in `seconds`,
    with the number of lines that were left out. Lines that differ only in numbers count as one.
    A connection that is broken or closed is no reason for a traceback."""

    def __init__(self, name: str, seconds: float = SELDOM_SECONDS) -> None:
        super().__init__(name)
        self._seconds = seconds
        self._lock = threading.Lock()  # over the one below
        self._shown: dict[tuple[str, str], tuple[float, int]] = {}  # when, and left out since

    def filter(self, record: logging.LogRecord) -> bool:
        """See `logging.Filter.filter`."""
        if not super().filter(record):
            return True  # not of that logger
        if record.exc_info and _is_of_connection(record.exc_info[1]):
            record.exc_info = None
        message = record.getMessage()
        left_out = self._left_out((record.name, _NUMBER.sub("0", message)))
        if left_out:
            record.msg, record.args = f"{message} ({left_out} more since the last one)", None
        return left_out is not None

    def _left_out(self, kind: tuple[str, str]) -> int | None:
        """How many of this kind were left out since one was shown; None: so is this one."""
        now = time.monotonic()
        with self._lock:
            shown, left_out = self._shown.get(kind, (float("-inf"), 0))
            if now - shown < self._seconds:
                self._shown[kind] = shown, left_out + 1
                return None
            self._shown.pop(kind, None)
            if len(self._shown) >= MAX_KINDS:  # the one that was shown first
                del self._shown[next(iter(self._shown))]
            self._shown[kind] = now, 0
            return left_out


class _Front(QueueHandler):
    """Hands records to the thread that writes. If nobody reads our lines any more, new records are
    dropped: no request waits, and memory does not grow."""

    def __init__(self, waiting: SimpleQueue[logging.LogRecord]) -> None:
        super().__init__(waiting)
        self._waiting = waiting

    def enqueue(self, record: logging.LogRecord) -> None:
        if self._waiting.qsize() < MAX_WAITING:
            self._waiting.put_nowait(record)


def write_behind(logger: logging.Logger, handler: logging.Handler) -> QueueListener:
    """From now on, have a new thread write for `handler` of `logger`. To be called in the process
    that logs, after any fork; before the process ends, `finish` has to get the returned listener.

    A thread that writes lets another one run, and waits until it may run again: with a line for
    each event, that was a third of a request's time.
    """
    waiting: SimpleQueue[logging.LogRecord] = SimpleQueue()
    front = _Front(waiting)
    front.setFormatter(handler.formatter)  # formats in the caller, whose objects may change later
    handler.setFormatter(None)
    logger.removeHandler(handler)
    logger.addHandler(front)
    listener = QueueListener(waiting, handler)
    listener.start()
    return listener


def finish(listener: QueueListener, seconds: float) -> None:
    """Write what waits, within `seconds`: a terminal or a pipe may accept nothing any more."""
    stopping = threading.Thread(target=listener.stop, name="last-lines", daemon=True)
    stopping.start()
    stopping.join(seconds)
