"""Fills a log with events, before a measure reads it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from itertools import islice
from pathlib import Path

from kafka import KafkaConsumer, KafkaProducer, OffsetAndMetadata, TopicPartition

from jobquest.events import TOPICS, Event
from jobquest.log import NewRecord, Partition
from jobquest.log.sqlite import SqliteLog

CHUNK = 2_000
CONFIRM_SECONDS = 60
GROUP = "job-quest-consumer"


def fill_kafka(bootstrap: str, events: Iterable[Event]) -> None:
    """Publish the events as the service does, but without waiting for each."""
    producer = KafkaProducer(
        bootstrap_servers=bootstrap, acks="all", linger_ms=20, batch_size=131_072
    )
    sent = [
        producer.send(event.topic, event.to_json(), event.user_id.encode(), list(event.headers()))
        for event in events
    ]
    producer.flush(CONFIRM_SECONDS)
    for future in sent:
        future.get(CONFIRM_SECONDS)
    producer.close()


def commit_ends(bootstrap: str, partitions: int) -> None:
    """Commit the ends of the topics for the service: a rebuild of a lost read side ends there."""
    places = [TopicPartition(topic, n) for topic in TOPICS for n in range(partitions)]
    with KafkaConsumer(
        bootstrap_servers=bootstrap, group_id=GROUP, enable_auto_commit=False
    ) as group:
        group.assign(places)
        ends = group.end_offsets(places)
        group.commit({place: OffsetAndMetadata(end, "", -1) for place, end in ends.items()})


def fill_file(path: Path, events: Iterable[Event]) -> None:
    """Append the events to an embedded log, which is created if it is missing."""
    remaining = iter(events)
    with closing(SqliteLog(path, TOPICS)) as log:
        while chunk := list(islice(remaining, CHUNK)):
            records = [
                NewRecord(one.topic, one.user_id.encode(), one.to_json(), one.headers())
                for one in chunk
            ]
            for future in log.append(records):
                future.result(CONFIRM_SECONDS)
        ends = {Partition(info.origin.topic, 0): info.next for info in log.describe(TOPICS)}
        group = log.subscribe(TOPICS, GROUP, lambda origins: {})
        group.commit(ends)  # the rebuild of a lost read side ends there
        group.close()
