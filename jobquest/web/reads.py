"""What the read side knows: `/api/events`, `/api/users`, `/api/analytics`. Reads only.

Each projection with a `UserList` has a route below its user, see `read/projections.py`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from flask import Blueprint, Response, abort, request

from jobquest.access.caller import OWN, READ
from jobquest.clock import now_ms
from jobquest.errors import InvalidEvent
from jobquest.read.projections import USER_LISTS
from jobquest.read.queries import MAX_LIMIT, MAX_WINDOWS, WINDOWS_MS
from jobquest.web.answers import (
    after_parameter,
    choice_parameter,
    cursor_parameter,
    event_filter,
    listed,
    runtime,
    success,
    time_parameter,
    whole_parameter,
    whose,
)
from jobquest.web.needs import needs

reads = Blueprint("reads", __name__, url_prefix="/api")

DEFAULT_LIMIT = 50
DEFAULT_WINDOWS = 60
DEFAULT_DAYS = 30


@reads.get("/events")
@needs(READ)
def events() -> tuple[Response, int]:
    """Events by filter, newest change first."""
    return success(_events())


@reads.get("/events/<id>")
@needs(READ)
def event(id: str) -> tuple[Response, int]:
    """One event's life."""
    return success(runtime().queries.event(id) or abort(404, "There is no event with this id."))


@reads.get("/users")
@needs(READ)
def users() -> tuple[Response, int]:
    """Users whose id contains `q`."""
    q = request.args.get("q", "")
    return listed("users", runtime().queries.users(q, _limit(), after_parameter()))


@reads.get("/users/<segment:user_id>")
@needs(READ, OWN)
def user(user_id: str) -> tuple[Response, int]:
    """A user's statistics."""
    return success(_known_user(whose(user_id)))


@reads.get("/users/<segment:user_id>/events")
@needs(READ, OWN)
def user_events(user_id: str) -> tuple[Response, int]:
    """A user's events, newest change first."""
    user_id = whose(user_id)
    _known_user(user_id)
    return success(_events(users=frozenset({user_id})))


def user_list(name: str, user_id: str) -> tuple[Response, int]:
    """A user's rows of one projection, newest first."""
    user_id = whose(user_id)
    _known_user(user_id)
    found = runtime().queries.user_list(name, user_id, _limit(MAX_LIMIT), after_parameter())
    return listed(name, found)


for _name in USER_LISTS:
    reads.add_url_rule(
        f"/users/<segment:user_id>/{_name}",
        f"user_{_name}",
        needs(READ, OWN)(partial(user_list, _name)),
    )


@reads.get("/analytics")
@needs(READ)
def analytics() -> tuple[Response, int]:
    """Counts by type and window of event time; by default the last 60 windows."""
    window = choice_parameter("window", tuple(WINDOWS_MS), "minute") or "minute"
    start, until = time_span(window, DEFAULT_WINDOWS)
    types, after = request.args.getlist("type"), time_parameter("after")
    windows = runtime().queries.analytics(window, start, until, types, after)
    return success({"window": window, "windows": windows, "next": windows.next})


@reads.get("/analytics/overview")
@needs(READ)
def overview() -> tuple[Response, int]:
    """Applications, XP per day, top users, learning; by default the last 30 days. Its size is
    limited: 10,000 days, ten users, 50 of everything else."""
    return success(runtime().queries.overview(*time_span("day", DEFAULT_DAYS)))


@reads.get("/analytics/minutes")
@needs(READ)
def minutes() -> tuple[Response, int]:
    """The consumer's counts in each of the last minutes; by default 60."""
    count = whole_parameter("count", DEFAULT_WINDOWS, 1, MAX_WINDOWS) or DEFAULT_WINDOWS
    return listed("minutes", runtime().queries.minutes(count, time_parameter("after") or 0))


def time_span(window: str, count: int) -> tuple[int, int]:
    """`from` and `to`, or the last `count` windows. Raises InvalidEvent."""
    size = WINDOWS_MS[window]
    until, start = time_parameter("to"), time_parameter("from")
    until = now_ms() + size if until is None else until
    start = max(0, until - count * size) if start is None else start
    if (until - start) // size > MAX_WINDOWS:
        line = f"More than {MAX_WINDOWS} windows: choose a longer window or a later start."
        raise InvalidEvent("A parameter is not valid.", {"from": [line]})
    return start, until


def _events(**fixed: Any) -> dict[str, Any]:
    return runtime().queries.events(
        event_filter(**fixed),
        after=cursor_parameter("after"),
        since=cursor_parameter("since"),
        limit=_limit(),
    )


def _limit(default: int = DEFAULT_LIMIT) -> int:
    return whole_parameter("limit", default, 1, MAX_LIMIT) or default


def _known_user(user_id: str) -> dict[str, Any]:
    return runtime().queries.user(user_id) or abort(404, "Nothing is known of this user.")
