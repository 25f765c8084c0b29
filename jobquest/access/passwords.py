"""Operators' passwords: what is stored of them (argon2id, RFC 9106), and the check.

A check takes 64 MB and some 50 ms on purpose. So few run at once in a process, and few wait.
"""

from __future__ import annotations

import threading
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager

from argon2 import PasswordHasher
from argon2.exceptions import VerificationError
from argon2.profiles import RFC_9106_LOW_MEMORY as PARAMETERS

from jobquest.errors import PasswordRefused, TooMany

SHORTEST, LONGEST = 12, 1_000
AT_ONCE = 2
MAX_WAITING = 6
WAIT_SECONDS = 2.0
_HASHER = PasswordHasher.from_parameters(PARAMETERS)
# No password is known for it. It is checked where there is no such operator, so that the answer
# takes as long as "wrong password".
_NOBODY = (
    f"$argon2id$v={PARAMETERS.version}$m={PARAMETERS.memory_cost},t={PARAMETERS.time_cost}"
    f",p={PARAMETERS.parallelism}${'A' * 22}${'A' * 43}"
)
_checks = threading.BoundedSemaphore(AT_ONCE)
_places = threading.BoundedSemaphore(AT_ONCE + MAX_WAITING)


def hashed(password: str) -> str:
    """What is stored of a new password. Raises PasswordRefused and TooMany."""
    normal = _normal(password)
    if normal is None or len(normal) < SHORTEST:
        raise PasswordRefused(f"A password has {SHORTEST} to {LONGEST:,} characters.")
    with _one_of_few():
        return _HASHER.hash(_bytes(normal))


def verify(stored: str | None, password: str) -> bool:
    """Whether this is the password of which `stored` was kept; None, where nobody has that name,
    takes as long. Raises TooMany."""
    normal = _normal(password)
    if normal is None:
        return False
    with _one_of_few():
        try:
            return _HASHER.verify(stored or _NOBODY, _bytes(normal)) and stored is not None
        except (VerificationError, ValueError):  # which is what something damaged is
            return False


def is_outdated(stored: str) -> bool:
    """Whether the parameters have changed since: keep `hashed` of the password at the next
    sign-in."""
    return _HASHER.check_needs_rehash(stored)


def _normal(password: str) -> str | None:
    """A password as every keyboard and system means it (NIST SP 800-63B); None if too long."""
    return unicodedata.normalize("NFKC", password) if len(password) <= LONGEST else None


def _bytes(password: str) -> bytes:
    return password.encode("utf-8", "surrogatepass")  # a form may send half of a pair


@contextmanager
def _one_of_few() -> Iterator[None]:
    if not _places.acquire(blocking=False):
        raise _busy()
    try:
        if not _checks.acquire(timeout=WAIT_SECONDS):
            raise _busy()
        try:
            yield
        finally:
            _checks.release()
    finally:
        _places.release()


def _busy() -> TooMany:
    return TooMany("Too many passwords are being checked; try again soon.", WAIT_SECONDS)
