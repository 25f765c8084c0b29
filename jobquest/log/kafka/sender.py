"""Sends records to Kafka with the library's producer, and keeps that from stopping for good.

Used by the log only. Every record that is sent is in a table here until it is answered, and a
watchdog checks that table. If a record is past its deadline, or the library reports that one
failed, the whole producer is discarded, everything in the table fails in the order of its append,
and the next append makes a new producer. So no fault of library or broker lasts, and no record can
overtake one that was sent before it and failed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kafka.errors import (
    InvalidRecordError,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
)

from jobquest.errors import JobQuestError, LogUnavailable, RecordRefused, TopicUnavailable
from jobquest.log import NewRecord, Position, missing_right
from jobquest.log.kafka.cluster import Cluster
from jobquest.log.kafka.encoding import encode
from jobquest.log.kafka.library import Library, Outgoing
from jobquest.log.kafka.skew import wrong_clock
from jobquest.log.pending import Pending

logger = logging.getLogger(__name__)

MAX_IN_FLIGHT = 10_000  # the library's own buffer has no bound
MAX_IN_FLIGHT_BYTES = 64 * 1024 * 1024
AWAY_SECONDS = 1.0  # after a failure, appends that come within it fail at once
CONNECT_SECONDS = 15.0  # one attempt, in the background: it takes several round trips
LEAST_SECONDS = 0.3  # for the broker to confirm, however long connecting took
LOOK_SECONDS = 0.1
LOOK_AGAIN_SECONDS = 1.0  # at topics that can't be used
MAX_RECORD_BYTES = 2_097_152  # a topic may allow less, or more than the default


_REFUSALS = (MessageSizeTooLargeError, RecordListTooLargeError, InvalidRecordError)
_GONE = object()
_NOT_CONFIRMED = (
    "Kafka did not confirm in time. If it answers otherwise, too few replicas of a topic are in"
    " sync (min.insync.replicas): start the brokers that are down."
)
_SETTINGS = {
    "acks": "all",
    # The idempotent producer stops for good after one refused or expired batch. Without it, one
    # request in flight keeps the order, and the event's id makes a second copy harmless.
    "enable_idempotence": False,
    "max_in_flight_requests_per_connection": 1,
    "request_timeout_ms": 10_000,
    "delivery_timeout_ms": 12_000,  # longer than anybody's patience: the watchdog decides
    "max_block_ms": 1_000,
    "linger_ms": 0,
    "batch_size": 65_536,
    "max_request_size": MAX_RECORD_BYTES,
    "reconnect_backoff_max_ms": 1_000,
    "allow_auto_create_topics": False,
    "metrics_enabled": False,  # nobody reads them, and they take an eighth of its thread's time
}


class _Sent:
    """One record on its way; compared by identity."""

    __slots__ = ("deadline", "encoded", "future", "producer", "record")

    def __init__(self, record: NewRecord) -> None:
        self.record = record
        self.encoded = encode(record)
        self.future: Pending[Position] = Pending()
        self.producer: Outgoing | None = None
        self.deadline = 0.0


class _Attempt:
    """One attempt to connect, in its own thread. Callers wait for it until their timeout, counted
    from its beginning: a caller that comes when it is overdue does not wait at all."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.done = threading.Event()
        self.why = ""  # why it has not succeeded yet


