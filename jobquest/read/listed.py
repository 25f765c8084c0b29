"""The columns that lists read from tables with large rows: the database cuts long values.

Used by `queries.py` and `life.py`; a single item is read as a whole.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, LargeBinary, Select, case, func, select

from jobquest.read import tables
from jobquest.read.answers import bytes_of

MAX_EVENT = 100_000  # characters of an event's JSON; one that is published alone is shorter
MAX_VALUE = 10_000  # characters of a dead letter's value


def event_columns() -> list[ColumnElement[Any]]:
    """The columns of an event; `body` is NULL if it is too long to be listed."""
    table = tables.events
    body = case((func.length(table.c.body) <= MAX_EVENT, table.c.body))
    return [body.label("body") if c is table.c.body else c for c in table.columns]


def dead_letters() -> Select[Any]:
    """Dead letters, newest first; values are cut to what lists show of them."""
    table = tables.dead_letters
    cut = {
        name: func.substr(table.c[name], 1, bytes_of(MAX_VALUE), type_=LargeBinary)
        for name in ("value", "edited")
    }
    listed = [c for c in table.columns if c.name not in ("key", "headers")]
    columns = [cut[c.name].label(c.name) if c.name in cut else c for c in listed]
    return select(*columns).order_by(table.c.id.desc())
