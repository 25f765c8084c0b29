"""A user's statistics: one row per user, which every event of the user changes.

A projection like those in `projections.py`. Levels and follow-ups depend on it, see `effects.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import BigInteger, Column, Float, Index, String, Table

from jobquest.events import CATALOGUE, Event
from jobquest.read import tables
from jobquest.read.projection import Change, Fold, Highest, Projection, latest
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


# Type → the column that counts its events.
_COUNTERS: Mapping[str, str] = {
    "mission.started": "missions_started",
    "mission.completed": "missions_completed",
    "mission.failed": "missions_failed",
    "job.applied": "applications",
    "achievement.unlocked": "achievements",
    "daily.challenge.completed": "challenges_completed",
    "learning.started": "learning_started",
    "learning.completed": "learning_completed",
    "notebook.entry.created": "notebook_entries",
    "user.login": "logins",
}


def _focus(event: Event) -> Change:
    return Change(adds={"focus_minutes": event.data["duration"]})


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


# Type → what its events change besides.
_MORE: Mapping[str, Fold] = {
    "mission.completed": _focus,
    "level.up": _level_up,
    "xp.earned": _reported,
    "streak.milestone": _streak,
}


def _fold_of(event_type: str) -> Fold:
    """The fold of one type: what every event changes, its XP, its counter, and more."""
    xp_field, more = CATALOGUE[event_type].xp, _MORE.get(event_type)
    counts: dict[str, float] = {"event_count": 1}
    if event_type in _COUNTERS:
        counts[_COUNTERS[event_type]] = 1

    def fold(event: Event) -> Change:
        adds = {**counts, "xp": event.data[xp_field]} if xp_field else counts
        sets = {} if event.is_internal else {"last_seen_ms": Highest(event.time_ms)}
        if more is None:
            return Change(adds, sets)
        change = more(event)
        return Change({**adds, **change.adds}, {**sets, **change.sets})

    return fold


USER_STATS = Projection(
    user_stats, lambda event: (event.user_id,), {name: _fold_of(name) for name in CATALOGUE}
)
