"""The revision of the credentials' tables, and the migrations that upgrade them to ours.

Called by `Database` before the first use. To change a table, edit it in `tables.py`, and add a file
to `migrations/versions` that keeps every row.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, inspect, text

from jobquest.access.tables import metadata
from jobquest.errors import ReadSideUnavailable
from jobquest.read import schema_check
from jobquest.read.schema import UPGRADING, alembic_config

NAME = "the file of credentials"
REPAIR = (
    "start again, and add operators and keys again: `flask operators add`, `flask keys create`."
)
FILE_MODE = 0o600
VERSION_TABLE = "access_version"

_MIGRATIONS = Path(__file__).parent / "migrations"
REVISION = max(file.name[:4] for file in _MIGRATIONS.glob("versions/[0-9]*.py"))


def revision(connection: Connection) -> str | None:
    """The revision of a database's tables; None if it has none yet."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    found: str | None = connection.scalar(text(f"SELECT version_num FROM {VERSION_TABLE}"))  # noqa: S608
    return found


def is_current(connection: Connection) -> bool:
    """Whether the tables have our revision."""
    return revision(connection) == REVISION


def bring_up(connection: Connection, *, may_upgrade: bool, where: str) -> str | None:
    """Create the tables, or upgrade them to our revision, in the caller's transaction. Raises
    ReadSideUnavailable if it may not, or if they are a newer version's."""
    found = revision(connection)
    if found == REVISION:
        return found
    line = f"The tables of the credentials have revision {found}, this version needs {REVISION}"
    if found and found > REVISION:
        raise ReadSideUnavailable(f"{line}: start the newer version again ({where}).")
    if found and not may_upgrade:
        raise ReadSideUnavailable(f"{line}: run `flask db upgrade` ({where}).")
    _upgrade(connection)
    return found


def differences(connection: Connection) -> list[str]:
    """A line for each difference between the tables and their models."""
    found = revision(connection)
    if found != REVISION:
        has = f"The credentials' tables have revision {found}" if found else "They do not exist"
        return [f"{has}, this version needs {REVISION}."]
    return schema_check.differences(connection, metadata, of_access=True)


def _upgrade(connection: Connection) -> None:
    config = alembic_config(_MIGRATIONS)
    from alembic import command  # the import takes a tenth of a second, and few starts need it

    config.attributes["connection"] = connection
    with UPGRADING:
        command.upgrade(config, REVISION)
