"""A real Apache Kafka that asks who its clients are and lets them do what they were granted.

Whoever comes to `bootstrap` may do everything; elsewhere, only what `USER` was granted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from kafka.admin import (
    ACL,
    ACLFilter,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    KafkaAdminClient,
    ResourcePattern,
    ResourcePatternFilter,
    ResourceType,
    UserScramCredentialUpsertion,
)

from tests.certificates import EXPIRED, Certificate, authority
from tests.kafka_broker import KafkaBroker, free_port
from tests.service import wait_for

USER, PASSWORD = "jobquest", "jobquest: s3cret/of w%rds"
_PRINCIPAL = f"User:{USER}"
_MODULES = "org.apache.kafka.common.security"
_PLAIN = {
    "sasl.enabled.mechanisms": "PLAIN",
    "plain.sasl.jaas.config": (
        f'{_MODULES}.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
    ),
}
_EVERY = ACLFilter(
    None,
    None,
    ACLOperation.ANY,
    ACLPermissionType.ANY,
    ResourcePatternFilter(ResourceType.ANY, None, ACLResourcePatternType.ANY),
)
_SCRAM = ("SCRAM-SHA-256", "SCRAM-SHA-512")


class GuardedBroker(KafkaBroker):
    """A broker with Kafka's own authorizer."""

    def __init__(self) -> None:
        super().__init__()
        self._properties |= {
            "inter.broker.listener.name": "PLAINTEXT",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
            "group.initial.rebalance.delay.ms": "0",  # as for the session's broker
        }
        self.guarded = self._listen("GUARDED", "SASL_PLAINTEXT", _PLAIN)

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

    def make(
        self,
        topics: Sequence[str],
        partitions: int = 2,
        configs: Mapping[str, str] = MappingProxyType({"retention.ms": "-1"}),
    ) -> None:
        """Make topics."""
        settings = {
            "num_partitions": partitions,
            "replication_factor": 1,
            "configs": dict(configs),
        }
        with self._admin() as admin:
            admin.create_topics(dict.fromkeys(topics, settings), wait_for_metadata=True)

    def grant(self, topics: Sequence[str], *operations: str) -> None:
        """Let `USER` do this with these topics, such as READ; returns when it may."""
        self.allow([_topic_acl(topic, one) for topic in topics for one in operations])

    def withdraw(self, topics: Sequence[str], *operations: str) -> None:
        """Undo `grant`."""
        self.forbid([_topic_acl(topic, one) for topic in topics for one in operations])

    def grant_group(self, group: str) -> None:
        """Let `USER` take a subscription in the group."""
        self.allow([_acl(ResourcePattern(ResourceType.GROUP, group), "READ")])

    def allow(self, acls: Sequence[ACL]) -> None:
        """Create the ACLs. The controller answers before the broker's authorizer knows them."""
        with self._admin() as admin:
            admin.create_acls(acls)
            wait_for(lambda: all(acl in admin.describe_acls(acl)[0] for acl in acls), 10)

    @property
    def allowed(self) -> list[ACL]:
        """All ACLs that there are."""
        with self._admin() as admin:
            found: list[ACL] = admin.describe_acls(_EVERY)[0]
            return found

    def forbid(self, acls: Sequence[ACL]) -> None:
        """Delete the ACLs; returns when they are gone."""
        with self._admin() as admin:
            admin.delete_acls(acls)
            wait_for(lambda: not any(admin.describe_acls(acl)[0] for acl in acls), 10)

    def _listen(self, name: str, protocol: str, properties: Mapping[str, str]) -> str:
        """Add a listener with properties of its own; where it is: host:port."""
        place = f"127.0.0.1:{free_port()}"
        self._properties["listeners"] += f",{name}://{place}"
        self._properties["advertised.listeners"] += f",{name}://{place}"
        self._properties["listener.security.protocol.map"] += f",{name}:{protocol}"
        for key, value in properties.items():
            self._properties[f"listener.name.{name.lower()}.{key}"] = value
        return place

    def _admin(self) -> KafkaAdminClient:
        return KafkaAdminClient(bootstrap_servers=self.bootstrap, api_version=(4, 0))


class SecureBroker(GuardedBroker):
    """The same with TLS: `secure` asks for a password too, `mutual` for the client's certificate.
    `expired` has a certificate that has expired."""

    def __init__(self) -> None:
        super().__init__()
        folder = self.folder / "certificates"
        self.authority = authority(folder, "Authority")
        self.stranger = authority(folder, "Stranger")
        self.certificate = self.authority.issue(USER)
        own = _tls(self.authority.issue("broker", address="127.0.0.1"))
        old = _tls(self.authority.issue("broker", address="127.0.0.1", days=EXPIRED))
        mechanisms = {"sasl.enabled.mechanisms": ",".join(["PLAIN", *_SCRAM])}
        for name in _SCRAM:
            module = f"{_MODULES}.scram.ScramLoginModule required;"
            mechanisms[f"{name.lower()}.sasl.jaas.config"] = module
        asks = {
            "ssl.client.auth": "required",
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.authority.file),
            "ssl.principal.mapping.rules": "RULE:^CN=([^,]+).*$/$1/",
        }
        self.secure = self._listen("SECURE", "SASL_SSL", own | _PLAIN | mechanisms)
        self.mutual = self._listen("MUTUAL", "SSL", own | asks)
        self.expired = self._listen("EXPIRED", "SASL_SSL", old | _PLAIN)

    def start(self) -> SecureBroker:
        """Start it, with `USER` as a user of each mechanism."""
        super().start()
        with self._admin() as admin:
            for one in _SCRAM:  # a request may name a user once
                user = UserScramCredentialUpsertion(USER, one, PASSWORD)
                assert admin.alter_user_scram_credentials([user]) == {USER: None}
        return self

    def ways(self, password: str) -> dict[str, dict[str, str]]:
        """The settings of each way to come as `USER`; the client's key is encrypted with the
        password."""
        tls = {"KAFKA_SSL_CAFILE": str(self.authority.file)}
        secret = {"KAFKA_SASL_USERNAME": USER, "KAFKA_SASL_PASSWORD": PASSWORD}
        by_password = {
            mechanism: {
                "KAFKA_BROKER": self.secure,
                "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
                "KAFKA_SASL_MECHANISM": mechanism,
                **tls,
                **secret,
            }
            for mechanism in ("PLAIN", *_SCRAM)
        }
        by_certificate = {
            "KAFKA_BROKER": self.mutual,
            "KAFKA_SECURITY_PROTOCOL": "SSL",
            "KAFKA_SSL_CERTFILE": str(self.certificate.file),
            "KAFKA_SSL_KEYFILE": str(self.certificate.encrypted_key(password)),
            "KAFKA_SSL_PASSWORD": password,
            **tls,
        }
        return {**by_password, "certificate": by_certificate}


def _tls(certificate: Certificate) -> dict[str, str]:
    return {"ssl.keystore.type": "PEM", "ssl.keystore.location": str(certificate.both)}


def _topic_acl(topic: str, operation: str) -> ACL:
    return _acl(ResourcePattern(ResourceType.TOPIC, topic), operation)


def _acl(pattern: ResourcePattern, operation: str) -> ACL:
    return ACL(_PRINCIPAL, "*", ACLOperation[operation], ACLPermissionType.ALLOW, pattern)
