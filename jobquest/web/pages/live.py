"""The live page: the consumer's state, switch and last hour, and the stream of events by filter.

With `after`, `from` or `to` it is a page of older events that does not update. `static/live.js` and
its imports show live events in the same way; a test compares the two.
"""

from __future__ import annotations

import math
from typing import Any
from urllib.parse import urlencode

from flask import Blueprint, render_template, request

from jobquest.access.caller import READ
from jobquest.errors import ReadSideUnavailable
from jobquest.events import CATALOGUE, TOPICS
from jobquest.web.answers import OUTCOMES, cursor_parameter, event_filter, runtime
from jobquest.web.needs import needs
from jobquest.web.pages.now import STATES, State, lag_words, status_now
from jobquest.web.pages.words import (
    MAX_SUMMARY,
    PAGE_BYTES,
    TOO_LARGE,
    event_row,
    here,
    many,
    span,
    visible,
)

page = Blueprint("live", __name__)

LATEST_EVENTS = 50
MAX_ROWS = 500  # in the page, live ones included
MINUTES = 60

MODES = {"embedded": "Embedded log", "kafka": "Apache Kafka"}
# The filters of the socket, then those of the page: name in the query, words of its chip.
_LIVE_FILTERS = {
    "type": "Type",
    "topic": "Topic",
    "userId": "User",
    "notType": "Not type",
    "notTopic": "Not topic",
    "notUserId": "Not user",
}
_OUTCOME_FILTERS = {"outcome": "Outcome", "notOutcome": "Not outcome"}
_TIMES = {"from": "From", "to": "Before"}
_FILTERS = _LIVE_FILTERS | _OUTCOME_FILTERS | _TIMES
# The fields of the filters' form: name, name of the exclusion, label, what can be chosen.
_FIELDS = (
    ("type", "notType", "Type", tuple(CATALOGUE)),
    ("topic", "notTopic", "Topic", TOPICS),
    ("userId", "notUserId", "User", ()),
    ("outcome", "notOutcome", "Outcome", OUTCOMES),
)


@page.get("/")
@needs(READ)
def show() -> tuple[str, int]:
    """The page; 503 if the events can't be read, with everything else shown."""
    wanted, after = event_filter(), cursor_parameter("after")
    service = runtime()
    status, epoch, problem = status_now(), service.feed.epoch, None
    found: dict[str, Any] = {"events": [], "next": None}
    since = 0
    minutes: list[dict[str, Any]] = []
    try:
        epoch = epoch or service.queries.epoch()
        since = service.queries.last_seq()  # before the events: newer ones are sent again
        found = service.queries.events(wanted, after=after, limit=LATEST_EVENTS, room=PAGE_BYTES)
        minutes = service.queries.minutes(MINUTES)
    except ReadSideUnavailable as error:
        problem = str(error)
    shown_page = render_template(
        "live.html",
        still=after is not None or any(map(request.args.get, _TIMES)),
        status=status,
        state=STATES.get(status["state"], State("quiet", "")),
        rates={name: _rate(rate) for name, rate in status["rate"].items()},
        lag=lag_words(status["lag"]),
        caught_up=_caught_up(status["lag"]),
        outbox=_outbox(status.get("outbox")),
        minutes=minutes,
        problem=problem,
        rows=[{**event_row(item), "links": _links(item)} for item in found["events"]],
        next=found["next"],
        epoch=epoch,
        since=since,
        words={"modes": MODES, "tooLarge": TOO_LARGE},
        limits={"rows": MAX_ROWS, "summary": MAX_SUMMARY, "minutes": MINUTES},
        fields=_FIELDS,
        chips=_chips(),
        kept=[(name, value) for name in (*_FILTERS, "after", "personal") for value in _given(name)],
        live_query=_query(_LIVE_FILTERS),
        api_query=_query((*_FILTERS, "after")),
        outcomes={name: _given(name) for name in _OUTCOME_FILTERS},
    )
    return shown_page, 503 if problem else 200


def _given(name: str) -> list[str]:
    """The distinct values of `name` in the query string; a form sends empty ones, too."""
    return list(dict.fromkeys(filter(None, request.args.getlist(name))))


def _query(names: Any) -> str:
    query = urlencode([(name, value) for name in names for value in _given(name)])
    return f"?{query}" if query else ""


def _chips() -> list[dict[str, str]]:
    """The active filters, each with the link that removes it."""
    return [
        {
            "word": word,
            "value": visible(value),
            "without": here(**{name: [other for other in _given(name) if other != value] or None}),
        }
        for name, word in _FILTERS.items()
        for value in _given(name)
    ]


def _links(item: dict[str, Any]) -> dict[str, str]:
    """Links to the same view with only, or without, events of this type or this user."""
    links = {}
    for name, excluded, value in (
        ("type", "notType", item["event"]["type"]),
        ("userId", "notUserId", item["event"]["userId"]),
    ):
        if value:
            others = [other for other in _given(name) if other != value]
            without = [*(other for other in _given(excluded) if other != value), value]
            links[name] = here(**{name: [value], excluded: None})
            links[excluded] = here(**{name: others or None, excluded: without})
    return links


def _rate(rate: float | None) -> str:
    if rate is None:
        return "not known"
    tenths = math.floor(rate * 10 + 0.5)
    return f"{tenths / 10:.1f}" if rate < 10 and tenths % 10 else f"{math.floor(rate + 0.5):,}"


def _caught_up(lag: dict[str, Any]) -> str:
    if lag["caughtUpIn"] is None:
        return ""
    seconds = math.ceil(lag["caughtUpIn"])
    return f"caught up in about {f'{seconds} s' if seconds < 60 else span(seconds)}"


def _outbox(outbox: dict[str, Any] | None) -> str:
    if outbox is None or not outbox["events"]:
        return "empty"
    return f"{many(outbox['events'], 'event')}, the oldest {span(outbox['seconds'])} old"
