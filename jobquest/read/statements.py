"""The write path's statements as text, run with plain tuples by the database's own driver.

SQLAlchemy's handling of parameters and values costs several times what the database needs for a
row. Each text is made once per dialect and table. A list of keys or of rows is one parameter per
column on PostgreSQL, however long, so that connections keep few statements prepared. Called where
batches are applied, and by the rebuild.
"""

from __future__ import annotations

import select
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from types import NoneType
from typing import Any

import orjson
from sqlalchemy import Column, Connection, Float, Integer, LargeBinary, Table
from sqlalchemy.exc import DBAPIError

Values = tuple[Any, ...]
"""A row's values, in the order of its table's columns."""

_LARGE = ("body", "value")  # the columns that have an event
# The column of JSON goes to PostgreSQL as one text, which costs half of an array: the quotes need
# no escape. JSON has this character only as an escape.
_JSON, _JSON_SEPARATOR = "body", "\x1f"
_MAX_LENGTH = 2_000_000  # of their values in one statement


class Statements:
    """Runs statements in the transaction of a connection, in their order.

    If they are pipelined, none is answered before `flush` or `commit`: all until then cost one
    round trip to the database. Only PostgreSQL can do that.
    """

    def __init__(self, connection: Connection, pipeline: Any = None) -> None:
        self.dialect = connection.dialect.name
        self._driver: Any = connection.connection.driver_connection
        self._pipeline = pipeline

    def run(self, statement: str, parameters: Values = ()) -> Any:
        """Run a statement. Returns the driver's cursor, for the rows and their number."""
        return self._driver.cursor().execute(statement, parameters)

    def run_many(self, statement: str, rows: Sequence[Values]) -> Any:
        """Run a statement with each of the rows. Returns the driver's cursor."""
        cursor = self._driver.cursor()
        cursor.executemany(statement, rows)
        return cursor

    def flush(self) -> None:
        """Wait until every statement is answered. Raises the first error."""
        if self._pipeline:
            self.send()
            self._pipeline.sync()

    def send(self) -> None:
        """Hand everything to the network, and read what arrives meanwhile.

        psycopg (3.3.9) waits for answers even if its library still holds a part of a large
        statement, and the server waits for that part: for ever. So nothing may be left, and the
        socket must have room for the few bytes that psycopg adds before it waits.
        """
        connection = self._driver.pgconn
        poll = select.poll()
        poll.register(connection.socket, select.POLLIN | select.POLLOUT)
        while True:
            left = connection.flush()
            [(_, ready)] = poll.poll()
            if ready & ~select.POLLOUT:
                connection.consume_input()
            if ready & select.POLLOUT and not left:
                return

    def begin(self) -> None:
        """Begin the transaction of `Database.applying`."""
        if self.dialect == "postgresql":
            self.run("BEGIN")

    def commit(self) -> None:
        """Commit that transaction. In a pipeline that costs no round trip of its own: its end waits
        for the answers since the last `flush`, and raises the first error."""
        if self.dialect == "postgresql":
            self.run("COMMIT")


@contextmanager
def statements(connection: Connection, *, pipelined: bool = False) -> Iterator[Statements]:
    """Statements in the transaction of this connection. Raises SQLAlchemy's errors for those of the
    driver."""
    driver: Any = connection.connection.driver_connection
    dialect = connection.dialect
    if pipelined:
        is_postgresql = dialect.name == "postgresql"
        pipelined = is_postgresql and dialect.loaded_dbapi.Pipeline.is_supported()
    try:
        with ExitStack() as stack:
            pipeline = stack.enter_context(driver.pipeline()) if pipelined else None
            run = Statements(connection, pipeline)
            if pipeline:  # whose end waits for answers, also if an error ends it
                stack.callback(run.send)
            yield run
    except dialect.loaded_dbapi.Error as error:
        is_lost = dialect.is_disconnect(error, driver, None)
        if is_lost:
            connection.invalidate(error)
        raise DBAPIError.instance(
            None, None, error, dialect.loaded_dbapi.Error, connection_invalidated=is_lost
        ) from error


def write_rows(
    run: Statements,
    table: Table,
    rows: Sequence[Values],
    *,
    key: tuple[str, ...] = (),
    unless: str = "",
    number: str = "",
) -> list[Any]:
    """Insert rows, or overwrite those with the same `key` (the primary key, if left out). Rows that
    fulfil `unless`, an SQL condition, stay unchanged. Returns the cursors: their `rowcount`s add up
    to how many rows were written. No two of the rows have the same key. With a `number`, an SQL
    expression for the first column, they come without that column."""
    statement = _upsert(run.dialect, table, key or _key(table), unless, number)
    names = tuple(table.columns.keys())[bool(number) :]
    return _write(run, statement, table, rows, names)


