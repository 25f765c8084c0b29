"""The relay: brings follow-ups from the read side, where a batch left them, into the log.

One thread per process, owned by the runtime. A crash between commit and publish loses nothing: the
row waits, and what is published twice counts once by its id.
"""

from __future__ import annotations

import logging
import threading
import time

from jobquest.errors import JobQuestError
from jobquest.events import from_record
from jobquest.producer import Producer, confirmed
from jobquest.read import ReadSide

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
WAIT_AFTER_FAILURE_SECONDS = 2.0


class Relay:
    """Publishes waiting follow-ups until stopped."""

    def __init__(self, read_side: ReadSide, producer: Producer) -> None:
        self._read_side = read_side
        self._producer = producer
        self._woken = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Look now: a batch was applied."""
        self._woken.set()

    def stop(self, timeout: float = 5.0) -> None:
        """End the thread; what waits is relayed after the next start."""
        self._stop.set()
        self._woken.set()
        if self._thread:
            self._thread.join(timeout)

    def step(self) -> int:
        """Publish what waits, once; how many follow-ups the log has taken."""
        waiting = self._read_side.waiting_follow_ups()
        now_ms = time.time_ns() // 1_000_000
        events = [from_record(body, now_ms) for _, body in waiting]
        futures = self._producer.append(events)
        taken = []
        try:
            for event, future in zip(events, futures, strict=True):
                confirmed(future)
                taken.append(event.id)
                logger.info(
                    "Published event %s to topic %s for user %s",
                    event.type,
                    event.topic,
                    event.user_id,
                )
        finally:
            if taken:
                self._read_side.follow_ups_done(taken)
        return len(taken)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._woken.wait(LOOK_SECONDS)
            self._woken.clear()
            try:
                while not self._stop.is_set() and self.step():
                    pass
            except JobQuestError as error:
                logger.warning("Follow-ups wait: %s", error)
                self._stop.wait(WAIT_AFTER_FAILURE_SECONDS)
            except Exception:
                logger.exception("The relay failed and goes on")
                self._stop.wait(WAIT_AFTER_FAILURE_SECONDS)
