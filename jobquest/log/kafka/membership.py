"""The name under which an instance is a member of its group (`group.instance.id`), and why.

An instance keeps its name over restarts, so a process can remove the member that its predecessor
left behind when it was killed. Otherwise the group waits for that member until its session ends.
The range assignor sorts members by this name, so an instance gets the same partitions again.

Kafka means such a member to stay in the group while it restarts: nothing moves, and its partitions
stand still meanwhile. Three instances were restarted one after another under 500 events a second,
on two busy cores. The longest standstill of a partition was 11.5 s that way, because starting took
5 to 9 s. It was 1.1 to 1.9 s if each left the group at its stop. So ours leaves. It also removes
its predecessor before it joins, and does not take its place: Kafka would then give it the old
assignment without a rebalance, and no member would notice new partitions (kafka-python 3.0.12
joins with version 7 of the request).
"""

from __future__ import annotations

import logging
import re
import socket
import uuid
from pathlib import Path

from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)

FILE = "group-member"  # in the data folder
_ID = re.compile(r"[0-9a-f]{12}")


class InstanceName:
    """The name of the instance whose data folder this is. One process at a time holds it: the
    kernel frees its lock when that process dies. The others are members without a name. The host is
    part of the name, because a folder may be copied to another one, or be shared by several."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._lock = FileLock(f"{self._path}.lock", timeout=0, thread_local=False)

    def acquire(self) -> str | None:
        """The name; None if another process holds it, or if the folder can't keep it."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
            host = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname()[-60:])
            return f"jobquest-{host}-{self._kept_id()}"
        except Timeout:
            return None
        except OSError as error:
            logger.warning("This instance has no name in its group: %s", error)
            self.release()
            return None

    def release(self) -> None:
        """Let another process hold the name."""
        self._lock.release()

    def _kept_id(self) -> str:
        kept = self._path.read_text(errors="replace").strip() if self._path.exists() else ""
        if not _ID.fullmatch(kept):
            kept = uuid.uuid4().hex[:12]
            self._path.write_text(kept)
        return kept
