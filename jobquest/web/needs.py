"""What a route needs of its caller: declared beside its view, asked by the guard.

    @reads.get("/events")
    @needs(READ)
    def events() -> ...

A view that declares nothing lets nobody in; a test finds it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from flask import Flask

View = TypeVar("View", bound=Callable[..., Any])

PUBLIC = "public"
"""Needs nothing: everybody may call."""

ANYBODY = "anybody"
"""Needs a valid credential, whatever it allows."""

_DECLARED = "jobquest_needs"


def needs(*scopes: str) -> Callable[[View], View]:
    """Declare the scopes one of which a caller needs, or PUBLIC, or ANYBODY."""

    def declare(view: View) -> View:
        setattr(view, _DECLARED, frozenset(scopes))
        return view

    return declare


def declared(app: Flask, endpoint: str) -> frozenset[str] | None:
    """What the view behind an endpoint declares; None if it declares nothing."""
    found: frozenset[str] | None = getattr(app.view_functions.get(endpoint), _DECLARED, None)
    return found
