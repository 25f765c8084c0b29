"""The guard that asks who calls, and whether they may: it lets nobody past without the right.

One of the entrance's guards. A caller comes from a key or a user's token (`Authorization`), from an
operator's session (a cookie, only of our own pages), or from a ticket (a socket's address). What is
needed is declared beside each view (`needs.py`). Views find the caller in the environ.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, quote

from flask import Flask
from werkzeug.exceptions import HTTPException
from werkzeug.http import parse_cookie

from jobquest.access import Access
from jobquest.access.caller import LOCAL, ROLES, WRITE, Caller
from jobquest.access.digests import KEY_PREFIX
from jobquest.addresses import is_loopback
from jobquest.config import Config
from jobquest.errors import Forbidden, JobQuestError, Unauthenticated
from jobquest.web.answers import AT_ONCE, CALLER, Answer
from jobquest.web.csrf import Csrf
from jobquest.web.errors import answer_to, wants_page
from jobquest.web.needs import ANYBODY, PUBLIC, declared
from jobquest.web.paths import LIVE
from jobquest.web.proxies import ORIGINAL

Environ = dict[str, Any]

COOKIE = "jobquest_session"
SIGN_IN = "/sign-in"
_BEARER = "Bearer "
_MAX_CREDENTIAL = 8_192
_MAX_KNOWN_ROUTES = 1_000
_UNSAFE = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_NO_CREDENTIAL = (
    "This needs a credential: send Authorization: Bearer with a key or a token, or sign in."
)
_THIS_MACHINE = (
    "There are no credentials yet, so this service is for its own machine alone: create the first"
    " operator there with `flask operators add NAME --role operator`."
)
_LATER = Answer(503, None)


class AccessGuard:
    """Looks at a request and lets it in (None) or answers it."""

    def __init__(self, app: Flask, config: Config, access: Access, csrf: Csrf) -> None:
        self._app = app
        self._access = access
        self._csrf = csrf
        self._own = config.public_url.origin if config.public_url else None
        self._adapter = app.url_map.bind("localhost")
        self._known: dict[tuple[str, str], frozenset[str]] = {}

    def __call__(self, environ: Environ) -> Answer | None:
        if environ.get(AT_ONCE) and not self._access.is_certain:
            return _LATER
        needed = self._needed(environ["PATH_INFO"], environ["REQUEST_METHOD"])
        is_public = PUBLIC in needed or _is_preflight(environ)
        try:
            if everybody := self._access.everybody():
                if everybody is LOCAL and not _is_of_this_machine(environ):
                    raise Forbidden(_THIS_MACHINE)
                environ[CALLER] = everybody
                return None
            if is_public:
                return None
            caller = self._caller(environ)
            if caller is None:
                return _LATER
            environ[CALLER] = caller  # of a refusal too: its page has their navigation
            if ANYBODY not in needed and needed.isdisjoint(caller.scopes):
                raise Forbidden(_too_few(needed, caller))
            if WRITE in needed and environ["REQUEST_METHOD"] == "POST":
                self._access.bounds.refuse_publish(caller)
        except Unauthenticated as error:
            return self._sign_in(environ) or answer_to(error)
        except JobQuestError as error:
            return None if is_public else answer_to(error)
        return None

    def _caller(self, environ: Environ) -> Caller | None:
        """Who calls; None if that takes longer than the guard may. Raises JobQuestError."""
        at_once = environ.get(AT_ONCE, False)
        authorization = environ.get("HTTP_AUTHORIZATION")
        if authorization is not None:
            secret = _secret(authorization)
            return self._access.known_bearer(secret) if at_once else self._access.bearer(secret)
        if environ["PATH_INFO"] == LIVE and (ticket := _ticket(environ)):
            return None if at_once else self._of_ticket(ticket)
        cookie = own_session_cookie(environ, self._own)
        if cookie is None or cookie.startswith(KEY_PREFIX):  # a key is no session
            raise Unauthenticated(_NO_CREDENTIAL)
        caller = self._access.known(cookie) if at_once else self._access.caller(cookie)
        if caller and environ["REQUEST_METHOD"] in _UNSAFE:
            self._csrf.check(environ, cookie)
        return caller

    def _of_ticket(self, ticket: str) -> Caller:
        caller = self._access.tickets.redeem(ticket)
        if caller is None:
            raise Unauthenticated("This ticket is unknown, used or older than 30 s: get another.")
        return caller

    def _needed(self, path: str, method: str) -> frozenset[str]:
        """What the route needs. An address that no route has needs any credential."""
        found = self._known.get((path, method))
        if found is None:
            try:
                endpoint, _ = self._adapter.match(path, method, websocket=path == LIVE)
                found = declared(self._app, endpoint) or frozenset()
            except HTTPException:
                return frozenset({ANYBODY})
            if len(self._known) < _MAX_KNOWN_ROUTES:
                self._known[path, method] = found
        return found

    def _sign_in(self, environ: Environ) -> Answer | None:
        """The way to the sign-in page for a browser that opens a page."""
        if environ["REQUEST_METHOD"] != "GET" or not wants_page(environ):
            return None
        path, query = environ["PATH_INFO"], environ.get("QUERY_STRING")
        wanted = quote(f"{path}?{query}" if query else path, safe="/")
        prefix = environ.get("SCRIPT_NAME", "")
        return Answer(303, None, {"Location": f"{prefix}{SIGN_IN}?next={wanted}"})


def _secret(authorization: str) -> str:
    """The credential of an `Authorization` header (RFC 6750, section 2.1). Raises
    Unauthenticated."""
    if authorization[:7].lower() != _BEARER.lower():
        raise Unauthenticated("The Authorization header must be: Bearer, and a key or a token.")
    secret = authorization[7:].strip()
    if not secret or len(secret) > _MAX_CREDENTIAL:
        raise Unauthenticated("The Authorization header has no usable key or token.")
    return secret


def session_cookie(environ: Environ) -> str | None:
    """The value of a session's cookie, whoever sends it."""
    found: str | None = parse_cookie(environ.get("HTTP_COOKIE", "")).get(COOKIE)
    return found or None


