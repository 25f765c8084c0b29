"""Writes the tables of this version to `tests/databases`: `python -m tests.dump_tables`.

Run it before adding a migration. A database that a released version has made is then upgraded by a
test, so that nobody changes a released migration instead of adding one. `python -m
tests.dump_tables filled` has the released version in `version_0009.tar.xz` fill a database of each
kind (see `filled.py`) and writes these, with their logs.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jobquest.read.database import Database
from jobquest.read.schema import REVISION
from tests.postgres import Postgres

FOLDER = Path(__file__).parent / "databases"
RELEASED = "0009"  # of which the code is there
_SESSION = ("SET ", "SELECT pg_catalog.set_config")
_FILL = "import sys; from tests.filled import main; main(*sys.argv[1:])"
CODE = FOLDER / f"version_{RELEASED}.tar.xz"
# Python 3.11.2, which Debian has, does not know it.
SAFELY: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}


def _dump(name: str, make: Callable[[str, Path], None]) -> None:
    """Write a dump of a database of each kind, and of the log if there is one."""
    server = Postgres().start()
    try:
        for kind in ("sqlite", "postgresql"):
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "read.db"
                url = f"sqlite:///{file}" if kind == "sqlite" else server.new_database()
                make(url, Path(folder))
                text = _sqlite(file) if kind == "sqlite" else _postgresql(url)
                (FOLDER / f"{name}_{kind}.sql").write_text(text)
                if (log := Path(folder) / "log.db").exists():
                    (FOLDER / f"{name}_{kind}_log.sql").write_text(_sqlite(log))
    finally:
        server.stop()


def _sqlite(path: Path) -> str:
    connection = sqlite3.connect(path)
    text = "\n".join(connection.iterdump()) + "\n"
    connection.close()
    return text


def _postgresql(url: str) -> str:
    command = ["pg_dump", "--no-owner", "--no-privileges", "--inserts"]
    dump = subprocess.run(
        [*command, url.replace("+psycopg", "")], check=True, capture_output=True, text=True
    ).stdout
    # What remains are statements: psql's own commands and the session's settings are left out.
    lines = [line for line in dump.splitlines() if line and not line.startswith(("--", "\\"))]
    return "\n".join(line for line in lines if not line.startswith(_SESSION)) + "\n"


def _empty(url: str, _folder: Path) -> None:
    database = Database(url, upgrades=True)
    with database.reading():
        pass
    database.close()


def _filled(url: str, folder: Path) -> None:
    code = folder / "code"
    with tarfile.open(CODE) as archive:
        archive.extractall(code, **SAFELY)
    subprocess.run(
        [sys.executable, "-c", _FILL, url, str(folder)],
        cwd=code,  # where `jobquest` is found first
        env={**os.environ, "PYTHONPATH": str(FOLDER.parent.parent)},
        check=True,
    )


if __name__ == "__main__":
    if sys.argv[1:] == ["filled"]:
        _dump(f"filled_{RELEASED}", _filled)
    else:
        _dump(f"revision_{REVISION}", _empty)