class Sender:
    """Sends records to `topics`, which `cluster` makes if they are missing. Any thread may call
    it."""

    def __init__(
        self,
        library: Library,
        cluster: Cluster,
        common: Mapping[str, Any],
        topics: Sequence[str],
    ) -> None:
        self._library = library
        self._cluster = cluster
        self._common = common
        self._topics = frozenset(topics)
        self._lock = threading.Lock()  # over everything below
        self._producer: Outgoing | None = None
        self._unusable: Mapping[str, str] = {}  # topics that the producer does not know; why
        self._looked = 0.0  # at these
        self._attempt: _Attempt | None = None
        self._sent: dict[_Sent, object] = {}  # in the order of their append
        self._bytes = 0
        self._watchdog: threading.Thread | None = None
        self._topics_were_made = False  # the connecting thread's own
        self._closed = threading.Event()
        self._away_until = 0.0
        self._why = ""

    def append(self, records: Sequence[NewRecord], timeout: float) -> list[Pending[Position]]:
        """See `EventLog.append`."""
        began = time.monotonic()
        sent = [_Sent(record) for record in records]
        valid = [one for one in sent if not self._refused(one)]
        if valid:
            try:
                self._send(valid, began, timeout)
            except LogUnavailable as error:
                for one in valid:
                    one.future.fail(error)
        return [one.future for one in sent]

    @property
    def is_ready(self) -> bool:
        """See `EventLog.is_ready`. If the producer is discarded just after, an append fails at
        once."""
        producer = self._producer
        return producer is not None and producer.never_waits

    def reach(self, timeout: float) -> None:
        """See `EventLog.reach`."""
        producer = self._connected(time.monotonic(), timeout)
        if self._unusable and time.monotonic() - self._looked > LOOK_AGAIN_SECONDS:
            self._look_again(producer)

    def close(self, timeout: float) -> None:
        """Wait up to `timeout` seconds for what is on its way, then fail the rest."""
        with self._lock:
            self._closed.set()
            waiting = [sent.future for sent in self._sent]
            producer = self._producer
        deadline = time.monotonic() + timeout
        for future in waiting:
            try:
                future.exception(max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                logger.warning("Kafka did not confirm the last records in time.")
                break
        self._discard(producer, "The log is closed.")

    # --- sending: on the callers' threads ---

    def _refused(self, sent: _Sent) -> bool:
        record, line = sent.record, ""
        if record.topic not in self._topics:
            line = f"There is no topic {record.topic}."
        elif record.key is None and record.value is None:
            line = "A record needs a key or a value."
        elif len(sent.encoded) > MAX_RECORD_BYTES:
            line = f"Larger than {MAX_RECORD_BYTES} bytes."
        return bool(line) and sent.future.fail(RecordRefused(line))

    def _usable(self, records: Sequence[_Sent]) -> Sequence[_Sent]:
        """Those whose topics can be used; the others fail."""
        unusable = self._unusable
        if not unusable:
            return records
        for sent in records:
            if why := unusable.get(sent.record.topic):
                sent.future.fail(TopicUnavailable(sent.record.topic, why))
        return [sent for sent in records if sent.record.topic not in unusable]

    def _send(self, records: Sequence[_Sent], began: float, timeout: float) -> None:
        producer = self._connected(began, timeout)
        records = self._usable(records)
        deadline = max(began + timeout, time.monotonic() + LEAST_SECONDS)
        entered = self._enter(producer, records, deadline)
        try:
            producer.put(entered)
        except (KafkaError, AssertionError, ValueError, RuntimeError, OSError) as error:
            line = f"Kafka does not accept records: {type(error).__name__}: {error}."
            self._discard(producer, line)  # and those that were entered
            return
        for sent in records[len(entered) :]:
            sent.future.fail(LogUnavailable("Kafka is behind: too much is on its way."))

    def _enter(
        self, producer: Outgoing, records: Sequence[_Sent], deadline: float
    ) -> Sequence[_Sent]:
        """Put as many into the table as have room; which ones. Raises LogUnavailable if the
        producer has been discarded."""
        with self._lock:
            if self._producer is not producer:
                raise LogUnavailable(self._why)
            entered = list(self._with_room(records))
            for sent in entered:
                sent.producer, sent.deadline = producer, deadline
                self._sent[sent] = None
            if self._watchdog is None:
                self._watchdog = threading.Thread(
                    target=self._watch, name="kafka-watchdog", daemon=True
                )
                self._watchdog.start()
        return entered

    def _with_room(self, records: Sequence[_Sent]) -> Iterator[_Sent]:
        for sent in records[: MAX_IN_FLIGHT - len(self._sent)]:
            if self._bytes + len(sent.encoded) > MAX_IN_FLIGHT_BYTES:
                return
            self._bytes += len(sent.encoded)
            yield sent

    def _left(self, several: Sequence[_Sent]) -> Sequence[_Sent]:
        """Remove them from the table; those that were still in it."""
        with self._lock:
            gone = [sent for sent in several if self._sent.pop(sent, _GONE) is None]
            self._bytes -= sum(len(sent.encoded) for sent in gone)
        return gone

    # --- answers: on the library's thread ---

    def confirmed(self, several: Sequence[_Sent], topic: str, partition: int, offset: int) -> None:
        """See `Answers.confirmed`."""
        number_of = {sent: number for number, sent in enumerate(several, offset)}
        for sent in self._left(several):
            sent.future.resolve(Position(topic, partition, number_of[sent]))

    def failed(self, sent: _Sent, error: Exception) -> None:
        """See `Answers.failed`."""
        if alone := _alone(sent.record.topic, error):
            if self._left([sent]):
                sent.future.fail(alone)
            return
        line = f"Kafka did not confirm a record: {type(error).__name__}: {error}"
        with self._lock:
            known = sent in self._sent
        if known:
            self._discard(sent.producer, line)

    # --- the end of a producer: on any thread ---

    def _discard(self, producer: Outgoing | None, why: str) -> None:
        """Discard the producer and fail everything on its way, in order. Once per producer."""
        with self._lock:
            if self._producer is not producer:
                return
            self._producer = None
            self._away_until = time.monotonic() + AWAY_SECONDS
            self._why = why
            failed = list(self._sent)
            self._sent.clear()
            self._bytes = 0
        if producer is not None:
            producer.end()
        self._cluster.forget()  # so that it looks again once the brokers are back
        for sent in failed:
            sent.future.fail(LogUnavailable(why))

    def _watch(self) -> None:
        """The watchdog's thread: ends when the log is closed and nothing is on its way."""
        while True:
            time.sleep(LOOK_SECONDS)  # closing does not end it: answers may be due
            with self._lock:
                producer = self._producer
                oldest = min((sent.deadline for sent in self._sent), default=None)
            if oldest is None and self._closed.is_set():
                return
            if oldest is not None and time.monotonic() > oldest:
                self._discard(producer, _NOT_CONFIRMED)

    # --- connecting: in its own thread, so that nobody has to wait for it ---

    def _connected(self, began: float, timeout: float) -> Outgoing:
        """The producer, once there is one. Raises LogUnavailable."""
        with self._lock:
            if self._closed.is_set():
                raise LogUnavailable("The log is closed.")
            if self._producer is not None:
                return self._producer
            if time.monotonic() < self._away_until:
                raise LogUnavailable(self._why)
            attempt = self._attempt
            if attempt is None:
                attempt = self._attempt = _Attempt()
                threading.Thread(
                    target=self._connect, args=(attempt,), name="kafka-connect", daemon=True
                ).start()
        patience = min(began, attempt.began) + timeout - time.monotonic()
        if not attempt.done.wait(max(0.0, patience)):
            raise LogUnavailable(attempt.why or "Kafka does not answer.")
        with self._lock:
            if self._producer is None:
                raise LogUnavailable("The log is closed." if self._closed.is_set() else self._why)
            return self._producer

    def _connect(self, attempt: _Attempt) -> None:
        """Make a producer that knows its topics, so that sending never waits for them."""
        producer: Outgoing | None = None
        unusable: Mapping[str, str] = {}
        why = ""
        try:
            producer = self._library.producer(self, **self._common, **_SETTINGS)
            unusable, why = self._warm(producer, attempt)
        except Exception as error:  # whatever it is, those who wait get it
            why = f"Kafka can't be used: {type(error).__name__}: {error}."
        with self._lock:
            if self._closed.is_set():
                why = "The log is closed."
            if not why:
                self._producer, self._unusable = producer, unusable
            self._attempt = None
            self._why = why
            self._away_until = time.monotonic() + AWAY_SECONDS if why else 0.0
        attempt.done.set()
        if why and producer is not None:
            producer.end()

    def _warm(self, producer: Outgoing, attempt: _Attempt) -> tuple[Mapping[str, str], str]:
        """Have the missing topics made, and let the producer find out the partitions of all. The
        topics that can't be used; and why this failed, or ''."""
        why, deadline = "", attempt.began + CONNECT_SECONDS
        while not self._closed.is_set() and time.monotonic() < deadline:
            unusable: Mapping[str, str] = {}
            try:
                unusable = self._cluster.prepare()
                self._topics_were_made = True
            except LogUnavailable as error:
                why = attempt.why = str(error)
                if not self._topics_were_made:  # no other client may ask for a topic before
                    self._closed.wait(LOOK_SECONDS)
                    continue
                # Its timeout is short: on a slow broker the next step works.
            try:
                producer.know(self._topics - unusable.keys())
                return unusable, ""
            except KafkaTimeoutError as error:
                why = why or f"Kafka does not answer: {error}."
            except TopicAuthorizationFailedError as error:
                why = why or f"Kafka can't be used: {error}."
                self._cluster.forget()  # the right is gone since `prepare` looked
                self._closed.wait(LOOK_SECONDS)
        return {}, why or "The log is closed."

    def _look_again(self, producer: Outgoing) -> None:
        """Let the producer find out about topics that it could not use, and now can."""
        self._looked = time.monotonic()
        try:
            unusable = self._cluster.prepare()
            producer.know(self._unusable.keys() - unusable.keys())
        except (KafkaError, LogUnavailable) as error:  # the other topics go on
            logger.debug("It is not known whether more topics can be used: %s", error)
        else:
            self._unusable = unusable


def _alone(topic: str, error: Exception) -> JobQuestError | None:
    """What an error means for one record, if records of other topics go on; else None."""
    if line := wrong_clock(error):  # a topic has its own limit
        return TopicUnavailable(topic, line)
    if isinstance(error, TopicAuthorizationFailedError):
        return TopicUnavailable(topic, missing_right("WRITE", topic))
    if isinstance(error, _REFUSALS):
        return RecordRefused(f"Kafka refuses the record: {error}")
    return None
