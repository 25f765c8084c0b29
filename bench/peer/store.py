"""The SQLite file of the peer: its consumer writes, its web processes look ids up.

The same file layout serves the plain Flask floor, which has no consumer.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

TABLES = """
CREATE TABLE IF NOT EXISTS events (
    id TEXT PRIMARY KEY, topic TEXT NOT NULL, "partition" INTEGER NOT NULL,
    "offset" INTEGER NOT NULL, type TEXT NOT NULL, user_id TEXT NOT NULL, time TEXT NOT NULL,
    body BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS users (
    user_id TEXT PRIMARY KEY, events INTEGER NOT NULL, xp INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS positions (
    topic TEXT NOT NULL, "partition" INTEGER NOT NULL, next INTEGER NOT NULL,
    PRIMARY KEY (topic, "partition")
) WITHOUT ROWID;
"""

Place = tuple[str, int, int]
"""Topic, partition and offset."""


def write_to(path: str) -> sqlite3.Connection:
    """Open the file to write; it is created if it is missing. Transactions are begun by hand.
    kafka-python calls listeners in another thread, which may use the connection too."""
    connection = sqlite3.connect(path, isolation_level=None, timeout=10, check_same_thread=False)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.executescript(TABLES)
    return connection


def read_from(path: str) -> sqlite3.Connection:
    """Open the file to read."""
    return sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)


def place_of(connection: sqlite3.Connection, id: str) -> Place | None:
    """The position of the event with this id, if it is stored."""
    query = 'SELECT topic, "partition", "offset" FROM events WHERE id = ?'
    found: Place | None = connection.execute(query, (id,)).fetchone()
    return found


def places_of(connection: sqlite3.Connection, ids: Sequence[str]) -> dict[str, Place]:
    """The same for several ids."""
    if not ids:
        return {}
    marks = ",".join("?" * len(ids))
    query = f'SELECT id, topic, "partition", "offset" FROM events WHERE id IN ({marks})'
    return {id: tuple(place) for id, *place in connection.execute(query, ids)}
