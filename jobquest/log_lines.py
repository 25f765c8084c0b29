"""The log's lines, cheaply: many as one record, and written a few at a time.

The consumer and the producer log the lines of a batch as one record; `server.py` gives each line
its prefix, and writes with `PatientHandler`.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from typing import Any

PATIENCE_SECONDS = 0.05


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


class PatientHandler(logging.StreamHandler[Any]):
    """Writes lines up to 50 ms late, warnings and worse at once.

    Every write lets another thread of the process in and waits for its turn to come again: with
    a line for each event, that took longer than everything else about the event.
    """

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._process = os.getpid()
        self._texts: list[str] = []
        self._some = threading.Event()
        self._writer: threading.Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Called with the handler's lock held."""
        if self._process != os.getpid():  # what stood here at the fork, the parent writes
            self._process, self._texts, self._writer = os.getpid(), [], None
            self._some = threading.Event()
        try:
            self._texts.append(self.format(record))
        except Exception:  # whatever a message's `__str__` raises: as logging's own handlers do
            self.handleError(record)
            return
        if record.levelno >= logging.WARNING:
            self.flush()
            return
        if self._writer is None:
            self._writer = threading.Thread(target=self._write, name="log-lines", daemon=True)
            self._writer.start()
        self._some.set()

    def flush(self) -> None:
        """Write what waits."""
        with self.lock or threading.Lock():
            texts, self._texts = self._texts, []
            if texts:
                self.stream.write("".join(f"{text}\n" for text in texts))
            super().flush()

    def _write(self) -> None:
        pause = threading.Event()  # never set
        while True:
            self._some.wait()
            pause.wait(PATIENCE_SECONDS)
            self._some.clear()
            try:
                self.flush()
            except (OSError, ValueError):
                continue  # nobody reads it any more: they are gone, and take no memory
