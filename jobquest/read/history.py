"""What the log does not tell and a restart must not forget: each failed try, and what was done in
each minute.

Parts of a batch's transaction (`ReadSide.apply`), so that no batch is counted twice. Operational:
a rebuild leaves both as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import Connection, insert

from jobquest.clock import now_ms
from jobquest.read import tables
from jobquest.read.database import inserting
from jobquest.read.failures import COLUMNS, Failure
from jobquest.read.letters import Dead
from jobquest.read.parking import Parked

MINUTE_MS = 60_000


def note_failures(connection: Connection, parked: Sequence[Parked], dead: Sequence[Dead]) -> None:
    """Write down the tries that failed in a batch; what only waits behind another had none."""
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


def count(connection: Connection, processed: int, parked: Sequence[Parked], dead: int) -> None:
    """Add a batch to its minute."""
    retrying = sum(1 for one in parked if one.failure)
    if processed or retrying or dead:
        _add(connection, {"processed": processed, "retrying": retrying, "dead": dead})


def _add(connection: Connection, counts: dict[str, int]) -> None:
    minute = {"minute_ms": now_ms() // MINUTE_MS * MINUTE_MS}
    connection.execute(_adding(connection.dialect.name, tuple(counts)), minute | counts)


@cache  # built once, so compiled once: every batch runs it
def _adding(dialect: str, names: tuple[str, ...]) -> Any:
    table = tables.minutes
    statement = inserting(dialect, table)
    added = {name: table.c[name] + statement.excluded[name] for name in names}
    return statement.on_conflict_do_update(index_elements=["minute_ms"], set_=added)


def note_lag(connection: Connection, messages: int, seconds: float) -> None:
    """Remember the most that the group was behind in this minute."""
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
