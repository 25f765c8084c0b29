"""Compares a database's tables with their models: `flask db check`.

The models' tables are created for that, as temporary ones, so that the database itself spells
both. Reads only; the caller's transaction must be rolled back.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Inspector, MetaData, create_engine, inspect, text
from sqlalchemy.exc import SAWarning

from jobquest.read.tables import SHADOW_PREFIX

ACCESS = "access_"
"""The names of the credentials' tables begin with it."""

_KILLED = "A rebuild runs, or was killed: the next one drops what it left ({})."
_OF_ALEMBIC = ("alembic_version", "access_version")  # no model has them
_INDEXES = {
    "sqlite": "SELECT tbl_name, name, sql FROM sqlite_master WHERE type = 'index' AND sql > ''",
    "postgresql": "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = :name",
}
_TEMPORARY = "SELECT nspname FROM pg_namespace WHERE oid = pg_my_temp_schema()"


def differences(connection: Connection, models: MetaData, *, of_access: bool = False) -> list[str]:
    """A line for each difference between the models and the tables: those of the credentials, or
    all others, which may be in the same database."""
    names = {name for name in inspect(connection).get_table_names() if name not in _OF_ALEMBIC}
    shadows = sorted(name for name in names if name.startswith(SHADOW_PREFIX))
    names = {name for name in names.difference(shadows) if name.startswith(ACCESS) == of_access}
    there = _layout(connection, connection.dialect.default_schema_name, names)
    with _created(connection, models) as (made, schema):
        wanted = _layout(made, schema, models.tables.keys())
    there = {what: said for what, said in there.items() if _is_asked_for(what, of_access)}
    killed = [_KILLED.format(", ".join(shadows))] if shadows and not of_access else []
    return killed + [
        f"{what}: the models have {wanted.get(what, 'none')},"
        f" the database has {there.get(what, 'none')}."
        for what in sorted(there.keys() | wanted.keys())
        if there.get(what) != wanted.get(what)
    ]


def _is_asked_for(what: str, of_access: bool) -> bool:
    kind, _, name = what.partition(" ")
    if kind != "Sequence":  # it is of one of the tables
        return True
    return name.startswith(ACCESS) == of_access and not name.startswith(SHADOW_PREFIX)


@contextmanager
def _created(connection: Connection, models: MetaData) -> Iterator[tuple[Connection, str | None]]:
    """The models' tables: a connection and a schema that have them."""
    if connection.dialect.name == "sqlite":
        with create_engine("sqlite://").connect() as memory:
            models.create_all(memory)
            yield memory, None
        return
    models.create_all(
        connection.execution_options(schema_translate_map={None: "pg_temp"}), checkfirst=False
    )
    connection.execution_options(schema_translate_map={})
    yield connection, connection.scalar(text(_TEMPORARY))


def _layout(connection: Connection, schema: str | None, names: Collection[str]) -> dict[str, str]:
    """All that a database's own catalogue says of tables in a schema, by what it is about."""
    database = inspect(connection)
    found: dict[str, str] = {}
    for name in names:
        found |= _table(database, name, schema)
    if connection.dialect.name == "sqlite":
        for name, sql in connection.execute(text("SELECT name, sql FROM sqlite_master")):
            if name in names:  # the rest of its text depends on when each column was added
                found[f"Table {name}"] = sql.rpartition(")")[2].strip() or "rowids"
    else:
        found |= {f"Sequence {one}": "one" for one in database.get_sequence_names(schema)}
    query = text(_INDEXES[connection.dialect.name])
    values = {} if schema is None or ":" not in query.text else {"name": schema}
    for table, name, sql in connection.execute(query, values):
        if table in names:
            found[f"Index {name}"] = sql
    return {what: _spelled(said, schema) for what, said in found.items()}


def _spelled(said: str, schema: str | None) -> str:
    """Without quotes and names of schemas; PostgreSQL calls the temporary one by either name."""
    line = " ".join(said.replace('"', "").split())
    return line.replace(f"{schema}.", "").replace("pg_temp.", "")


def _table(database: Inspector, name: str, schema: str | None) -> dict[str, str]:
    key = database.get_pk_constraint(name, schema)["constrained_columns"]
    with warnings.catch_warnings():  # of indexes of expressions, which do not concern these
        warnings.simplefilter("ignore", SAWarning)
        unique = [one["column_names"] for one in database.get_unique_constraints(name, schema)]
    found = {
        f"Table {name}": "one",
        f"Primary key of {name}": ", ".join(key),
        f"Unique columns of {name}": "; ".join(sorted(", ".join(map(str, one)) for one in unique)),
    }
    for column in database.get_columns(name, schema):
        default = f" DEFAULT {column['default']}" if column["default"] else ""
        null = "" if column["nullable"] else " NOT NULL"
        found[f"Column {name}.{column['name']}"] = f"{column['type']}{null}{default}"
    return found
