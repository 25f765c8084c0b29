"""The pages of failures: events that wait for a retry, the list of dead letters, and one dead
letter with its editor.

The pages only read; `static/failures.js` and `static/dead_letter.js` call the API.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from typing import Any
from urllib.parse import urlencode

from flask import Blueprint, abort, render_template, request, url_for

from jobquest.access.caller import READ
from jobquest.clock import now_ms
from jobquest.consumer.redrive import MAX_REDRIVES
from jobquest.demo import MODULE
from jobquest.errors import InvalidEvent
from jobquest.events import (
    CATALOGUE,
    TOPICS,
    format_time,
    from_record,
    new_id,
    parse_time,
    strict_json,
)
from jobquest.events.personal import MASK
from jobquest.read.dead_letters import DeadLetterFilter
from jobquest.read.queries import MAX_GROUPS, MAX_LIMIT
from jobquest.web.answers import choice_parameter, runtime, whole_parameter
from jobquest.web.dead_letters import FILTERS, MAX_ID, STATES
from jobquest.web.needs import needs
from jobquest.web.pages.event_form import EventForm, event_form
from jobquest.web.pages.now import status_now
from jobquest.web.pages.words import PAGE_BYTES, shown_text, span, visible_lines

page = Blueprint("failures", __name__)

LISTED_RETRIES = 25  # without `retries=all`
LISTED_DEAD_LETTERS = 50
ANY = "any"


@page.get("/failures")
@needs(READ)
def show() -> str:
    """Events that wait for a retry, and the dead letters that match, newest first."""
    service = runtime()
    state = choice_parameter("state", (*STATES, ANY), "open") or "open"
    chosen = {name: value for name in FILTERS if (value := request.args.get(name))}
    wanted = {**chosen, "state": state}
    if state == ANY:
        del wanted["state"]
    after = whole_parameter("after", None, 0, MAX_ID)
    by_column = DeadLetterFilter(**{FILTERS[name]: value for name, value in wanted.items()})
    found = service.queries.dead_letters(by_column, after, LISTED_DEAD_LETTERS, PAGE_BYTES)
    every = choice_parameter("retries", ("all",), None)
    retries = service.queries.retries(MAX_LIMIT if every else LISTED_RETRIES, room=PAGE_BYTES)
    status = status_now()
    return render_template(
        "failures.html",
        demo=MODULE in service.config.handlers,
        retries=retries,
        retrying=max(len(retries), status.get("retrying", 0)),
        most_retries=MAX_LIMIT,
        max_attempts=service.config.retry_max_attempts,
        countdown=countdown,
        dead_letters=found["deadLetters"],
        next=found["next"],
        groups=found["groups"],
        total=_total(found["groups"]),
        state=state,
        chosen=chosen,
        wanted=wanted,
        narrowed=bool(chosen.keys() - {"state"}) or state != "open" or after is not None,
        states=(*STATES, ANY),
        types=_choices(CATALOGUE, chosen.get("type")),
        topics=_choices(TOPICS, chosen.get("topic")),
        json_url=_json_url(wanted),
    )


@page.get("/dead-letters/<int:id>")
@needs(READ)
def dead_letter(id: int) -> str:
    """One dead letter with its event's outcome and the form that edits it."""
    queries = runtime().queries
    found = queries.dead_letter(id) if id <= MAX_ID else None
    if found is None:
        abort(404, "There is no dead letter with this id.")
    life = queries.event(_event_id(found))
    others = life["deadLetters"] if life else []
    outcome = life["outcome"] if life else None
    # Until the consumer processes the redriven record, the event's row still has the old outcome.
    if outcome == "dead" and others and others[0]["id"] == id:
        outcome = None
    return render_template(
        "dead_letter.html",
        dead_letter=found,
        outcome=outcome,
        others=[other for other in others if other["id"] != id],
        max_redrives=MAX_REDRIVES,
        **_editor(found),
    )


def _event_id(dead_letter: dict[str, Any]) -> str:
    """The id of a dead letter's event. An unreadable record gets one only when it is edited, so a
    redriven dead letter has that of the redriven value."""
    value = dead_letter["value"] if dead_letter["edited"] is None else dead_letter["edited"]
    if (
        dead_letter["state"] == "redriven"
        and dead_letter["encoding"] == "text"
        and value is not None
    ):
        with contextlib.suppress(InvalidEvent):
            return from_record(value.encode()).id
    return str(dead_letter["eventId"])


def countdown(moment: str) -> str:
    """How long until then: "in 12 s"."""
    seconds = math.ceil(parse_time(moment).timestamp() - time.time())
    if seconds <= 0:
        return "now"
    return f"in {seconds} s" if seconds < 60 else f"in {span(seconds)}"


def _json_url(wanted: dict[str, str]) -> str:
    return f"{url_for('dead_letters.listed')}?{urlencode(wanted)}"


def _total(groups: list[dict[str, Any]]) -> int | None:
    """How many dead letters match; None if not all groups are listed."""
    return None if len(groups) == MAX_GROUPS else sum(group["count"] for group in groups)


def _choices(known: Any, chosen: str | None) -> list[str]:
    names = list(known)
    return names if chosen is None or chosen in names else [*names, chosen]


def _editor(dead_letter: dict[str, Any]) -> dict[str, Any]:
    """The editor's content: the event that a redrive would append, as a form or as text, and
    examples. `hidden`: the event has personal data that this view masks."""
    text = dead_letter["edited"]
    if text is None and dead_letter["encoding"] == "text":
        text = dead_letter["value"]
    as_text = request.args.get("as") == "text"
    return {
        "hidden": text is not None and MASK in shown_text(text),
        "as_text": as_text,
        "form": None if as_text else _form(text or ""),
        "text": _to_edit(text or ""),
        "examples": _examples(dead_letter),
    }


def _form(text: str) -> EventForm | None:
    """The form of the event's type; None if the text is not an event of a known type."""
    try:
        event = strict_json.loads(text.encode())
    except InvalidEvent:
        return None
    kind = event.get("type") if isinstance(event, dict) else None
    if not isinstance(kind, str) or kind not in CATALOGUE:
        return None
    return event_form(kind, event, as_request=False)


def _to_edit(text: str) -> str:
    """JSON indented, its invisible characters as JSON escapes; other text with them escaped."""
    try:
        document = strict_json.loads(text.encode())
    except InvalidEvent:
        return visible_lines(text.replace("\r\n", "\n").replace("\t", "    "))
    return visible_lines(json.dumps(document, indent=2, ensure_ascii=False))


def _examples(dead_letter: dict[str, Any]) -> dict[str, str]:
    """An example event for each type of the dead letter's topic."""
    own_id = not dead_letter["eventId"].startswith("jq:")
    envelope: dict[str, Any] = {
        "id": dead_letter["eventId"] if own_id else new_id(),
        "userId": dead_letter["userId"] or "demo-user",
        "timestamp": format_time(now_ms()),
        "metadata": {},
    }
    return {
        name: json.dumps({"type": name, **envelope, "data": row.example}, indent=2)
        for name, row in CATALOGUE.items()
        if row.topic == dead_letter["topic"]
    }
