"""Allows only one spelling of every path.

The entrance calls it first. A proxy's rules only protect a route if no other spelling reaches it:
every other spelling is answered as unknown. This module knows no routes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

from werkzeug.routing import BaseConverter

LIVE = "/ws/events"
"""The live view: the only path that can be upgraded to a WebSocket."""

TO_PROVIDER, FROM_PROVIDER = "/sign-in/provider", "/sign-in/callback"
"""The way to the identity provider, and back. These requests may wait for it."""

SLASH = "\x1f"
"""Replaces a slash inside a segment (`%2F`) while routes are matched. No id contains it."""

_PLAIN = re.compile(r"(?:/[A-Za-z0-9_~-][A-Za-z0-9_.~-]*)+")  # the one spelling of itself
AUTHORITY = re.compile(r"https?://([^/?#]*)", re.IGNORECASE)
# Escapes of characters that need none (RFC 3986, section 2.3), and of some that no path here has.
_NEEDLESS = re.compile(r"%(?:2[dDeE]|3[0-9]|[46][1-9a-fA-F]|[57][0-9aA]|5[fF]|7[eE])")
_CONTROL = re.compile(r"%(?:0[1-9a-fA-F]|1[0-9a-fA-F]|7[fF])|[\x01-\x20\x7f]")
_BROKEN = re.compile(r"%(?![0-9a-fA-F]{2})")


class Segment(BaseConverter):
    """One segment of a path, with the slashes inside it: `a%2Fb` is the id `a/b`.

    No client can send the ids `.` and `..`, because clients resolve them: pages use `?id=` instead.
    """

    regex = "[^/]+"

    def to_python(self, value: str) -> str:
        return value.replace(SLASH, "/")

    def to_url(self, value: Any) -> str:
        return str(super().to_url(value)).replace("/", "%2F")


def canonical_path(environ: Mapping[str, Any]) -> str | None:
    """The path below the prefix, as routes match it; None if this is not its one spelling.

    Servers decode a path before an application sees it; only the request target itself (`RAW_URI`)
    distinguishes a slash from an escaped one. Without it (or if a middleware has rewritten the
    path), the decoded path is used.
    """
    path: str = environ.get("PATH_INFO", "")
    target: str = environ.get("RAW_URI") or environ.get("REQUEST_URI") or ""
    if target == path and _PLAIN.fullmatch(path):
        return path
    raw = AUTHORITY.sub("", target, 1).partition("?")[0] or "/"
    if "#" in target or not raw.startswith("/") or raw.startswith("//"):
        return None
    prefix: str = environ.get("SCRIPT_NAME", "")
    decoded = unquote_to_bytes(raw.encode("latin-1")).decode("latin-1")
    if decoded == prefix + path:
        raw = raw[len(prefix) :] if raw.startswith(prefix) else raw
    elif decoded != path:
        raw = path.replace("%", "%25")
    return _decoded(raw)


def _decoded(raw: str) -> str | None:
    if _NEEDLESS.search(raw) or _CONTROL.search(raw) or _BROKEN.search(raw):
        return None
    segments = raw.split("/")
    if segments[0] or "" in segments[1:-1] or "." in segments or ".." in segments:
        return None
    if segments[-1] == "" and len(segments) > 2:
        return None  # a slash at the end
    within = re.sub("%2[fF]", SLASH, raw)
    decoded = unquote_to_bytes(within.encode("latin-1"))
    try:
        decoded.decode()
    except UnicodeDecodeError:
        return None
    return decoded.decode("latin-1")  # WSGI's form of text
