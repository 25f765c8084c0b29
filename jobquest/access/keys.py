"""API keys, for servers: each has a name, scopes and perhaps an end. Only its digest is stored."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from jobquest.access.caller import KEY_SCOPES, Caller
from jobquest.access.changes import changing
from jobquest.access.digests import KEY_PREFIX, digest, new_secret
from jobquest.access.tables import keys as table
from jobquest.clock import now_ms
from jobquest.errors import StateConflict
from jobquest.read.database import Database

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


class Keys:
    """The keys in a database. Every method raises ReadSideUnavailable."""

    def __init__(self, database: Database, created: Callable[[], None]) -> None:
        """`created` is called once there is a key."""
        self._database = database
        self._created = created

    def create(self, name: str, scopes: Sequence[str], expires_ms: int | None) -> str:
        """Create a key. Returns it: nobody can show it again. Raises StateConflict."""
        if not _NAME.fullmatch(name):
            raise StateConflict(
                "A key's name has 1 to 100 letters, digits, '.', '_' or '-', and begins with a"
                " letter or digit."
            )
        if unknown := sorted(set(scopes) - set(KEY_SCOPES)):
            raise StateConflict(
                f"There is no scope {', '.join(unknown)}: use {', '.join(KEY_SCOPES)}."
            )
        if not scopes:
            raise StateConflict(f"A key needs a scope: {', '.join(KEY_SCOPES)}.")
        secret = new_secret(KEY_PREFIX)
        with changing(self._database) as connection:
            connection.execute(
                delete(table).where(table.c.name == name, table.c.revoked_ms.is_not(None))
            )
            if connection.execute(select(table.c.id).where(table.c.name == name)).first():
                raise StateConflict(f"There is a key {name} already: revoke or rotate it.")
            row = {
                "name": name,
                "digest": digest(secret),
                "scopes": " ".join(dict.fromkeys(scopes)),
                "created_ms": now_ms(),
                "expires_ms": expires_ms,
            }
            connection.execute(insert(table).values(row))
        self._created()
        return secret

    def rotate(self, name: str) -> str:
        """Replace a key that is valid: the old one ends, the new one has its scopes and its end.
        Returns the new one. Raises StateConflict."""
        secret = new_secret(KEY_PREFIX)
        with changing(self._database) as connection:
            valid = (table.c.name == name, table.c.revoked_ms.is_(None))
            # A new id, so that open sockets of the old one end.
            row = connection.execute(select(table).where(*valid)).mappings().first()
            if row is None:
                raise StateConflict(f"There is no valid key {name}.")
            connection.execute(delete(table).where(table.c.id == row["id"]))
            same = {key: row[key] for key in ("name", "scopes", "expires_ms")}
            fresh = {"digest": digest(secret), "created_ms": now_ms()}
            connection.execute(insert(table).values(same | fresh))
        return secret

    def revoke(self, name: str) -> None:
        """End a key. Raises StateConflict if there is none that is valid."""
        with changing(self._database) as connection:
            valid = (table.c.name == name, table.c.revoked_ms.is_(None))
            ended = update(table).where(*valid).values(revoked_ms=now_ms())
            if not connection.execute(ended).rowcount:
                raise StateConflict(f"There is no valid key {name}.")

    def listed(self) -> list[dict[str, Any]]:
        """Every key by name: without its digest."""
        columns = [column for column in table.columns if column.name != "digest"]
        with self._database.asking() as connection:
            rows = connection.execute(select(*columns).order_by(table.c.name)).mappings()
            return [dict(row) for row in rows]

    def caller(self, digest: str) -> Caller | None:
        """Whom a key stands for; None if it is unknown, revoked or expired."""
        with self._database.asking() as connection:
            row = connection.execute(select(table).where(table.c.digest == digest)).first()
        return _caller(row) if row else None

    def callers(self) -> dict[str, Caller]:
        """The same of every valid key, by digest."""
        with self._database.asking() as connection:
            rows = connection.execute(select(table).where(table.c.revoked_ms.is_(None))).all()
        found = ((row.digest, _caller(row)) for row in rows)
        return {digest: caller for digest, caller in found if caller}

    def note_used(self, connection: Connection, used: Mapping[str, int]) -> None:
        """Store when keys were last used, by their credentials; others are left alone."""
        for credential, used_ms in used.items():
            if credential.startswith("key:"):
                mine = update(table).where(table.c.id == int(credential[4:]))
                connection.execute(mine.values(used_ms=used_ms))


def _caller(row: Any) -> Caller | None:
    if row.revoked_ms is not None or (row.expires_ms is not None and row.expires_ms <= now_ms()):
        return None
    expires = None if row.expires_ms is None else row.expires_ms / 1000
    return Caller("key", row.name, frozenset(row.scopes.split()), f"key:{row.id}", expires)
