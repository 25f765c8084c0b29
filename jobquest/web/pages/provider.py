"""Signing in at an identity provider: the way there, and the way back.

What has to be known on the way back is in a signed cookie of the browser that went there, so that
nobody can have somebody else's browser finish a sign-in.
"""

from __future__ import annotations

import hmac
from typing import cast

import msgspec
from flask import Blueprint, Response, abort, redirect, request, url_for
from flask.typing import ResponseReturnValue
from itsdangerous import BadData, URLSafeTimedSerializer

from jobquest.access.provider import ERROR_CODE, Attempt, Provider
from jobquest.errors import JobQuestError, Unauthenticated
from jobquest.web.answers import runtime
from jobquest.web.audited import audited, noted
from jobquest.web.needs import PUBLIC, needs
from jobquest.web.pages.sign_in import (
    begin_session,
    delete_cookie,
    form_page,
    refusal,
    refuse_plain_http,
    set_cookie,
    wanted,
)
from jobquest.web.paths import FROM_PROVIDER, TO_PROVIDER

page = Blueprint("provider", __name__)

COOKIE = "jobquest_attempt"
SECONDS = 600  # to sign in at the provider
_NO_ATTEMPT = "This sign-in is older than 10 minutes, or another browser began it: begin again."


class _Kept(msgspec.Struct):
    attempt: Attempt
    next: str


@page.get(TO_PROVIDER)
@needs(PUBLIC)
def start() -> ResponseReturnValue:
    """Send the browser to the provider."""
    try:
        refuse_plain_http()
        runtime().access.bounds.sign_in_at_provider("to", request.remote_addr or "")
        address, attempt = _provider().begin(_redirect_uri())
    except JobQuestError as error:
        return refusal(error)
    response = cast(Response, redirect(address, 303))
    set_cookie(response, COOKIE, _signed(_Kept(attempt, wanted())), SECONDS)
    return response


@page.get(FROM_PROVIDER)
@needs(PUBLIC)
@audited("session.begun", "sign-in.failed")
def finish() -> ResponseReturnValue:
    """Begin a session of whoever has come back from the provider."""
    refuse_plain_http()
    response = _finished(_provider())
    delete_cookie(response, COOKIE)
    return response


def _finished(provider: Provider) -> Response:
    kept = _kept()
    if kept is None:
        return form_page(_NO_ATTEMPT, 401)
    try:
        runtime().access.bounds.sign_in_at_provider("from", request.remote_addr or "")
        identity = provider.finish(kept.attempt, _code(provider), _redirect_uri())
    except JobQuestError as error:
        return refusal(error, kept.next)
    if identity.role is None:
        noted("sign-in.failed", name=identity.name)
        return form_page(_not_listed(provider, identity.name), 403, kept.next)
    return begin_session(identity.name, identity.role, kept.next)


def _kept() -> _Kept | None:
    """What this browser has kept of the sign-in that ends with this request."""
    try:
        text = _signer().loads(request.cookies.get(COOKIE, ""), max_age=SECONDS)
    except BadData:
        return None
    kept = msgspec.json.decode(text, type=_Kept)
    given = request.args.get("state", "").encode()
    return kept if hmac.compare_digest(given, kept.attempt.state.encode()) else None


def _signed(kept: _Kept) -> str:
    return _signer().dumps(msgspec.json.encode(kept).decode())


def _signer() -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(runtime().access.secret_key.value, salt=COOKIE)


def _code(provider: Provider) -> str:
    """The authorization code. Raises Unauthenticated if the provider gave none."""
    if code := request.args.get("code"):
        return code
    error = request.args.get("error", "")
    why = f" ({error})" if ERROR_CODE.fullmatch(error) else ""
    raise Unauthenticated(f"{provider.host} did not sign you in{why}.")


def _not_listed(provider: Provider, name: str) -> str:
    return (
        f"You have signed in at {provider.host} as {name}, whom neither JOBQUEST_OIDC_OPERATORS nor"
        " JOBQUEST_OIDC_VIEWERS lists: whoever runs this service decides about that. To be somebody"
        f" else, sign out at {provider.host} first."
    )


def _redirect_uri() -> str:
    return url_for("pages.provider.finish", _external=True)


def _provider() -> Provider:
    return runtime().access.provider or abort(404, "No identity provider is configured.")
