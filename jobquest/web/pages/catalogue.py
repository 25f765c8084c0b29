"""The catalogue: every event type with its fields, an example, and how frequent it is.

It shows the table that validation uses, so both always agree.
"""

from __future__ import annotations

import json
from typing import Any

from flask import Blueprint, render_template, request

from jobquest.access.caller import READ
from jobquest.clock import now_ms
from jobquest.errors import ReadSideUnavailable
from jobquest.events import CATALOGUE, TOPICS, EventType
from jobquest.events.fields import FIELDS
from jobquest.read.queries import WINDOWS_MS
from jobquest.web.answers import runtime
from jobquest.web.needs import needs

page = Blueprint("catalogue", __name__)


@page.get("/catalogue")
@needs(READ)
def show() -> str:
    """Every type by topic, or those that contain `q`; without counts if they can't be read."""
    wanted = request.args.get("q", "").strip()
    counts, problem = {}, None
    try:
        counts = _counts_of_last_hour()
    except ReadSideUnavailable as error:
        problem = str(error)
    found = [row for row in CATALOGUE.values() if _contains(row, wanted)]
    topics = {topic: [row for row in found if row.topic == topic] for topic in TOPICS}
    return render_template(
        "catalogue.html",
        topics={
            topic: [
                {"type": row, "fields": fields_of(row), "example": _example(row)} for row in rows
            ]
            for topic, rows in topics.items()
            if rows
        },
        found=len(found),
        counts=counts,
        problem=problem,
    )


def fields_of(row: EventType) -> list[dict[str, Any]]:
    """A type's fields in words, required ones first."""
    return [
        {
            "name": name,
            "kind": FIELDS[name].kind.word,
            "limits": FIELDS[name].kind.limits,
            "required": name in row.required,
            "personal": FIELDS[name].is_personal,
            "xp": name == row.xp,
        }
        for name in row.fields
    ]


def _example(row: EventType) -> str:
    """Valid data as JSON. It is nobody's, so nothing is masked."""
    return json.dumps(row.example, indent=2, ensure_ascii=False)


def _contains(row: EventType, wanted: str) -> bool:
    words = (row.name, row.topic, row.description, *row.fields)
    return any(wanted.lower() in word.lower() for word in words)


def _counts_of_last_hour() -> dict[str, int]:
    """By type, of event time."""
    now = now_ms()
    counts: dict[str, int] = {}
    for window in runtime().queries.analytics("minute", now - WINDOWS_MS["hour"], now):
        for name, count in window["counts"].items():
            counts[name] = counts.get(name, 0) + count
    return counts
