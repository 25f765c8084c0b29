"""What the read side keeps of events: each projection with its table, its folds and its list.

To add one, copy a section of this file (a table, a fold per event type, a `Projection`), name it in
`PROJECTIONS`, and add a migration, see `schema.py`. `projection.py` says what folds return. With a
`UserList`, the rows are served as JSON and shown on the user's page. docs/projections.md has all
steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import BigInteger, Column, Float, String, Table

from jobquest.events import CATALOGUE, Event
from jobquest.events.applications import FIRST_STATUS
from jobquest.read import tables
from jobquest.read.projection import (
    Change,
    Effect,
    Fold,
    Highest,
    IfMissing,
    Lowest,
    Projection,
    Section,
    UserList,
    adds_one,
    latest,
)
from jobquest.read.tables import count_column, time_column
from jobquest.read.user_stats import USER_STATS

Key = Callable[[Event], tuple[Any, ...]]


def _of_user(field: str) -> Key:
    """The key of a user's rows: the user and a field of the event."""
    return lambda event: (event.user_id, event.data[field])


def _user_table(name: str, key: str, *columns: Column[Any]) -> Table:
    """A table of things that users have; its key is the user and the column `key`."""
    return Table(
        name,
        tables.metadata,
        Column("user_id", String(128), primary_key=True),
        Column(key, String(500), primary_key=True),
        *columns,
        sqlite_with_rowid=False,
    )


# --- applications ---

applications = _user_table(
    "applications",
    "job_id",
    Column("company_name", String(500)),
    Column("position", String(500)),
    Column("status", String(500)),
    time_column("applied_ms"),
    time_column("updated_ms"),
)


def _applied(event: Event) -> Change:
    moved = _moved(event, event.data.get("status", FIRST_STATUS))
    return Change(sets={"applied_ms": Lowest(event.time_ms), **moved})


def _status_updated(event: Event) -> Change:
    return Change(sets=_moved(event, event.data["newStatus"]))


def _moved(event: Event, status: str) -> dict[str, Any]:
    return latest(
        "updated_ms",
        event,
        status=status,
        company_name=event.data["companyName"],
        position=event.data["position"],
    )


APPLICATIONS = Projection(
    applications,
    _of_user("jobId"),
    {"job.applied": _applied, "job.status.updated": _status_updated},
    UserList(newest="updated_ms"),
)


# --- notifications ---

notifications = _user_table(
    "notifications",
    "notification_id",
    Column("notification_type", String(500)),
    Column("title", String(500)),
    Column("message", String(5000)),
    time_column("sent_ms"),
    time_column("read_ms"),
)


def _notification_sent(event: Event) -> Change:
    return Change(
        sets={
            "sent_ms": Lowest(event.time_ms),
            "notification_type": event.data["notificationType"],
            "title": event.data["title"],
            "message": event.data["message"],
        }
    )


def _notification_read(event: Event) -> Change:
    return Change(
        sets={
            "read_ms": Lowest(event.time_ms),
            "notification_type": IfMissing(event.data.get("notificationType")),
            "title": IfMissing(event.data.get("title")),
            "message": IfMissing(event.data.get("message")),
        }
    )


NOTIFICATIONS = Projection(
    notifications,
    _of_user("notificationId"),
    {"notification.sent": _notification_sent, "notification.read": _notification_read},
    UserList(
        newest="sent_ms",
        flags={"read": "read_ms"},
        section=Section(
            title="Inbox",
            name="title",
            unnamed="No title",
            badge=("read_ms", "read", "unread"),
            text="message",
            times={"sent": "sent_ms", "read": "read_ms"},
        ),
    ),
)


# --- achievements ---

achievements = _user_table(
    "achievements",
    "achievement_id",
    Column("achievement_name", String(500)),
    count_column("xp_amount"),
    time_column("unlocked_ms"),
)


def _unlocked(event: Event) -> Change:
    return Change(
        sets={
            "unlocked_ms": Lowest(event.time_ms),
            "achievement_name": event.data["achievementName"],
            "xp_amount": event.data["xpAmount"],
        }
    )


