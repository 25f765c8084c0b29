"""Writes the empty tables of this version to `tests/databases`: `python -m tests.dump_tables`.

Run it before adding a migration. A database that a released version has made is then upgraded by a
test, so that nobody changes a released migration instead of adding one.
"""

from __future__ import annotations

import sqlite3
import subprocess
import tempfile
from pathlib import Path

from jobquest.read.database import Database
from jobquest.read.schema import REVISION
from tests.postgres import Postgres

FOLDER = Path(__file__).parent / "databases"


def _sqlite() -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "read.db"
        _make(f"sqlite:///{path}")
        connection = sqlite3.connect(path)
        text = "\n".join(connection.iterdump()) + "\n"
        connection.close()
    return text


def _postgresql() -> str:
    server = Postgres().start()
    try:
        url = server.new_database()
        _make(url)
        command = ["pg_dump", "--no-owner", "--no-privileges", "--inserts"]
        dump = subprocess.run(
            [*command, url.replace("+psycopg", "")], check=True, capture_output=True, text=True
        ).stdout
    finally:
        server.stop()
    # What remains are statements: psql's own commands and the session's settings are left out.
    lines = [line for line in dump.splitlines() if line and not line.startswith(("--", "\\"))]
    return "\n".join(line for line in lines if not line.startswith(("SET ", "SELECT pg_"))) + "\n"


def _make(url: str) -> None:
    database = Database(url, upgrades=True)
    with database.reading():
        pass
    database.close()


if __name__ == "__main__":
    (FOLDER / f"revision_{REVISION}_sqlite.sql").write_text(_sqlite())
    (FOLDER / f"revision_{REVISION}_postgresql.sql").write_text(_postgresql())
