"""The current request's runtime and caller, for views and for what is around them."""

from __future__ import annotations

from typing import cast

from flask import current_app, request

from jobquest.access.caller import Caller
from jobquest.runtime import Runtime

CALLER = "jobquest.caller"
"""In the environ: the `Caller`, once the guard knows them, also of a request that it refuses."""


def runtime() -> Runtime:
    """The application's runtime."""
    return cast(Runtime, current_app.extensions["jobquest"])


def caller() -> Caller:
    """Who has sent the request."""
    return cast(Caller, request.environ[CALLER])


def may(scope: str) -> bool:
    """Whether the sender has a scope; nobody has one where no credential is needed."""
    found: Caller | None = request.environ.get(CALLER)
    return found is not None and found.may(scope)
