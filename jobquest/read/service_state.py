"""The service's own state in the database: what the operator wants, and which processes are alive.

Every process writes its heartbeat here and reads those of the others, so that each process can
report for the whole service. Called by the supervisor.
"""

from __future__ import annotations

import os
import socket
from typing import Any

from sqlalchemy import delete, select, update

from jobquest.read import processes, tables
from jobquest.read.database import Database, replacing
from jobquest.read.shared_clock import database_ms


class ServiceState:
    """Wanted state and heartbeats. `process_id` names this process, see `processes.py`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.process_id = processes.new_id()

    def wanted(self) -> tuple[str | None, int]:
        """The state that the operator wants of the consumer (running, stopped; None: not set yet),
        and how often it was set."""
        with self._database.asking() as connection:
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
        with self._database.asking() as connection:
            return [row for row in processes.listed(connection) if row["consumer"]]

    def forget_dead_processes(self) -> None:
        """Delete processes that have certainly ended."""
        gone = [row["id"] for row in self.processes() if processes.has_ended(row)]
        if gone:
            with self._database.writing() as connection:
                table = tables.processes
                connection.execute(delete(table).where(table.c.id.in_(gone)))
