"""What the read side keeps of events: each projection is a table, its key and a fold per type.

To add one: a table in `tables.py` and a row in `PROJECTIONS`. A fold changes a row (a plain dict of
the table's columns) and must give the same in any order across topics, since nothing orders those;
within a topic a user's events come in order. It does no I/O: a rebuild runs it again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sqlalchemy import Table

from jobquest.events import CATALOGUE, Event
from jobquest.events.applications import FIRST_STATUS
from jobquest.events.levels import level_for_xp
from jobquest.read import tables

Row = dict[str, Any]
_FOLLOWS = frozenset({"level"})  # from another column: no event sets it by itself
Fold = Callable[[Row, Event], None]


@dataclass(frozen=True)
class Projection:
    """`key(event)` gives the primary key of the row that `folds[event.type]` changes."""

    table: Table
    key: Callable[[Event], tuple[Any, ...]]
    folds: Mapping[str, Fold]

    @cached_property
    def _defaults(self) -> Row:
        return {
            column.name: column.default.arg if column.default is not None else None  # type: ignore[attr-defined]
            for column in self.table.columns
        }

    def new_row(self, key: tuple[Any, ...]) -> Row:
        """The row before its first event."""
        return self._defaults | dict(zip(self.table.primary_key.columns.keys(), key, strict=True))


@dataclass(frozen=True)
class Effect:
    """What an event does to one projection's row: to the columns in `added` it adds, those in
    `given` it sets (where no later event did)."""

    projection: Projection
    key: tuple[Any, ...]
    added: Mapping[str, float]
    given: Mapping[str, Any]


def effects_of(event: Event) -> list[Effect]:
    """Every projection's row that an event changes."""
    return [
        _effect(projection, projection.key(event), projection.folds[event.type], event)
        for projection in PROJECTIONS
        if event.type in projection.folds
    ]


def _effect(projection: Projection, key: tuple[Any, ...], fold: Fold, event: Event) -> Effect:
    """Folded twice into a new row, what is added grows twice and what is set stays."""
    rows = [projection.new_row(key)]
    for _ in range(2):
        rows.append(dict(rows[-1]))
        fold(rows[-1], event)
    before, once, twice = rows
    added, given = {}, {}
    for name in before.keys() - _FOLLOWS:
        if once[name] == before[name]:
            continue
        if twice[name] == once[name]:
            given[name] = once[name]
        else:
            added[name] = once[name] - before[name]
    order = list(before)
    return Effect(
        projection,
        key,
        {name: added[name] for name in order if name in added},
        {name: given[name] for name in order if name in given},
    )


# --- user statistics ---


def _stats(event_type: str) -> Fold:
    """The fold of one type: its counters, its XP, then what every event adds."""
    xp_field = CATALOGUE[event_type].xp
    special = _STATS.get(event_type)

    def fold(row: Row, event: Event) -> None:
        row["event_count"] += 1
        if not event.is_internal:
            row["last_seen_ms"] = max(row["last_seen_ms"] or 0, event.time_ms)
        if xp_field:
            row["xp"] += event.data[xp_field]
            row["level"] = level_for_xp(row["xp"])
        if special:
            special(row, event)

    return fold


def _add(column: str) -> Fold:
    def fold(row: Row, event: Event) -> None:
        row[column] += 1

    return fold


def _mission_completed(row: Row, event: Event) -> None:
    row["missions_completed"] += 1
    row["focus_minutes"] += event.data["duration"]


def _reported(row: Row, event: Event) -> None:
    """JobQuest's own idea of the total: the latest one counts."""
    if not event.is_internal and event.time_ms >= (row["reported_ms"] or 0):
        row["reported_ms"] = event.time_ms
        row["reported_total_xp"] = event.data["totalXp"]


def _level_up(row: Row, event: Event) -> None:
    _reported(row, event)
    row["reported_level"] = max(row["reported_level"], event.data["newLevel"])


def _streak(row: Row, event: Event) -> None:
    row["best_streak_days"] = max(row["best_streak_days"], event.data["streakDays"])


_STATS: Mapping[str, Fold] = {
    "mission.started": _add("missions_started"),
    "mission.completed": _mission_completed,
    "mission.failed": _add("missions_failed"),
    "job.applied": _add("applications"),
    "achievement.unlocked": _add("achievements"),
    "level.up": _level_up,
    "xp.earned": _reported,
    "streak.milestone": _streak,
    "daily.challenge.completed": _add("challenges_completed"),
    "learning.started": _add("learning_started"),
    "learning.completed": _add("learning_completed"),
    "notebook.entry.created": _add("notebook_entries"),
    "user.login": _add("logins"),
}


