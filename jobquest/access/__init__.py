"""Who may do what: credentials, and the callers that they stand for.

The runtime owns one `Access`; the web side's guard asks it about each request. It knows no HTTP, no
Kafka and nothing of events. `caller.py` says what callers are and what they may do.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import select

from jobquest.access import schema, tables
from jobquest.access.bounds import Bounds
from jobquest.access.caller import LOCAL, PROXY, Caller
from jobquest.access.changes import generation
from jobquest.access.digests import KEY_PREFIX, digest
from jobquest.access.keys import Keys
from jobquest.access.operators import Operators
from jobquest.access.provider import Provider
from jobquest.access.secret_key import SecretKey
from jobquest.access.seen import LOOK_SECONDS, Seen
from jobquest.access.sessions import Sessions
from jobquest.access.tickets import Tickets
from jobquest.access.tokens import Tokens
from jobquest.addresses import is_loopback
from jobquest.clock import now_ms
from jobquest.config import Config
from jobquest.errors import AccessUnavailable, SettingsError, Unauthenticated, Unavailable
from jobquest.read.database import Database

logger = logging.getLogger(__name__)

FILE = "access.db"
MARKER = "protected"
USED_SECONDS = 60.0  # between two notes of when keys and sessions were last used
_NOBODY = "Nobody can be let in now"
_LOST = (
    "This service is protected, and its credentials are lost: add an operator with `flask operators"
    " add`."
)
_REMOVED = (
    "The file of credentials was removed while the service runs: its keys, operators and sessions"
    " are no longer valid. Put it back, or add an operator with `flask operators add` (%s)."
)
_REPLACED = (
    "The file of credentials was replaced while the service runs: from now on, those in the new"
    " file are valid alone (%s)."
)


class Access:
    """The credentials, and whom they let in. Safe for several threads.

    While there is no credential, everybody is let in. Once there is one, a marker in the data
    folder keeps the service protected, even if all credentials are lost; a process that has seen
    one stays protected, and keeps the marker there.
    """

    def __init__(self, config: Config, database: Database) -> None:
        """`database` is the read side's: a server has the credentials too, a file does not."""
        self._is_by_proxy = config.auth == "proxy"
        self._file = config.data_dir.absolute() / FILE if database.is_file else None
        self._database = (
            Database(f"sqlite:///{self._file}", tables=schema, outlives_power_cuts=True)
            if self._file
            else database.beside(schema)
        )
        self._following = threading.Lock()
        self._opened: tuple[int, int] | None = None  # the file that is in use
        self._earlier = 0  # changes before there was this file
        self._marker = config.data_dir.absolute() / MARKER
        self.bounds = Bounds(config.data_dir.absolute(), config.user_events_per_second)
        self._exposed_by = _exposed_by(config)
        self.secret_key = SecretKey(config.secret_key, config.data_dir.absolute())
        has_tokens = config.jwt_secret or config.jwt_public_key or config.jwks_url
        self._tokens = Tokens(config, lambda one: self.ended(one)) if has_tokens else None
        self.keys = Keys(self._database, self._created)
        self.operators = Operators(self._database, self._created)
        self.sessions = Sessions(self._database)
        self.tickets = Tickets(self._database)
        self.provider = Provider(config.oidc) if config.oidc else None
        self._had_credentials = self._marker.exists()
        is_known = self._tokens or self.provider or self._exposed_by or self._had_credentials
        self._is_protected = True if is_known else None  # None: only the database can tell
        self._seen = Seen()
        self.ended: Callable[[str], None] = lambda credential: None
        """Called with each watched credential that is no longer valid, or allows something else."""
        self._used: dict[str, int] = {}  # credential → when it was last used
        self._used_noted = time.monotonic()
        self._watched: dict[str, Caller] = {}  # whose sockets are open, by credential
        self._is_watched_anew = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="access", daemon=True)

    def start(self) -> None:
        """Start to look for changes, and to fetch what tokens are checked with."""
        self._thread.start()
        if self._tokens:
            self._tokens.start()

    def stop(self) -> None:
        """Stop that. Does not wait."""
        self._stop.set()
        if self._tokens:
            self._tokens.stop()

    def close(self) -> None:
        """Close the files that are open."""
        self.bounds.close()
        if self._file:
            self._database.close()

    def refuse_open_doors(self) -> None:
        """Raise SettingsError if others than this machine could reach the service, and everybody
        would be let in."""
        if self._is_by_proxy or not self._exposed_by:
            return
        try:
            is_open = not self._has_credentials()
        except Unavailable:
            return  # then nobody is let in
        if is_open:
            raise SettingsError(
                f"{self._exposed_by} lets others than this machine in, and there are no"
                " credentials: create the first operator with `flask operators add NAME --role"
                " operator`, or set JOBQUEST_AUTH=proxy if the proxy in front authenticates."
            )

    # --- who is let in ---

    def everybody(self) -> Caller | None:
        """Whom every request stands for if the service is open; None if it is protected. Raises
        AccessUnavailable if nobody can tell, because the database has never answered."""
        if self._is_by_proxy:
            return PROXY
        if self._is_protected is None:
            try:
                self._look()
            except Unavailable as error:
                raise AccessUnavailable(f"{_NOBODY}: {error}") from error
        return None if self._is_protected else LOCAL

    def bearer(self, secret: str) -> Caller:
        """Whom a key or a user's token stands for. Raises Unauthenticated, and AccessUnavailable if
        nobody can tell."""
        if secret.startswith(KEY_PREFIX):
            return self.caller(secret)
        if self._tokens is None:
            raise Unauthenticated("This is no API key, and users' tokens are not configured here.")
        return self._tokens.check(secret)

    def known_bearer(self, secret: str) -> Caller | None:
        """The same, if that is certain without waiting."""
        if secret.startswith(KEY_PREFIX):
            return self.known(secret)
        return self._tokens.known(secret) if self._tokens else None

    def known(self, secret: str) -> Caller | None:
        """Whom a key or a session stands for, if that is certain without waiting."""
        found = self._seen.caller(digest(secret))
        if found:
            self._used[found.credential] = now_ms()
        return found

    def caller(self, secret: str) -> Caller:
        """Whom a key (it begins with `jq_`) or a session stands for. Raises Unauthenticated, and
        AccessUnavailable if nobody can tell."""
        if found := self.known(secret):
            return found
        hashed, before = digest(secret), self._seen.generation
        kind = self.keys if secret.startswith(KEY_PREFIX) else self.sessions
        try:
            found = kind.caller(hashed) if self._exists() else None
        except Unavailable as error:
            found = self._seen.caller_while_away(hashed)
            if found is None:
                raise AccessUnavailable(f"{_NOBODY}: {error}") from error
            return found
        if found is None:
            self._seen.forget(hashed)
            if not self._has_credentials():
                raise AccessUnavailable(_LOST)
            raise Unauthenticated("This key or session is unknown, or it has ended.")
        self._seen.add(hashed, found, before)
        self._used[found.credential] = now_ms()
        return found

    def end_session(self, secret: str) -> None:
        """End a session: here at once, in other processes within two seconds."""
        self.sessions.end(digest(secret))
        self._seen.forget(digest(secret))

    def refuse_if_lost(self) -> None:
        """Raise AccessUnavailable if the service is protected and nobody could sign in. After it,
        the file is in use that is there now: a session in a lost one would let nobody in."""
        self._follow_file()
        if not self._has_credentials():
            raise AccessUnavailable(_LOST)

    def watch(self, caller: Caller) -> None:
        """Call `ended` once the credential of a caller whose socket opens now is no longer valid,
        or allows something else. The next look asks for it, because it may have ended just now."""
        if self._tokens and self._tokens.is_withdrawn(caller.credential):
            self.ended(caller.credential)
        if caller.kind in ("key", "operator"):
            self._watched[caller.credential] = caller
            self._is_watched_anew = True

    # --- open or protected ---

    @property
    def is_certain(self) -> bool:
        """Whether `everybody` needs no database."""
        return self._is_by_proxy or self._is_protected is not None

    def _created(self) -> None:
        """Protect the service from now on, because there is a credential."""
        if not self._marker.exists():
            self._marker.write_text(
                "This service has credentials. While this file is here, it lets nobody in without"
                " one, even if they are lost.\n"
            )

    def _look(self) -> bool:
        """Look for changes. Returns whether there were any. Raises ReadSideUnavailable."""
        self._seen.looking()
        try:
            self._follow_file()
            changes = generation(self._database) if self._exists() else 0
            changed = self._seen.looked(self._earlier + changes)
        except BaseException:
            self._seen.failed()
            raise
        if changed or self._is_protected is None:
            is_marked = self._had_credentials or self._marker.exists()
            self._had_credentials = is_marked or self._has_credentials()
            self._is_protected = self._had_credentials or bool(self._exposed_by)
        return changed

    def _follow_file(self) -> None:
        """Use the file that is there now: somebody may have removed or replaced the one in use."""
        with self._following:
            if self._file is None or (found := _identity(self._file)) == self._opened:
                return
            lost, self._opened = self._opened, found
            self._earlier = self._seen.generation + 1  # the new file counts from 0 again
            self._database.close()
            if lost is None:
                return
            self._seen.renew({}, self._earlier)
        logger.warning(_REPLACED if found else _REMOVED, self._file)
        # The new file gives the same ids to other keys.
        for credential in list(self._watched):
            self._watched.pop(credential, None)
            self.ended(credential)

    def _exists(self) -> bool:
        return self._file is None or self._file.exists()

    def _has_credentials(self) -> bool:
        if self._tokens or self.provider:
            return True
        if not self._exists():
            return False
        with self._database.asking() as connection:
            return any(
                connection.execute(select(1).select_from(table).limit(1)).first()
                for table in (tables.operators, tables.keys)
            )

    # --- the thread that looks for changes ---

    def _watch(self) -> None:
        while not self._stop.is_set():
            try:
                if self._look() or self._is_watched_anew:
                    self._renew()
                if self._had_credentials:
                    self._created()
                if time.monotonic() - self._used_noted >= USED_SECONDS:
                    self._note_used()
            except (Unavailable, OSError) as error:
                logger.debug("The credentials wait: %s", error)
            except Exception:  # a fault of ours: revocations must still be seen
                logger.exception("The look for changed credentials failed and continues")
            self._stop.wait(LOOK_SECONDS)

    def _renew(self) -> None:
        """Remember what credentials allow now, and end what they no longer allow."""
        self._is_watched_anew, before = False, self._seen.generation
        current = {**self.keys.callers(), **self.sessions.callers()} if self._exists() else {}
        self._seen.renew(current, before)
        valid = {caller.credential: caller for caller in current.values()}
        for credential, caller in list(self._watched.items()):
            if valid.get(credential) != caller:
                self._watched.pop(credential, None)
                self.ended(credential)

    def _note_used(self) -> None:
        used, self._used = self._used, {}
        self._used_noted = time.monotonic()
        if used:
            with self._database.writing() as connection:
                self.keys.note_used(connection, used)
                self.sessions.note_used(connection, used)
        if self._exists():
            self.sessions.forget_expired()


def _identity(file: Path) -> tuple[int, int] | None:
    """What tells a file from another one at the same path; None if there is none."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _exposed_by(config: Config) -> str:
    """The setting by which others than this machine can reach the service; empty if none does."""
    if not is_loopback(config.host):
        return f"HOST={config.host}"
    if config.public_url:
        return "JOBQUEST_PUBLIC_URL"
    return "JOBQUEST_TRUSTED_PROXIES" if config.trusted_proxies else ""
