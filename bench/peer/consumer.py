"""The peer's consumer, a separate process: kafka-python, one SQLite transaction per poll.

It stores each event once, counts events and XP per user, and keeps its positions with them, so that
neither a restart nor a rebalance counts anything twice.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

import orjson
from kafka import ConsumerRebalanceListener, KafkaConsumer, TopicPartition
from store import write_to
from topics import TOPICS, XP_FIELDS

GROUP = "peer"
WAIT_MS = 500
MAX_RECORDS = 2_000
INSERT = "INSERT OR IGNORE INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
COUNT = """
INSERT INTO users VALUES (?, ?, ?)
ON CONFLICT (user_id) DO UPDATE SET events = events + excluded.events, xp = xp + excluded.xp
"""
MOVE = """
INSERT INTO positions VALUES (?, ?, ?)
ON CONFLICT (topic, "partition") DO UPDATE SET next = excluded.next
"""
WHERE = 'SELECT next FROM positions WHERE topic = ? AND "partition" = ?'

log = logging.getLogger("peer")


class ToStored(ConsumerRebalanceListener):  # type: ignore[misc]
    """Starts each partition at the position in the database."""

    def __init__(self, consumer: KafkaConsumer, db: sqlite3.Connection) -> None:
        self.consumer, self.db = consumer, db

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        pass

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        for partition in assigned:
            if found := self.db.execute(WHERE, tuple(partition)).fetchone():
                self.consumer.seek(partition, found[0])


def main() -> None:
    logging.basicConfig(level=logging.WARNING)
    db = write_to(os.environ["STORE"])
    consumer = KafkaConsumer(
        bootstrap_servers=os.environ["BOOTSTRAP"],
        group_id=GROUP,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_poll_records=MAX_RECORDS,
    )
    consumer.subscribe(sorted(set(TOPICS.values())), listener=ToStored(consumer, db))
    while True:
        if polled := consumer.poll(WAIT_MS):
            db.execute("BEGIN IMMEDIATE")
            apply(db, polled)
            db.execute("COMMIT")


def apply(db: sqlite3.Connection, polled: dict[TopicPartition, list[Any]]) -> None:
    """Store the records of one poll."""
    counts: dict[str, int] = defaultdict(int)
    xp: dict[str, int] = defaultdict(int)
    for row, user, earned in _rows(polled):
        if db.execute(INSERT, row).rowcount:  # not a duplicate
            counts[user] += 1
            xp[user] += earned
    db.executemany(COUNT, [(user, count, xp[user]) for user, count in counts.items()])
    moved = [(*partition, records[-1].offset + 1) for partition, records in polled.items()]
    db.executemany(MOVE, moved)


def _rows(
    polled: dict[TopicPartition, list[Any]],
) -> Iterator[tuple[tuple[Any, ...], str, int]]:
    """A row, its user and XP for each record that is an event."""
    for (topic, partition), records in polled.items():
        for record in records:
            try:
                id, type, user, time, earned = _read(record.value)
            except (KeyError, TypeError, ValueError) as error:
                log.warning("skipped %s/%d/%d: %r", topic, partition, record.offset, error)
                continue
            row = (id, topic, partition, record.offset, type, user, time, record.value)
            yield row, user, earned


def _read(value: bytes) -> tuple[str, str, str, str, int]:
    """Id, type, user, time and XP of an event. Raises KeyError, TypeError or ValueError."""
    event = orjson.loads(value)
    id, type, user, time = event["id"], event["type"], event["userId"], event["timestamp"]
    data = event["data"]
    if not (isinstance(id, str) and id and isinstance(user, str) and user):
        raise ValueError("an id or a user is no text")
    if not isinstance(data, dict) or not isinstance(event["metadata"], dict):
        raise ValueError("data or metadata is no object")
    if type.partition(".")[0] not in TOPICS:
        raise ValueError(f"{type} is unknown")
    datetime.fromisoformat(time)
    field = XP_FIELDS.get(type)
    return id, type, user, time, int(data[field]) if field else 0


if __name__ == "__main__":
    main()
