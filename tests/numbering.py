"""Lets tests say how far the numbers of changes are."""

from __future__ import annotations

from sqlalchemy import Connection, text


def begin_after(connection: Connection, number: int) -> None:
    """Give the next change a number above this one, as if others had changes up to it."""
    if not number:
        return
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SELECT setval('change_seq', {number})"))
        return
    # SQLite goes on behind the last row.
    names = 'seq, id, outcome, topic, partition, "offset", type, time_ms, received_ms, body'
    row = f"{number}, 'up-to-{number}', 'dead', 'none', 0, {number}, NULL, 0, 0, '{{}}'"
    connection.execute(text(f"INSERT INTO events ({names}) VALUES ({row})"))
