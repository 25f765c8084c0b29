"""The users' pages: a search, and one user with statistics, lists and events.

Each projection with a `Section` has a section of the page, see `read/projections.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from flask import Blueprint, abort, render_template, request, url_for

from jobquest.access.caller import READ
from jobquest.events import CATALOGUE
from jobquest.events.applications import known_first
from jobquest.events.levels import xp_for_level
from jobquest.read.answers import api_name
from jobquest.read.event_filter import EventFilter
from jobquest.read.portions import Portion
from jobquest.read.projection import Section
from jobquest.read.projections import APPLICATIONS, USER_LISTS
from jobquest.web.answers import choice_parameter, cursor_parameter, runtime
from jobquest.web.needs import needs
from jobquest.web.pages.words import PAGE_BYTES, number, shown, summary_of

page = Blueprint("users", __name__)

LISTED_USERS = 100
LISTED_EVENTS = 50
LISTED_APPLICATIONS = 100
LISTED = 20  # of each other list
PIPELINE = APPLICATIONS.name  # the one list that the page shows in columns
# Projection → its table's key besides the user, and its section of the page.
SECTIONS = {
    name: (projection.table.primary_key.columns.keys()[1], projection.listed.section)
    for name, projection in USER_LISTS.items()
    if projection.listed and projection.listed.section
}
GIVES_XP = frozenset(name for name, row in CATALOGUE.items() if row.xp)
# Statistics, as tiles: the API's name, the page's.
TILES = (
    ("missionsCompleted", "Missions completed"),
    ("missionsStarted", "Missions started"),
    ("missionsFailed", "Missions failed"),
    ("focusMinutes", "Focus minutes"),
    ("applications", "Applications"),
    ("achievements", "Achievements"),
    ("challengesCompleted", "Challenges done"),
    ("learningStarted", "Learning started"),
    ("learningCompleted", "Learning completed"),
    ("notebookEntries", "Notebook entries"),
    ("bestStreakDays", "Best streak, days"),
    ("logins", "Logins"),
    ("eventCount", "Events"),
)

User = dict[str, Any]


@page.get("/users")
@needs(READ)
def search() -> str:
    """Users whose id contains `q`; with `id`, that user's page, for an id that no path carries."""
    if "id" in request.args:
        return show(request.args["id"])
    q = request.args.get("q", "")
    found = runtime().queries.users(q, LISTED_USERS, room=PAGE_BYTES)
    return render_template(
        "users.html",
        q=q,
        users=found,
        cut=found.next is not None,
        source=url_for("reads.users", q=q or None, limit=LISTED_USERS),
    )


@page.get("/users/<segment:user_id>")
@needs(READ)
def show(user_id: str) -> str:
    """One user; of one whose events are all unprocessed there is only the timeline."""
    queries = runtime().queries
    of_user = EventFilter(users=frozenset({user_id}))
    only = choice_parameter("only", ("xp",), None)
    after = cursor_parameter("after")
    wanted = replace(of_user, types=GIVES_XP) if only else of_user
    found = queries.events(wanted, after=after, limit=LISTED_EVENTS, room=PAGE_BYTES)
    user = queries.user(user_id)
    if user is None and not queries.events(of_user, limit=1)["events"]:
        abort(404, "Nothing is known of this user.")
    lists = _lists(user_id)
    return render_template(
        "user.html",
        user_id=user_id,
        user=user,
        tiles=_tiles(user) if user else [],
        level=_level(user) if user else None,
        reported=_reported(user) if user else None,
        lists=lists,
        sections=_sections(lists),
        pipeline=_pipeline(lists[PIPELINE]),
        happened=[_happened(item) for item in found["events"]],
        next=found["next"],
        after=after,
        only=only,
        sources=_sources(user_id),
    )


def _lists(user_id: str) -> dict[str, Portion]:
    """What a user has, by projection: the rows that the page shows."""
    queries = runtime().queries
    return {
        name: queries.user_list(name, user_id, LISTED_APPLICATIONS if name == PIPELINE else LISTED)
        for name in USER_LISTS
    }


def _sections(lists: Mapping[str, Portion]) -> dict[str, dict[str, Any]]:
    """The sections that projections declare, by projection."""
    return {
        name: {"title": section.title, "things": [_thing(section, key, row) for row in lists[name]]}
        for name, (key, section) in SECTIONS.items()
    }


def _thing(section: Section, key: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as its section shows it; None for what the section or the row does not have."""

    def value(column: str | None) -> Any:
        return row[api_name(column)] if column else None

    badge = section.badge
    return {
        "name": value(section.name) or section.unnamed or value(key),
        "badge": badge and badge[1 if value(badge[0]) else 2],
        "note": value(section.note),
        "xp": value(section.xp),
        "text": value(section.text),
        "percent": value(section.percent),
        "times": {word: value(column) for word, column in section.times.items()},
    }


def _tiles(user: User) -> list[tuple[str, str]]:
    return [(word, number(shown(user[name]))) for name, word in TILES]


def _level(user: User) -> dict[str, Any]:
    """The user's progress to the next level."""
    begins, ends = xp_for_level(user["level"]), user["nextLevelXp"]
    return {
        "done": user["xp"] - begins,
        "of": ends - begins,
        "left": ends - user["xp"],
        "next": user["level"] + 1,
        "ends": ends,
    }


def _reported(user: User) -> dict[str, Any] | None:
    """The user's XP as reported by JobQuest, if the events add up to something else."""
    total = user["reportedTotalXp"]
    if total is None or total == user["xp"]:
        return None
    more = "more" if total > user["xp"] else "fewer"
    return {"total": total, "at": user["reportedAt"], "by": abs(total - user["xp"]), "more": more}


def _pipeline(applications: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[Any]]]:
    """Applications by status, in the usual order of statuses."""
    columns: dict[str, list[Any]] = {}
    for application in applications:
        columns.setdefault(application["status"], []).append(application)
    return [(status, columns[status]) for status in known_first(columns) if status in columns]


def _happened(item: Mapping[str, Any]) -> dict[str, Any]:
    """An event of the timeline; `xp` is what it awarded."""
    event = item["event"]
    known = CATALOGUE.get(event["type"])
    counts = item["outcome"] == "processed" and known and known.xp
    return {
        "id": event["id"],
        "type": event["type"],
        "outcome": item["outcome"],
        "timestamp": event["timestamp"],
        "summary": summary_of(item, shown(event["data"])),
        "xp": event["data"].get(known.xp) if known and counts else None,
    }


def _sources(user_id: str) -> dict[str, str]:
    """The addresses of the same as JSON; none for an id that clients resolve as a path."""
    if user_id in (".", ".."):
        return {}
    names = ("events", *USER_LISTS)
    below = {name: url_for(f"reads.user_{name}", user_id=user_id) for name in names}
    return {"user": url_for("reads.user", user_id=user_id), **below}
