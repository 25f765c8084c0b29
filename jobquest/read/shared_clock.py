"""The clock that processes on several machines share: the database's.

For times that one process writes and another compares with the current time.
"""

from __future__ import annotations

from sqlalchemy import Connection, text

_NOW = {
    "sqlite": text("SELECT CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"),
    "postgresql": text("SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)"),
}


def database_ms(connection: Connection) -> int:
    """The database's time, Unix milliseconds."""
    now: int = connection.execute(_NOW[connection.dialect.name]).scalar_one()
    return now
