"""One event's life: everything that the read side knows about it, from arrival to effects.

A part of `queries.py`, which calls it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any

from sqlalchemy import Connection, Select, select

from jobquest.errors import InvalidEvent
from jobquest.events import Event, format_time, from_record
from jobquest.read import listed, tables
from jobquest.read.answers import Answer, camel, dead_letter_of, item_of, retry_of
from jobquest.read.parking import with_heads
from jobquest.read.portions import Row, each, fill
from jobquest.read.projection import Effect
from jobquest.read.projections import effects_of

MAX_FOLLOW_UPS = 100
MAX_ATTEMPTS = 500
MAX_DEAD_LETTERS = 50
MAX_PART = 400_000  # bytes of each of these lists


def life(connection: Connection, id: str) -> Answer | None:
    """An event's position, arrival, tries, effects and dead letters; None if it is unknown."""
    table = tables.events
    rows = _rows(connection, select(table).where(table.c.id == id))
    if not rows:
        return None
    [row] = rows
    dead_letters = _dead_letters(connection, id)
    return {
        **item_of(row),
        "received": format_time(row["received_ms"]),
        "attempts": _attempts(connection, id),
        "retry": _retry(connection, id),
        "effects": _effects(connection, row) if row["outcome"] == "processed" else [],
        "deadLetter": dead_letters[0] if dead_letters else None,
        "deadLetters": dead_letters,
        "causedBy": row["caused_by"],
        "followUps": _follow_ups(connection, id),
    }


def _attempts(connection: Connection, id: str) -> list[Answer]:
    table = tables.attempts
    query = select(table).where(table.c.event_id == id).order_by(table.c.id).limit(MAX_ATTEMPTS)
    return _filled(connection, query, _attempt)


def _attempt(row: Row) -> Answer:
    return {
        "attempt": row["number"],
        "failedAt": format_time(row["failed_ms"]),
        "error": row["error"],
        "errorClass": row["error_class"],
        "path": row["path"],
        "part": row["part"],
        "trace": row["trace"],
        "outcome": row["outcome"],
    }


def _retry(connection: Connection, id: str) -> Answer | None:
    rows = _rows(connection, with_heads().where(tables.parked.c.event_id == id))
    return retry_of(rows[0]) if rows else None


def _dead_letters(connection: Connection, id: str) -> list[Answer]:
    """Newest first, cut as in lists."""
    query = listed.dead_letters().where(tables.dead_letters.c.event_id == id)
    return _filled(
        connection, query.limit(MAX_DEAD_LETTERS), lambda r: dead_letter_of(r, listed.MAX_VALUE)
    )


def _follow_ups(connection: Connection, id: str) -> list[Answer]:
    table = tables.events
    query = select(*listed.event_columns()).where(table.c.caused_by == id).order_by(table.c.seq)
    return _filled(connection, query.limit(MAX_FOLLOW_UPS), lambda row: item_of(row, MAX_PART))


def _filled(
    connection: Connection, query: Select[Any], make: Callable[[Row], Answer]
) -> list[Answer]:
    """As many of the first rows as fit."""
    with closing(each(connection, query)) as rows:
        return fill(rows, make, MAX_ATTEMPTS, MAX_PART, lambda _: 0)


def _effects(connection: Connection, row: Row) -> list[Answer]:
    try:
        event: Event = from_record(row["body"].encode())
    except InvalidEvent:  # its row was written by somebody else
        return []
    return [_effect(connection, effect) for effect in effects_of(event)]


def _effect(connection: Connection, effect: Effect) -> Answer:
    table = effect.projection.table
    keys = dict(zip(table.primary_key.columns.keys(), effect.key, strict=True))
    same = [table.c[name] == value for name, value in keys.items()]
    rows = _rows(connection, select(table).where(*same))
    return {
        "table": table.name,
        "key": camel(keys),
        "added": camel(dict(effect.added)),
        "given": camel(dict(effect.given)),
        "now": camel(rows[0]) if rows else None,
    }


def _rows(connection: Connection, query: Select[Any]) -> list[dict[str, Any]]:
    return [dict(row) for row in connection.execute(query).mappings()]
