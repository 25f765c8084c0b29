"""The pages where an operator signs in and out; `provider.py` has those of an identity provider."""

from __future__ import annotations

import secrets
from typing import cast

from flask import (
    Blueprint,
    Response,
    current_app,
    make_response,
    redirect,
    render_template,
    request,
)
from flask.typing import ResponseReturnValue

from jobquest.access.caller import LOCAL, PROXY, Caller
from jobquest.access.digests import KEY_PREFIX
from jobquest.access.sessions import HOURS
from jobquest.addresses import is_loopback
from jobquest.errors import (
    AccessUnavailable,
    Forbidden,
    JobQuestError,
    Unauthenticated,
    Unavailable,
)
from jobquest.web.audited import audited, noted
from jobquest.web.csrf import FIELD, Csrf
from jobquest.web.current import CALLER, caller, runtime
from jobquest.web.errors import answer_to
from jobquest.web.guard import COOKIE, SIGN_IN, own_session_cookie, session_cookie
from jobquest.web.needs import ANYBODY, PUBLIC, needs
from jobquest.web.proxies import ORIGINAL

page = Blueprint("sign_in", __name__)

FORM_COOKIE = "jobquest_form"  # of a form without a session
_WRONG = "This name and password do not belong together."
_OLD_FORM = "This form was open for too long, or cookies are off: please sign in again."
_SIGNED_OUT = "signed-out"  # a parameter of the page
_PLAIN_HTTP = (
    "Signing in needs https: over plain http, everybody on the way could read the password. Open"
    " this page by the proxy's https address."
)


def is_protected() -> bool:
    """Whether requests need a credential of ours."""
    return request.environ.get(CALLER) not in (LOCAL, PROXY)


def signed_in() -> str | None:
    """The operator's name; None if nobody has signed in."""
    found: Caller | None = request.environ.get(CALLER)
    return found.name if found is not None and found.kind == "operator" else None


def csrf_token() -> str:
    """The token for this page's forms and scripts; empty if no cookie lets it in."""
    cookie = session_cookie(request.environ)
    return _csrf().token(cookie) if cookie and signed_in() else ""


@page.get(SIGN_IN)
@needs(PUBLIC)
def form() -> ResponseReturnValue:
    """The form; whoever is let in without it goes on to the wanted page."""
    if request.environ.get(CALLER) in (LOCAL, PROXY) or _has_session():
        return _to(wanted())
    return form_page("", 200)


@page.post(SIGN_IN)
@needs(PUBLIC)
@audited("session.begun", "sign-in.failed")
def sign_in() -> ResponseReturnValue:
    """Begin a session, and go on to the wanted page."""
    try:
        name = _proved_name()
    except JobQuestError as error:
        return refusal(error)
    return begin_session(name, None, wanted())


def _proved_name() -> str:
    """Whose password the form has. Raises JobQuestError."""
    refuse_plain_http()
    _refuse_foreign_form()
    access = runtime().access
    access.refuse_if_lost()
    name, password = request.form.get("name", ""), request.form.get("password", "")
    access.bounds.sign_in(name, request.remote_addr or "")
    if not access.operators.accepts(name, password):
        # Another name may be a password that was typed into the wrong field.
        known = any(one["name"] == name for one in access.operators.listed())
        noted("sign-in.failed", name=name if known else "unknown")
        raise Unauthenticated(_WRONG)
    return name


def _refuse_foreign_form() -> None:
    try:
        _csrf().check_value(request.form.get(FIELD, ""), request.cookies.get(FORM_COOKIE, ""))
    except Forbidden:
        raise Forbidden(_OLD_FORM) from None


