"""What a connection to PostgreSQL must be like, whatever its role, its database or its server say.

Called by `database.py` for each new connection. Schemas are left to the server: the role's or the
database's `search_path` says where the tables are.
"""

from __future__ import annotations

from typing import Any

from jobquest.errors import ReadSideUnusable

CLIENT_ENCODING = "utf8"
# Administrators set these for people's sessions. Ours rely on them: others' changes must show
# after a lock was waited for, a rebuild works for minutes, numbers must come back as they were.
_SETTINGS = {
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "default_transaction_deferrable": "off",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "transaction_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "standard_conforming_strings": "on",
    "extra_float_digits": "1",
    "datestyle": "ISO, MDY",
    "intervalstyle": "postgres",
}
# One round trip; a setting that the server's version does not have is passed over.
_SET = (
    "SELECT set_config(name, wanted, false)"
    " FROM unnest(%s::text[], %s::text[]) AS ours(name, wanted)"
    " WHERE current_setting(name, true) IS NOT NULL"
)


def open_session(connection: Any) -> None:
    """Make one of the driver's new connections ours. Raises ReadSideUnusable, with the connection
    closed."""
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        info = connection.info
        where = f"{info.host}:{info.port}/{info.dbname}"
        connection.close()
        raise ReadSideUnusable(
            f"The database has the encoding {encoding}, which can't keep every text. Make one with"
            " CREATE DATABASE name ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0,"
            f" and name it in DATABASE_URL ({where})."
        )
    connection.autocommit = True
    connection.execute(_SET, (list(_SETTINGS), list(_SETTINGS.values())))
    connection.autocommit = False
