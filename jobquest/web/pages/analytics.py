"""Analytics: how many events of each type there were, and what became of users, jobs and courses.

Everything is counted by event time, so events that came late stand where they happened.
`static/analytics.js` draws the charts; the tables say the same.
"""

from __future__ import annotations

from typing import Any

from flask import Blueprint, render_template, request, url_for

from jobquest.access.caller import READ
from jobquest.clock import now_ms
from jobquest.errors import InvalidEvent
from jobquest.events import CATALOGUE, format_time, parse_time
from jobquest.events.applications import known_first
from jobquest.read.queries import MAX_WINDOWS, WINDOWS_MS
from jobquest.web.answers import choice_parameter, runtime, time_value, whole_parameter
from jobquest.web.needs import needs
from jobquest.web.reads import DEFAULT_DAYS, DEFAULT_WINDOWS, time_span

page = Blueprint("analytics", __name__)

MAX_LISTED = 200  # windows in the table; the chart shows all
# Word, window, how many of them.
QUICK = (
    ("Last hour", "minute", 60),
    ("Last 24 hours", "hour", 24),
    ("Last 7 days", "hour", 168),
    ("Last 30 days", "day", 30),
)


@page.get("/analytics")
@needs(READ)
def show() -> tuple[str, int]:
    """Counts by type and window, applications, XP, users, learning; 400 with the form unchanged if
    a parameter is wrong."""
    parts: dict[str, Any] = {}
    errors: dict[str, list[str]] = {}
    try:
        parts = _parts()
    except InvalidEvent as error:
        errors = error.errors
    shown_page = render_template(
        "analytics.html",
        **parts,
        errors=errors,
        now=format_time(now_ms()),
        window=request.args.get("window", "minute"),
        windows=tuple(WINDOWS_MS),
        wanted=request.args.getlist("type"),
        all_types=tuple(CATALOGUE),
        quick=QUICK,
        moments={name: time_value(name) for name in ("from", "to")},
        listed=MAX_LISTED,
    )
    return shown_page, 400 if errors else 200


def _parts() -> dict[str, Any]:
    """What the page shows. Raises InvalidEvent, ReadSideUnavailable."""
    window = choice_parameter("window", tuple(WINDOWS_MS), "minute") or "minute"
    types = request.args.getlist("type")
    if set(types) - set(CATALOGUE):
        raise InvalidEvent("A parameter is not valid.", {"type": ["There is no such type."]})
    last = whole_parameter("last", DEFAULT_WINDOWS, 1, MAX_WINDOWS) or DEFAULT_WINDOWS
    start, until = time_span(window, last)
    if start >= until:
        raise InvalidEvent("A parameter is not valid.", {"to": ["Must be after the start."]})
    days = time_span("day", DEFAULT_DAYS)
    queries = runtime().queries
    found = _windows(window, start, until, types)
    overview = queries.overview(*days)
    totals = _totals(found)
    xp = {line["day"]: line["xp"] for line in overview["xpPerDay"]}
    span: dict[str, Any] = {"from": format_time(start), "to": format_time(until), "type": types}
    return {
        "last": last,
        "counts": list(reversed(found)),
        "chart": _filled({line["start"]: line["total"] for line in found}, window, start, until),
        "totals": totals,
        "total": sum(totals.values()),
        "start": format_time(start - start % WINDOWS_MS[window]),
        "funnel": _funnel(overview["applications"]),
        "xp": xp,
        "xp_chart": _filled(xp, "day", *days),
        "xp_days": None if request.args.get("from") else DEFAULT_DAYS,
        "users": overview["topUsers"],
        "learning": overview["learning"],
        "json": url_for("reads.analytics", window=window, **span),
    }


def _windows(window: str, start: int, until: int, types: list[str]) -> list[dict[str, Any]]:
    """All windows, at most 10,000: one answer of the query may not contain all of them."""
    found: list[dict[str, Any]] = []
    after: int | None = None
    while True:
        portion = runtime().queries.analytics(window, start, until, types, after)
        found += portion
        if portion.next is None:
            return found
        after = _milliseconds(str(portion.next))


def _totals(windows: list[dict[str, Any]]) -> dict[str, int]:
    """Counts by type, the largest first."""
    totals: dict[str, int] = {}
    for window in windows:
        for name, count in window["counts"].items():
            totals[name] = totals.get(name, 0) + count
    return dict(sorted(totals.items(), key=lambda pair: (-pair[1], pair[0])))


def _filled(found: dict[str, int], window: str, start: int, until: int) -> dict[str, Any]:
    """The chart's bars: Unix seconds and values, 0 for a window without events."""
    size = WINDOWS_MS[window]
    values = {_milliseconds(time): value for time, value in found.items()}
    end = min(until, max(now_ms(), *values) + 1) if values else min(until, now_ms() + 1)
    at = range(start - start % size, max(end, start + 1), size)
    return {
        "step": size // 1000,
        "times": [moment // 1000 for moment in at],
        "values": [values.get(moment, 0) for moment in at],
    }


def _milliseconds(time: str) -> int:
    return round(parse_time(time).timestamp() * 1000)


def _funnel(applications: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every known status in its order, then the others, the largest first."""
    counts = {row["status"]: row["count"] for row in applications}
    if not counts:
        return []
    return [{"status": one, "count": counts.get(one, 0)} for one in known_first(counts)]
