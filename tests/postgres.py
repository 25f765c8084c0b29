"""A real PostgreSQL for the tests: a cluster in a temporary folder, on a socket of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import uuid
from pathlib import Path
from typing import Any

import psycopg

from tests.kafka_broker import free_port

_UTF8 = ("-E", "UTF8")


def _programs() -> Path | None:
    """The folder of the newest server's programs; Debian keeps them off the PATH."""
    if found := shutil.which("initdb"):
        return Path(found).parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return versions[-1].parent if versions else None


def why_not() -> str | None:
    """Why no server can run here; None where one can."""
    return None if _programs() else "no PostgreSQL server on this machine"


class Postgres:
    """One server on loopback, made by `initdb` with `options` under LC_ALL=C. `initdb` refuses to
    run as root, so root lends it a user. With `fsync` it writes as safely as by default."""

    def __init__(self, options: tuple[str, ...] = _UTF8, *, fsync: bool = False) -> None:
        self._options = options
        self._fsync = "on" if fsync else "off"
        programs = _programs()
        assert programs
        self._programs = programs
        self._folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        self._port = free_port()
        self._as_user: dict[str, str] = {}
        if os.geteuid() == 0:
            self._as_user = {"user": "postgres"}
            shutil.chown(self._folder, "postgres")

    @property
    def socket_folder(self) -> str:
        """The folder of its local socket."""
        return str(self._folder)

    def new_database(self, statement: str = "CREATE DATABASE name") -> str:
        """The URL of an empty database, made by this statement with another name."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        self.run(statement.replace(" name", f" {name}"))
        return f"postgresql+psycopg://postgres@127.0.0.1:{self._port}/{name}"

    def run(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement as the administrator; its rows."""
        server = f"host=127.0.0.1 port={self._port} user=postgres dbname=postgres"
        with psycopg.connect(server, autocommit=True) as connection:
            done = connection.execute(statement.encode())
            return done.fetchall() if done.description else []

    def start(self) -> Postgres:
        """Start it, on the data that it has, if any."""
        data = str(self._folder / "data")
        if not (self._folder / "data").exists():
            self._run(
                "initdb", "-D", data, "-U", "postgres", "-A", "trust", "--no-sync", *self._options
            )
        options = f"-p {self._port} -c listen_addresses=127.0.0.1 -k {self._folder}"
        options += f" -c fsync={self._fsync}"
        self._run("pg_ctl", "-D", data, "-o", options, "-l", f"{self._folder}/log", "-w", "start")
        return self

    def kill(self) -> None:
        """End it as a crash does: every connection breaks, nothing is written before."""
        self._run("pg_ctl", "-D", str(self._folder / "data"), "-m", "immediate", "stop")

    def stop(self) -> None:
        """End it and drop its data."""
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(  # the server keeps an open pipe, so it is given none
            [str(self._programs / program), *arguments],
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=60,
            env={**os.environ, "LC_ALL": "C"},
            **self._as_user,  # type: ignore[call-overload]
        )
        assert done.returncode == 0, (program, done.returncode)
