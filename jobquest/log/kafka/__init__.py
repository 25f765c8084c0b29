"""The event log on Apache Kafka. With its package the only place that knows kafka-python.

Several of the library's defaults lose data or stop for good (tried with 3.0.12): every setting here
that differs says why. Clients are made at the first use, so building a log is safe before a fork;
a client used across one never answers.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from types import MappingProxyType
from typing import Any

from kafka import KafkaProducer
from kafka.errors import (
    InvalidRecordError,
    InvalidTimestampError,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
)

from jobquest.errors import LogUnavailable, RecordRefused
from jobquest.log import Mode, NewRecord, Partition, PartitionInfo, Position, Record, StartPositions
from jobquest.log.kafka.cluster import Cluster
from jobquest.log.kafka.seat import Seat

logger = logging.getLogger(__name__)

MAX_IN_FLIGHT = 10_000  # the library's own buffer has no bound
AWAY_SECONDS = 1.0
_REFUSALS = (
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    InvalidTimestampError,
    InvalidRecordError,
)
_PRODUCER_SETTINGS = {
    "acks": "all",
    # The idempotent producer stops for good after one refused or expired batch; without it, one
    # request in flight keeps the order, and the event's id makes a second copy harmless.
    "enable_idempotence": False,
    "max_in_flight_requests_per_connection": 1,
    "request_timeout_ms": 5_000,
    "delivery_timeout_ms": 10_000,
    "max_block_ms": 2_000,
    "linger_ms": 0,
    "batch_size": 65_536,
    "max_request_size": 2_097_152,  # the topic decides; some may allow more than the default
    "reconnect_backoff_max_ms": 1_000,
    "allow_auto_create_topics": False,
}


class KafkaLog:
    """The log at `bootstrap` (host:port, several). `security` takes kafka-python's own names."""

    mode: Mode = "kafka"

    def __init__(
        self,
        *,
        bootstrap: Sequence[str],
        client_id: str,
        partitions: int,
        replication_factor: int,
        security: Mapping[str, Any],
        topics: Sequence[str],
        topic_configs: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
    ) -> None:
        """`topic_configs`: topic → configs that it gets on top, where this log makes it."""
        self._common = {
            "bootstrap_servers": list(bootstrap),
            "client_id": client_id,
            "api_version": (4, 0),  # given, so that making a client needs no broker
            **security,
        }
        self._cluster = Cluster(self._common, topics, partitions, replication_factor, topic_configs)
        self._lock = threading.Lock()  # over what follows
        self._producer: Any = None
        self._closed = False
        self._in_flight = 0
        self._away_until = 0.0

    def append(self, records: Sequence[NewRecord]) -> list[Future[Position]]:
        """See `EventLog.append`."""
        futures: list[Future[Position]] = [Future() for _ in records]
        away: LogUnavailable | None = None
        for record, future in zip(records, futures, strict=True):
            try:
                if away:
                    raise away
                self._send(record, future)
            except LogUnavailable as error:
                away = error  # each further one would wait as long, and order would be lost
                future.set_exception(error)
            except _REFUSALS as error:
                future.set_exception(RecordRefused(f"Kafka refuses the record: {error}"))
        return futures

    def subscribe(self, topics: Sequence[str], group: str, start: StartPositions) -> Seat:
        """See `EventLog.subscribe`."""
        self._cluster.prepare()
        return Seat(self._cluster, self._common, topics, group, start)

    def describe(self, topics: Sequence[str]) -> list[PartitionInfo]:
        """See `EventLog.describe`."""
        return self._cluster.describe(topics)

    def read(self, partition: Partition, offset: int, limit: int) -> list[Record]:
        """See `EventLog.read`."""
        return self._cluster.read(partition, offset, limit)

    def close(self, timeout: float = 5.0) -> None:
        """See `EventLog.close`."""
        with self._lock:
            self._closed = True
            producer, self._producer = self._producer, None
        if producer:
            _close(producer, timeout)
        self._cluster.close()

    def _send(self, record: NewRecord, future: Future[Position]) -> None:
        if record.key is None and record.value is None:
            raise InvalidRecordError("it has neither key nor value")
        producer = self._ready_producer()
        try:
            sent = producer.send(
                record.topic,
                key=record.key,
                value=record.value,
                headers=[(name, value) for name, value in record.headers],
            )
        except _REFUSALS:
            self._resolved()
            raise
        except (KafkaError, AssertionError) as error:
            self._resolved()
            with self._lock:
                self._away_until = time.monotonic() + AWAY_SECONDS
            raise LogUnavailable(f"Kafka does not take records: {error}.") from error
        # Both run on the library's sender thread.
        sent.add_callback(self._confirm, future)
        sent.add_errback(self._fail, future)

    def _ready_producer(self) -> Any:
        """The producer, with one more record counted as in flight."""
        self._cluster.prepare()
        with self._lock:
            if self._closed:
                raise LogUnavailable("The log is closed.")
            if time.monotonic() < self._away_until:
                raise LogUnavailable("Kafka does not take records.")
            if self._in_flight >= MAX_IN_FLIGHT:
                raise LogUnavailable("Kafka is behind: too many records are in flight.")
            if self._producer is None:
                self._producer = KafkaProducer(**self._common, **_PRODUCER_SETTINGS)
            self._in_flight += 1
            return self._producer

    def _resolved(self) -> None:
        with self._lock:
            self._in_flight -= 1

    def _confirm(self, future: Future[Position], sent: Any) -> None:
        self._resolved()
        future.set_result(Position(sent.topic, sent.partition, sent.offset))

    def _fail(self, future: Future[Position], error: Exception) -> None:
        self._resolved()
        if isinstance(error, _REFUSALS):
            future.set_exception(RecordRefused(f"Kafka refuses the record: {error}"))
        else:
            line = f"Kafka did not confirm the record: {type(error).__name__}: {error}"
            future.set_exception(LogUnavailable(line))


def _close(producer: Any, timeout: float) -> None:
    """Flush and end. The library's own close raises where records are left, and ends nothing."""
    try:
        producer.flush(timeout)
    except KafkaTimeoutError:
        logger.warning("Kafka did not confirm the last records in time.")
    try:
        producer.close(0.1)
    except KafkaTimeoutError:
        producer._sender.force_close()
        producer._sender.join(2)
