"""The keys of an identity provider, fetched from its JWKS address and kept up to date.

A thread fetches them; who needs a key that is not there waits for it a few seconds at most. While
the provider is away, the keys that are known stay.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from hashlib import sha256

from jobquest.access.fetching import fetch_document
from jobquest.access.public_keys import TokenKey, from_jwk
from jobquest.errors import AccessUnavailable, InvalidEvent, Unavailable
from jobquest.events import strict_json

logger = logging.getLogger(__name__)

REFRESH_SECONDS = 300.0  # after a fetch that succeeded: a withdrawn key ends within it
RETRY_SECONDS = 30.0  # after one that failed; sooner at first
ASK_SECONDS = 30.0  # between two fetches for the sake of unknown keys
WAIT_SECONDS = 5.0  # for such a fetch
MAX_WAITING = 8  # threads: a stranger could make them all wait for a slow provider
MAX_KEYS = 100


class Jwks:
    """The keys at an address. Safe for several threads."""

    def __init__(self, url: str, ended: Callable[[str], None]) -> None:
        """`ended` is called with the `signer` that each key was, once it is withdrawn."""
        self._url = url
        self._ended = ended
        self._withdrawn: frozenset[str] = frozenset()  # signers
        self._keys: tuple[TokenKey, ...] = ()
        self._failure: str | None = "they have not been fetched yet"  # of the latest fetch
        self._failures = 0  # in a row
        self._changed = threading.Condition()  # guards what follows
        self._is_due = True
        self._ends = False
        self._fetched = float("-inf")
        self._asked: set[str | None] = set()  # ids of keys; at most one for each ASK_SECONDS
        self._waiting = threading.BoundedSemaphore(MAX_WAITING)
        self._thread = threading.Thread(target=self._run, name="jwks", daemon=True)

    def start(self) -> None:
        """Start to fetch."""
        self._thread.start()

    def stop(self) -> None:
        """Stop that. Does not wait."""
        with self._changed:
            self._ends = True
            self._changed.notify_all()

    def find(self, id: str | None, algorithm: str) -> TokenKey | None:
        """The key that a token names; without a name, the only key for its algorithm. An unknown
        one is fetched, once. Raises AccessUnavailable if the provider can't be asked."""
        found = self._known(id, algorithm)
        if found is None and self._ask(id):
            found = self._known(id, algorithm)
        if found is None and self._failure:
            raise AccessUnavailable("The identity provider's keys can't be fetched now.")
        return found

    def is_withdrawn(self, signer: str) -> bool:
        """Whether a key was listed once and no longer is."""
        return signer in self._withdrawn

    def _known(self, id: str | None, algorithm: str) -> TokenKey | None:
        fit = [
            key for key in self._keys if key.algorithm == algorithm and (id is None or key.id == id)
        ]
        return fit[0] if len(fit) == 1 else None

    def _ask(self, id: str | None) -> bool:
        """Have the keys fetched, unless that is useless. Returns whether they were, in time."""
        with self._changed:
            if not self._is_due:
                if id in self._asked or time.monotonic() - self._fetched < ASK_SECONDS:
                    return False
                self._asked.add(id)
                self._is_due = True
                self._changed.notify_all()
            if not self._waiting.acquire(blocking=False):
                raise AccessUnavailable("Too many requests wait for the identity provider's keys.")
            try:
                return self._changed.wait_for(lambda: not self._is_due, WAIT_SECONDS)
            finally:
                self._waiting.release()

    # --- the thread that fetches ---

    def _run(self) -> None:
        while not self._ends:
            try:
                self._fetch()
            except Exception:  # a fault of ours: the keys stay, and it is tried again
                logger.exception("The identity provider's keys were not fetched")
                self._failure = "a fault of this service"
            with self._changed:
                self._is_due = False
                self._fetched = time.monotonic()
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._is_due or self._ends, self._pause())
                if not self._is_due:
                    self._asked.clear()
                self._is_due = True

    def _pause(self) -> float:
        self._failures = self._failures + 1 if self._failure else 0
        retry = min(RETRY_SECONDS, 2.0 ** min(self._failures, 10) / 2)
        return retry if self._failure else REFRESH_SECONDS

    def _fetch(self) -> None:
        before = self._failure
        try:
            fetched = _keys_in(fetch_document(self._url))
        except Unavailable as error:
            self._failure = str(error)
            if self._failure != before:
                logger.warning(
                    "The identity provider's keys can't be fetched: %s. Those that are known stay"
                    " (%d).",
                    error,
                    len(self._keys),
                )
            return
        added, withdrawn = self._replace(fetched)
        self._failure = None
        if added or withdrawn or before:
            logger.info(
                "The identity provider's keys are fetched: %d new, %d withdrawn.", added, withdrawn
            )

    def _replace(self, fetched: list[TokenKey]) -> tuple[int, int]:
        """Returns how many are new, and how many are withdrawn."""
        kept = {key.identity: key for key in self._keys}
        now = {key.identity: key for key in fetched}
        self._keys = tuple(kept.get(identity, key) for identity, key in now.items())
        gone = [kept[identity] for identity in kept.keys() - now.keys()]
        for key in gone:
            key.is_withdrawn = True
        # First noted, then told: a socket that opens meanwhile is ended by one or the other.
        listed = frozenset(map(signer, self._keys))
        self._withdrawn = (self._withdrawn | frozenset(map(signer, gone))) - listed
        for key in gone:
            self._ended(signer(key))
        return len(now.keys() - kept.keys()), len(gone)


def signer(key: TokenKey) -> str:
    """What is revoked when a key is withdrawn: the credential of all users whose token it signed.
    Every process names it alike."""
    return f"signer:{sha256(repr(key.identity).encode()).hexdigest()[:32]}"


def _keys_in(body: bytes) -> list[TokenKey]:
    """The usable keys of a JWKS document. Raises Unavailable."""
    try:
        document = strict_json.loads(body)
    except InvalidEvent:
        raise Unavailable("its answer is no JSON") from None
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list) or len(listed) > MAX_KEYS:
        raise Unavailable(f"its answer has no list `keys` of at most {MAX_KEYS}")
    found = (from_jwk(one) for one in listed if isinstance(one, dict))
    return [key for key in found if key]
