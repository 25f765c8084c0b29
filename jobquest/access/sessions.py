"""Operators' sessions: a cookie with a random value, of which only the digest is stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, func, insert, select, update

from jobquest.access.caller import ROLES, Caller
from jobquest.access.changes import changing
from jobquest.access.digests import digest, new_secret
from jobquest.access.tables import operators
from jobquest.access.tables import sessions as table
from jobquest.clock import now_ms
from jobquest.read.database import Database

HOURS = 12
ID_LENGTH = 16  # of a digest: enough to name a session, too little to look one up
_MAX_AGENT = 200


class Sessions:
    """The sessions in a database. Every method raises ReadSideUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, name: str, *, role: str | None = None, address: str, agent: str) -> str:
        """Begin a session of an operator who has just proved to be one. Returns the cookie's value.

        `role` is what an identity provider says; None: the operator's own, as it is at each time.
        """
        secret, now = new_secret(), now_ms()
        row = {
            "digest": digest(secret),
            "name": name,
            "role": role,
            "created_ms": now,
            "expires_ms": now + HOURS * 3_600_000,
            "used_ms": now,
            "address": address[:45],
            "agent": "".join(c for c in agent if c.isprintable())[:_MAX_AGENT],
        }
        with self._database.writing() as connection:  # it takes no right from anybody
            connection.execute(insert(table).values(row))
        return secret

    def end(self, digest: str) -> None:
        """End a session."""
        with changing(self._database) as connection:
            connection.execute(delete(table).where(table.c.digest == digest))

    def end_by_id(self, id: str) -> bool:
        """End the session that the list shows under this id. Returns whether there was one."""
        with changing(self._database) as connection:
            found = connection.execute(delete(table).where(_has_id(id)))
            return bool(found.rowcount)

    def forget_expired(self) -> None:
        """Delete sessions that have ended by themselves."""
        with self._database.writing() as connection:
            connection.execute(delete(table).where(table.c.expires_ms <= now_ms()))

    def listed(self) -> Sequence[dict[str, Any]]:
        """The sessions that are open, the latest first. Each has an `id` instead of its digest."""
        query = select(table).where(table.c.expires_ms > now_ms())
        with self._database.asking() as connection:
            rows = connection.execute(query.order_by(table.c.used_ms.desc())).mappings()
            return [{"id": row["digest"][:ID_LENGTH], **row} for row in rows]

    def caller(self, digest: str) -> Caller | None:
        """Whose session it is; None if it is unknown or has ended."""
        return self._callers(table.c.digest == digest).get(digest)

    def callers(self) -> dict[str, Caller]:
        """The same of every open session, by digest."""
        return self._callers()

    def note_used(self, connection: Connection, used: Mapping[str, int]) -> None:
        """Store when sessions were last used, by their credentials; others are left alone."""
        for credential, used_ms in used.items():
            if credential.startswith("session:"):
                mine = update(table).where(_has_id(credential[8:]))
                connection.execute(mine.values(used_ms=used_ms))

    def _callers(self, *wanted: ColumnElement[bool]) -> dict[str, Caller]:
        query = (
            select(
                table.c.digest,
                table.c.name,
                table.c.role,
                table.c.expires_ms,
                operators.c.role.label("own"),
            )
            .select_from(table.outerjoin(operators, operators.c.name == table.c.name))
            .where(*wanted, table.c.expires_ms > now_ms())
        )
        with self._database.asking() as connection:
            rows = connection.execute(query).all()
        found = ((row.digest, _caller(row)) for row in rows)
        return {digest: caller for digest, caller in found if caller}


def _caller(row: Any) -> Caller | None:
    role = row.role or row.own
    if role not in ROLES:
        return None
    credential = f"session:{row.digest[:ID_LENGTH]}"
    return Caller("operator", row.name, ROLES[role], credential, row.expires_ms / 1000)


def _has_id(id: str) -> ColumnElement[bool]:
    # Not LIKE: its wildcards would name other sessions too.
    return func.substr(table.c.digest, 1, ID_LENGTH) == id
