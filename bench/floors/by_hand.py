"""The floor of storing: a loop as one would write it by hand for these events, with kafka-python's
poll, checks on what orjson reads, and one SQLite transaction for each poll. Run as a process:

    python -m bench.floors.by_hand BROKER EVENTS FILE

Each event is stored once, with its user's statistics and the offsets. There is no list of a user's
things, no count by time, no retry and no dead letter.
"""

from __future__ import annotations

import json
import sqlite3
import sys
import time
from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple

import orjson
from kafka import KafkaConsumer, TopicPartition

from jobquest.events import CATALOGUE, TOPICS

MAX_RECORDS = 3_000
REQUIRED = {name: set(row.required) for name, row in CATALOGUE.items()}
XP_FIELDS = {name: row.xp for name, row in CATALOGUE.items()}
TABLES = """
CREATE TABLE events (
    id TEXT PRIMARY KEY, user_id TEXT NOT NULL, type TEXT NOT NULL, time TEXT NOT NULL,
    body TEXT NOT NULL
);
CREATE TABLE users (
    user_id TEXT PRIMARY KEY, events INTEGER NOT NULL, xp INTEGER NOT NULL, last_seen TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE positions (
    topic TEXT NOT NULL, "partition" INTEGER NOT NULL, next INTEGER NOT NULL,
    PRIMARY KEY (topic, "partition")
) WITHOUT ROWID;
"""
STORE = "INSERT OR IGNORE INTO events VALUES (?, ?, ?, ?, ?)"
COUNT = """
INSERT INTO users VALUES (?, ?, ?, ?) ON CONFLICT (user_id) DO UPDATE SET
events = events + excluded.events, xp = xp + excluded.xp,
last_seen = max(last_seen, excluded.last_seen)
"""
MOVE = "INSERT OR REPLACE INTO positions VALUES (?, ?, ?)"


class Read(NamedTuple):
    """An event that passed the checks."""

    row: tuple[str, str, str, str, str]
    xp: int


def main(bootstrap: str, events: int, file: str) -> None:
    db = sqlite3.connect(file, isolation_level=None)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=NORMAL")
    db.executescript(TABLES)
    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        max_poll_records=MAX_RECORDS,
    )
    numbers = {topic: consumer.partitions_for_topic(topic) for topic in TOPICS}
    consumer.assign([TopicPartition(topic, n) for topic in TOPICS for n in numbers[topic]])
    done, began = 0, time.perf_counter()
    while done < events:
        polled = consumer.poll(500)
        values = [record.value for records in polled.values() for record in records]
        db.execute("BEGIN IMMEDIATE")
        store(db, map(read, values))
        moved = [(*place, records[-1].offset + 1) for place, records in polled.items()]
        db.executemany(MOVE, moved)
        db.execute("COMMIT")
        done += len(values)
    print(json.dumps({"events": done, "seconds": time.perf_counter() - began}))


def store(db: sqlite3.Connection, events: Iterable[Read]) -> None:
    """Store those events that are not stored yet, and count them for their users."""
    users: dict[str, list[Any]] = {}
    for row, xp in events:
        if db.execute(STORE, row).rowcount:  # 0: a repeat
            user = users.setdefault(row[1], [row[1], 0, 0, ""])
            user[1] += 1
            user[2] += xp
            user[3] = max(user[3], row[3])
    db.executemany(COUNT, users.values())


def read(value: bytes) -> Read:
    """Read and check an event. Raises KeyError, TypeError or ValueError."""
    event = orjson.loads(value)
    id, type, user, time = event["id"], event["type"], event["userId"], event["timestamp"]
    data = event["data"]
    if not (isinstance(id, str) and 0 < len(id) <= 100 and isinstance(user, str) and user):
        raise ValueError("an id or a user is no text")
    if not isinstance(data, dict) or not isinstance(event["metadata"], dict):
        raise ValueError("data or metadata is no object")
    if not REQUIRED[type] <= data.keys():
        raise ValueError("a field is missing")
    datetime.fromisoformat(time)
    field = XP_FIELDS[type]
    return Read((id, user, type, time, value.decode()), int(data[field]) if field else 0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
