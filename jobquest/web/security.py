"""Safe by default: which hosts and origins may call, and which headers every answer has.

The guards of the entrance, built from the settings. One list of origins decides about POSTs,
WebSockets and CORS headers. A request without an `Origin` (curl, servers) passes: browsers send one
with every cross-origin POST and WebSocket.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from jobquest.addresses import host_name
from jobquest.config import Config
from jobquest.web.answers import Answer, failure
from jobquest.web.entrance import Environ, Guard, Headers
from jobquest.web.paths import AUTHORITY
from jobquest.web.proxies import ORIGINAL

# No Cross-Origin-Opener-Policy: with it, a browser starts another process for the first page, whose
# first paint then takes a third longer. And the page that opened ours learns nothing from its
# window, which has no frames and listens to no messages.
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; object-src 'none'; base-uri 'none'; frame-ancestors 'none';"
        " form-action 'self'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_READS = ("GET", "HEAD", "OPTIONS")
_METHODS = "GET, HEAD, POST, PATCH"
_PREFLIGHT_SECONDS = "600"
# RFC 9110, section 5.6.2: what a list of field names can be made of.
_NAMES = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~, \t-]{1,2000}")


def guards(config: Config, access: Guard) -> list[Guard]:
    """What every request has to pass, in this order; `access` asks who calls."""
    return [
        _trusted_host(config),
        _address_without_nul,
        _allowed_origin(config),
        access,
    ]


def headers(config: Config) -> Mapping[str, Headers]:
    """The headers of every answer, by the request's `Origin`; "" is the key for any other one."""
    always = list(_HEADERS.items())
    if config.cors_origins:
        always.append(("Vary", "Origin"))
    allowed = {origin: [*always, *_cors_headers(origin)] for origin in config.cors_origins}
    return {"": always, **allowed}


def _cors_headers(origin: str) -> list[tuple[str, str]]:
    return [
        ("Access-Control-Allow-Origin", origin),
        # `navigator.sendBeacon` always sends credentials: without this its events are lost.
        ("Access-Control-Allow-Credentials", "true"),
        ("Access-Control-Expose-Headers", "Retry-After"),
    ]


_UNKNOWN_HOST = (
    "This service is not known by that host name: set JOBQUEST_PUBLIC_URL to the address that"
    " browsers use."
)

_NO_HOST = "The request names no host: send a Host header."


def _trusted_host(config: Config) -> Guard:
    trusted, public = frozenset(config.hosts), config.public_url
    known: set[str] = set()  # spellings, some with a port, that are trusted

    def guard(environ: Environ) -> Answer | None:
        host = _host(environ)
        if not host and environ.get("SERVER_PROTOCOL") == "HTTP/1.0":
            return None  # no browser sends that, so no page has caused it
        if host not in known:
            if not _is_one_of(trusted, host):
                return Answer(400, failure(_UNKNOWN_HOST if host else _NO_HOST))
            if len(known) < 100:
                known.add(host)
        environ["HTTP_HOST"] = host
        environ[ORIGINAL] = f"{environ['wsgi.url_scheme']}://{host}"
        if public:  # a proxy may have replaced the host
            environ["HTTP_HOST"], environ["wsgi.url_scheme"] = public.host, public.scheme
        return None

    return guard


def _host(environ: Environ) -> str:
    """The host that a request names: in its target if that has one (RFC 9112, section 3.2.2), else
    in the `Host` header; empty if there is neither."""
    named = AUTHORITY.match(environ.get("RAW_URI", ""))
    return named[1] if named else environ.get("HTTP_HOST", "")


def _is_one_of(trusted: frozenset[str], host: str) -> bool:
    if host.count(":") > 1 and not host.startswith("["):
        return False  # an IPv6 address without its brackets
    try:
        return host_name(host) in trusted
    except ValueError:
        return False


def _address_without_nul(environ: Environ) -> Answer | None:
    # No id has it, and PostgreSQL accepts no text with it.
    if "%00" in environ.get("QUERY_STRING", "") or "\0" in environ["PATH_INFO"]:
        return Answer(400, failure("The address must not contain NUL."))
    return None


def _allowed_origin(config: Config) -> Guard:
    allowed = frozenset(config.cors_origins)
    own = config.public_url.origin if config.public_url else None

    def guard(environ: Environ) -> Answer | None:
        origin = environ.get("HTTP_ORIGIN")
        if origin is None:
            return None
        if origin in allowed:
            return _preflight(environ)
        reads = environ["REQUEST_METHOD"] in _READS and "HTTP_UPGRADE" not in environ
        if reads or origin in (own, environ.get(ORIGINAL)):
            return None
        line = "Pages of this origin may not call here; JOBQUEST_CORS_ORIGINS allows origins."
        return Answer(403, failure(line))

    return guard


def _preflight(environ: Environ) -> Answer | None:
    """The answer to a browser that asks whether a page of an allowed origin may send a request.

    The request may have any header: libraries for tracing add their own, and only the page's origin
    decides whether it may call here.
    """
    if environ["REQUEST_METHOD"] != "OPTIONS":
        return None
    if "HTTP_ACCESS_CONTROL_REQUEST_METHOD" not in environ:
        return None
    headers = {
        "Access-Control-Allow-Methods": _METHODS,
        "Access-Control-Allow-Headers": "Content-Type, Authorization",
        "Access-Control-Max-Age": _PREFLIGHT_SECONDS,
        "Vary": "Access-Control-Request-Headers",
    }
    asked = environ.get("HTTP_ACCESS_CONTROL_REQUEST_HEADERS", "")
    if _NAMES.fullmatch(asked):
        headers["Access-Control-Allow-Headers"] = asked
    return Answer(204, None, headers)
