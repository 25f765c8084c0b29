"""Checks whether DATABASE_URL can be used at all, before anything connects."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote_to_bytes

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

# No socket exists there: libpq checks every option first, and then fails at once.
_NOWHERE = {"host": "/proc/none", "port": "1"}
_TRIED = "connection to server"


def sqlite_file_of(url: str) -> Path | None:
    """SQLite's file, or None for PostgreSQL. Raises ValueError with the reason, without the
    password."""
    try:
        parts = make_url(url)
    except (ArgumentError, ValueError):
        raise ValueError(
            "this is not a database's URL (is its port a number?); write sqlite:///path/to/file.db"
            " or postgresql+psycopg://user:password@host:5432/name"
        ) from None
    if parts.get_backend_name() == "sqlite":
        return _file(parts)
    if parts.port is not None and not 0 < parts.port < 65_536:
        raise ValueError(f"{parts.port} is not a port; use 1 to 65535")
    if "@" in (parts.host or ""):  # the rest of the password would be shown as part of the host
        raise ValueError("an @ in a user or password is written %40")
    _check_escapes(url)
    _check_options(parts)
    return None


def _file(parts: URL) -> Path:
    if not parts.database or parts.database == ":memory:":
        raise ValueError("a database in memory is not shared; write sqlite:///path/to/file.db")
    if parts.query:
        raise ValueError(f"SQLite's URL can't have the option {next(iter(parts.query))!r} here")
    return Path(parts.database)


def _check_escapes(url: str) -> None:
    if re.search("%(?![0-9A-Fa-f]{2})", url):
        raise ValueError("a % begins an escape of two hexadecimal digits; write %25 for the sign")
    try:
        unquote_to_bytes(url).decode()
    except UnicodeDecodeError:
        raise ValueError("its %-escapes are not UTF-8; write each byte of the UTF-8 form") from None


def _check_options(parts: URL) -> None:
    """Have libpq check the options, without a connection."""
    from psycopg import ProgrammingError  # here, so that only PostgreSQL's users wait for it

    try:
        _, options = parts.get_dialect()().create_connect_args(parts)
        problem = _complaint({name: str(value) for name, value in options.items()})
    except (ArgumentError, ProgrammingError) as error:
        problem = str(error)
    if problem:
        raise ValueError(f"{' '.join(problem.split())}; correct its options")


def _complaint(options: dict[str, str]) -> str:
    from psycopg import pq
    from psycopg.conninfo import make_conninfo

    make_conninfo(**options)  # refuses unknown options, and values that libpq can't parse
    given = {name: value for name, value in options.items() if name != "hostaddr"}
    connection = pq.PGconn.connect_start(make_conninfo(**{**given, **_NOWHERE}).encode())
    message = connection.error_message.decode(errors="replace")
    connection.finish()
    return "" if message.startswith(_TRIED) else message
