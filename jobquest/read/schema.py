"""The tables' revision: which one a database has, and the migrations that upgrade it to ours.

Called by `database.py` before the first use, and by `flask db`. To change a table, edit it in
`tables.py` or `projections.py`, and add a file to `migrations/versions`. A migration keeps
operational rows. It says `expands = True` if processes of the version before can work with its
tables, and `rebuilds = True` if derived tables need past events. docs/projections.md has all steps.
"""

from __future__ import annotations

import logging
import threading
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, inspect, select, text, update

from jobquest.errors import ReadSideUnavailable, UpgradeWaits
from jobquest.read import schema_check
from jobquest.read.processes import alive_before
from jobquest.read.tables import epoch, metadata

if TYPE_CHECKING:
    from alembic.config import Config

log = logging.getLogger(__name__)

NAME = "the read side"
REPAIR = "run `flask events rebuild`, and start again: that recreates it from the log."
FILE_MODE = 0o666

_MIGRATIONS = Path(__file__).parent / "migrations"
REVISION = max(file.name[:4] for file in _MIGRATIONS.glob("versions/[0-9]*.py"))
_BASE, _BASE_LAYOUT = "0005", 5  # databases from before Alembic have a layout number instead
UPGRADING = threading.Lock()
"""Held while Alembic works: it has one context for the whole process."""


def revision(connection: Connection) -> str | None:
    """The revision of a database's tables; None if it has none yet. Raises ReadSideUnavailable if
    its tables are older than the first migration, or another application's."""
    there = inspect(connection)
    found: str | None = None
    if there.has_table("alembic_version"):
        found = connection.scalar(text("SELECT version_num FROM alembic_version"))
    if there.has_table("events") and found and found.isdigit() and found > REVISION:
        return found  # its other tables may have any name
    first = "counter" if found and found < "0010" else "epoch"
    if not there.has_table(first) and not (found is None and there.has_table("counter")):
        if there.has_table("events") or (found and not _BASE <= found <= REVISION):
            raise ReadSideUnavailable(
                "The database has tables of another application, or the read side has lost its"
                f" table {first}. Give the read side its own database, and run"
                " `flask events rebuild`."
            )
        return None
    if found:
        return found
    numbered = there.has_table("layout")
    layout = connection.scalar(text("SELECT number FROM layout")) if numbered else 1
    if layout == _BASE_LAYOUT:
        return _BASE
    raise ReadSideUnavailable(
        f"The read side was created by an old version (layout {layout}), whose tables cannot be"
        f" upgraded{_MOVE_AWAY}"
    )


def is_current(connection: Connection) -> bool:
    """Whether the tables have our revision. Somebody may upgrade them meanwhile: then it is False,
    or the upgrade is committed."""
    try:
        return revision(connection) == REVISION
    except ReadSideUnavailable:  # a look in the middle of an upgrade's commit
        return False


_MOVE_AWAY = ". Stop the service, move it away, run `flask events rebuild`, start."


def bring_up(connection: Connection, *, may_upgrade: bool, where: str) -> str | None:
    """Upgrade a database's tables to our revision, or create them, in the caller's transaction.
    `where` names the database. Returns the revision before (None: there were no tables).

    Raises UpgradeWaits while processes are alive for which a migration is too new, and
    ReadSideUnavailable if it may not upgrade, or if the tables are unknown to this version.
    """
    found = revision(connection)
    if found == REVISION:
        return found
    if found is None:
        upgrade(connection, None)
        return None
    if found > REVISION or not found.isdigit():
        _refuse_unless_expanded(connection, found)
        return found
    line = f"The read side's tables have revision {found}, this version needs {REVISION}"
    if older := alive_before(connection, _works_from(found)):
        line += f", and an older version still works with them: {', '.join(older)}."
        if may_upgrade:
            raise UpgradeWaits(f"{line} The upgrade waits until they have stopped ({where}).")
        raise ReadSideUnavailable(
            f"{line} Stop these processes, then run `flask db upgrade` ({where})."
        )
    if not may_upgrade:
        raise ReadSideUnavailable(f"{line}: run `flask db upgrade` ({where}).")
    upgrade(connection, found)
    return found


def differences(connection: Connection) -> list[str]:
    """A line for each difference between the tables and the models. Raises ReadSideUnavailable if
    the tables are unknown to this version."""
    found = revision(connection)
    if found != REVISION:
        has = f"The tables have revision {found}" if found else "There are no tables"
        return [f"{has}, this version needs {REVISION}."]
    return schema_check.differences(connection, metadata)


def _refuse_unless_expanded(connection: Connection, found: str) -> None:
    """Accept tables of a newer revision if that version has only expanded them since ours."""
    there = inspect(connection)
    if there.has_table(epoch.name):
        columns = {column["name"] for column in there.get_columns(epoch.name)}
        if columns.issuperset(epoch.c.keys()):
            says = select(epoch.c.works_from).where(epoch.c.revision == found)
            if (connection.scalar(says) or found) <= REVISION:
                return
    raise ReadSideUnavailable(
        f"The read side was created by a newer version (revision {found}, this one's is"
        f" {REVISION}). Start that version, or{_MOVE_AWAY[1:].replace(' Stop', ' stop')}"
    )


def upgrade(connection: Connection, found: str | None) -> None:
    """Upgrade tables of revision `found` to ours, in the caller's transaction."""
    config = alembic_config(_MIGRATIONS)
    # The import takes a tenth of a second, and few starts need it.
    from alembic import command

    config.attributes["connection"] = connection
    with UPGRADING:
        # Somebody may have dropped all tables except the one that stores the revision.
        command.stamp(config, found or "base", purge=True)
        command.upgrade(config, REVISION)
    values: dict[str, object] = {"revision": REVISION}
    if found and any(getattr(module, "rebuilds", False) for module in _pending(found)):
        values["is_outdated"] = True
    if works_from := _works_from(found):
        values["works_from"] = works_from
    connection.execute(update(epoch).values(values))
    if found:
        log.info("Upgraded the read side's tables from revision %s to %s.", found, REVISION)


def _works_from(found: str | None) -> str:
    """The oldest version that can work with tables that are upgraded from `found`, by the revision
    for which it was written: that of the last migration that does not only expand the tables.
    Empty if all migrations since `found` expand them."""
    contracts = [one for one in _pending(found) if not getattr(one, "expands", False)]
    return max((one.revision for one in contracts), default="")


@cache
def _pending(found: str | None) -> list[Any]:
    """The modules of the migrations from `found` to our revision."""
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory.from_config(alembic_config(_MIGRATIONS))
    return [one.module for one in scripts.iterate_revisions(REVISION, found or "base")]


def alembic_config(folder: Path) -> Config:
    """Alembic's settings for the migrations in a folder."""
    logging.getLogger("alembic").setLevel(logging.WARNING)  # its import logs eight plugins
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(folder))
    config.set_main_option("path_separator", "os")
    return config
