"""The number of changes to what credentials allow: `generation`.

Each change raises it in its own transaction. Every process looks at it each second, so that what
it remembers of credentials ends within two.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, select, update

from jobquest.access.tables import state
from jobquest.read.database import Database


@contextmanager
def changing(database: Database) -> Iterator[Connection]:
    """A transaction that changes what credentials allow. Raises ReadSideUnavailable."""
    with database.writing() as connection:
        connection.execute(update(state).values(generation=state.c.generation + 1))
        yield connection


def generation(database: Database) -> int:
    """How many changes there have been. Raises ReadSideUnavailable."""
    with database.asking() as connection:
        found: int = connection.execute(select(state.c.generation)).scalar_one()
    return found
