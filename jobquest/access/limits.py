"""How often something may happen: counters that the processes of one machine share.

They are in a file of fixed size in the data folder, which each process maps into its memory, so
they need no database. A counter is a token bucket: `burst` at once, then `rate` a second. Of a
bucket only the time is kept at which it will be full again (the generic cell rate algorithm): 8
bytes, which a processor writes at once. A process that is killed leaves no half of a number.

A name's place follows from a keyed hash whose key is in the file, so nobody can aim at the place of
another one. A set has eight places, each with a tag of 64 bits. If all are taken, the bucket that
is the first to be full again is forgotten: too many names can make a limit forget somebody, but
they never lock anybody out.
"""

from __future__ import annotations

import os
import secrets
import struct
import sys
import tempfile
import threading
import time
from contextlib import suppress
from hashlib import blake2b
from mmap import mmap
from pathlib import Path

from filelock import FileLock, Timeout

if sys.platform == "win32":  # there, one process does all
    _KEEP_OFF, _LET_IN = 0, 0

    def _lockf(number: int, command: int, length: int, start: int) -> None: ...

else:
    from fcntl import LOCK_EX, LOCK_NB
    from fcntl import LOCK_UN as _LET_IN
    from fcntl import lockf as _lockf

    _KEEP_OFF = LOCK_EX | LOCK_NB

FILE = "limits.map"
SETS, WAYS = 8192, 8
LONGEST_SECONDS = 3600  # until a bucket is full again; a later time comes from another clock
LOOK_SECONDS = 1  # between two looks whether the file is still there
_TRIES = 200  # to lock a set that another process works on, 0.1 ms apart
_HEAD = struct.Struct("=16s36s32s")  # the format, the machine's boot, the key of the hash
_FORMAT = b"jobquest limits1"
_START = 4096
_SIZE = _START + SETS * WAYS * 16
_PLACE = struct.Struct("=QH")
_NS = 1_000_000_000


class Limits:
    """The counters in a folder. Safe for several threads and processes."""

    def __init__(self, folder: Path) -> None:
        """Opens the file, or makes it. Raises OSError."""
        self._path = folder / FILE
        self._file = _File(self._path)
        # Held while a bucket is worked on: the file's own locks keep off other processes only.
        self._lock = threading.Lock()
        self._look_at = 0

    def take(
        self, kind: str, name: str, rate: float, burst: float, n: int = 1, *, ask: bool = False
    ) -> float:
        """Take `n` from a bucket that holds `burst` and gets `rate` a second. Returns 0.0, or
        the seconds until that is possible; then nothing was taken, nor if it only `ask`s.

        A full bucket gives more than it holds, and is empty for the longer: a batch may be larger
        than `burst`. `burst / rate` is at most an hour.
        Fewer than none are given back.
        """
        label = f"{kind}\0{name}".encode("utf-8", "surrogatepass")
        one = _NS / rate
        cost, room, now = int(one * n), int(one * burst), _now()
        with self._lock:
            if now >= self._look_at:
                self._look(now)
            return self._file.take(label, cost, room, now, ask)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._file.close()

    def _look(self, now: int) -> None:
        """Take the file that is there now: somebody may have removed ours, or cut it off."""
        self._look_at = now + LOOK_SECONDS * _NS
        if not self._file.is_at(self._path):
            with suppress(OSError):  # the one we have still counts for this process
                old, self._file = self._file, _File(self._path)
                old.close()


class _File:
    """A file of counters, opened."""

    def __init__(self, path: Path) -> None:
        lock = FileLock(f"{path}.lock", timeout=1)
        with suppress(Timeout):  # two may then make one, and find out at their next look
            lock.acquire()
        try:
            if not _is_usable(path):
                _make(path)
            self._number = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        finally:
            lock.release()
        self._inode = os.fstat(self._number).st_ino
        self._map = mmap(self._number, _SIZE)
        key = _HEAD.unpack_from(self._map)[2]
        self._hash = blake2b(digest_size=_PLACE.size, key=key)
        # Eight tags and then eight times for each set.
        self._words = memoryview(self._map)[_START:].cast("Q")

    def is_at(self, path: Path) -> bool:
        """Whether the path still leads to this file, and it is whole."""
        try:
            found = path.stat()
        except OSError:
            return False
        return (found.st_ino, found.st_size) == (self._inode, _SIZE)

    def close(self) -> None:
        self._words.release()
        self._map.close()
        os.close(self._number)

    def take(self, label: bytes, cost: int, room: int, now: int, ask: bool = False) -> float:
        """See `Limits.take`; in nanoseconds."""
        hashed = self._hash.copy()
        hashed.update(label)
        tag, place = _PLACE.unpack(hashed.digest())
        first = place % SETS * 2 * WAYS
        is_held = True
        try:
            _lockf(self._number, _KEEP_OFF, 1, first)
        except OSError as error:
            is_held = self._wait(first, error)
        try:
            return self._take(tag or 1, first, cost, room, now, ask)
        finally:
            if is_held:
                _lockf(self._number, _LET_IN, 1, first)

    def _take(self, tag: int, first: int, cost: int, room: int, now: int, ask: bool) -> float:
        words = self._words
        found = words[first : first + 2 * WAYS].tolist()
        try:
            at = found.index(tag, 0, WAYS) + WAYS
            full: int = found[at]
        except ValueError:
            full = min(found[WAYS:])
            at = found.index(full, WAYS)
            words[first + at] = full = 0  # first: a process killed here leaves a full bucket
            words[first + at - WAYS] = tag
        if full < now or full - now > LONGEST_SECONDS * _NS:
            full = now
        wait = full - now - room + (cost if cost < room else room)
        if wait > 0 and cost > 0:
            return wait / _NS
        if not ask:
            words[first + at] = full + cost
        return 0.0

    def _wait(self, first: int, error: OSError) -> bool:
        """Wait for another process to leave a set; returns whether it did. One that is suspended
        may never do: then the set is worked on all the same, and what is counted may get lost."""
        for _ in range(_TRIES):
            if not isinstance(error, BlockingIOError | PermissionError):
                return False  # a file system without locks
            time.sleep(0.000_1)  # another process holds the lock for some microseconds
            try:
                _lockf(self._number, _KEEP_OFF, 1, first)
            except OSError as again:
                error = again
            else:
                return True
        return False


def _now() -> int:
    """Nanoseconds on a clock that all processes of a machine share and nobody can set."""
    if sys.platform == "linux":
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    return time.monotonic_ns()


def _is_usable(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD.size)
            size = os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        return False
    return size == _SIZE and _HEAD.unpack(head)[:2] == (_FORMAT, _boot())


def _make(path: Path) -> None:
    """Put a new file there, whole: others may have the old one in their memory."""
    number, temporary = tempfile.mkstemp(dir=path.parent, prefix=f"{FILE}.")
    try:
        with open(number, "wb") as file:
            file.write(_HEAD.pack(_FORMAT, _boot(), secrets.token_bytes(32)).ljust(_SIZE, b"\0"))
        os.replace(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise


def _boot() -> bytes:
    """Identifies the boot since which the clock runs; nothing where the system does not say."""
    try:
        text = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    except OSError:
        text = b""
    return text.strip().ljust(36, b"\0")
