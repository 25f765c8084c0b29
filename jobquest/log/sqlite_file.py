"""The file of an embedded log: its tables, connections and queries, and what its errors mean.

Only `sqlite.py` uses it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import NoneType
from typing import Any

from jobquest.errors import LogDamaged, LogUnavailable
from jobquest.log import Record, StoredRecord, are_plain_headers, check_headers

BUSY_SECONDS = 5.0
MAX_READ_BYTES = 16 * 1024 * 1024  # of values in one read: a count alone would not bound memory
_LAST_MS = 253_402_300_799_999  # the end of the year 9999: later times can't be shown
_BYTES = (bytes, NoneType)
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

SCHEMA = """
CREATE TABLE IF NOT EXISTS topics (
    name TEXT PRIMARY KEY, identity TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS records (
    topic TEXT NOT NULL, offset INTEGER NOT NULL, key BLOB, value BLOB,
    headers BLOB NOT NULL, timestamp_ms INTEGER NOT NULL,
    PRIMARY KEY (topic, offset)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS committed (
    "group" TEXT NOT NULL, topic TEXT NOT NULL, next INTEGER NOT NULL,
    PRIMARY KEY ("group", topic)
) WITHOUT ROWID;
"""


def connect(path: Path) -> sqlite3.Connection:
    """A connection for one thread; autocommit, so that we begin transactions ourselves."""
    connection = sqlite3.connect(
        path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


@contextmanager
def errors_of(path: Path, doing: str) -> Iterator[None]:
    """Raise SQLite's errors as ours."""
    try:
        yield
    except sqlite3.Error as error:
        raise failure(path, doing, error) from error


def failure(path: Path, doing: str, error: Exception) -> LogUnavailable:
    """The meaning of an SQLite error, with what to do if an operator must act."""
    if getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGE:
        return LogDamaged(
            f"The file {path} is damaged ({error}). Stop the service, then move the file away or"
            f" put a backup in its place; sqlite3 {path} .recover reads what is left of it."
        )
    return LogUnavailable(f"The embedded log could not {doing}: {error}.")


def identities(connection: sqlite3.Connection, topics: Sequence[str]) -> dict[str, str]:
    known = dict(connection.execute("SELECT name, identity FROM topics"))
    return {topic: known[topic] for topic in topics if topic in known}


def bounds(connection: sqlite3.Connection, topic: str) -> tuple[int, int]:
    """The first offset that is kept, and the next offset."""
    # min and max in one query would scan; as two sub-selects, each is one step in the index.
    query = """SELECT (SELECT min(offset) FROM records WHERE topic = ?1),
                      (SELECT max(offset) + 1 FROM records WHERE topic = ?1)"""
    first, following = connection.execute(query, (topic,)).fetchone()
    return first or 0, following or 0


def topics_with_records(connection: sqlite3.Connection) -> Iterator[str]:
    """Every topic that has records; one step in the index for each."""
    query = "SELECT min(topic) FROM records WHERE topic > ?"
    topic = ""
    while topic := connection.execute(query, (topic,)).fetchone()[0] or "":
        yield topic


def first_since(connection: sqlite3.Connection, topic: str, moment_ms: int) -> int | None:
    """The first offset whose record was appended at `moment_ms` or later. A binary search, because
    times grow with offsets: so this rare query needs no index."""
    low, end = bounds(connection, topic)
    high = end
    query = (
        "SELECT timestamp_ms FROM records WHERE topic = ? AND offset >= ? ORDER BY offset LIMIT 1"
    )
    while low < high:
        middle = (low + high) // 2
        [at_ms] = connection.execute(query, (topic, middle)).fetchone()
        if at_ms < moment_ms:
            low = middle + 1
        else:
            high = middle
    return low if low < end else None


def select(connection: sqlite3.Connection, topic: str, offset: int, limit: int) -> list[Record]:
    """The first records from `offset` on: at most `limit`, and fewer if they are large."""
    found = connection.execute(
        "SELECT ?1, 0, offset, key, value, headers, timestamp_ms, NULL FROM records"
        " WHERE topic = ?1 AND offset >= ?2 ORDER BY offset LIMIT ?3",
        (topic, offset, limit),
    )
    rows: list[tuple[Any, ...]] = []
    size = 0
    for row in found:
        rows.append(row)
        size += len(row[4]) if isinstance(row[4], bytes) else 0
        if size >= MAX_READ_BYTES:
            break
    records: list[Record] = [*StoredRecord.of_each(rows)]
    if not _are_sound(rows):
        for n, row in enumerate(rows):
            if damage := _damage(*row[3:7]):
                records[n] = _damaged(row, damage)
    return records


def _are_sound(rows: Sequence[tuple[Any, ...]]) -> bool:
    """Whether no row is damaged, at half of the cost of `_damage` for each."""
    if not rows:
        return True
    _, _, _, keys, values, headers, times, _ = zip(*rows, strict=True)
    return (
        set(map(type, times)) == {int}
        and 0 <= min(times) <= max(times) <= _LAST_MS
        and {*map(type, keys), *map(type, values)} <= {bytes, NoneType}
        and set(map(type, headers)) == {bytes}
        and are_plain_headers(headers)
    )


def _damage(key: object, value: object, headers: bytes, timestamp_ms: object) -> str | None:
    """What is wrong with a row. SQLite has no checksums, and a column accepts values of every type:
    a value that was overwritten, or written by somebody else, may look sound."""
    if not _is_time(timestamp_ms):
        return "The time can't be read: it is not stored as Unix milliseconds."
    if not isinstance(key, _BYTES) or not isinstance(value, _BYTES):
        return "The key or the value can't be read: it is not stored as bytes."
    try:
        check_headers(headers)
    except ValueError as error:
        return f"The headers can't be read: {error}."
    return None


def _damaged(row: tuple[Any, ...], damage: str) -> Record:
    topic, partition, offset, key, _, _, timestamp_ms, _ = row
    key = key if isinstance(key, bytes) else None
    moment = timestamp_ms if _is_time(timestamp_ms) else 0
    return Record(topic, partition, offset, key, None, (), moment, damage)


def _is_time(value: object) -> bool:
    return isinstance(value, int) and 0 <= value <= _LAST_MS