@page.post("/sign-out")
@needs(ANYBODY)
@audited("session.ended")
def sign_out() -> ResponseReturnValue:
    """End the session."""
    cookie = session_cookie(request.environ)
    if cookie and caller().kind == "operator":
        runtime().access.end_session(cookie)
    goes_on = runtime().access.provider is not None
    response = _to(f"{SIGN_IN}?{_SIGNED_OUT}=1" if goes_on else SIGN_IN)
    delete_cookie(response, COOKIE)
    # Not "cookies": that would delete those of the whole site, the front end's among them.
    response.headers["Clear-Site-Data"] = '"cache", "storage"'
    return response


def begin_session(name: str, role: str | None, next: str) -> Response:
    """The answer to somebody who has just proved who they are: a session, and the wanted page."""
    access = runtime().access
    access.refuse_if_lost()  # again: to check a password takes a while
    noted(name=name)
    secret = access.sessions.begin(
        name,
        role=role,
        address=request.remote_addr or "",
        agent=request.headers.get("User-Agent", ""),
    )
    response = _to(next)
    set_cookie(response, COOKIE, secret, HOURS * 3_600)
    delete_cookie(response, FORM_COOKIE)
    return response


def refusal(error: JobQuestError, next: str | None = None) -> Response:
    """The form again, with why nobody was signed in."""
    answer = answer_to(error)
    response = form_page(error.args[0], answer.code, next)
    response.headers.update(answer.headers)
    return response


def form_page(problem: str, code: int, next: str | None = None) -> Response:
    """The form, with what went wrong; `next`: the wanted page, if the address does not name it."""
    cookie = request.cookies.get(FORM_COOKIE) or secrets.token_urlsafe(32)
    may = is_private()
    provider = runtime().access.provider if may else None
    page = render_template(
        "sign_in.html",
        problem=problem or ("" if may else _PLAIN_HTTP),
        name=request.form.get("name", ""),
        next=wanted() if next is None else next,
        form_token=_csrf().token(cookie),
        provider=provider and provider.host,
        by_password=may and (provider is None or _has_operators()),
        signed_out=_SIGNED_OUT in request.args and not problem,
    )
    response = make_response(page, code)
    set_cookie(response, FORM_COOKIE, cookie, 3_600)
    return response


def _has_session() -> bool:
    public = runtime().config.public_url
    cookie = own_session_cookie(request.environ, public.origin if public else None)
    if cookie is None or cookie.startswith(KEY_PREFIX):
        return False
    try:
        return runtime().access.caller(cookie).kind == "operator"
    except (Unauthenticated, AccessUnavailable):
        return False


def _has_operators() -> bool:
    try:
        return bool(runtime().access.operators.listed())
    except Unavailable:
        return True


def set_cookie(response: Response, name: str, value: str, seconds: int) -> None:
    """Have the browser keep something for us alone."""
    is_secure = request.environ.get(ORIGINAL, "").startswith("https://")
    response.set_cookie(
        name,
        value,
        max_age=seconds,
        path=_path(),
        secure=is_secure,
        httponly=True,
        samesite="Lax",
    )


def delete_cookie(response: Response, name: str) -> None:
    """Have the browser forget it."""
    response.delete_cookie(name, path=_path())


def wanted() -> str:
    """The page that was asked for: only one of ours."""
    path = request.values.get("next", "/")
    is_ours = path.startswith("/") and not path.startswith(("//", "/\\"))
    return path if is_ours and path.isprintable() else "/"


def refuse_plain_http() -> None:
    """Raise Forbidden if others could listen."""
    if not is_private():
        raise Forbidden(_PLAIN_HTTP)


def is_private() -> bool:
    """Whether nobody can listen: https as far as a trusted proxy says, or this machine alone."""
    environ = request.environ
    if environ.get(ORIGINAL, "").startswith("https://"):
        return True
    config = runtime().config
    return config.public_url is None and is_loopback(environ.get("REMOTE_ADDR", ""))


def _path() -> str:
    return f"{request.script_root}/"


def _to(path: str) -> Response:
    return cast(Response, redirect(f"{request.script_root}{path}", 303))


def _csrf() -> Csrf:
    return cast(Csrf, current_app.extensions["jobquest.csrf"])
