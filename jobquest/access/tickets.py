"""Tickets: a browser's socket can't send headers, so its address has a ticket, which is valid once.

They are in the database, because another process or machine may receive the socket.
"""

from __future__ import annotations

import msgspec
from sqlalchemy import delete, insert

from jobquest.access.caller import Caller
from jobquest.access.digests import digest, new_secret
from jobquest.access.tables import tickets as table
from jobquest.clock import now_ms
from jobquest.read.database import Database

SECONDS = 30


class Tickets:
    """The tickets in a database. Every method raises ReadSideUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def issue(self, caller: Caller) -> str:
        """A ticket that stands for this caller for some seconds."""
        secret = new_secret()
        row = {
            "digest": digest(secret),
            "caller": msgspec.json.encode(caller).decode(),
            "expires_ms": now_ms() + SECONDS * 1000,
        }
        with self._database.writing() as connection:
            connection.execute(delete(table).where(table.c.expires_ms <= now_ms()))
            connection.execute(insert(table).values(row))
        return secret

    def redeem(self, ticket: str) -> Caller | None:
        """Whom a ticket stands for, once; None if it is unknown, used or too old."""
        mine = delete(table).where(table.c.digest == digest(ticket))
        with self._database.writing() as connection:
            row = connection.execute(mine.returning(table.c.caller, table.c.expires_ms)).first()
        if row is None or row.expires_ms <= now_ms():
            return None
        return msgspec.json.decode(row.caller, type=Caller)
