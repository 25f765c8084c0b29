"""The tables' revision: which one a database has, and the migrations that upgrade it to ours.

Called by `database.py` before the first use, and by `flask db`. To change a table, edit it in
`tables.py` or `projections.py`, and add a file to `migrations/versions`. A migration keeps
operational rows. docs/projections.md has all steps.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from sqlalchemy import Connection, inspect, text

from jobquest.errors import ReadSideUnavailable

log = logging.getLogger(__name__)

_MIGRATIONS = Path(__file__).parent / "migrations"
REVISION = max(file.name[:4] for file in _MIGRATIONS.glob("versions/[0-9]*.py"))
_BASE, _BASE_LAYOUT = "0005", 5  # databases from before Alembic have a layout number instead
_UPGRADING = threading.Lock()  # Alembic has one context for the whole process


def revision(connection: Connection) -> str | None:
    """The revision of a database's tables; None if it has none yet. Raises ReadSideUnavailable if
    its tables are older than the first migration."""
    there = inspect(connection)
    found: str | None = None
    if there.has_table("alembic_version"):
        found = connection.scalar(text("SELECT version_num FROM alembic_version"))
    first = "counter" if found and found < "0010" else "epoch"
    if not there.has_table(first) and not (found is None and there.has_table("counter")):
        if there.has_table("events") or (found and not _BASE <= found <= REVISION):
            raise ReadSideUnavailable(
                "The database has tables of another application, or the read side has lost its"
                f" table {first}. Give the read side its own database or schema, and run"
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


_MOVE_AWAY = ". Stop the service, move it away, run `flask events rebuild`, start."


def refuse_unknown(found: str) -> None:
    """Raise ReadSideUnavailable if a revision is unknown to this version."""
    if found > REVISION or not found.isdigit():
        raise ReadSideUnavailable(
            f"The read side was created by a newer version (revision {found}, this one's is"
            f" {REVISION}). Start that version, or{_MOVE_AWAY[1:].replace(' Stop', ' stop')}"
        )


def upgrade(connection: Connection, found: str | None) -> None:
    """Upgrade tables of revision `found` to ours, in the caller's transaction."""
    logging.getLogger("alembic").setLevel(logging.WARNING)  # its import logs eight plugins
    # The import takes a tenth of a second, and few starts need it.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    with _UPGRADING:
        # Somebody may have dropped all tables except the one that stores the revision.
        command.stamp(config, found or "base", purge=True)
        command.upgrade(config, REVISION)
    if found:
        log.info("Upgraded the read side's tables from revision %s to %s.", found, REVISION)
