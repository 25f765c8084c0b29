"""The header of every page: the consumer's state, the lag, the open dead letters, and the banner
with the reason and the next step while the service does not work completely.

A page asks for the status once, so that its sentences agree. `static/now.js` updates the header
with the same words; a test compares the two.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from flask import g, url_for

from jobquest.web.answers import runtime
from jobquest.web.pages.words import many, span


class State(NamedTuple):
    """A state's look and meaning, the `next` step of an operator, and the page for that step."""

    look: str  # as a colour: good, busy, alarm, quiet
    meaning: str
    next: str = ""
    endpoint: str = "pages.live.show"
    anchor: str = "strip"
    link: str = "Go to the Start button"

    @property
    def href(self) -> str:
        return url_for(self.endpoint, _anchor=self.anchor)


_DOCTOR = "If this lasts, run “flask kafka doctor” where the service runs."
STATES = {
    "running": State("good", "Events are being processed."),
    "idle": State("good", "It is waiting for the next event."),
    "degraded": State(
        "busy",
        "Events are processed, but not all of them.",
        f"All others are. Fix the cause, and these continue automatically. {_DOCTOR}",
        "pages.topics.show",
        "topics",
        "Show the topics",
    ),
    "starting": State("busy", "It is getting ready to process events."),
    "stopped": State(
        "quiet",
        "Events are still received; they are processed after the next start.",
        "No event is processed or retried until someone presses Start.",
    ),
    "paused": State(
        "alarm",
        "It stopped automatically and continues after the next start.",
        "No event is processed or retried. Fix the cause, then press Start.",
    ),
    "stalled": State(
        "alarm",
        "It does not respond; events wait.",
        "If this lasts, end the process that hangs and restart the service.",
        "pages.topics.show",
        "processes",
        "Show the processes",
    ),
    "crashed": State(
        "alarm",
        "It failed and restarts automatically; events wait.",
        "It restarts automatically. If this lasts, read the traceback in the service's log, fix the"
        " cause and restart the service.",
        "pages.topics.show",
        "processes",
        "Show the processes",
    ),
    "disconnected": State(
        "alarm",
        "It can't reach the log or the database and keeps trying.",
        f"It keeps trying and continues automatically. {_DOCTOR}",
        "pages.topics.show",
        "processes",
        "Show the processes",
    ),
}
# If the database can't be reached, the consumer's state is unknown.
AWAY = (
    "The database can't be reached",
    "Start the database, or correct DATABASE_URL and restart the service.",
)


def status_now() -> dict[str, Any]:
    """The service's status, the same for the whole page."""
    if "status" not in g:
        g.status = runtime().report.status()
    found: dict[str, Any] = g.status
    return found


def header() -> dict[str, Any]:
    """What the header shows."""
    status = status_now()
    state = STATES.get(status["state"], State("quiet", ""))
    is_away = "deadLetters" not in status
    title = AWAY[0] if is_away else f"The consumer is {status['state']}"
    return {
        "status": status,
        "look": state.look,
        "word": status["state"].capitalize(),
        "lag": lag_words(status["lag"]),
        "dead_letters": _dead_letters(status.get("deadLetters")),
        "title": f"{title}: {status['reason']}" if status["reason"] else f"{title}.",
        "next": AWAY[1] if is_away else state.next,
        "link": None if is_away or not state.next else (state.href, state.link),
    }


def words() -> dict[str, Any]:
    """The words that the header's script needs."""
    return {
        "away": AWAY,
        "states": {
            name: [state.look, state.meaning, state.next, state.href, state.link]
            for name, state in STATES.items()
        },
    }


def lag_words(lag: dict[str, Any]) -> str:
    """How far the group is behind."""
    messages, seconds = lag["messages"], lag["seconds"]
    if messages is None:
        return "not known"
    if messages == 0:
        return "caught up"
    behind = many(messages, "message")
    return f"{behind} behind" if seconds is None else f"{behind}, {span(seconds)} behind"


def _dead_letters(count: int | None) -> str:
    if count is None:
        return "dead letters not known"
    return f"{many(count, 'open dead letter')}" if count else "no open dead letters"
