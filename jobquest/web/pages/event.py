"""One event's page: its timeline from when it happened to its outcome.

Shows what `Queries.event` returns; `static/event.js` updates the page until the event is processed
or dead.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from flask import Blueprint, render_template, request, url_for

from jobquest.access.caller import READ
from jobquest.events import OUR_PREFIX
from jobquest.read.life import MAX_FOLLOW_UPS
from jobquest.web.answers import runtime
from jobquest.web.needs import needs
from jobquest.web.pages.words import many, number, shown, span

page = Blueprint("event", __name__)

FRESH_SECONDS = 10  # follow-ups of an event may still arrive
MAX_VALUE = 200
UNREAD = f"{OUR_PREFIX}dead:"  # ids of records that are not an event

TABLES = {
    "user_stats": "Statistics of the user",
    "applications": "Application",
    "notifications": "Inbox",
    "achievements": "Achievement",
    "challenges": "Daily challenge",
    "learning": "Learning",
    "minute_counts": "Events per minute",
    "daily_xp": "XP per day",
}
# State of a dead letter → what it means.
DEAD_LETTERS = {
    "open": "It waits for a decision: redrive or discard it.",
    "redriven": "It was redriven: its record was appended to its topic again.",
    "discarded": "It was discarded.",
}
_HUMP = re.compile(r"(?=[A-Z])")

Life = dict[str, Any]


class Step(NamedTuple):
    """A point of the timeline. `failure`: the error of a try; `dead_letter`: the dead letter that
    the event became; `waits`: an operator can start the next try at once; `stopped`: the title
    while the consumer is not running."""

    look: str  # as a colour: good, busy, alarm, quiet
    title: str
    at: str | None = None
    text: str = ""
    failure: Mapping[str, Any] | None = None
    dead_letter: Mapping[str, Any] | None = None
    waits: bool = False
    stopped: str = ""


@page.get("/events")
@needs(READ)
def find() -> tuple[str, int]:
    """The same for an id that a path can't carry."""
    return show(request.args.get("id", ""))


@page.get("/events/<segment:id>")
@needs(READ)
def show(id: str) -> tuple[str, int]:
    """The page; for an unknown event, a page that waits for it or says that it does not exist."""
    life = runtime().queries.event(id)
    if life is None:
        return _unknown(id)
    shown_page = render_template(
        "event.html",
        life=life,
        event=life["event"],
        sender=_sender(life["event"]),
        steps=list(_story(life)),
        handlers=_handlers(life),
        effects=[_effect(effect) for effect in life["effects"]],
        max_follow_ups=MAX_FOLLOW_UPS,
        source=_source(id),
        follow=_follow(life),
    )
    return shown_page, 200


def _unknown(id: str) -> tuple[str, int]:
    place = {name: request.args.get(name, "") for name in ("topic", "partition", "offset")}
    is_new = bool(id) and request.args.get("new") == "1"
    shown_page = render_template(
        "event_unknown.html",
        id=id,
        is_new=is_new,
        place=place,
        in_log=bool(place["offset"] or not place["topic"]),
        source=_source(id),
    )
    return shown_page, 200 if is_new else 404


def _source(id: str) -> str | None:
    """The address of the same as JSON; None for an id that a browser would fold away."""
    return url_for("reads.event", id=id) if id not in ("", ".", "..") and "/" not in id else None


def _sender(event: Mapping[str, Any]) -> str:
    if event["id"].startswith(UNREAD):
        return "Unknown: the record could not be read as an event."
    if event["id"].startswith(OUR_PREFIX):
        return "This service, because of another event"
    source = event["metadata"].get("source")
    return source if isinstance(source, str) else "Unknown: the metadata name no source"


def _follow(life: Life) -> str | None:
    """Why the page updates: until the event's `end`, or for later `effects` of a new event."""
    dead_letter = life["deadLetter"]
    redriven = life["outcome"] == "dead" and dead_letter and dead_letter["state"] == "redriven"
    if life["outcome"] == "retrying" or redriven:
        return "end"
    fresh = time.time() - _moment(life["received"]).timestamp() < FRESH_SECONDS
    return "effects" if fresh else None


# --- the timeline ---


def _story(life: Life) -> Iterator[Step]:
    """The points in order of time, last the outcome or what the event waits for."""
    happened = life["event"]["timestamp"]
    if happened:
        yield Step("quiet", "Happened", happened, "By the publisher's clock.")
    tries = [_failed(one) for one in life["attempts"] if one["outcome"] == "retrying"]
    dead_letters = [_dead(dead_letter) for dead_letter in reversed(life["deadLetters"])]
    yield from sorted([_received(life), *tries, *dead_letters], key=lambda step: step.at or "")
    if life["outcome"] == "retrying":
        yield _waiting(life["retry"])
    elif life["outcome"] == "processed":
        yield Step("good", "Processed", text=_counted(life["effects"]))
    elif life["deadLetter"] and life["deadLetter"]["state"] == "redriven":
        yield Step("busy", "Redriven", text="It is in its topic again and not processed yet.")


