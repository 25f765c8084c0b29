"""The live page: the consumer's state with its switch, and the stream of events.

`static/live.js` says the same for what comes live; a test holds the two together.
"""

from __future__ import annotations

from typing import Any

from flask import Blueprint, render_template

from jobquest.errors import ReadSideUnavailable
from jobquest.web.answers import runtime
from jobquest.web.pages.words import MAX_SUMMARY, event_row, many, span

page = Blueprint("live", __name__)

LATEST_EVENTS = 50
MAX_ROWS = 500  # in the page, live ones included

# State → how it looks, what it means.
STATES = {
    "running": ("good", "Events are being processed."),
    "idle": ("good", "It waits for the next event."),
    "starting": ("busy", "It gets ready to process events."),
    "stopped": ("quiet", "Events are still taken; they are processed once it is started."),
    "paused": ("alarm", "It has stopped by itself, and goes on once it is started."),
    "stalled": ("alarm", "It hangs, or gives no sign of life; events wait."),
    "crashed": ("alarm", "It failed, and tries again by itself; events wait."),
    "disconnected": ("alarm", "It can't reach the log or the database, and keeps trying."),
}
MODES = {"embedded": "Embedded log", "kafka": "Apache Kafka"}


@page.get("/")
def show() -> tuple[str, int]:
    """The page; 503 where the events can't be read, with everything else in its place."""
    service = runtime()
    status, epoch, problem = service.report.status(), service.feed.epoch, None
    found: dict[str, Any] = {"events": [], "next": None}
    try:
        epoch = epoch or service.queries.epoch()
        found = service.queries.events(limit=LATEST_EVENTS)
    except ReadSideUnavailable as error:
        problem = str(error)
    shown_page = render_template(
        "live.html",
        status=status,
        lag=_lag(status["lag"]),
        outbox=_outbox(status.get("outbox")),
        problem=problem,
        rows=[event_row(item) for item in found["events"]],
        more=found["next"] is not None,
        epoch=epoch,
        since=max((item["seq"] for item in found["events"]), default=0),
        words={"states": STATES, "modes": MODES},
        limits={"rows": MAX_ROWS, "summary": MAX_SUMMARY},
    )
    return shown_page, 503 if problem else 200


def _lag(lag: dict[str, Any]) -> str:
    messages, seconds = lag["messages"], lag["seconds"]
    if messages is None:
        return "not known"
    if messages == 0:
        return "caught up"
    behind = many(messages, "message")
    return f"{behind} behind" if seconds is None else f"{behind}, {span(seconds)} behind"


def _outbox(outbox: dict[str, Any] | None) -> str:
    if outbox is None or not outbox["events"]:
        return "empty"
    return f"{many(outbox['events'], 'event')}, the oldest {span(outbox['seconds'])} old"
