"""Operators: people who sign in by a name and a password, each with a role."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import delete, insert, select, update

from jobquest.access import passwords
from jobquest.access.caller import ROLES, is_of_trail
from jobquest.access.changes import changing
from jobquest.access.tables import operators as table
from jobquest.access.tables import sessions
from jobquest.clock import now_ms
from jobquest.errors import StateConflict
from jobquest.read.database import Database

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@+-]{0,99}")


class Operators:
    """The operators in a database. Every method raises ReadSideUnavailable."""

    def __init__(self, database: Database, created: Callable[[], None]) -> None:
        """`created` is called once there is an operator."""
        self._database = database
        self._created = created

    def add(self, name: str, password: str, role: str) -> None:
        """Add an operator. Raises StateConflict."""
        if not _NAME.fullmatch(name):
            raise StateConflict(
                "An operator's name has 1 to 100 letters, digits, '.', '_', '-', '+' or '@', and"
                " begins with a letter or digit."
            )
        if is_of_trail(name):
            raise StateConflict(f"The audit trail itself uses the name {name}: choose another.")
        _check_role(role)
        hashed = passwords.hashed(password)
        with changing(self._database) as connection:
            if connection.execute(select(table.c.name).where(table.c.name == name)).first():
                raise StateConflict(f"There is an operator {name} already.")
            row = {"name": name, "password": hashed, "role": role, "created_ms": now_ms()}
            connection.execute(insert(table).values(row))
        self._created()

    def set_role(self, name: str, role: str) -> None:
        """Change an operator's role; open sessions have it at once. Raises StateConflict."""
        _check_role(role)
        self._update(name, role=role)

    def set_password(self, name: str, password: str) -> None:
        """Change a password; the operator's sessions end. Raises StateConflict."""
        self._update(name, password=passwords.hashed(password))

    def remove(self, name: str) -> None:
        """Remove an operator; their sessions end. Raises StateConflict."""
        with changing(self._database) as connection:
            if not connection.execute(delete(table).where(table.c.name == name)).rowcount:
                raise StateConflict(f"There is no operator {name}.")
            connection.execute(delete(sessions).where(sessions.c.name == name, _BY_PASSWORD))

    def listed(self) -> Sequence[dict[str, Any]]:
        """Every operator by name: name, role, created_ms."""
        columns = (table.c.name, table.c.role, table.c.created_ms)
        with self._database.asking() as connection:
            rows = connection.execute(select(*columns).order_by(table.c.name)).mappings()
            return [dict(row) for row in rows]

    def accepts(self, name: str, password: str) -> bool:
        """Whether there is an operator with this password; either answer takes as long. Raises
        TooMany if too many passwords are being checked."""
        with self._database.asking() as connection:
            query = select(table.c.password).where(table.c.name == name)
            stored: str | None = connection.execute(query).scalar()
        return passwords.verify(stored, password)

    def _update(self, name: str, **values: str) -> None:
        with changing(self._database) as connection:
            found = connection.execute(update(table).where(table.c.name == name).values(values))
            if not found.rowcount:
                raise StateConflict(f"There is no operator {name}.")
            if "password" in values:
                connection.execute(delete(sessions).where(sessions.c.name == name, _BY_PASSWORD))


_BY_PASSWORD = sessions.c.role.is_(None)


def _check_role(role: str) -> None:
    if role not in ROLES:
        raise StateConflict(f"There is no role {role}: use {' or '.join(ROLES)}.")
