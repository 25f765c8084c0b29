"""Where the logs of the contract suite are: how each is opened, and what only its own tools do."""

from __future__ import annotations

import sqlite3
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kafka
import pytest
from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient, MemberToRemove

from jobquest.clock import now_ms
from jobquest.config import load
from jobquest.log import EventLog, Partition, Record, Subscription
from jobquest.log.kafka import KafkaLog
from jobquest.log.sqlite import SqliteLog
from tests.service import wait_for

KAFKA_PARTITIONS = 3
UNTRIED = "3.0.13"  # a version of kafka-python on which only its documented interface is used


@dataclass(frozen=True)
class Embedded:
    """An embedded log in a file."""

    path: Path
    topics: list[str]

    @property
    def partitions(self) -> int:
        return len(self.topics)

    def open(self) -> EventLog:
        return SqliteLog(self.path, self.topics)

    def shares(self, first: Subscription, second: Subscription) -> bool:
        """Whether both have what they will have: here the first to come has everything."""
        return len(first.assignment()) + len(second.assignment()) == self.partitions

    def make_anew(self, topic: str) -> None:
        with closing(sqlite3.connect(self.path)) as connection:
            connection.execute("DELETE FROM records WHERE topic = ?", (topic,))
            connection.execute(
                "UPDATE topics SET identity = ? WHERE name = ?", (str(uuid.uuid4()), topic)
            )
            connection.commit()


@dataclass(frozen=True)
class OnKafka:
    """Topics on a broker."""

    bootstrap: str
    topics: list[str]
    version: str = kafka.__version__  # as which kafka-python is used

    @property
    def partitions(self) -> int:
        return len(self.topics) * KAFKA_PARTITIONS

    def open(self, **more: Any) -> EventLog:
        return KafkaLog(
            bootstrap=[self.bootstrap],
            client_id="tests",
            partitions=KAFKA_PARTITIONS,
            replication_factor=1,
            security={},
            topics=self.topics,
            version=self.version,
            **more,
        )

    def shares(self, first: Subscription, second: Subscription) -> bool:
        """Whether both have what they will have: here each has some."""
        shared = len(first.assignment()) + len(second.assignment()) == self.partitions
        return shared and bool(second.assignment())

    def make_anew(self, topic: str) -> None:
        delete_topics(self.bootstrap, [topic])


def everything(bootstrap: str, topics: list[str]) -> list[Record]:
    """Every record of these topics, per partition in order."""
    records: list[Record] = []
    with closing(OnKafka(bootstrap, topics).open()) as log:
        for info in log.describe(topics):
            place, offset = Partition(info.origin.topic, info.origin.number), info.first
            while offset < info.next:
                found = log.read(place, offset, 2_000)
                records += found
                offset = found[-1].offset + 1 if found else offset
    return records


def delete_topics(bootstrap: str, topics: list[str] | None = None) -> None:
    """Delete these topics, or all but Kafka's own, and wait until they are gone."""
    with KafkaAdminClient(bootstrap_servers=bootstrap, api_version=(4, 0)) as admin:
        there = set(admin.list_topics())
        doomed = {t for t in there if not t.startswith("__")} if topics is None else set(topics)
        if doomed & there:
            admin.delete_topics(sorted(doomed & there))
            wait_for(lambda: not doomed & set(admin.list_topics()), 20)


def emptied(bootstrap: str) -> str:
    """The same broker without topics, and without members of the service's group: one that was
    killed stays in it for 10 s, for which the members after it would have to wait."""
    group = load({}).kafka_group_id
    with KafkaAdminClient(bootstrap_servers=bootstrap, api_version=(4, 0)) as admin:
        if group in {one["group_id"] for one in admin.list_groups()}:
            found = admin.describe_groups([group])[group]["members"]
            doomed = [MemberToRemove(one["member_id"], one["group_instance_id"]) for one in found]
            admin.remove_group_members(group, doomed)
    delete_topics(bootstrap)
    return bootstrap


@contextmanager
def clock_off(by_ms: int) -> Iterator[None]:
    """As if this machine's clock were off, for this process."""
    real, send = time.time_ns, KafkaProducer.send

    def send_then(self: KafkaProducer, *record: Any, **more: Any) -> Any:
        return send(self, *record, **{"timestamp_ms": now_ms(), **more})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time_ns", lambda: real() + by_ms * 1_000_000)
        patch.setattr(KafkaProducer, "send", send_then)  # the library has its clock by another name
        yield
