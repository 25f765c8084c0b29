"""Who sees personal data: the one place that decides, for pages, JSON and sockets.

A front-end user reads nothing but their own, unmasked. Everybody else sees it masked, unless they
manage the service and the address asks (`personal=shown`); the audit trail records that. No API key
can manage, so no key sees it.
"""

from __future__ import annotations

from typing import Any

from flask import g, request

from jobquest.access.caller import MANAGE, Caller
from jobquest.events import exact_json, personal
from jobquest.web.audited import acting_as
from jobquest.web.current import CALLER, may, runtime

PARAMETER, SHOWN = "personal", "shown"
# Parts of an address that the trail does not repeat: a secret, a text that may be personal, and how
# far a page that follows has come.
_LEFT_OUT = frozenset({PARAMETER, "q", "since", "ticket"})


def is_asked() -> bool:
    """Whether the sender may see other people's personal data and this view's address asks."""
    return request.args.get(PARAMETER) == SHOWN and may(MANAGE)


def shown(value: Any, body: bytes | None = None) -> Any:
    """Plain values as the sender sees them: `value` itself if nothing in it is masked. `body` is
    its JSON, if somebody has that already: most values have nothing personal, as a search in JSON
    finds in a fraction of the time."""
    if not _may_be_masked(value, body):
        return value
    masked = personal.masked(value)
    if masked == value:
        return value
    return _revealed(value) if _is_shown() else masked


def _may_be_masked(value: Any, body: bytes | None) -> bool:
    try:
        body = exact_json.dumps(value) if body is None else body
    except TypeError:  # a text has half of a surrogate pair
        return True
    return personal.may_be_in(body) or b'"base64"' in body


def raw(text: str) -> str | None:
    """The raw text of a record if the sender sees it as it is; None if it has to be masked."""
    if not personal.may_be_in(text.encode("utf-8", "replace")):
        return text
    return _revealed(text) if _is_shown() else None


def sees_stream() -> bool:
    """Whether the sender sees the personal data of events that a socket will show."""
    if is_asked():
        _reveal()
    return _is_shown()


def _reveal() -> None:
    """Record, once for a request, that it shows other people's personal data."""
    if _is_own() or g.get("jobquest_revealed"):
        return
    g.jobquest_revealed = True
    asked = {
        name: values[0] if len(values) == 1 else values
        for name, values in request.args.lists()
        if name not in _LEFT_OUT
    }
    runtime().audit.record_look(acting_as(), request.path, asked, request.remote_addr or "")


def _revealed(value: Any) -> Any:
    _reveal()
    return value


def _is_shown() -> bool:
    return is_asked() or _is_own()


def _is_own() -> bool:
    found: Caller | None = request.environ.get(CALLER)
    return found is not None and found.user is not None
