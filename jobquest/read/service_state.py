"""The service's own state in the database: what the operator wants, and which processes are alive.

Every process writes its heartbeat here and reads those of the others, so that each process can
report for the whole service. Heartbeats are written and judged by the database's clock, because
the clocks of machines differ. Called by the supervisor.
"""

from __future__ import annotations

import os
import socket
import uuid
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import delete, select, update

from jobquest.read import tables
from jobquest.read.database import Database, replacing
from jobquest.read.shared_clock import database_ms

FORGET_AFTER_MS = 60_000
NOWHERE = "-"  # the place where processes can't tell whether another one's pid is alive


class ServiceState:
    """Wanted state and heartbeats. `process_id` names this process uniquely, even across machines
    and containers: `host:pid:place:unique`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.process_id = ":".join(
            (socket.gethostname()[-60:], str(os.getpid()), _place(), uuid.uuid4().hex[:8])
        )

    def wanted(self) -> tuple[str | None, int]:
        """The state that the operator wants of the consumer (running, stopped; None: not set yet),
        and how often it was set."""
        with self._database.reading() as connection:
            row = connection.execute(select(tables.service.c.wanted, tables.service.c.generation))
            wanted, generation = row.one()
            return wanted, generation

    def want(self, state: str) -> None:
        """Store the state that the operator wants; every process follows it."""
        with self._database.writing() as connection:
            generation = tables.service.c.generation + 1
            connection.execute(update(tables.service).values(wanted=state, generation=generation))

    def beat(self, consumer: bytes) -> None:
        """Store that this process is alive, and its consumer's snapshot (JSON)."""
        row = {
            "id": self.process_id,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "consumer": consumer.decode(),
        }
        with self._database.writing() as connection:
            row["heartbeat_ms"] = database_ms(connection)
            connection.execute(replacing(connection.dialect.name, tables.processes), row)

    def leave(self) -> None:
        """Delete this process from the list."""
        with self._database.writing() as connection:
            table = tables.processes
            connection.execute(delete(table).where(table.c.id == self.process_id))

    def processes(self) -> list[dict[str, Any]]:
        """Every process: id, host, pid, heartbeat_ms, silent_ms since the last heartbeat, and its
        consumer's snapshot."""
        with self._database.reading() as connection:
            now = database_ms(connection)
            rows = connection.execute(select(tables.processes)).mappings()
            found = [{**row, "silent_ms": now - row["heartbeat_ms"]} for row in rows]
        for row in found:
            row["consumer"] = _snapshot(row["consumer"])
        return [row for row in found if row["consumer"]]

    def forget_dead_processes(self) -> None:
        """Delete processes that have certainly ended: their pid is gone, if this process can see
        that, or they have been silent for FORGET_AFTER_MS."""
        gone = [row["id"] for row in self.processes() if _has_ended(row)]
        if gone:
            with self._database.writing() as connection:
                table = tables.processes
                connection.execute(delete(table).where(table.c.id.in_(gone)))


def _has_ended(row: dict[str, Any]) -> bool:
    # A heartbeat from the future: the database's clock has been set back since.
    if abs(row["silent_ms"]) > FORGET_AFTER_MS:
        return True
    _, place, _ = ("::" + row["id"]).rsplit(":", 2)
    is_here = row["host"] == socket.gethostname() and place == _place() != NOWHERE
    return is_here and not _lives(row["pid"])


@cache
def _place() -> str:
    """Identifies the processes that can look up each other's pid: those of one pid namespace and
    one boot. Each container has its own namespace, even if host names are equal. NOWHERE if that
    is not known (outside of Linux)."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_bytes()
        namespace = os.readlink(b"/proc/self/ns/pid")
    except OSError:
        return NOWHERE
    return sha256(boot + namespace).hexdigest()[:12]


def _snapshot(stored: str) -> dict[str, Any] | None:
    """None if somebody else wrote it; the next heartbeat overwrites it."""
    try:
        snapshot = orjson.loads(stored)
    except ValueError:
        return None
    is_snapshot = isinstance(snapshot, dict) and {"state", "assignment"} <= snapshot.keys()
    return snapshot if is_snapshot else None


def _lives(pid: int) -> bool:
    if os.name == "nt":  # on Windows, signal 0 would end the process
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
