"""The service's own state in the database: what the operator wants, and which processes live.

Every process writes its heartbeat here and reads the others', so that any of them can speak for
the whole service. Called by the supervisor.
"""

from __future__ import annotations

import os
import socket
import uuid
from typing import Any

import orjson
from sqlalchemy import delete, select, update

from jobquest.clock import now_ms
from jobquest.read import tables
from jobquest.read.database import Database, replacing

FORGET_AFTER_MS = 60_000


class ServiceState:
    """Wanted state and heartbeats. `process_id` names this process, across machines too."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.process_id = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"[-100:]

    def wanted(self) -> tuple[str | None, int]:
        """What the operator wants of the consumer (running, stopped; None: nobody said yet), and
        how often somebody said so."""
        with self._database.reading() as connection:
            row = connection.execute(select(tables.service.c.wanted, tables.service.c.generation))
            wanted, generation = row.one()
            return wanted, generation

    def want(self, state: str) -> None:
        """Store what the operator wants; every process follows."""
        with self._database.writing() as connection:
            generation = tables.service.c.generation + 1
            connection.execute(update(tables.service).values(wanted=state, generation=generation))

    def beat(self, consumer: bytes) -> None:
        """Say that this process lives and how its consumer is (JSON)."""
        row = {
            "id": self.process_id,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "heartbeat_ms": now_ms(),
            "consumer": consumer.decode(),
        }
        with self._database.writing() as connection:
            connection.execute(replacing(connection.dialect.name, tables.processes), row)

    def leave(self) -> None:
        """Take this process off the list."""
        with self._database.writing() as connection:
            table = tables.processes
            connection.execute(delete(table).where(table.c.id == self.process_id))

    def processes(self) -> list[dict[str, Any]]:
        """Every process: id, host, pid, heartbeat_ms and its consumer's snapshot."""
        with self._database.reading() as connection:
            rows = connection.execute(select(tables.processes)).mappings()
            found = [{**row, "consumer": _snapshot(row["consumer"])} for row in rows]
        return [row for row in found if row["consumer"]]

    def forget_dead_processes(self) -> None:
        """Drop processes of this host that have ended, and others' that are silent for long."""
        host, now = socket.gethostname(), now_ms()
        gone = [
            row["id"]
            for row in self.processes()
            if (row["host"] == host and not _lives(row["pid"]))
            or row["heartbeat_ms"] < now - FORGET_AFTER_MS
        ]
        if gone:
            with self._database.writing() as connection:
                table = tables.processes
                connection.execute(delete(table).where(table.c.id.in_(gone)))


def _snapshot(stored: str) -> dict[str, Any] | None:
    """None where somebody else wrote it; the next heartbeat writes it again."""
    try:
        snapshot = orjson.loads(stored)
    except ValueError:
        return None
    is_ours = isinstance(snapshot, dict) and {"state", "assignment"} <= snapshot.keys()
    return snapshot if is_ours else None


def _lives(pid: int) -> bool:
    if os.name == "nt":  # there, signal 0 would end the process
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
