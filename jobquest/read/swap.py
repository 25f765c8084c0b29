"""Replaces the live tables by those of a rebuild, in the caller's transaction.

It knows both databases' ways to do that, and what others may be doing with the tables meanwhile;
nothing of what is in them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Table, UniqueConstraint, bindparam, func, select, text
from sqlalchemy.exc import DBAPIError

from jobquest.read import tables
from jobquest.read.attached import carried_over, default_rights
from jobquest.read.database_errors import is_locked, is_refused
from jobquest.read.replay import SHADOW, RebuildFailed, shadow_indexes, shadows

# Our wait for a table makes readers of the others wait. Below PostgreSQL's `deadlock_timeout` (1 s)
# none of them can be ended because of us; only a longer wait ends an automatic VACUUM.
_LOCK_MS = (900, 900, 900, 900, 3_000)
_PAUSE_SECONDS = 1.0  # in which readers go on
_HOLDERS = text(
    "SELECT DISTINCT pid FROM pg_locks JOIN pg_class c ON c.oid = relation WHERE granted"
    " AND pid <> pg_backend_pid() AND relname IN :names AND pg_table_is_visible(c.oid) ORDER BY pid"
).bindparams(bindparam("names", expanding=True))
_HOME = text(
    "SELECT pg_get_userbyid(relowner), quote_ident(nspname), current_setting('search_path')"
    " FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE c.oid = to_regclass(:name)"
)


@contextmanager
def at_home(connection: Connection) -> Iterator[None]:
    """What is created has the owner and the schema of the tables that it will replace."""
    home = None
    if connection.dialect.name == "postgresql":
        with connection.begin():
            home = connection.execute(_HOME, {"name": tables.events.name}).first()
    if home is None:  # whoever needs the table will say that it is missing
        yield
        return
    owner, schema, path = home
    _become(connection, owner, f"{schema}, {path}")
    try:
        yield
    finally:
        if not connection.invalidated:
            _become(connection, "none", path)


def _become(connection: Connection, role: str, path: str) -> None:
    with connection.begin():
        connection.execute(select(func.set_config("role", role, False)))
        connection.execute(select(func.set_config("search_path", path, False)))


@contextmanager
def refusals_told() -> Iterator[None]:
    """Raise RebuildFailed if PostgreSQL refuses something because of others' rights or objects."""
    try:
        yield
    except DBAPIError as error:
        if not is_refused(error):
            raise
        cause = " ".join(str(error.orig).split())
        raise RebuildFailed(
            f"PostgreSQL refuses the rebuild: {cause}. The old tables are unchanged."
        ) from error


def create_shadows(connection: Connection) -> None:
    """Create the shadow tables, empty. Nobody but their owner may use them."""
    drop_shadows(connection)
    with connection.begin():
        shadows.create_all(connection)
        for statement in default_rights(connection):
            connection.exec_driver_sql(statement)


def drop_shadows(connection: Connection) -> None:
    """Drop what is left of this rebuild, or of one that was killed."""
    if not connection.invalidated:
        with connection.begin():
            shadows.drop_all(connection)


def index_shadows(connection: Connection) -> None:
    """Create the shadows' indexes before the swap, because readers wait for the swap to end."""
    for live, shadow in SHADOW.items():
        for index in shadow_indexes(live):
            index.create(connection)
        connection.execute(text(f"ANALYZE {shadow.name}"))


def hold_readers(connection: Connection) -> None:
    """Wait until nobody uses the live tables, and let nobody begin to before the transaction ends.
    Raises RebuildFailed, with the sessions that use them, if that takes too long."""
    if connection.dialect.name == "sqlite":  # readers continue on the old tables
        return
    for milliseconds in _LOCK_MS:
        if _are_locked(connection, milliseconds):
            return
        time.sleep(_PAUSE_SECONDS)  # PostgreSQL tells nobody when a lock is free
    names = [live.name for live in SHADOW]
    pids = ", ".join(map(str, connection.scalars(_HOLDERS, {"names": names})))
    raise RebuildFailed(
        "The rebuild needs its tables for a moment, but other sessions of PostgreSQL use them"
        f" (pid {pids or 'unknown'}). Let these end, or end them: SELECT pg_terminate_backend(pid)."
        " Then rebuild again. The old tables are unchanged."
    )


def _are_locked(connection: Connection, milliseconds: int) -> bool:
    try:
        with connection.begin_nested():  # if it fails, the locks that it has are freed
            connection.execute(text(f"SET LOCAL lock_timeout = {milliseconds}"))
            connection.execute(text(f"LOCK TABLE {', '.join(live.name for live in SHADOW)}"))
            connection.execute(text("SET LOCAL lock_timeout = 0"))
    except DBAPIError as error:
        if not is_locked(error):
            raise
        return False
    return True


def swap(connection: Connection) -> None:
    """Put the shadow tables into the place of the live ones."""
    with _views_unchanged(connection):
        for live, shadow in SHADOW.items():
            _replace(connection, live, shadow)


@contextmanager
def _views_unchanged(connection: Connection) -> Iterator[None]:
    """SQLite renames no table of which a view is missing, and would edit its views; not so as its
    older versions did it."""
    if connection.dialect.name != "sqlite":
        yield
        return
    connection.execute(text("PRAGMA legacy_alter_table = ON"))
    try:
        yield
    finally:
        connection.execute(text("PRAGMA legacy_alter_table = OFF"))


def _replace(connection: Connection, live: Table, shadow: Table) -> None:
    carried = carried_over(connection, live)
    live.drop(connection)
    connection.execute(text(f"ALTER TABLE {shadow.name} RENAME TO {live.name}"))
    for statement in carried:
        connection.exec_driver_sql(statement)
    if connection.dialect.name == "sqlite":  # it can't rename an index, and readers continue
        for index in live.indexes:
            index.create(connection)
        return
    names = [f"{live.name}_{end}" for end in _ends(live)]  # chosen by PostgreSQL
    for name in [*names, *(str(index.name) for index in live.indexes)]:
        connection.execute(text(f"ALTER INDEX {tables.SHADOW_PREFIX}{name} RENAME TO {name}"))
    if live.autoincrement_column is not None:  # PostgreSQL gives it a sequence, too
        column = live.autoincrement_column.name
        sequence = connection.scalar(select(func.pg_get_serial_sequence(live.name, column)))
        name = f"{live.name}_{column}_seq"
        connection.execute(text(f"ALTER SEQUENCE {sequence} RENAME TO {name}"))


def _ends(table: Table) -> list[str]:
    return ["pkey", *(f"{name}_key" for name in _unique_columns(table))]


def _unique_columns(table: Table) -> list[str]:
    return [
        name
        for constraint in table.constraints
        if isinstance(constraint, UniqueConstraint)
        for name in constraint.columns.keys()  # noqa: SIM118
    ]
