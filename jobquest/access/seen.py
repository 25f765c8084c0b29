"""What this process remembers of credentials, so that a request needs no database.

By digest, in bounded memory. Whatever is remembered is renewed at the next change of credentials
(`changes.py`). While the database is away nobody can tell of a change: then what was seen within
the last ten minutes still counts.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

from jobquest.access.caller import Caller

MAX_REMEMBERED = 10_000
LOOK_SECONDS = 1.0  # between two looks for changes
FRESH_SECONDS = 2.0  # a look older than this means that the database is away
AWAY_SECONDS = 600.0


@dataclass(slots=True)
class _Entry:
    caller: Caller
    generation: int
    seen: float  # on the monotonic clock, while the database could be asked


class Seen:
    """Safe for several threads."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        self._lock = threading.Lock()
        self._generation = -1  # at the latest look
        self._looked = float("-inf")
        self._looks_since: float | None = None  # a look that has not ended yet
        self._has_failed = False

    @property
    def generation(self) -> int:
        """That of the latest look; -1 before the first one."""
        return self._generation

    @property
    def is_fresh(self) -> bool:
        """Whether the latest look is recent enough to rely on."""
        return not self._has_failed and time.monotonic() - self._looked <= FRESH_SECONDS

    @property
    def is_away(self) -> bool:
        """Whether the database does not answer the looks."""
        since = self._looks_since
        is_late = since is not None and time.monotonic() - since > FRESH_SECONDS
        return self._has_failed or is_late

    def looking(self) -> None:
        """Note that a look for changes begins."""
        self._looks_since = time.monotonic()

    def failed(self) -> None:
        """Note that it has failed."""
        self._has_failed, self._looks_since = True, None

    def looked(self, generation: int) -> bool:
        """Note what it has found. Returns whether there was a change since the one before."""
        changed = generation != self._generation
        self._generation, self._looked = generation, time.monotonic()
        self._has_failed, self._looks_since = False, None
        return changed

    def add(self, digest: str, caller: Caller, generation: int) -> None:
        """Remember whom a credential stands for; `generation` is from before it was looked up."""
        with self._lock:
            if len(self._entries) >= MAX_REMEMBERED:
                for old in list(self._entries)[: MAX_REMEMBERED // 10]:
                    del self._entries[old]
            self._entries[digest] = _Entry(caller, generation, time.monotonic())

    def renew(self, current: Mapping[str, Caller], generation: int) -> None:
        """Forget who is no longer among the current callers (by digest), and remember what the
        others may do now; `generation` is from before they were looked up."""
        with self._lock:
            self._entries = {
                digest: _Entry(current[digest], generation, entry.seen)
                for digest, entry in self._entries.items()
                if digest in current
            }

    def forget(self, digest: str) -> None:
        """Forget a credential that is no longer valid."""
        with self._lock:
            self._entries.pop(digest, None)

    def caller(self, digest: str) -> Caller | None:
        """Whom a credential stands for, if that is certain without the database."""
        entry = self._entries.get(digest)
        if entry is None or entry.generation != self._generation or _has_ended(entry.caller):
            return None
        if self.is_fresh:
            entry.seen = time.monotonic()
            return entry.caller
        return self.caller_while_away(digest) if self.is_away else None

    def caller_while_away(self, digest: str) -> Caller | None:
        """The same if the database has just failed to answer."""
        entry = self._entries.get(digest)
        if entry is None or _has_ended(entry.caller):
            return None
        return entry.caller if time.monotonic() - entry.seen <= AWAY_SECONDS else None


def _has_ended(caller: Caller) -> bool:
    return caller.expires is not None and caller.expires <= time.time()