# --- what a user has: one row per thing ---


def _applied(row: Row, event: Event) -> None:
    row["applied_ms"] = min(row["applied_ms"] or event.time_ms, event.time_ms)
    _move(row, event, event.data.get("status", FIRST_STATUS))


def _status_updated(row: Row, event: Event) -> None:
    _move(row, event, event.data["newStatus"])


def _move(row: Row, event: Event, status: str) -> None:
    if event.time_ms >= (row["updated_ms"] or 0):
        row["updated_ms"] = event.time_ms
        row["status"] = status
        row["company_name"] = event.data["companyName"]
        row["position"] = event.data["position"]


def _notification_sent(row: Row, event: Event) -> None:
    row["sent_ms"] = min(row["sent_ms"] or event.time_ms, event.time_ms)
    row["notification_type"] = event.data["notificationType"]
    row["title"] = event.data["title"]
    row["message"] = event.data["message"]


def _notification_read(row: Row, event: Event) -> None:
    row["read_ms"] = min(row["read_ms"] or event.time_ms, event.time_ms)
    for column, name in (("notification_type", "notificationType"), ("title", "title")):
        row[column] = row[column] or event.data.get(name)
    row["message"] = row["message"] or event.data.get("message")


def _unlocked(row: Row, event: Event) -> None:
    row["unlocked_ms"] = min(row["unlocked_ms"] or event.time_ms, event.time_ms)
    row["achievement_name"] = event.data["achievementName"]
    row["xp_amount"] = event.data["xpAmount"]


def _challenge(moment: str) -> Fold:
    def fold(row: Row, event: Event) -> None:
        row[moment] = min(row[moment] or event.time_ms, event.time_ms)
        row["title"] = event.data["challengeTitle"]
        row["description"] = event.data["challengeDescription"]

    return fold


def _learning_started(row: Row, event: Event) -> None:
    row["started_ms"] = min(row["started_ms"] or event.time_ms, event.time_ms)
    row["title"] = event.data["resourceTitle"]
    row["resource_type"] = event.data["resourceType"]


def _learning_completed(row: Row, event: Event) -> None:
    row["completed_ms"] = max(row["completed_ms"] or 0, event.time_ms)
    row["progress"] = max(row["progress"], event.data["progress"])
    row["title"] = event.data["resourceTitle"]
    row["resource_type"] = event.data["resourceType"]


def _of_user(field: str) -> Callable[[Event], tuple[Any, ...]]:
    return lambda event: (event.user_id, event.data[field])


def _xp_of(field: str) -> Fold:
    def fold(row: Row, event: Event) -> None:
        row["xp"] += event.data[field]

    return fold


_MINUTE_MS = 60_000
_DAY_MS = 86_400_000

USER_STATS = Projection(
    tables.user_stats,
    lambda event: (event.user_id,),
    {name: _stats(name) for name in CATALOGUE},
)

PROJECTIONS: tuple[Projection, ...] = (
    USER_STATS,
    Projection(
        tables.applications,
        _of_user("jobId"),
        {"job.applied": _applied, "job.status.updated": _status_updated},
    ),
    Projection(
        tables.notifications,
        _of_user("notificationId"),
        {"notification.sent": _notification_sent, "notification.read": _notification_read},
    ),
    Projection(tables.achievements, _of_user("achievementId"), {"achievement.unlocked": _unlocked}),
    Projection(
        tables.challenges,
        _of_user("challengeId"),
        {
            "daily.challenge.available": _challenge("available_ms"),
            "daily.challenge.completed": _challenge("completed_ms"),
        },
    ),
    Projection(
        tables.learning,
        _of_user("resourceId"),
        {"learning.started": _learning_started, "learning.completed": _learning_completed},
    ),
    Projection(
        tables.minute_counts,
        lambda event: (event.time_ms // _MINUTE_MS * _MINUTE_MS, event.type),
        dict.fromkeys(CATALOGUE, _add("count")),
    ),
    Projection(
        tables.daily_xp,
        lambda event: (event.time_ms // _DAY_MS * _DAY_MS,),
        {name: _xp_of(row.xp) for name, row in CATALOGUE.items() if row.xp},
    ),
)
