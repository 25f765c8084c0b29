"""The write path's statements as text, run with plain tuples by the database's own driver.

SQLAlchemy's handling of parameters and values costs several times what the database needs for a
row. Each text is made once per dialect and table. A list of keys is one parameter, however long, so
that connections keep few statements prepared. Called where batches are applied, and by the rebuild.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cache
from typing import Any

import orjson
from sqlalchemy import Connection, Integer, Table

Values = tuple[Any, ...]
"""A row's values, in the order of its table's columns."""


def write_rows(
    connection: Connection,
    table: Table,
    rows: Sequence[Values],
    *,
    key: tuple[str, ...] = (),
    unless: str = "",
) -> int:
    """Insert rows, or overwrite those with the same `key` (the primary key, if left out). Rows that
    fulfil `unless`, an SQL condition, stay unchanged. Returns how many rows were written."""
    if not rows:
        return 0
    key = key or tuple(table.primary_key.columns.keys())
    statement = _upsert(connection.dialect.name, table, key, unless)
    return connection.exec_driver_sql(statement, list(rows)).rowcount


def add_rows(connection: Connection, table: Table, rows: Sequence[Values]) -> None:
    """Insert rows; a row whose key exists already stays unchanged."""
    if rows:
        insert = _insert(connection.dialect.name, table)
        connection.exec_driver_sql(f"{insert} ON CONFLICT DO NOTHING", list(rows))


def rows_by_key(
    connection: Connection,
    table: Table,
    keys: Collection[Values],
    *,
    key: tuple[str, ...] = (),
    columns: tuple[str, ...] = (),
    where: str = "true",
) -> Sequence[Sequence[Any]]:
    """The rows with these values of `key` (the primary key, if left out) that fulfil `where` (SQL);
    all of their columns, or only `columns`."""
    if not keys:
        return []
    key = key or tuple(table.primary_key.columns.keys())
    columns = columns or tuple(table.columns.keys())
    query = select_by_key(connection.dialect.name, table, keys, key, columns, where)
    return connection.exec_driver_sql(*query).fetchall()


def select_by_key(
    dialect: str,
    table: Table,
    keys: Collection[Values],
    key: tuple[str, ...],
    columns: tuple[str, ...],
    where: str,
) -> tuple[str, Values]:
    """The statement of `rows_by_key` and its parameters, for a connection of the driver."""
    return _select(dialect, table, key, columns, where), _list(dialect, keys)


# All names in these texts are those of our own tables; no input is part of them.


@cache
def _insert(dialect: str, table: Table) -> str:
    names = table.columns.keys()
    marks = ", ".join(["?" if dialect == "sqlite" else "%s"] * len(names))
    return f"INSERT INTO {table.name} AS there ({_quoted(names)}) VALUES ({marks})"  # noqa: S608


@cache
def _upsert(dialect: str, table: Table, key: tuple[str, ...], unless: str) -> str:
    names = table.columns.keys()
    others = [f'"{name}" = excluded."{name}"' for name in names if name not in key]
    return (
        f"{_insert(dialect, table)} ON CONFLICT ({_quoted(key)}) DO UPDATE SET {', '.join(others)}"
        + (f" WHERE NOT (there.{unless})" if unless else "")
    )


@cache
def _select(
    dialect: str, table: Table, key: tuple[str, ...], columns: tuple[str, ...], where: str
) -> str:
    if dialect == "sqlite":
        # SQLite never reorders a CROSS JOIN: the keys are looked up, the table is not scanned.
        values = [f"json_extract(wanted.value, '$[{n}]')" for n in range(len(key))]
        if len(key) == 1:
            values = ["wanted.value"]
        keys = "json_each(?) AS wanted"
    else:
        values = [f"wanted.k{n}" for n in range(len(key))]
        arrays = ", ".join(f"%s::{_kind(table, name)}[]" for name in key)
        keys = f"unnest({arrays}) AS wanted ({', '.join(f'k{n}' for n in range(len(key)))})"
    same = [f'found."{name}" = {value}' for name, value in zip(key, values, strict=True)]
    shown = ", ".join([f'found."{name}"' for name in columns])
    return (
        f"SELECT {shown} FROM {keys} CROSS JOIN {table.name} AS found"  # noqa: S608
        f" WHERE {' AND '.join(same)} AND {where}"
    )


def _list(dialect: str, keys: Collection[Values]) -> tuple[Any, ...]:
    columns = [list(values) for values in zip(*keys, strict=True)]
    if dialect == "sqlite":
        return (orjson.dumps(columns[0] if len(columns) == 1 else list(map(tuple, keys))).decode(),)
    return tuple(columns)


def _kind(table: Table, name: str) -> str:
    return "bigint" if isinstance(table.c[name].type, Integer) else "text"


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)
