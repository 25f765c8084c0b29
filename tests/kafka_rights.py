"""A real Apache Kafka that asks who its clients are and lets them do what they were granted.

Whoever comes to `bootstrap` may do everything; to `guarded`, only what `USER` was granted.
"""

from __future__ import annotations

from collections.abc import Sequence

from kafka.admin import (
    ACL,
    ACLFilter,
    ACLOperation,
    ACLPermissionType,
    KafkaAdminClient,
    ResourcePattern,
    ResourceType,
)

from tests.kafka_broker import KafkaBroker, free_port
from tests.service import wait_for

USER, PASSWORD = "jobquest", "jobquest-secret"
_PRINCIPAL = f"User:{USER}"
_LISTENER = "GUARDED"


class GuardedBroker(KafkaBroker):
    """A broker with Kafka's own authorizer."""

    def __init__(self) -> None:
        super().__init__()
        self._guarded_port = free_port()
        address = f"{_LISTENER}://127.0.0.1:{self._guarded_port}"
        module = "org.apache.kafka.common.security.plain.PlainLoginModule"
        self._properties["listeners"] += f",{address}"
        self._properties["advertised.listeners"] += f",{address}"
        self._properties |= {
            "inter.broker.listener.name": "PLAINTEXT",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT"
            f",{_LISTENER}:SASL_PLAINTEXT",
            "sasl.enabled.mechanisms": "PLAIN",
            f"listener.name.{_LISTENER.lower()}.plain.sasl.jaas.config": (
                f'{module} required user_{USER}="{PASSWORD}";'
            ),
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
            "group.initial.rebalance.delay.ms": "0",  # as for the session's broker
        }

    @property
    def settings(self) -> dict[str, str]:
        """The service's settings to come as `USER`."""
        return {
            "KAFKA_BROKER": self.guarded,
            "KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
            "KAFKA_SASL_MECHANISM": "PLAIN",
            "KAFKA_SASL_USERNAME": USER,
            "KAFKA_SASL_PASSWORD": PASSWORD,
        }

    @property
    def security(self) -> dict[str, str]:
        """kafka-python's settings to come as `USER`."""
        return {
            "security_protocol": "SASL_PLAINTEXT",
            "sasl_mechanism": "PLAIN",
            "sasl_plain_username": USER,
            "sasl_plain_password": PASSWORD,
        }

    @property
    def guarded(self) -> str:
        """Where `USER` connects: host:port."""
        return f"127.0.0.1:{self._guarded_port}"

    def make(self, topics: Sequence[str], partitions: int = 2) -> None:
        """Make topics, which forget nothing."""
        settings = {
            "num_partitions": partitions,
            "replication_factor": 1,
            "configs": {"retention.ms": "-1"},
        }
        with self._admin() as admin:
            admin.create_topics(dict.fromkeys(topics, settings), wait_for_metadata=True)

    def grant(self, topics: Sequence[str], *operations: str) -> None:
        """Let `USER` do this with these topics, such as READ; returns when it may."""
        self._create([_topic_acl(topic, one) for topic in topics for one in operations])

    def withdraw(self, topics: Sequence[str], *operations: str) -> None:
        """Undo `grant`."""
        with self._admin() as admin:
            admin.delete_acls(
                [
                    ACLFilter(
                        _PRINCIPAL,
                        "*",
                        ACLOperation[one],
                        ACLPermissionType.ALLOW,
                        ResourcePattern(ResourceType.TOPIC, topic),
                    )
                    for topic in topics
                    for one in operations
                ]
            )

    def grant_group(self, group: str) -> None:
        """Let `USER` take a subscription in the group."""
        self._create([_acl(ResourcePattern(ResourceType.GROUP, group), "READ")])

    def _create(self, acls: Sequence[ACL]) -> None:
        """Create the ACLs. The controller answers before the broker's authorizer knows them."""
        with self._admin() as admin:
            admin.create_acls(acls)
            wait_for(lambda: all(acl in admin.describe_acls(acl)[0] for acl in acls), 10)

    def _admin(self) -> KafkaAdminClient:
        return KafkaAdminClient(bootstrap_servers=self.bootstrap, api_version=(4, 0))


def _topic_acl(topic: str, operation: str) -> ACL:
    return _acl(ResourcePattern(ResourceType.TOPIC, topic), operation)


def _acl(pattern: ResourcePattern, operation: str) -> ACL:
    return ACL(_PRINCIPAL, "*", ACLOperation[operation], ACLPermissionType.ALLOW, pattern)
