"""The page of the audit trail: who did what, newest first, for those who manage the service."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, render_template, url_for

from jobquest.access.caller import MANAGE
from jobquest.web.answers import after_parameter, runtime
from jobquest.web.audit import DEFAULT_LIMIT, person
from jobquest.web.needs import needs
from jobquest.web.pages.words import summary

page = Blueprint("audit", __name__)

# Action → in words.
WORDS = {
    "start": "started",
    "stop": "stopped",
    "redrive": "redrove",
    "try-now": "retried now",
    "edit": "edited",
    "discard": "discarded",
    "reveal": "saw personal data",
    "key.created": "created",
    "key.rotated": "rotated",
    "key.revoked": "revoked",
    "operator.added": "added",
    "operator.changed": "changed",
    "operator.removed": "removed",
    "session.begun": "signed in",
    "session.ended": "ended a session",
    "sign-in.failed": "failed to sign in",
}


@page.get("/audit")
@needs(MANAGE)
def show() -> str:
    """A portion of the trail; of one person with `name`."""
    name, after = person(), after_parameter()
    found, following = runtime().audit.latest(name, after, DEFAULT_LIMIT)
    return render_template(
        "audit.html",
        entries=[_shown(entry) for entry in found],
        name=name or "",
        after=after,
        next=following,
        source=url_for("audit.listed", name=name, after=after),
        export=url_for("audit.export", name=name),
    )


def _shown(entry: dict[str, Any]) -> dict[str, Any]:
    details = summary(entry["details"]) if entry["details"] else ""
    return {**entry, "words": WORDS.get(entry["action"], entry["action"]), "details": details}
