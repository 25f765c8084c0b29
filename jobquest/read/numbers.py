"""The numbers of changes (`seq`): one for each row of `events`, rising with each of its changes.

Viewers read up to the last number and continue behind it, so no smaller one may appear later.
SQLite has one writer at a time: the largest number is the last. On PostgreSQL several processes
write at the same time, with numbers from a sequence. Each marks the sequence's value from before
its own numbers by a lock that its transaction holds to the end. Nothing above the lowest mark is
read, because a transaction that has marked it may still add a number there.

A transaction that is rolled back leaves a gap.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, func, select, text

from jobquest.read import tables
from jobquest.read.statements import Statements

NEXT = "nextval('change_seq')"
"""The SQL for the number of a new row on PostgreSQL."""

_MARKS = 7317 << 48  # the marks among PostgreSQL's advisory locks, which have numbers for names
_REBUILD_LOCK = 7317004
_LAST = select(func.coalesce(func.max(tables.events.c.seq), 0))
_LAST_OF_SEQUENCE = text("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM change_seq")
_MARK = (
    f"SELECT pg_advisory_xact_lock_shared({_MARKS} +"  # noqa: S608
    " CASE WHEN is_called THEN last_value ELSE 0 END) FROM change_seq"
)
_LOWEST_MARK = text(f"""
    SELECT min((classid::bigint << 32 | objid::bigint) - {_MARKS}) FROM pg_locks
    WHERE locktype = 'advisory' AND objsubid = 1 AND classid::bigint >> 16 = {_MARKS >> 48}
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
""")  # noqa: S608


def mark(run: Statements) -> int | None:
    """Before a transaction writes changes: keep readers from passing it, and a rebuild from
    swapping the tables meanwhile. Returns the last number; None if the database gives them."""
    if run.dialect == "sqlite":
        last: int = run.run("SELECT coalesce(max(seq), 0) FROM events").fetchone()[0]
        return last
    run.run(f"SELECT pg_advisory_xact_lock_shared({_REBUILD_LOCK})")
    run.run(_MARK)
    return None


def hold_writers(connection: Connection) -> None:
    """Wait until no transaction writes changes, and let none begin before this one ends."""
    if connection.dialect.name == "postgresql":  # SQLite's transaction is the only one anyway
        connection.execute(select(func.pg_advisory_xact_lock(_REBUILD_LOCK)))


def last(connection: Connection) -> int:
    """The number up to which every change can be read now."""
    if connection.dialect.name == "sqlite":
        return _scalar(connection, _LAST)
    # In this order: a transaction marks before it takes its numbers.
    highest = _scalar(connection, _LAST_OF_SEQUENCE)
    lowest = connection.execute(_LOWEST_MARK).scalar_one()
    return highest if lowest is None else min(highest, lowest)


def begin_after(connection: Connection, number: int) -> None:
    """Give numbers above this one from now on. They never fall, even if the transaction is rolled
    back: the sequence knows nothing of transactions."""
    if connection.dialect.name == "postgresql" and number:
        raised = "SELECT setval('change_seq', greatest(:number, nextval('change_seq')))"
        connection.execute(text(raised), {"number": number})


def _scalar(connection: Connection, query: Any) -> int:
    found: int = connection.execute(query).scalar_one()
    return found
