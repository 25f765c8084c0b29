"""The catalogue: every event type and topic as one table.

Validation, the producer's `publish_…` methods, forms, `GET /api/kafka/events` and the README's
table follow from it. To add a type, add a row (and its new fields to `fields.FIELDS`), then run
`python -m tests.publish_methods`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from marshmallow import RAISE, Schema, ValidationError
from marshmallow.fields import Field

from jobquest.events.fields import FIELDS

MAX_UNKNOWN, MAX_NAME = 20, 100


@dataclass(frozen=True)
class EventType:
    """One documented type. `required` and `optional` name fields of `fields.FIELDS`.

    `xp` names the field that awards XP, if there is one.
    """

    name: str
    topic: str
    description: str
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    xp: str | None = None

    @property
    def fields(self) -> tuple[str, ...]:
        """Every field, required ones first."""
        return self.required + self.optional

    @property
    def example(self) -> dict[str, Any]:
        """Data that passes."""
        return {name: FIELDS[name].example for name in self.fields}

    @cached_property
    def schema(self) -> Schema:
        """The type's marshmallow schema: takes the fields above, refuses every other."""
        members: dict[str, Field[Any]] = {
            name: FIELDS[name].kind(required=name in self.required) for name in self.fields
        }
        return Schema.from_dict(members, name=self.name)(unknown=RAISE)

    def check(self, data: Mapping[str, Any], *, strict: bool) -> dict[str, list[str]]:
        """What is wrong with `data`, by field; empty if nothing is.

        Strict refuses fields that the type does not have. Tolerant keeps them, because a newer
        producer may have added them.
        """
        known = {name: value for name, value in data.items() if name in self._known}
        errors = unknown(name for name in data if name not in self._known) if strict else {}
        try:
            self.schema.load(known)
        except ValidationError as error:
            errors = _flat(error.messages) | errors
        return errors

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self.fields)


def unknown(names: Iterable[Any]) -> dict[str, list[str]]:
    """The errors of unknown fields; only the first few of them are named."""
    found = list(names)
    errors = {str(name)[:MAX_NAME]: ["Unknown field."] for name in found[:MAX_UNKNOWN]}
    if len(found) > MAX_UNKNOWN:
        errors["…"] = [f"{len(found) - MAX_UNKNOWN} more unknown fields."]
    return errors


def _flat(messages: Any, path: str = "") -> dict[str, list[str]]:
    """marshmallow's nested messages as path → lines (`tags.0` → [...])."""
    if isinstance(messages, list):
        return {path: [str(line) for line in messages]}
    flat: dict[str, list[str]] = {}
    for key, below in messages.items():
        flat |= _flat(below, f"{path}.{key}" if path else str(key))
    return flat


def _type(
    name: str,
    topic: str,
    description: str,
    required: str,
    optional: str = "",
    xp: str | None = None,
) -> EventType:
    return EventType(name, topic, description, tuple(required.split()), tuple(optional.split()), xp)


_MISSION = "missionId missionName missionType"
_JOB = "jobId companyName position"
_CHALLENGE = "challengeId challengeTitle challengeDescription"
_RESOURCE = "resourceId resourceTitle resourceType"
_SESSION = "userEmail userAgent ipAddress"

_TYPES = (
    _type("mission.started", "mission-events", "A focus mission began.", _MISSION),
    _type(
        "mission.completed",
        "mission-events",
        "A focus mission was finished; duration in minutes.",
        f"{_MISSION} duration xpEarned",
        xp="xpEarned",
    ),
    _type(
        "mission.failed",
        "mission-events",
        "A focus mission was given up.",
        _MISSION,
        "duration reason",
    ),
    _type("job.applied", "job-applications", "The user applied to a job.", _JOB, "status"),
    _type(
        "job.status.updated",
        "job-applications",
        "An application moved on.",
        f"{_JOB} newStatus previousStatus",
    ),
    _type(
        "achievement.unlocked",
        "achievements",
        "An achievement was unlocked.",
        "achievementId achievementName xpAmount",
        xp="xpAmount",
    ),
    _type("level.up", "achievements", "The user reached a level.", "newLevel totalXp"),
    _type(
        "xp.earned",
        "achievements",
        "XP from anything but a mission, an achievement or a challenge.",
        "xpAmount totalXp",
        "source",
        xp="xpAmount",
    ),
    _type("streak.milestone", "achievements", "A streak of days grew.", "streakDays"),
    _type(
        "daily.challenge.completed",
        "daily-challenges",
        "A daily challenge was finished.",
        f"{_CHALLENGE} xpReward",
        xp="xpReward",
    ),
    _type(
        "daily.challenge.available",
        "daily-challenges",
        "A daily challenge was offered.",
        _CHALLENGE,
    ),
    _type("learning.started", "learning-progress", "A learning resource was begun.", _RESOURCE),
    _type(
        "learning.completed",
        "learning-progress",
        "A learning resource was finished; progress in percent.",
        f"{_RESOURCE} progress",
    ),
    _type(
        "notification.sent",
        "notifications",
        "The user got a notification.",
        "notificationId notificationType title message",
    ),
    _type(
        "notification.read",
        "notifications",
        "The user read a notification.",
        "notificationId",
        "notificationType title message",
    ),
    _type("user.registered", "system-events", "A user signed up.", "", _SESSION),
    _type("user.login", "system-events", "A user signed in.", "", _SESSION),
    _type("user.logout", "system-events", "A user signed out.", "", _SESSION),
    _type(
        "system.error",
        "system-events",
        "Something failed at JobQuest.",
        "errorMessage",
        "errorCode",
    ),
    _type(
        "notebook.entry.created",
        "user-activities",
        "A notebook entry was written.",
        "entryId title tags wordCount",
    ),
)

CATALOGUE: Mapping[str, EventType] = {row.name: row for row in _TYPES}
TOPICS: tuple[str, ...] = tuple(dict.fromkeys(row.topic for row in _TYPES))
