"""The event log on Apache Kafka. Only this package knows kafka-python.

Several of the library's defaults lose data or stop for good (seen with 3.0.12): a comment explains
every setting here that differs. Clients are created at the first use, so that a log can be built
before a fork: a client that is used in both processes never answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import kafka

from jobquest.log import (
    PROMPT_SECONDS,
    Found,
    Member,
    Mode,
    NewRecord,
    Origin,
    Partition,
    PartitionInfo,
    Position,
    Record,
    StartPositions,
)
from jobquest.log.kafka.cluster import Cluster
from jobquest.log.kafka.membership import InstanceName
from jobquest.log.kafka.sender import Sender
from jobquest.log.kafka.subscription import KafkaSubscription
from jobquest.log.kafka.tls import with_context
from jobquest.log.kafka.version import library_of
from jobquest.log.pending import Pending


class KafkaLog:
    """The log at `bootstrap` (one or more host:port). `security` has kafka-python's own names."""

    mode: Mode = "kafka"

    def __init__(
        self,
        *,
        bootstrap: Sequence[str],
        client_id: str,
        member_name: str | None = None,
        folder: Path | None = None,
        partitions: int,
        replication_factor: int,
        security: Mapping[str, Any],
        topics: Sequence[str],
        topic_configs: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
        version: str = kafka.__version__,
    ) -> None:
        """`member_name`: the `client_id` of a group's member, if it differs. `folder`: where this
        instance keeps its name in groups; without it, it has none. `topic_configs`: topic →
        additional configs for a topic that this log creates. `version`: kafka-python's, which
        decides how the library is used (see `library_of`)."""
        self._common = {
            "bootstrap_servers": list(bootstrap),
            "client_id": client_id,
            "api_version": (4, 0),  # given, so that creating a client needs no broker
            **with_context(security),
        }
        self._member = self._common | {"client_id": member_name or client_id}
        self._instance = InstanceName(folder) if folder else None
        self._library = library_of(version)
        self._cluster = Cluster(
            self._library, self._common, topics, partitions, replication_factor, topic_configs
        )
        self._sender = Sender(self._library, self._cluster, self._common, topics)

    def append(
        self, records: Sequence[NewRecord], timeout: float = PROMPT_SECONDS
    ) -> list[Pending[Position]]:
        """See `EventLog.append`."""
        return self._sender.append(records, timeout)

    @property
    def is_ready(self) -> bool:
        """See `EventLog.is_ready`."""
        return self._sender.is_ready

    def reach(self, timeout: float = PROMPT_SECONDS) -> None:
        """See `EventLog.reach`."""
        self._sender.reach(timeout)

    def subscribe(
        self, topics: Sequence[str], group: str, start: StartPositions
    ) -> KafkaSubscription:
        """See `EventLog.subscribe`."""
        self._cluster.prepare()
        self._cluster.compare()  # here, because only one process consumes: one line per start
        return KafkaSubscription(
            self._library, self._cluster, self._member, topics, group, start, self._instance
        )

    def describe(self, topics: Sequence[str]) -> list[PartitionInfo]:
        """See `EventLog.describe`."""
        return self._cluster.describe(topics)

    def committed(self, group: str, topics: Sequence[str]) -> dict[Origin, int]:
        """See `EventLog.committed`."""
        return self._cluster.committed(group, topics)

    def read(self, partition: Partition, offset: int, limit: int) -> list[Record]:
        """See `EventLog.read`."""
        return self._cluster.read(partition, offset, limit)

    def read_each(
        self, spans: Mapping[Partition, tuple[int, int]], limit: int
    ) -> dict[Partition, Found]:
        """See `EventLog.read_each`."""
        return self._cluster.read_each(spans, limit)

    def offset_at(self, partition: Partition, moment_ms: int) -> int | None:
        """See `EventLog.offset_at`."""
        return self._cluster.offset_at(partition, moment_ms)

    def missing_rights(self) -> Mapping[str, Sequence[str]]:
        """See `EventLog.missing_rights`."""
        return self._cluster.missing_rights()

    def members(self, group: str) -> Sequence[Member]:
        """See `EventLog.members`."""
        return self._cluster.members(group)

    def close(self, timeout: float = 5.0) -> None:
        """See `EventLog.close`."""
        self._sender.close(timeout)
        self._cluster.close()