def add_rows(run: Statements, table: Table, rows: Sequence[Values]) -> None:
    """Insert rows; a row whose key exists already stays unchanged."""
    if rows:
        _write(run, f"{_insert(run.dialect, table)} ON CONFLICT DO NOTHING", table, rows)


def grow_rows(run: Statements, table: Table, rows: Sequence[Values]) -> None:
    """Insert rows, or add their values to those of the same primary key, which comes first."""
    if rows:
        _write(run, _growing(run.dialect, table), table, rows)


def delete_rows(run: Statements, table: Table, keys: Collection[str]) -> None:
    """Delete the rows of these primary keys, each of which is one text."""
    run.run(_delete(run.dialect, table), _list(run.dialect, [(key,) for key in keys]))


def locked_rows(run: Statements, table: Table, keys: Sequence[Values], others: Values) -> Any:
    """The rows of these keys, locked until the end of the transaction; those that are missing are
    inserted first, with the `others` behind their key. The keys are sorted, so that nobody waits in
    a circle. SQLite has one writer, so it locks and inserts nothing. Returns the cursor."""
    key = _key(table)
    columns, lists = tuple(table.columns.keys()), _list(run.dialect, keys)
    if run.dialect == "postgresql":
        run.run(_insert_missing(table), (*others, *lists))
    return run.run(_select(run.dialect, table, key, columns, "true", "FOR UPDATE"), lists)


def _write(
    run: Statements,
    statement: str,
    table: Table,
    rows: Sequence[Values],
    names: Sequence[str] = (),
) -> list[Any]:
    if run.dialect == "sqlite":
        return [run.run_many(statement, rows)]
    columns = [table.c[name] for name in names or table.columns.keys()]
    return [run.run(statement, _columns(columns, portion)) for portion in _portions(columns, rows)]


def _columns(columns: Sequence[Column[Any]], rows: Sequence[Values]) -> Values:
    """The rows' columns, each as the parameter that `_unnested` reads."""
    return tuple(
        _JSON_SEPARATOR.join(values) if column.name == _JSON else _array(values)
        for column, values in zip(columns, zip(*rows, strict=True), strict=True)
    )


def _unnested(table: Table, name: str) -> str:
    if name == _JSON:
        return f"string_to_array(%s::text, '{_JSON_SEPARATOR}')"
    return f"%s::{_kind(table, name)}[]"


def _portions(columns: Sequence[Column[Any]], rows: Sequence[Values]) -> Iterator[Sequence[Values]]:
    """The rows of one statement each: its parameters are in memory several times."""
    large = [n for n, column in enumerate(columns) if column.name in _LARGE]
    first = size = 0
    for n, row in enumerate(rows if large else ()):
        size += len(row[large[0]] or "")
        if size > _MAX_LENGTH:
            yield rows[first : n + 1]
            first, size = n + 1, 0
    if rows[first:]:
        yield rows[first:]


def rows_by_key(
    run: Statements,
    table: Table,
    keys: Collection[Values],
    *,
    key: tuple[str, ...] = (),
    columns: tuple[str, ...] = (),
    where: str = "true",
) -> Any:
    """The rows with these values of `key` (the primary key, if left out) that fulfil `where` (SQL);
    all of their columns, or only `columns`. Returns the cursor, to fetch them from."""
    key = key or _key(table)
    columns = columns or tuple(table.columns.keys())
    return run.run(*select_by_key(run.dialect, table, keys, key, columns, where))


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
def _insert(dialect: str, table: Table, names: tuple[str, ...] = (), number: str = "") -> str:
    names = names or tuple(table.columns.keys())
    into = f"INSERT INTO {table.name} AS there ({_quoted(names)})"
    given = names[bool(number) :]
    if dialect == "sqlite":
        return f"{into} VALUES ({', '.join('?' * len(given))})"
    lists = ", ".join(_unnested(table, name) for name in given)
    return f"{into} SELECT {number and number + ', '}* FROM unnest({lists})"  # noqa: S608


@cache
def _insert_missing(table: Table) -> str:
    key, names = _key(table), table.columns.keys()
    lists = ", ".join(_unnested(table, name) for name in key)
    others = ", ".join(f"%s::{_kind(table, name)}" for name in names[len(key) :])
    return (
        f"INSERT INTO {table.name} ({_quoted(names)}) SELECT wanted.*, {others}"  # noqa: S608
        f" FROM unnest({lists}) AS wanted ON CONFLICT DO NOTHING"
    )


