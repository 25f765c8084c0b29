"""The settings of a PostgreSQL connection, whatever its role, database or server would set.

Called by `database.py` for each new connection. The schema is the server's choice: the role's or
the database's `search_path` says where the tables are.
"""

from __future__ import annotations

from typing import Any

from jobquest.errors import ReadSideUnusable

CLIENT_ENCODING = "utf8"
# A process that freezes inside a transaction, or whose machine is gone, holds locks that all others
# wait for. The server ends its session after this time, and frees them.
FROZEN_MS = 10_000
# Administrators set these for people's sessions. Ours depend on them: after a lock was waited for,
# others' changes must be visible; a rebuild works for minutes; numbers must come back unchanged.
_SETTINGS = {
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "default_transaction_deferrable": "off",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "transaction_timeout": "0",
    "idle_in_transaction_session_timeout": str(FROZEN_MS),
    "idle_session_timeout": "0",
    "standard_conforming_strings": "on",
    "extra_float_digits": "1",
    "datestyle": "ISO, MDY",
    "intervalstyle": "postgres",
}
# One round trip; a setting that the server's version does not have is skipped.
_SET = (
    "SELECT set_config(name, wanted, false)"
    " FROM unnest(%s::text[], %s::text[]) AS ours(name, wanted)"
    " WHERE current_setting(name, true) IS NOT NULL"
)


def open_session(connection: Any) -> None:
    """Apply these settings to a new connection of the driver. Raises ReadSideUnusable, and closes
    the connection, if the database can't be used."""
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        info = connection.info
        where = f"{info.host}:{info.port}/{info.dbname}"
        connection.close()
        raise ReadSideUnusable(
            f"The database has the encoding {encoding}, which can't store every text. Create one"
            " with CREATE DATABASE name ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE"
            f" template0, and name it in DATABASE_URL ({where})."
        )
    connection.autocommit = True
    connection.execute(_SET, (list(_SETTINGS), list(_SETTINGS.values())))
    connection.autocommit = False
