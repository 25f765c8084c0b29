"""The clock that processes on several machines share: the database's.

For times that one process writes and another compares with the current time.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, ColumnElement, Connection, literal_column, text

_NOW = {
    "sqlite": "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
    "postgresql": "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)",
}
NOW = {dialect: f"SELECT {now}" for dialect, now in _NOW.items()}
"""The SELECT of the database's time, Unix milliseconds."""


def database_now(connection: Connection) -> ColumnElement[int]:
    """The SQL of the database's time, for a query with more in it."""
    return literal_column(_NOW[connection.dialect.name], BigInteger)


def database_ms(connection: Connection) -> int:
    """The database's time, Unix milliseconds."""
    now: int = connection.execute(text(NOW[connection.dialect.name])).scalar_one()
    return now
