"""A real Kafka cluster for the tests: a controller and three brokers, any two of which may die.

The controller is a node of its own. If one of the brokers were it, the cluster would not survive
that broker, and with two brokers gone nobody could say who leads what.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from tests.kafka_broker import KafkaBroker
from tests.service import wait_for

BROKERS = 3
IN_SYNC_SECONDS = 60.0  # a broker that was killed checks its files, then fetches what it missed
ANSWER_SECONDS = 30.0
_SHORT = {"api_version": (4, 0), "request_timeout_ms": 2_000, "bootstrap_timeout_ms": 2_000}
_CONTROLLER = 100  # its number; the brokers are 1, 2 and 3
# Kafka's own defaults, which one node alone can't have.
_COPIES = {
    "offsets.topic.replication.factor": "3",
    "transaction.state.log.replication.factor": "3",
    "transaction.state.log.min.isr": "2",
    "share.coordinator.state.topic.replication.factor": "3",
    "share.coordinator.state.topic.min.isr": "2",
}


class _Controller(KafkaBroker):
    """The one node that decides who leads what; it stores no record."""

    def __init__(self) -> None:
        super().__init__()
        del self._properties["advertised.listeners"]
        self._properties |= {
            "process.roles": "controller",
            "node.id": str(_CONTROLLER),
            "controller.quorum.voters": self.voters,
            "listeners": f"CONTROLLER://{self.bootstrap}",
        }

    @property
    def voters(self) -> str:
        """What every node has to know of it."""
        return f"{_CONTROLLER}@{self.bootstrap}"


class _Broker(KafkaBroker):
    """A node that stores records, and is no controller."""

    def __init__(self, number: int, voters: str) -> None:
        super().__init__(**_COPIES)
        self._properties |= {
            "process.roles": "broker",
            "node.id": str(number),
            "controller.quorum.voters": voters,
            "listeners": f"PLAINTEXT://{self.bootstrap}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        }


class KafkaCluster:
    """One controller and three brokers on free ports of loopback; `brokers` has them by number."""

    def __init__(self) -> None:
        controller = _Controller()
        numbers = range(1, BROKERS + 1)
        self.brokers = {number: _Broker(number, controller.voters) for number in numbers}
        self._nodes: list[KafkaBroker] = [controller, *self.brokers.values()]

    @property
    def bootstrap(self) -> str:
        """Where clients connect: host:port, all of them."""
        return ",".join(broker.bootstrap for broker in self.brokers.values())

    def start(self) -> KafkaCluster:
        """Start all nodes at once and wait until each takes connections."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(KafkaBroker.start, self._nodes))
        return self

    def restore(self) -> None:
        """Have every broker run and every replica be in sync, whatever a test has done to them."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(KafkaBroker.restore, self._nodes))
        wait_for(self._is_in_sync, IN_SYNC_SECONDS)

    def partitions(self, topic: str) -> list[dict[str, Any]]:
        """The partitions of a topic as the cluster describes them, by number: `leader_id`,
        `isr_nodes`. Any broker that answers will do."""
        found = self._describe([topic])[0]["partitions"]
        return sorted(found, key=lambda partition: int(partition["partition_index"]))

    def leader(self, topic: str) -> int:
        """The broker that leads the first partition of a topic; -1 if none does."""
        return int(self.partitions(topic)[0]["leader_id"])

    def _describe(self, topics: list[str] | None = None) -> list[dict[str, Any]]:
        """From any broker that answers: the library may ask one that does not, first."""
        found: list[dict[str, Any]] = []

        def has_answered() -> bool:
            try:
                with KafkaAdminClient(bootstrap_servers=self.bootstrap, **_SHORT) as admin:
                    found[:] = admin.describe_topics(topics)
            except KafkaError:
                return False
            return True

        wait_for(has_answered, ANSWER_SECONDS)
        return found

    def _is_in_sync(self) -> bool:
        partitions = [one for topic in self._describe() for one in topic["partitions"]]
        return all(len(one["isr_nodes"]) == BROKERS for one in partitions)

    def remove(self) -> None:
        """End them and drop their data."""
        for node in self._nodes:
            node.remove()
