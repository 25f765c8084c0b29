"""The processes that are alive, by their rows in the table `processes`.

Read by `service_state.py`, and before an upgrade: only here may the tables be an older version's.
Heartbeats are written and judged by the database's clock, because the clocks of machines differ.
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
from sqlalchemy import Connection, select

from jobquest.read.shared_clock import database_ms
from jobquest.read.tables import processes

FORGET_AFTER_MS = 60_000
NOWHERE = "-"  # the place where processes can't tell whether another one's pid is alive
REVISION_KEY = "revision"  # in a snapshot: the tables' revision for which the process was written
_COLUMNS = [processes.c[name] for name in ("id", "host", "pid", "heartbeat_ms", "consumer")]


def new_id() -> str:
    """Names this process uniquely, even across machines and containers: `host:pid:place:unique`."""
    parts = (socket.gethostname()[-60:], str(os.getpid()), _place(), uuid.uuid4().hex[:8])
    return ":".join(parts)


def listed(connection: Connection) -> list[dict[str, Any]]:
    """Every row: id, host, pid, heartbeat_ms, silent_ms since the last heartbeat, and its
    consumer's snapshot (None if somebody else wrote it; the next heartbeat overwrites it)."""
    now = database_ms(connection)
    found = [dict(row) for row in connection.execute(select(*_COLUMNS)).mappings()]
    for row in found:
        row["silent_ms"] = now - row["heartbeat_ms"]
        row["consumer"] = _snapshot(row["consumer"])
    return found


def has_ended(row: dict[str, Any]) -> bool:
    """Whether a process has certainly ended: its pid is gone, if this process can see that, or it
    has been silent for FORGET_AFTER_MS."""
    # A heartbeat from the future: the database's clock has been set back since.
    if abs(row["silent_ms"]) > FORGET_AFTER_MS:
        return True
    _, place, _ = ("::" + row["id"]).rsplit(":", 2)
    is_here = row["host"] == socket.gethostname() and place == _place() != NOWHERE
    return is_here and not _lives(row["pid"])


def alive_before(connection: Connection, revision: str) -> list[str]:
    """The processes that are alive and were written for tables before this revision, as host and
    pid. Those of revision 0009 and before do not say for which."""
    return sorted(
        f"{row['host']} (pid {row['pid']})"
        for row in listed(connection)
        if ((row["consumer"] or {}).get(REVISION_KEY) or "") < revision and not has_ended(row)
    )


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