@cache
def _upsert(dialect: str, table: Table, key: tuple[str, ...], unless: str, number: str = "") -> str:
    names = table.columns.keys()
    others = [f'"{name}" = excluded."{name}"' for name in names if name not in key]
    return (
        f"{_insert(dialect, table, number=number)} ON CONFLICT ({_quoted(key)}) DO UPDATE SET"
        f" {', '.join(others)}" + (f" WHERE NOT (there.{unless})" if unless else "")
    )


@cache
def _growing(dialect: str, table: Table) -> str:
    key = _key(table)
    others = [name for name in table.columns.keys() if name not in key]  # noqa: SIM118
    more = [f'"{name}" = there."{name}" + excluded."{name}"' for name in others]
    insert = _insert(dialect, table)
    return f"{insert} ON CONFLICT ({_quoted(key)}) DO UPDATE SET {', '.join(more)}"


@cache
def _select(
    dialect: str,
    table: Table,
    key: tuple[str, ...],
    columns: tuple[str, ...],
    where: str,
    ending: str = "OFFSET 0",
) -> str:
    shown = ", ".join([f'found."{name}"' for name in columns])
    if dialect == "sqlite":
        # SQLite never reorders a CROSS JOIN: the keys are looked up, the table is not scanned.
        values = [f"json_extract(wanted.value, '$[{n}]')" for n in range(len(key))]
        if len(key) == 1:
            values = ["wanted.value"]
        same = _same(key, values)
        wanted = f"json_each(?) AS wanted CROSS JOIN {table.name} AS found"
        return f"SELECT {shown} FROM {wanted} WHERE {same} AND {where}"  # noqa: S608
    # PostgreSQL would scan the whole table for thousands of keys, as long as it has less than about
    # 100,000 rows: 140 ms in place of 14. It does not look inside a subquery that ends like this.
    names = [f"k{n}" for n in range(len(key))]
    lists = ", ".join(_unnested(table, name) for name in key)
    same = _same(key, [f"wanted.{name}" for name in names])
    found = f"SELECT {shown} FROM {table.name} AS found WHERE {same} AND {where} {ending}"  # noqa: S608
    wanted = f"unnest({lists}) AS wanted ({', '.join(names)})"
    return f"SELECT found.* FROM {wanted} CROSS JOIN LATERAL ({found}) AS found"  # noqa: S608


def _same(key: tuple[str, ...], values: Sequence[str]) -> str:
    return " AND ".join(f'found."{name}" = {one}' for name, one in zip(key, values, strict=True))


@cache
def _delete(dialect: str, table: Table) -> str:
    [key] = _key(table)
    keys = (
        "(SELECT value FROM json_each(?))" if dialect == "sqlite" else "(SELECT unnest(%s::text[]))"
    )
    return f'DELETE FROM {table.name} WHERE "{key}" IN {keys}'  # noqa: S608


def _list(dialect: str, keys: Collection[Values]) -> Values:
    if dialect == "postgresql":
        return _arrays(keys)
    listed = [key[0] if len(key) == 1 else tuple(key) for key in keys]
    return (orjson.dumps(listed).decode(),)


def _arrays(rows: Iterable[Values]) -> Values:
    """The rows' columns, each as an array in PostgreSQL's notation.

    psycopg makes it element by element, which cost half of the time of a batch.
    https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO
    """
    return tuple(_array(values) for values in zip(*rows, strict=True))


def _array(values: Values) -> Any:
    kinds = set(map(type, values))
    if kinds == {str}:
        # No text in PostgreSQL has this character. psycopg refuses one that has it.
        joined = "\0".join(values)
        if joined.count("\0") == len(values) - 1:
            return '{"' + _escaped(joined).replace("\0", '","') + '"}'
    elif kinds == {bytes}:
        return '{"' + '","'.join([f"\\\\x{one.hex()}" for one in values]) + '"}'
    elif kinds <= {int, float, NoneType}:
        return "{" + ",".join(["NULL" if value is None else str(value) for value in values]) + "}"
    elif kinds == {str, NoneType}:
        texts = ["NULL" if one is None else f'"{_escaped(one)}"' for one in values]
        return "{" + ",".join(texts) + "}"
    return list(values)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _key(table: Table) -> tuple[str, ...]:
    return tuple(table.primary_key.columns.keys())


def _kind(table: Table, name: str) -> str:
    kinds = {Integer: "bigint", Float: "double precision", LargeBinary: "bytea"}
    of_type = table.c[name].type
    return next((kind for base, kind in kinds.items() if isinstance(of_type, base)), "text")


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)
