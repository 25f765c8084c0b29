"""The relay publishes our own records (follow-ups, dead letters) to the log. A transaction of the
read side has stored them there before.

One thread per process, owned by the runtime. A crash between commit and publish loses nothing: the
row stays, and a record that is published twice counts once because of its id.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping

from jobquest.errors import JobQuestError, RecordRefused, TopicUnavailable
from jobquest.events import TOPICS
from jobquest.log import PATIENT_SECONDS, EventLog, NewRecord, Position
from jobquest.log.outbox import Bar
from jobquest.log.pending import Pending
from jobquest.log_lines import log_lines
from jobquest.producer import confirmed
from jobquest.read.outgoing import LEFT_AFTER_MS, Outgoing, Waiting

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
MOST = 1_000  # records sent at a time
PACE_SECONDS = 0.1  # between two looks while batches are applied
WAIT_AFTER_FAILURE_SECONDS = 2.0


class Relay:
    """Publishes waiting records until stopped."""

    def __init__(self, outgoing: Outgoing, log: EventLog) -> None:
        self._outgoing = outgoing
        self._log = log
        self._barred: dict[str, Bar] = {}  # topics of which the log accepts nothing
        self._looked = float("-inf")  # into the table
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

    @property
    def barred(self) -> Mapping[str, str]:
        """The topics of which the log accepted nothing at the last try; why. Any thread may ask.

        If nothing was tried for longer than follow-ups take to come back, none waits here: another
        process has relayed it."""
        since = time.monotonic() - LEFT_AFTER_MS / 1000 - PATIENT_SECONDS
        return {topic: bar.why for topic, bar in list(self._barred.items()) if bar.until > since}

    def step(self) -> int:
        """Publish the waiting records once. Returns how many the log has accepted."""
        waiting = self._waiting()
        futures = self._log.append([record for _, record in waiting], PATIENT_SECONDS)
        lines: list[str] = []
        done: list[str] = []
        try:
            for (id, record), future in zip(waiting, futures, strict=True):
                try:
                    if self._is_published(id, record, future):
                        lines.append(_line(record))
                except TopicUnavailable as error:  # the other topics continue
                    self._bar(error)
                else:
                    self._barred.pop(record.topic, None)
                    done.append(id)
        finally:
            log_lines(logger, logging.INFO, [line for line in lines if line])
            if done:
                self._outgoing.sent(done)
        return len(lines)

    def _waiting(self) -> Waiting:
        now = time.monotonic()
        without = [topic for topic, bar in self._barred.items() if bar.until > now]
        waiting = self._outgoing.take(MOST, without)
        if not waiting or now - self._looked > LOOK_SECONDS:
            self._looked = now
            waiting += self._outgoing.left(MOST, without, busy=bool(waiting))
        return waiting

    def _bar(self, error: TopicUnavailable) -> None:
        """Let the records of a topic wait for WAIT_AFTER_FAILURE_SECONDS."""
        if error.topic not in self._barred:
            logger.warning("Records for topic %s wait: %s", error.topic, error)
        until = time.monotonic() + WAIT_AFTER_FAILURE_SECONDS
        self._barred[error.topic] = Bar(str(error), until)

    def _is_published(self, id: str, record: NewRecord, future: Pending[Position]) -> bool:
        try:
            confirmed(future)
        except RecordRefused as error:  # a retry would not help, and would delay the others
            logger.error("%s for topic %s is not published: %s", id, record.topic, error)
            return False
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


def _line(record: NewRecord) -> str:
    """The line that every event has in the log; nothing for other records."""
    if record.topic not in TOPICS or not record.key:
        return ""
    kind, user = dict(record.headers)["ce_type"].decode(), record.key.decode()
    return f"Published event {kind} to topic {record.topic} for user {user}"
