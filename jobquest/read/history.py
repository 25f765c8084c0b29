"""What the log does not contain and a restart must not forget: each failed try, and the counts of
each minute.

Written in a batch's transaction (`ReadSide.apply`), so that no batch is counted twice. Operational:
a rebuild leaves both unchanged. `forget_old` bounds them, and the closed dead letters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, text

from jobquest.clock import now_ms
from jobquest.read import tables
from jobquest.read.database import Database, inserting, padded
from jobquest.read.dead_letters import Dead
from jobquest.read.failures import COLUMNS, Failure
from jobquest.read.parking import Parked
from jobquest.read.statements import Statements, grow_rows

MINUTE_MS = 60_000
DAY_MS = 86_400_000
# Rows of a table in one transaction, so that nobody waits long. A dead letter may have 2 MB.
FORGOTTEN_ROWS, FORGOTTEN_DEAD_LETTERS = 500, 20
_FORGET_LOCK = 7317003  # PostgreSQL's advisory locks have numbers instead of names


def note_failures(connection: Connection, parked: Sequence[Parked], dead: Sequence[Dead]) -> None:
    """Store the failed tries of a batch; an event that only waits behind another had no try."""
    now = now_ms()
    rows = [
        _row(one.event_id, one.attempts, one.failure, "retrying", now)
        for one in parked
        if one.failure
    ]
    rows += [_row(one.event_id, one.attempts, one.failure, "dead", now) for one in dead]
    if rows:
        connection.execute(insert(tables.attempts), rows)


def _row(event_id: str, number: int, failure: Failure, outcome: str, now: int) -> dict[str, Any]:
    return {
        "event_id": event_id,
        "number": number,
        "failed_ms": now,
        **{name: getattr(failure, name) for name in COLUMNS},
        "outcome": outcome,
    }


def count(run: Statements, processed: int, parked: Sequence[Parked], dead: int) -> None:
    """Add a batch's outcomes to the counts of the current minute."""
    retrying = sum(1 for one in parked if one.failure)
    if processed or retrying or dead:
        counts = {"processed": processed, "retrying": retrying, "dead": dead}
        minute = {"minute_ms": now_ms() // MINUTE_MS * MINUTE_MS}
        row = minute | {name: counts.get(name, 0) for name in tables.minutes.columns.keys()[1:]}
        grow_rows(run, tables.minutes, [tuple(row.values())])


def note_lag(connection: Connection, messages: int, seconds: float) -> None:
    """Keep the largest lag of the group in this minute."""
    table = tables.minutes
    statement = inserting(connection.dialect.name, table)
    given = statement.excluded
    more = given.lag_messages > table.c.lag_messages
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["minute_ms"],
            set_={"lag_messages": given.lag_messages, "lag_seconds": given.lag_seconds},
            where=more,
        ),
        {
            "minute_ms": now_ms() // MINUTE_MS * MINUTE_MS,
            "lag_messages": messages,
            "lag_seconds": seconds,
        },
    )


def forget_old(database: Database, keep_days: int) -> int:
    """Delete some of the failed tries, closed dead letters and minutes that are older. Returns how
    many were deleted; 0 if none is left, or another process is doing it."""
    before_ms = now_ms() - keep_days * DAY_MS
    with database.writing() as connection:
        if not database.is_file:
            alone = select(func.pg_try_advisory_xact_lock(_FORGET_LOCK))
            if not connection.execute(alone).scalar_one():
                return 0
        return (
            _forget_tries(connection, before_ms)
            + _forget_minutes(connection, before_ms)
            + _forget_dead_letters(connection, before_ms)
        )


def _forget_tries(connection: Connection, before_ms: int) -> int:
    table = tables.attempts.c
    # Ids grow with time, so the first rows are the oldest.
    first = select(table.id, table.failed_ms).order_by(table.id).limit(FORGOTTEN_ROWS).subquery()
    old = select(first.c.id).where(first.c.failed_ms < before_ms)
    return connection.execute(delete(tables.attempts).where(table.id.in_(old))).rowcount


def _forget_minutes(connection: Connection, before_ms: int) -> int:
    minute = tables.minutes.c.minute_ms
    old = select(minute).where(minute < before_ms).order_by(minute).limit(FORGOTTEN_ROWS)
    return connection.execute(delete(tables.minutes).where(minute.in_(old))).rowcount


def _forget_dead_letters(connection: Connection, before_ms: int) -> int:
    dead_letters, forgotten = tables.dead_letters, tables.forgotten_dead_letters
    closed = text("state != 'open'")  # written exactly as in the index of closed dead letters
    old = select(dead_letters.c.id).where(closed, dead_letters.c.died_ms < before_ms)
    query = old.order_by(dead_letters.c.died_ms).limit(FORGOTTEN_DEAD_LETTERS)
    ids = list(connection.execute(query).scalars())
    if ids:
        these, names = (
            dead_letters.c.id.in_(padded(ids)),
            [column.name for column in forgotten.columns],
        )
        what = select(*(dead_letters.c[name] for name in names)).where(these)
        once = inserting(connection.dialect.name, forgotten).from_select(names, what)
        connection.execute(once.on_conflict_do_nothing())
        connection.execute(delete(dead_letters).where(these))
    return len(ids)
