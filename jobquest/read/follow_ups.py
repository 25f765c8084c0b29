"""Events that this service publishes because of another event: a level, or a notification.

A follow-up's id is derived from the fact (this user, this level), not from the event that caused
it. So each fact has one id and counts once, in whatever order topics are read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jobquest.events import OUR_PREFIX, Event


class LevelChange(NamedTuple):
    """An event that may have follow-ups (it changed the level, or causes a notification), and its
    user's statistics before and after it."""

    event: Event
    level_before: int
    level: int
    reported_level: int
    xp: int


def follow_ups(level_change: LevelChange) -> list[Event]:
    """The events that follow from one."""
    event, level = level_change.event, level_change.level
    found = [_notification(event)] if event.type in NOTICES else []
    if level > level_change.level_before and level > level_change.reported_level:
        data = {"newLevel": level, "totalXp": level_change.xp}
        found.append(_event(event, "level.up", f"level:{level}", data))
    return found


def _level_notice(data: Mapping[str, Any]) -> tuple[str, str, str, str]:
    level = data["newLevel"]
    return f"level:{level}", "level_up", f"Level {level}", f"You reached level {level}."


def _achievement_notice(data: Mapping[str, Any]) -> tuple[str, str, str, str]:
    name = data["achievementName"]
    message = f"You unlocked {name} (+{data['xpAmount']} XP)."
    return f"achievement:{data['achievementId']}", "achievement", "Achievement unlocked", message


def _challenge_notice(data: Mapping[str, Any]) -> tuple[str, str, str, str]:
    message = f"You finished {data['challengeTitle']} (+{data['xpReward']} XP)."
    return f"challenge:{data['challengeId']}", "challenge", "Daily challenge completed", message


# Type → the fact, the notification's type, its title and its message.
NOTICES: Mapping[str, Callable[[Mapping[str, Any]], tuple[str, str, str, str]]] = {
    "level.up": _level_notice,
    "achievement.unlocked": _achievement_notice,
    "daily.challenge.completed": _challenge_notice,
}


def _notification(cause: Event) -> Event:
    fact, kind, title, message = NOTICES[cause.type](cause.data)
    data = {"notificationType": kind, "title": title, "message": message}
    return _event(cause, "notification.sent", f"notice:{fact}", data)


def _event(cause: Event, event_type: str, fact: str, data: dict[str, Any]) -> Event:
    digest = hashlib.sha256(f"{cause.user_id}\n{fact}".encode()).hexdigest()[:32]
    id = f"{OUR_PREFIX}{event_type}:{digest}"
    if event_type == "notification.sent":
        data = {"notificationId": id, **data}
    return Event(
        id=id,
        type=event_type,
        user_id=cause.user_id,
        time_ms=cause.time_ms,
        metadata={"causedBy": cause.id},
        data=data,
    )
