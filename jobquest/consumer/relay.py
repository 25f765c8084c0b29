"""The relay publishes our own records (follow-ups, dead letters) to the log. A transaction of the
read side has stored them there before.

One thread per process, owned by the runtime. A crash between commit and publish loses nothing: the
row stays, and a record that is published twice counts once because of its id.
"""

from __future__ import annotations

import logging
import threading
import time

from jobquest.errors import JobQuestError, RecordRefused, TopicUnavailable
from jobquest.events import TOPICS
from jobquest.log import PATIENT_SECONDS, EventLog, NewRecord, Position
from jobquest.log.pending import Pending
from jobquest.producer import confirmed
from jobquest.read import ReadSide

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
PACE_SECONDS = 0.1  # between two looks while batches are applied
WAIT_AFTER_FAILURE_SECONDS = 2.0


class Relay:
    """Publishes waiting records until stopped."""

    def __init__(self, read_side: ReadSide, log: EventLog) -> None:
        self._read_side = read_side
        self._log = log
        self._barred: dict[str, float] = {}  # topics that the log refuses, and until when
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
        """Publish the waiting records once. Returns how many the log has accepted."""
        now = time.monotonic()
        without = [topic for topic, until in self._barred.items() if until > now]
        waiting = self._read_side.outgoing(without=without)
        futures = self._log.append([record for _, record in waiting], PATIENT_SECONDS)
        done, published = [], 0
        try:
            for (id, record), future in zip(waiting, futures, strict=True):
                try:
                    published += self._is_published(id, record, future)
                except TopicUnavailable as error:  # the other topics continue
                    self._bar(error)
                else:
                    self._barred.pop(record.topic, None)
                    done.append(id)
        finally:
            if done:
                self._read_side.sent(done)
        return published

    def _bar(self, error: TopicUnavailable) -> None:
        """Let the records of a topic wait for WAIT_AFTER_FAILURE_SECONDS."""
        if error.topic not in self._barred:
            logger.warning("Records for topic %s wait: %s", error.topic, error)
        self._barred[error.topic] = time.monotonic() + WAIT_AFTER_FAILURE_SECONDS

    def _is_published(self, id: str, record: NewRecord, future: Pending[Position]) -> bool:
        try:
            confirmed(future)
        except RecordRefused as error:  # a retry would not help, and would delay the others
            logger.error("%s for topic %s is not published: %s", id, record.topic, error)
            return False
        if record.topic in TOPICS and record.key:
            kind = dict(record.headers)["ce_type"].decode()
            user = record.key.decode()
            logger.info("Published event %s to topic %s for user %s", kind, record.topic, user)
        return True

    def _run(self) -> None:
        while not self._stop.is_set():
            self._woken.wait(LOOK_SECONDS)
            self._woken.clear()
            try:
                while not self._stop.is_set() and self.step():
                    pass
                self._stop.wait(PACE_SECONDS)
            except JobQuestError as error:
                logger.warning("Follow-ups and dead letters wait: %s", error)
                self._stop.wait(WAIT_AFTER_FAILURE_SECONDS)
            except Exception:
                logger.exception("The relay failed and continues")
                self._stop.wait(WAIT_AFTER_FAILURE_SECONDS)
