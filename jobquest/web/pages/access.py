"""The page of who is let in: API keys, operators, open sessions. Its forms change them.

Each form is followed by a redirect. What the next page has to say, and a new key, which is shown
once, are meanwhile in a signed cookie of that browser.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import msgspec
from flask import Blueprint, Response, make_response, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from itsdangerous import BadData, URLSafeTimedSerializer

from jobquest.access.caller import KEY_SCOPES, MANAGE, ROLES
from jobquest.clock import now_ms
from jobquest.errors import StateConflict
from jobquest.events import format_time
from jobquest.web.answers import caller, runtime
from jobquest.web.audited import audited, noted
from jobquest.web.needs import needs
from jobquest.web.pages.sign_in import delete_cookie, set_cookie

page = Blueprint("access", __name__)

COOKIE = "jobquest_said"
SECONDS = 60
DAY_MS = 86_400_000
DAYS = {"30": "in 30 days", "90": "in 90 days", "365": "in a year", "": "never"}
_OPEN = "Add an operator first: `flask operators add NAME --role operator`."
_OWN = "That is you: ask another operator, or use the command `flask operators`."


class _Said(msgspec.Struct):
    """What a form has done: a line, and the new key if there is one."""

    line: str
    key: str = ""


@page.get("/access")
@needs(MANAGE)
def show() -> ResponseReturnValue:
    """Keys, operators and sessions; how to protect the service while it is open."""
    said = _said()
    response = _shown(said=said)
    if said:
        delete_cookie(response, COOKIE)
    return response


@page.post("/access/keys")
@needs(MANAGE)
@audited("key.created")
def create_key() -> ResponseReturnValue:
    """Create a key."""
    form = request.form
    name, days = form.get("name", "").strip(), form.get("expires", "")

    def create() -> _Said:
        if days not in DAYS:
            raise StateConflict("Choose one of the ends that are listed.")
        ends = now_ms() + int(days) * DAY_MS if days else None
        key = runtime().access.keys.create(name, form.getlist("scope"), ends)
        noted(what=f"key {name}", scopes=form.getlist("scope"), days=days or None)
        return _Said(f"Key {name} is created.", key)

    return _done("keys", create)


@page.post("/access/keys/<name>/rotate")
@needs(MANAGE)
@audited("key.rotated", what="key {name}")
def rotate_key(name: str) -> ResponseReturnValue:
    """Replace a key."""

    def rotate() -> _Said:
        key = runtime().access.keys.rotate(name)
        return _Said(f"Key {name} is replaced; the old one has ended.", key)

    return _done("keys", rotate)


@page.post("/access/keys/<name>/revoke")
@needs(MANAGE)
@audited("key.revoked", what="key {name}")
def revoke_key(name: str) -> ResponseReturnValue:
    """End a key."""

    def revoke() -> _Said:
        runtime().access.keys.revoke(name)
        return _Said(f"Key {name} is revoked.")

    return _done("keys", revoke)


@page.post("/access/operators/<name>/role")
@needs(MANAGE)
@audited("operator.changed", what="operator {name}")
def set_role(name: str) -> ResponseReturnValue:
    """Change what an operator may do."""

    def change() -> _Said:
        _refuse_own(name)
        role = request.form.get("role", "")
        runtime().access.operators.set_role(name, role)
        noted(role=role)
        return _Said(f"{name} is {role} now.")

    return _done("operators", change)


@page.post("/access/operators/<name>/remove")
@needs(MANAGE)
@audited("operator.removed", what="operator {name}")
def remove_operator(name: str) -> ResponseReturnValue:
    """Remove an operator."""

    def remove() -> _Said:
        _refuse_own(name)
        runtime().access.operators.remove(name)
        return _Said(f"{name} can't sign in any more.")

    return _done("operators", remove)


@page.post("/access/sessions/<id>/end")
@needs(MANAGE)
@audited("session.ended", what="session {id}")
def end_session(id: str) -> ResponseReturnValue:
    """End a session."""

    def end() -> _Said:
        if not runtime().access.sessions.end_by_id(id):
            raise StateConflict("This session has ended already.")
        return _Said("The session has ended.")

    return _done("sessions", end)


def _done(section: str, act: Callable[[], _Said]) -> Response:
    """Do what a form asks for. Its refusal is shown where the form is."""
    try:
        if not _is_protected():
            raise StateConflict(_OPEN)
        said = act()
    except StateConflict as error:
        return _shown(code=409, wrong={section: error.args[0]})
    response = cast(Response, redirect(url_for("pages.access.show"), 303))
    text = msgspec.json.encode(said).decode()
    set_cookie(response, COOKIE, _signer().dumps(text), SECONDS)
    return response


def _said() -> _Said | None:
    try:
        text = _signer().loads(request.cookies.get(COOKIE, ""), max_age=SECONDS)
    except BadData:
        return None
    return msgspec.json.decode(text, type=_Said)


def _signer() -> URLSafeTimedSerializer:
    key = runtime().access.secret_key.value
    return URLSafeTimedSerializer(key, salt=f"{COOKIE} {caller().credential}")


def _refuse_own(name: str) -> None:
    if name == caller().name:
        raise StateConflict(_OWN)


def _is_protected() -> bool:
    return caller().kind == "operator"


def _shown(
    *, code: int = 200, said: _Said | None = None, wrong: Mapping[str, str] | None = None
) -> Response:
    access, is_protected = runtime().access, _is_protected()
    page = render_template(
        "access.html",
        mode=caller().kind,
        said=said,
        wrong=wrong or {},
        keys=[_key(row) for row in access.keys.listed()] if is_protected else [],
        operators=[_operator(row) for row in access.operators.listed()] if is_protected else [],
        sessions=[_session(row) for row in access.sessions.listed()] if is_protected else [],
        provider=access.provider and access.provider.host,
        scopes=KEY_SCOPES,
        roles=list(ROLES),
        days=DAYS,
        form=request.form,
    )
    return make_response(page, code)


def _key(row: Mapping[str, Any]) -> dict[str, Any]:
    has_ended = row["expires_ms"] is not None and row["expires_ms"] <= now_ms()
    state = "revoked" if row["revoked_ms"] else "expired" if has_ended else "valid"
    return {**row, **_times(row), "state": state, "scopes": row["scopes"].split()}


def _operator(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, **_times(row), "is_own": row["name"] == caller().name}


def _session(row: Mapping[str, Any]) -> dict[str, Any]:
    own = caller().credential == f"session:{row['id']}"
    return {**row, **_times(row), "is_own": own}


def _times(row: Mapping[str, Any]) -> dict[str, str | None]:
    """The times of a row, as pages show them: `used_ms` as `used`."""
    return {
        name.removesuffix("_ms"): None if value is None else format_time(value)
        for name, value in row.items()
        if name.endswith("_ms")
    }