def own_session_cookie(environ: Environ, public_origin: str | None) -> str | None:
    """The same if it counts: only for our own pages, whoever else may call."""
    origin = environ.get("HTTP_ORIGIN")
    if origin is not None and origin not in (public_origin, environ.get(ORIGINAL)):
        return None
    site = environ.get("HTTP_SEC_FETCH_SITE", "none")
    if site not in ("same-origin", "none") and environ.get("HTTP_SEC_FETCH_MODE") != "navigate":
        return None
    return session_cookie(environ)


def _ticket(environ: Environ) -> str:
    found: str = parse_qs(environ.get("QUERY_STRING", "")).get("ticket", [""])[0]
    return found


def _is_of_this_machine(environ: Environ) -> bool:
    """Whether the other end of the connection is on this machine. The start looks at the settings,
    but other servers (`flask run -h 0.0.0.0`) have settings of their own. Somebody's ProxyFix names
    another address, and keeps this one."""
    peer = environ.get("werkzeug.proxy_fix.orig", environ).get("REMOTE_ADDR", "127.0.0.1")
    return peer == "127.0.0.1" or is_loopback(peer)


def _is_preflight(environ: Environ) -> bool:
    return (
        environ["REQUEST_METHOD"] == "OPTIONS" and "HTTP_ACCESS_CONTROL_REQUEST_METHOD" in environ
    )


def _too_few(needed: frozenset[str], caller: Caller) -> str:
    if caller.kind == "operator" and needed & ROLES["operator"]:
        return "Only operators may do this, and you have signed in as a viewer."
    return f"This needs the scope {' or '.join(sorted(needed))}, which your credential lacks."
