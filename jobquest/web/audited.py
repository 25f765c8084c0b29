"""What a view does that the audit trail must know: declared beside it, recorded here.

    @dead_letters.post("/dead-letters/<int:id>/discard")
    @needs(OPERATE)
    @audited("discard", "dead letter {id}")
    def discard(id: int) -> ...

A view that changes nothing which an operator answers for declares `unaudited`; a test finds a view
that does more than read and declares neither.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar, cast

from flask import Flask, current_app, g, request
from werkzeug.exceptions import HTTPException

from jobquest.access.caller import Caller
from jobquest.errors import (
    Forbidden,
    IdConflict,
    InvalidEvent,
    NotRead,
    StateConflict,
    TooMany,
    Unauthenticated,
)
from jobquest.web.current import CALLER, runtime

View = TypeVar("View", bound=Callable[..., Any])

_DECLARED = "jobquest_audits"
# What these end was refused before anything was done.
_REFUSALS = (
    Forbidden,
    HTTPException,
    IdConflict,
    InvalidEvent,
    NotRead,
    StateConflict,
    TooMany,
    Unauthenticated,
)


def audited(*actions: str, what: str = "") -> Callable[[View], View]:
    """Declare the actions of a view, and record the one that it did: the first one, or what the
    view has `noted`. `what` is filled with the values from the address. Refusals and dry runs do
    nothing, so they are not recorded, unless the view has noted an action."""

    def declare(view: View) -> View:
        @functools.wraps(view)
        def recorded(*args: Any, **values: Any) -> Any:
            is_refused, error = False, ""
            try:
                answer = view(*args, **values)
                is_refused = current_app.make_response(answer).status_code >= 400
                return answer
            except Exception as raised:
                is_refused, error = isinstance(raised, _REFUSALS), type(raised).__name__
                raise
            finally:
                is_done = not is_refused and not request.args.get("dryRun")
                _record(actions[0], what.format(**values), error, is_done=is_done)

        setattr(recorded, _DECLARED, frozenset(actions))
        return cast(View, recorded)

    return declare


def unaudited(view: View) -> View:
    """Declare that a view does nothing which belongs into the audit trail."""
    setattr(view, _DECLARED, frozenset())
    return view


def declared(app: Flask, endpoint: str) -> frozenset[str] | None:
    """The actions that the view behind an endpoint declares; None if it declares nothing."""
    found: frozenset[str] | None = getattr(app.view_functions.get(endpoint), _DECLARED, None)
    return found


def noted(action: str = "", *, what: str = "", name: str = "", **details: Any) -> None:
    """Say more about what this view does. `action`: which of the declared ones; it is then recorded
    although it is refused. `name`: who does it, if the request has no credential yet."""
    g.jobquest_noted = _Note(action, what, name, details)


def record(
    action: str, what: str = "", details: Mapping[str, Any] | None = None, name: str = ""
) -> None:
    """Record an action of the sender of this request."""
    address = request.remote_addr or ""
    runtime().audit.record(name or acting_as(), action, what, details or {}, address)


def acting_as() -> str:
    """The sender's name in the trail: an operator's own, or `key:…`, `local`, `proxy`."""
    who: Caller | None = request.environ.get(CALLER)
    if who is None:
        return "nobody"
    return f"{who.kind}:{who.name}" if who.kind in ("key", "user") else who.name


class _Note(NamedTuple):
    action: str = ""
    what: str = ""
    name: str = ""
    details: Mapping[str, Any] = {}


def _record(action: str, what: str, error: str, *, is_done: bool) -> None:
    note: _Note = g.pop("jobquest_noted", _Note())
    if is_done or note.action:
        details = {**note.details, **({"failed": error} if error else {})}
        record(note.action or action, note.what or what, details, note.name)
