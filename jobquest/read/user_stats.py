"""A user's statistics: one row per user, which every event of the user changes.

A projection like those in `projections.py`. Levels and follow-ups depend on it, see `effects.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import BigInteger, Column, Float, Index, String, Table

from jobquest.events import CATALOGUE, Event
from jobquest.read import tables
from jobquest.read.projection import Change, Fold, Highest, Projection, adds_one, latest
from jobquest.read.tables import count_column, time_column

user_stats = Table(
    "user_stats",
    tables.metadata,
    Column("user_id", String(128), primary_key=True),
    count_column("xp"),
    Column("level", BigInteger, nullable=False, default=1),  # follows from XP, see effects.py
    count_column("missions_started"),
    count_column("missions_completed"),
    count_column("missions_failed"),
    Column("focus_minutes", Float, nullable=False, default=0.0),
    count_column("applications"),
    count_column("achievements"),
    count_column("challenges_completed"),
    count_column("learning_started"),
    count_column("learning_completed"),
    count_column("notebook_entries"),
    count_column("logins"),
    count_column("best_streak_days"),
    Column("reported_total_xp", BigInteger),
    time_column("reported_ms"),
    count_column("reported_level"),
    count_column("event_count"),
    time_column("last_seen_ms"),
    # Instead of XP: a user's level grows with the XP, and few events change it.
    Index("user_stats_by_level", "level"),
    sqlite_with_rowid=False,
)


def _mission_completed(event: Event) -> Change:
    return Change(adds={"missions_completed": 1, "focus_minutes": event.data["duration"]})


def _reported(event: Event) -> Change:
    """JobQuest's own idea of the total."""
    if event.is_internal:
        return Change()
    return Change(sets=latest("reported_ms", event, reported_total_xp=event.data["totalXp"]))


def _level_up(event: Event) -> Change:
    level = Highest(event.data["newLevel"])
    return Change(sets={**_reported(event).sets, "reported_level": level})


def _streak(event: Event) -> Change:
    return Change(sets={"best_streak_days": Highest(event.data["streakDays"])})


_STATS: Mapping[str, Fold] = {
    "mission.started": adds_one("missions_started"),
    "mission.completed": _mission_completed,
    "mission.failed": adds_one("missions_failed"),
    "job.applied": adds_one("applications"),
    "achievement.unlocked": adds_one("achievements"),
    "level.up": _level_up,
    "xp.earned": _reported,
    "streak.milestone": _streak,
    "daily.challenge.completed": adds_one("challenges_completed"),
    "learning.started": adds_one("learning_started"),
    "learning.completed": adds_one("learning_completed"),
    "notebook.entry.created": adds_one("notebook_entries"),
    "user.login": adds_one("logins"),
}


def _nothing(event: Event) -> Change:
    return Change()


def _stats(event_type: str) -> Fold:
    """The fold of one type: what every event changes, its XP, and what `_STATS` has."""
    xp_field = CATALOGUE[event_type].xp
    more = _STATS.get(event_type, _nothing)

    def fold(event: Event) -> Change:
        adds: dict[str, float] = {"event_count": 1}
        sets: dict[str, Any] = {}
        if xp_field:
            adds["xp"] = event.data[xp_field]
        if not event.is_internal:
            sets["last_seen_ms"] = Highest(event.time_ms)
        change = more(event)
        return Change({**adds, **change.adds}, {**sets, **change.sets})

    return fold


USER_STATS = Projection(
    user_stats, lambda event: (event.user_id,), {name: _stats(name) for name in CATALOGUE}
)
