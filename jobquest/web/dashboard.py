"""The dashboard page: what an operator sees, as words and rows that the templates only place.

The same words are made by `static/dashboard.js` for what comes live; a test holds the two together.
"""

from __future__ import annotations

import json
import re
from typing import Any

from flask import Blueprint, render_template

from jobquest.errors import ReadSideUnavailable
from jobquest.events import PERSONAL_FIELDS
from jobquest.web.answers import runtime

dashboard = Blueprint("dashboard", __name__)

LATEST_EVENTS = 50
MAX_ROWS = 500  # in the page, live ones included
MAX_SUMMARY = 160
MASK = "[masked]"

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

# Characters that nobody sees but that reorder or split what stands around them.
_UNSEEN = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]"
)
_UNITS = ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "min"), (60, "min", 1, "s"))


@dashboard.get("/")
def show() -> tuple[str, int]:
    """The page; 503 where the events can't be read, with everything else in its place."""
    service = runtime()
    status, epoch, problem = service.service_status(), service.feed.epoch, None
    found: dict[str, Any] = {"events": [], "next": None}
    try:
        epoch = epoch or service.queries.epoch()
        found = service.queries.events(limit=LATEST_EVENTS)
    except ReadSideUnavailable as error:
        problem = str(error)
    page = render_template(
        "dashboard.html",
        status=status,
        lag=_lag(status["lag"]),
        outbox=_outbox(status.get("outbox")),
        problem=problem,
        rows=[_row(item) for item in found["events"]],
        more=found["next"] is not None,
        epoch=epoch,
        since=max((item["seq"] for item in found["events"]), default=0),
        words={"states": STATES, "modes": MODES, "mask": MASK, "personal": sorted(PERSONAL_FIELDS)},
        limits={"rows": MAX_ROWS, "summary": MAX_SUMMARY},
    )
    return page, 503 if problem else 200


def _row(item: dict[str, Any]) -> dict[str, Any]:
    event = _shown(item["event"])
    document = json.dumps(event, indent=2, ensure_ascii=False)
    timestamp = event["timestamp"]
    return {
        "id": event["id"],
        "outcome": item["outcome"],
        "timestamp": timestamp,
        "time": timestamp[11:-1] if timestamp else "unknown",
        "date": timestamp[:10] if timestamp else "",
        "type": _visible(event["type"] or "unreadable"),
        "user": _visible(event["userId"] or "unknown"),
        "topic": _visible(item["topic"]),
        "place": f"partition {item['partition']}, offset {item['offset']}",
        "summary": _summary(event["data"]),
        "document": "\n".join(map(_visible, document.split("\n"))),
    }


def _shown(value: Any) -> Any:
    """`value` with personal data masked, at any depth, and numbers as a browser spells them."""
    if isinstance(value, dict):
        return {
            name: MASK if name in PERSONAL_FIELDS else _shown(member)
            for name, member in value.items()
        }
    if isinstance(value, list):
        return [_shown(member) for member in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _summary(data: dict[str, Any]) -> str:
    pairs = [
        f"{name}: {value if isinstance(value, str) else _compact(value)}"
        for name, value in data.items()
    ]
    text = _visible(" · ".join(pairs) or "no data")
    return text if len(text) <= MAX_SUMMARY else text[: MAX_SUMMARY - 1] + "…"


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _visible(text: str) -> str:
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _lag(lag: dict[str, Any]) -> str:
    messages, seconds = lag["messages"], lag["seconds"]
    if messages is None:
        return "not known"
    if messages == 0:
        return "caught up"
    many = f"{messages:,} message{'' if messages == 1 else 's'}"
    return f"{many} behind" if seconds is None else f"{many}, {_span(seconds)} behind"


def _outbox(outbox: dict[str, Any] | None) -> str:
    if outbox is None or not outbox["events"]:
        return "empty"
    many = f"{outbox['events']:,} event{'' if outbox['events'] == 1 else 's'}"
    return f"{many}, the oldest {_span(outbox['seconds'])} old"


def _span(seconds: float) -> str:
    for size, unit, part, part_unit in _UNITS:
        if seconds >= size:
            whole = int(seconds)
            return f"{whole // size} {unit} {whole % size // part} {part_unit}"
    return f"{seconds:.1f} s"
