"""Rebuilds the derived tables in the background, if a migration has said that they need it.

The runtime calls `look` at each beat of a process that consumes. The old tables serve meanwhile.
"""

from __future__ import annotations

import logging
import threading
import time

from jobquest.errors import JobQuestError, StateConflict, Unavailable
from jobquest.read.rebuild import Rebuild

logger = logging.getLogger(__name__)

LOOK_SECONDS = 30.0  # between two looks, and before another try


class Rebuilder:
    """Runs `rebuild` on a thread of its own when it is due; ends when `stop` is set."""

    def __init__(self, rebuild: Rebuild, stop: threading.Event) -> None:
        self._rebuild = rebuild
        self._stop = stop
        self._thread: threading.Thread | None = None
        self._next_look = 0.0

    def look(self) -> None:
        """Start a rebuild if one is due. Returns at once; raises ReadSideUnavailable."""
        runs = self._thread is not None and self._thread.is_alive()
        if runs or time.monotonic() < self._next_look:
            return
        due = self._rebuild.is_due()
        self._next_look = time.monotonic() + LOOK_SECONDS
        if due:
            self._thread = threading.Thread(target=self._run, name="rebuilder", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        logger.info("The upgrade needs past events: the derived tables are rebuilt meanwhile.")
        try:
            made = self._rebuild.run(self._progress)
        except StateConflict as error:
            logger.info("This process does not rebuild: %s", error)
        except JobQuestError as error:
            logger.warning("The rebuild is tried again: %s", error)
        except Exception:  # a fault of ours: the old tables serve, and it is tried again
            logger.exception("The rebuild failed and is tried again")
        else:
            logger.info("Rebuilt %d events in %.0f s.", made.events, made.seconds)

    def _progress(self, _done: int, _total: int) -> None:
        if self._stop.is_set():
            raise Unavailable("This process stops.")
