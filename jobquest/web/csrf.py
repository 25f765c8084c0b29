"""CSRF tokens: a request that a session's cookie lets in must come from a page of that session.

A token is made from the cookie, so nothing is stored, and it ends with the session. Programs send
it as `X-CSRF-Token`, forms as a field. A form without a session (the sign-in page) has a cookie of
its own for that.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from hashlib import sha256
from typing import Any

from flask import Flask, request

from jobquest.errors import Forbidden

Environ = dict[str, Any]
FIELD = "csrf_token"
_IN_FORM = "jobquest.csrf_of"  # in the environ: the cookie that a form's token must belong to
_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")
_STALE = "This page is out of date, or the request comes from elsewhere: load the page again."


class Csrf:
    """Makes and checks tokens, with a key that every instance has."""

    def __init__(self, key: Callable[[], bytes]) -> None:
        self._key = key

    def token(self, cookie: str) -> str:
        """The token that belongs to a cookie."""
        return hmac.new(self._key(), f"csrf {cookie}".encode(), sha256).hexdigest()

    def check(self, environ: Environ, cookie: str) -> None:
        """Raise Forbidden unless the request has the token of this cookie; a form's is looked at
        when its body is read."""
        if environ.get("CONTENT_TYPE", "").split(";")[0].strip().lower() in _FORMS:
            environ[_IN_FORM] = cookie
            return
        self.check_value(environ.get("HTTP_X_CSRF_TOKEN", ""), cookie)

    def check_value(self, given: str, cookie: str) -> None:
        """Raise Forbidden unless this is the token of the cookie."""
        if not hmac.compare_digest(given.encode("utf-8", "replace"), self.token(cookie).encode()):
            raise Forbidden(_STALE)

    def register(self, app: Flask) -> None:
        """Have the application check the tokens of forms."""
        app.before_request(self._check_form)

    def _check_form(self) -> None:
        cookie = request.environ.get(_IN_FORM)
        if cookie is not None:
            self.check_value(request.form.get(FIELD, ""), cookie)
