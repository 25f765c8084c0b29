"""One event's life: what the read side knows of it, from how it came to what came of it.

A part of `queries.py`, which calls it.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Select, select

from jobquest.events import Event, format_time, from_record
from jobquest.read import tables
from jobquest.read.answers import Answer, camel, item_of, letter_of, retry_of
from jobquest.read.parking import with_heads
from jobquest.read.projections import Effect, Row, effects_of

MAX_FOLLOW_UPS = 100
MAX_ATTEMPTS = 500


def life(connection: Connection, id: str) -> Answer | None:
    """Where an event stands, when it came, what was tried, what came of it; None if unknown."""
    table = tables.events
    rows = _rows(connection, select(table).where(table.c.id == id))
    if not rows:
        return None
    [row] = rows
    letters = _letters(connection, id)
    return {
        **item_of(row),
        "received": format_time(row["received_ms"]),
        "attempts": _attempts(connection, id),
        "retry": _retry(connection, id),
        "effects": _effects(connection, row) if row["outcome"] == "processed" else [],
        "deadLetter": letters[0] if letters else None,
        "deadLetters": letters,
        "causedBy": row["caused_by"],
        "followUps": _follow_ups(connection, id),
    }


def _attempts(connection: Connection, id: str) -> list[Answer]:
    table = tables.attempts
    query = select(table).where(table.c.event_id == id).order_by(table.c.id).limit(MAX_ATTEMPTS)
    return [
        {
            "attempt": row["number"],
            "failedAt": format_time(row["failed_ms"]),
            "error": row["error"],
            "errorClass": row["error_class"],
            "path": row["path"],
            "outcome": row["outcome"],
        }
        for row in _rows(connection, query)
    ]


def _retry(connection: Connection, id: str) -> Answer | None:
    rows = _rows(connection, with_heads().where(tables.parked.c.event_id == id))
    return retry_of(rows[0]) if rows else None


def _letters(connection: Connection, id: str) -> list[Answer]:
    """Newest first."""
    table = tables.dead_letters
    query = select(table).where(table.c.event_id == id).order_by(table.c.id.desc())
    return [letter_of(row) for row in _rows(connection, query)]


def _follow_ups(connection: Connection, id: str) -> list[Answer]:
    table = tables.events
    query = select(table).where(table.c.caused_by == id).order_by(table.c.seq)
    return [item_of(row) for row in _rows(connection, query.limit(MAX_FOLLOW_UPS))]


def _effects(connection: Connection, row: Row) -> list[Answer]:
    event: Event = from_record(row["body"].encode(), row["received_ms"])
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


def _rows(connection: Connection, query: Select[Any]) -> list[Row]:
    return [dict(row) for row in connection.execute(query).mappings()]
