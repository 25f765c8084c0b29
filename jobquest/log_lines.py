"""The log's lines, cheaply: many as one record, and written on a thread of their own.

The consumer and the producer log the lines of a batch as one record; `server.py` gives each line
its prefix and has them written behind.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from logging.handlers import QueueHandler, QueueListener
from queue import SimpleQueue

MAX_WAITING = 10_000  # records; a batch's lines are one


class Lines:
    """A log record's message that is several lines."""

    def __init__(self, lines: Sequence[str]) -> None:
        self.lines = lines

    def __str__(self) -> str:
        return "\n".join(self.lines)


def log_lines(logger: logging.Logger, level: int, lines: Sequence[str]) -> None:
    """Log these lines, in their order; nothing where there are none. They must not change after."""
    if lines:
        logger.log(level, Lines(lines))


class _Front(QueueHandler):
    """Takes records for the thread that writes. Whoever reads our lines may have stopped: then new
    ones are dropped, and neither a request nor the memory pays."""

    def __init__(self, waiting: SimpleQueue[logging.LogRecord]) -> None:
        super().__init__(waiting)
        self._waiting = waiting

    def enqueue(self, record: logging.LogRecord) -> None:
        if self._waiting.qsize() < MAX_WAITING:
            self._waiting.put_nowait(record)


def write_behind(logger: logging.Logger, handler: logging.Handler) -> QueueListener:
    """From now on, have `handler` of `logger` write on a thread of its own; call it in the process
    that logs, after any fork. Give the answer to `finish` before the process ends.

    A write lets another thread run and waits for its turn to come again: with a line for each
    event, a third of a request's time went there.
    """
    waiting: SimpleQueue[logging.LogRecord] = SimpleQueue()
    front = _Front(waiting)
    front.setFormatter(handler.formatter)  # in the caller, whose objects may change after
    handler.setFormatter(None)
    logger.removeHandler(handler)
    logger.addHandler(front)
    listener = QueueListener(waiting, handler)
    listener.start()
    return listener


def finish(listener: QueueListener, seconds: float) -> None:
    """Write what waits, within `seconds`: a terminal or a pipe may take nothing any more."""
    stopping = threading.Thread(target=listener.stop, name="last-lines", daemon=True)
    stopping.start()
    stopping.join(seconds)