ACHIEVEMENTS = Projection(
    achievements,
    _of_user("achievementId"),
    {"achievement.unlocked": _unlocked},
    UserList(
        newest="unlocked_ms",
        section=Section(
            title="Achievements",
            name="achievement_name",
            xp="xp_amount",
            times={"unlocked": "unlocked_ms"},
        ),
    ),
)


# --- daily challenges ---

challenges = _user_table(
    "challenges",
    "challenge_id",
    Column("title", String(500)),
    Column("description", String(5000)),
    time_column("available_ms"),
    time_column("completed_ms"),
)


def _challenge(since: str) -> Fold:
    return lambda event: Change(
        sets={
            since: Lowest(event.time_ms),
            "title": event.data["challengeTitle"],
            "description": event.data["challengeDescription"],
        }
    )


CHALLENGES = Projection(
    challenges,
    _of_user("challengeId"),
    {
        "daily.challenge.available": _challenge("available_ms"),
        "daily.challenge.completed": _challenge("completed_ms"),
    },
    UserList(
        newest="completed_ms",
        section=Section(
            title="Daily challenges",
            name="title",
            badge=("completed_ms", "finished", "offered"),
            text="description",
            times={"offered": "available_ms", "finished": "completed_ms"},
        ),
    ),
)


# --- learning ---

learning = _user_table(
    "learning",
    "resource_id",
    Column("title", String(500)),
    Column("resource_type", String(500)),
    Column("progress", Float, nullable=False, default=0.0),
    time_column("started_ms"),
    time_column("completed_ms"),
)


def _resource(event: Event) -> dict[str, Any]:
    return {"title": event.data["resourceTitle"], "resource_type": event.data["resourceType"]}


def _learning_started(event: Event) -> Change:
    return Change(sets={"started_ms": Lowest(event.time_ms), **_resource(event)})


def _learning_completed(event: Event) -> Change:
    reached = {
        "completed_ms": Highest(event.time_ms),
        "progress": Highest(event.data["progress"]),
    }
    return Change(sets=reached | _resource(event))


LEARNING = Projection(
    learning,
    _of_user("resourceId"),
    {"learning.started": _learning_started, "learning.completed": _learning_completed},
    UserList(
        newest="completed_ms",
        section=Section(
            title="Learning",
            name="title",
            note="resource_type",
            percent="progress",
            times={"begun": "started_ms", "finished": "completed_ms"},
        ),
    ),
)


# --- counts for the analytics ---

_MINUTE_MS = 60_000
_DAY_MS = 86_400_000

minute_counts = Table(
    "minute_counts",
    tables.metadata,
    Column("minute_ms", BigInteger, primary_key=True),
    Column("type", String(100), primary_key=True),
    count_column("count"),
    sqlite_with_rowid=False,
)

daily_xp = Table(
    "daily_xp",
    tables.metadata,
    Column("day_ms", BigInteger, primary_key=True),  # UTC, of event time
    count_column("xp"),
    sqlite_with_rowid=False,
)


def _xp_of(field: str) -> Fold:
    return lambda event: Change(adds={"xp": event.data[field]})


MINUTE_COUNTS = Projection(
    minute_counts,
    lambda event: (event.time_ms // _MINUTE_MS * _MINUTE_MS, event.type),
    dict.fromkeys(CATALOGUE, adds_one("count")),
)

DAILY_XP = Projection(
    daily_xp,
    lambda event: (event.time_ms // _DAY_MS * _DAY_MS,),
    {name: _xp_of(row.xp) for name, row in CATALOGUE.items() if row.xp},
)


# --- all of them ---

PROJECTIONS: tuple[Projection, ...] = (
    USER_STATS,
    APPLICATIONS,
    NOTIFICATIONS,
    ACHIEVEMENTS,
    CHALLENGES,
    LEARNING,
    MINUTE_COUNTS,
    DAILY_XP,
)

USER_LISTS: Mapping[str, Projection] = {
    one.name: one for one in PROJECTIONS if one.listed is not None
}
DERIVED: tuple[Table, ...] = (tables.events, *(one.table for one in PROJECTIONS))
"""The tables that a rebuild fills again from the log."""


def effects_of(event: Event) -> list[Effect]:
    """What an event does to the rows that it changes."""
    return [one.effect_of(event) for one in PROJECTIONS if event.type in one.folds]