def _handlers(life: Life) -> list[tuple[str, str, str]]:
    """For a failed event, each handler with its state and that state's look."""
    failed = life["retry"] or (life["deadLetter"] if life["outcome"] == "dead" else None)
    if not failed or not life["event"]["type"]:
        return []
    names = runtime().consumer.handler_names(life["event"]["type"])
    done, culprit = failed["handlersDone"], (failed["part"] or "").removeprefix("handler ")
    states = dict.fromkeys(done, ("succeeded, not called again", "good"))
    if (failed["part"] or "").startswith("handler "):
        states[culprit] = ("failed", "alarm")
    waits = ("not called yet", "quiet")
    return [(name, *states.get(name, waits)) for name in dict.fromkeys([*done, *names, *states])]


def _received(life: Life) -> Step:
    at, happened = life["received"], life["event"]["timestamp"]
    again = any(dead_letter["diedAt"] < at for dead_letter in life["deadLetters"])
    if life["offset"] < 0:
        return Step("alarm", "Received, but refused by the log", at, "It has no position.")
    text = f"{life['topic']}, partition {life['partition']}, offset {life['offset']}"
    late = (_moment(at) - _moment(happened)).total_seconds() if happened else 0
    if late >= 1 and not again:
        text += f", {span(late)} after it happened"
    return Step("quiet", "Received again after a redrive" if again else "Received", at, f"{text}.")


def _failed(attempt: Mapping[str, Any]) -> Step:
    return Step("busy", f"Try {attempt['attempt']} failed", attempt["failedAt"], failure=attempt)


def _dead(dead_letter: Mapping[str, Any]) -> Step:
    tries = "1 try" if dead_letter["attempts"] == 1 else f"{dead_letter['attempts']} tries"
    text = DEAD_LETTERS[dead_letter["state"]]
    if dead_letter["reason"]:
        text = f"It was discarded: {dead_letter['reason'].rstrip('.')}."
    if dead_letter["edited"] is not None:
        text += " Its value is edited."
    if dead_letter["redrives"]:
        text += f" It had been redriven {many(dead_letter['redrives'], 'time')} before."
    look = "alarm" if dead_letter["state"] == "open" else "quiet"
    return Step(
        look, f"Dead letter after {tries}", dead_letter["diedAt"], text, dead_letter, dead_letter
    )


def _waiting(retry: Mapping[str, Any] | None) -> Step:
    if retry is None:
        return Step("busy", "Retrying now", stopped="It is retried when the consumer runs")
    if retry["nextTry"] is None:
        text = "An earlier event of the same user is retried first."
        return Step("busy", "Waiting behind another event", text=text)
    title = f"Waiting for try {retry['attempts'] + 1}"
    stopped = f"{title}, which starts when the consumer runs"
    return Step("busy", title, retry["nextTry"], waits=True, stopped=stopped)


def _counted(effects: Sequence[Mapping[str, Any]]) -> str:
    return f"Counted once; it changed {many(len(effects), 'row')}."


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


# --- what it changed ---


def _effect(effect: Mapping[str, Any]) -> dict[str, Any]:
    """A row that the event changed: its key, and each column's change and current value."""
    added, given, now = shown(effect["added"]), shown(effect["given"]), shown(effect["now"] or {})
    changes = [
        {"name": words_of(name), "change": f"+{number(value)}", "now": _value(name, now)}
        for name, value in added.items()
    ]
    changes += [
        {"name": words_of(name), "given": _value(name, given), "now": _value(name, now)}
        for name in given
    ]
    key = dict(effect["key"])
    return {
        "title": TABLES.get(effect["table"], effect["table"]),
        "user": key.pop("userId", None),
        "key": [{"name": words_of(name), **_value(name, key)} for name in key],
        "changes": changes,
        "gone": effect["now"] is None,
    }


def _value(name: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """A column's value to show: a `time`, a `number`, or a `text` (cut if long)."""
    value = row.get(name)
    if value is None:
        return {"text": "–"}
    if name.endswith("At"):
        return {"time": value}
    if isinstance(value, int | float):
        return {"number": number(value)}
    text = str(value)
    return {"text": text if len(text) <= MAX_VALUE else text[: MAX_VALUE - 1] + "…"}


def words_of(name: str) -> str:
    """A column of the API in words: `lastSeenAt` → last seen."""
    words = _HUMP.sub(" ", name.removesuffix("At")).lower().split()
    return " ".join({"xp": "XP", "id": "ID"}.get(word, word) for word in words)
