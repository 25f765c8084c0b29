"""The same event types as pydantic models, as a user of FastAPI would write them."""

from __future__ import annotations

from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

Text = Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=r"\S")]
LongText = Annotated[str, StringConstraints(min_length=1, max_length=5000, pattern=r"\S")]
Count = Annotated[int, Field(strict=True, ge=0, le=1_000_000_000)]
EventId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:-]{1,100}$")]
UserId = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{1,128}$")]


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Mission(Model):
    missionId: Text
    missionName: Text
    missionType: Text


class MissionCompleted(Mission):
    duration: Annotated[float, Field(ge=0)]
    xpEarned: Count


class MissionFailed(Mission):
    duration: Annotated[float, Field(ge=0)] | None = None
    reason: Text | None = None


class Job(Model):
    jobId: Text
    companyName: Text
    position: Text


class JobApplied(Job):
    status: Text | None = None


class JobStatusUpdated(Job):
    newStatus: Text
    previousStatus: Text


class AchievementUnlocked(Model):
    achievementId: Text
    achievementName: Text
    xpAmount: Count


class LevelUp(Model):
    newLevel: Count
    totalXp: Count


class XpEarned(Model):
    xpAmount: Count
    totalXp: Count
    source: Text | None = None


class StreakMilestone(Model):
    streakDays: Count


class Challenge(Model):
    challengeId: Text
    challengeTitle: Text
    challengeDescription: LongText


class ChallengeCompleted(Challenge):
    xpReward: Count


class Learning(Model):
    resourceId: Text
    resourceTitle: Text
    resourceType: Text


class LearningCompleted(Learning):
    progress: Annotated[float, Field(ge=0, le=100)]


class NotificationSent(Model):
    notificationId: Text
    notificationType: Text
    title: Text
    message: LongText


class NotificationRead(Model):
    notificationId: Text
    notificationType: Text | None = None
    title: Text | None = None
    message: LongText | None = None


class Session(Model):
    userEmail: Text | None = None
    userAgent: Text | None = None
    ipAddress: Text | None = None


class SystemError(Model):
    errorMessage: LongText
    errorCode: Text | None = None


class NotebookEntryCreated(Model):
    entryId: Text
    title: Text
    tags: list[Text]
    wordCount: Count


Kind = TypeVar("Kind")
Data = TypeVar("Data")


class Request(Model, Generic[Kind, Data]):
    eventType: Kind
    data: Data
    userId: UserId = "demo-user"
    metadata: dict[str, Any] = {}
    id: EventId | None = None
    timestamp: AwareDatetime | None = None


AnyRequest = Annotated[
    Request[Literal["mission.started"], Mission]
    | Request[Literal["mission.completed"], MissionCompleted]
    | Request[Literal["mission.failed"], MissionFailed]
    | Request[Literal["job.applied"], JobApplied]
    | Request[Literal["job.status.updated"], JobStatusUpdated]
    | Request[Literal["achievement.unlocked"], AchievementUnlocked]
    | Request[Literal["level.up"], LevelUp]
    | Request[Literal["xp.earned"], XpEarned]
    | Request[Literal["streak.milestone"], StreakMilestone]
    | Request[Literal["daily.challenge.completed"], ChallengeCompleted]
    | Request[Literal["daily.challenge.available"], Challenge]
    | Request[Literal["learning.started"], Learning]
    | Request[Literal["learning.completed"], LearningCompleted]
    | Request[Literal["notification.sent"], NotificationSent]
    | Request[Literal["notification.read"], NotificationRead]
    | Request[Literal["user.registered", "user.login", "user.logout"], Session]
    | Request[Literal["system.error"], SystemError]
    | Request[Literal["notebook.entry.created"], NotebookEntryCreated],
    Field(discriminator="eventType"),
]
