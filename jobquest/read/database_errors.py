"""Says whose fault a database error is: the infrastructure's or ours.

Called by the code that writes to the read side. It judges by the database's own error code, never
by the driver's class: PostgreSQL's OperationalError may be a lost connection or an index row that
is too large; SQLite's may be a full disk or a misspelled column.
"""

from __future__ import annotations

import re
import sqlite3

from sqlalchemy.exc import DBAPIError

# Connections, resources, an operator's intervention, the system itself, transactions that must be
# run again.
_SQLSTATE_CLASSES = frozenset({"08", "53", "57", "58", "40"})
# A standby that accepts no writes yet; transactions that were ended for their age; damaged files.
_SQLSTATES = frozenset({"25006", "25P03", "25P04", "XX001", "XX002"})
# Too many clients, too many connections for a role or database, slots that are reserved. Only in
# words: psycopg (3.3.9) has no code if connecting fails.
_NO_CONNECTION_LEFT = re.compile(r"too many (clients|connections)|connection slots")
# A right that is missing; an object that others depend on, or have made under our name; an event
# trigger of theirs.
_REFUSED = frozenset({"42501", "2BP01", "42P07", "42710", "42809", "P0001"})
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_SQLITE_CODES = _DAMAGED | {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_PERM,
}


def is_infrastructure(error: BaseException) -> bool:
    """Whether the same statement may succeed later: the database was away, busy or full."""
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated or error.orig is None:
        return True
    found = is_infrastructure_of_driver(error.orig)
    # Neither a code nor a statement: the connection was never made.
    return error.statement is None if found is None else found


def is_infrastructure_of_driver(error: BaseException) -> bool | None:
    """The same for a driver's own error; None if no database has given it a code."""
    if getattr(error, "pgconn", None) is not None:  # psycopg sets it if connecting failed
        return True
    if state := getattr(error, "sqlstate", None):
        return state[:2] in _SQLSTATE_CLASSES or state in _SQLSTATES
    if (code := _sqlite_code(error)) is not None:
        return code in _SQLITE_CODES
    return None


def is_missing_table(error: DBAPIError) -> bool:
    """Whether a table is missing, as all tables are in a recreated database."""
    if getattr(error.orig, "sqlstate", None) == "42P01":
        return True
    return str(error.orig).startswith("no such table")  # SQLite has no special code for it


def is_forbidden(error: DBAPIError) -> bool:
    """Whether PostgreSQL says that our role lacks the right to do that."""
    return getattr(error.orig, "sqlstate", None) == "42501"


def is_refused(error: DBAPIError) -> bool:
    """Whether PostgreSQL refuses it because of what others have made, or do not allow."""
    return getattr(error.orig, "sqlstate", None) in _REFUSED


def is_locked(error: DBAPIError) -> bool:
    """Whether PostgreSQL says that somebody else has held a lock for longer than we wait."""
    return getattr(error.orig, "sqlstate", None) == "55P03"


def has_no_connection_left(error: BaseException) -> bool:
    """Whether a driver's error says that PostgreSQL has no connection left for us."""
    return _NO_CONNECTION_LEFT.search(str(error)) is not None


def is_damage(error: BaseException) -> bool:
    """Whether a driver's error says that SQLite's file is damaged or no database at all."""
    return _sqlite_code(error) in _DAMAGED


def _sqlite_code(error: BaseException) -> int | None:
    code: int | None = getattr(error, "sqlite_errorcode", None)
    # The low byte is the error's class; the other bytes hold SQLite's extended code.
    return None if code is None else code & 0xFF
