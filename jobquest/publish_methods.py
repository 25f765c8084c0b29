"""One method of the producer for each event type, with the type's fields as arguments.

Written from the catalogue by `python -m tests.publish_methods`: change the catalogue, not this.
They are source and not made at run time, so that type checkers and editors know them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

if TYPE_CHECKING:
    from jobquest.producer import Published


class Options(TypedDict, total=False):
    """Keywords that every method has besides its fields; see `Producer.publish`."""

    metadata: Mapping[str, Any] | None
    id: str | None
    timestamp: str | datetime | None


class PublishMethods(ABC):
    """One method per event type, each of which calls `publish`."""

    @abstractmethod
    def publish(
        self,
        event_type: str,
        user_id: str,
        data: Mapping[str, Any],
        *,
        metadata: Mapping[str, Any] | None = None,
        id: str | None = None,
        timestamp: str | datetime | None = None,
    ) -> Published:
        """Publish one event."""

    def _publish(self, event_type: str, user_id: str, options: Options, **fields: Any) -> Published:
        data = {name: value for name, value in fields.items() if value is not None}
        return self.publish(event_type, user_id, data, **options)

    def publish_mission_started(
        self,
        user_id: str,
        mission_id: str,
        mission_name: str,
        mission_type: str,
        **options: Unpack[Options],
    ) -> Published:
        """A focus mission began. Publishes `mission.started`."""
        return self._publish(
            "mission.started",
            user_id,
            options,
            missionId=mission_id,
            missionName=mission_name,
            missionType=mission_type,
        )

    def publish_mission_completed(
        self,
        user_id: str,
        mission_id: str,
        mission_name: str,
        mission_type: str,
        duration: float,
        xp_earned: int,
        **options: Unpack[Options],
    ) -> Published:
        """A focus mission was finished; duration in minutes. Publishes `mission.completed`."""
        return self._publish(
            "mission.completed",
            user_id,
            options,
            missionId=mission_id,
            missionName=mission_name,
            missionType=mission_type,
            duration=duration,
            xpEarned=xp_earned,
        )

    def publish_mission_failed(
        self,
        user_id: str,
        mission_id: str,
        mission_name: str,
        mission_type: str,
        duration: float | None = None,
        reason: str | None = None,
        **options: Unpack[Options],
    ) -> Published:
        """A focus mission was given up. Publishes `mission.failed`."""
        return self._publish(
            "mission.failed",
            user_id,
            options,
            missionId=mission_id,
            missionName=mission_name,
            missionType=mission_type,
            duration=duration,
            reason=reason,
        )

    def publish_job_applied(
        self,
        user_id: str,
        job_id: str,
        company_name: str,
        position: str,
        status: str | None = None,
        **options: Unpack[Options],
    ) -> Published:
        """The user applied to a job. Publishes `job.applied`."""
        return self._publish(
            "job.applied",
            user_id,
            options,
            jobId=job_id,
            companyName=company_name,
            position=position,
            status=status,
        )

    def publish_job_status_updated(
        self,
        user_id: str,
        job_id: str,
        company_name: str,
        position: str,
        new_status: str,
        previous_status: str,
        **options: Unpack[Options],
    ) -> Published:
        """An application moved on. Publishes `job.status.updated`."""
        return self._publish(
            "job.status.updated",
            user_id,
            options,
            jobId=job_id,
            companyName=company_name,
            position=position,
            newStatus=new_status,
            previousStatus=previous_status,
        )

    def publish_achievement_unlocked(
        self,
        user_id: str,
        achievement_id: str,
        achievement_name: str,
        xp_amount: int,
        **options: Unpack[Options],
    ) -> Published:
        """An achievement was unlocked. Publishes `achievement.unlocked`."""
        return self._publish(
            "achievement.unlocked",
            user_id,
            options,
            achievementId=achievement_id,
            achievementName=achievement_name,
            xpAmount=xp_amount,
        )

    def publish_level_up(
        self, user_id: str, new_level: int, total_xp: int, **options: Unpack[Options]
    ) -> Published:
        """The user reached a level. Publishes `level.up`."""
        return self._publish("level.up", user_id, options, newLevel=new_level, totalXp=total_xp)

    def publish_xp_earned(
        self,
        user_id: str,
        xp_amount: int,
        total_xp: int,
        source: str | None = None,
        **options: Unpack[Options],
    ) -> Published:
        """XP from anything but a mission, an achievement or a challenge. Publishes `xp.earned`."""
        return self._publish(
            "xp.earned", user_id, options, xpAmount=xp_amount, totalXp=total_xp, source=source
        )

    def publish_streak_milestone(
        self, user_id: str, streak_days: int, **options: Unpack[Options]
    ) -> Published:
        """A streak of days grew. Publishes `streak.milestone`."""
        return self._publish("streak.milestone", user_id, options, streakDays=streak_days)

    def publish_daily_challenge_completed(
        self,
        user_id: str,
        challenge_id: str,
        challenge_title: str,
        challenge_description: str,
        xp_reward: int,
        **options: Unpack[Options],
    ) -> Published:
        """A daily challenge was finished. Publishes `daily.challenge.completed`."""
        return self._publish(
            "daily.challenge.completed",
            user_id,
            options,
            challengeId=challenge_id,
            challengeTitle=challenge_title,
            challengeDescription=challenge_description,
            xpReward=xp_reward,
        )

    def publish_daily_challenge_available(
        self,
        user_id: str,
        challenge_id: str,
        challenge_title: str,
        challenge_description: str,
        **options: Unpack[Options],
    ) -> Published:
        """A daily challenge was offered. Publishes `daily.challenge.available`."""
        return self._publish(
            "daily.challenge.available",
            user_id,
            options,
            challengeId=challenge_id,
            challengeTitle=challenge_title,
            challengeDescription=challenge_description,
        )

    def publish_learning_started(
        self,
        user_id: str,
        resource_id: str,
        resource_title: str,
        resource_type: str,
        **options: Unpack[Options],
    ) -> Published:
        """A learning resource was begun. Publishes `learning.started`."""
        return self._publish(
            "learning.started",
            user_id,
            options,
            resourceId=resource_id,
            resourceTitle=resource_title,
            resourceType=resource_type,
        )

    def publish_learning_completed(
        self,
        user_id: str,
        resource_id: str,
        resource_title: str,
        resource_type: str,
        progress: float,
        **options: Unpack[Options],
    ) -> Published:
        """A learning resource was finished; progress in percent. Publishes `learning.completed`."""
        return self._publish(
            "learning.completed",
            user_id,
            options,
            resourceId=resource_id,
            resourceTitle=resource_title,
            resourceType=resource_type,
            progress=progress,
        )

    def publish_notification_sent(
        self,
        user_id: str,
        notification_id: str,
        notification_type: str,
        title: str,
        message: str,
        **options: Unpack[Options],
    ) -> Published:
        """The user got a notification. Publishes `notification.sent`."""
        return self._publish(
            "notification.sent",
            user_id,
            options,
            notificationId=notification_id,
            notificationType=notification_type,
            title=title,
            message=message,
        )

    def publish_notification_read(
        self,
        user_id: str,
        notification_id: str,
        notification_type: str | None = None,
        title: str | None = None,
        message: str | None = None,
        **options: Unpack[Options],
    ) -> Published:
        """The user read a notification. Publishes `notification.read`."""
        return self._publish(
            "notification.read",
            user_id,
            options,
            notificationId=notification_id,
            notificationType=notification_type,
            title=title,
            message=message,
        )

    def publish_user_registered(
        self,
        user_id: str,
        user_email: str | None = None,
        user_agent: str | None = None,
        ip_address: str | None = None,
        **options: Unpack[Options],
    ) -> Published:
        """A user signed up. Publishes `user.registered`."""
        return self._publish(
            "user.registered",
            user_id,
            options,
            userEmail=user_email,
            userAgent=user_agent,
            ipAddress=ip_address,
        )

    def publish_user_login(
        self,
        user_id: str,
        user_email: str | None = None,
        user_agent: str | None = None,
        ip_address: str | None = None,
        **options: Unpack[Options],
    ) -> Published:
        """A user signed in. Publishes `user.login`."""
        return self._publish(
            "user.login",
            user_id,
            options,
            userEmail=user_email,
            userAgent=user_agent,
            ipAddress=ip_address,
        )

    def publish_user_logout(
        self,
        user_id: str,
        user_email: str | None = None,
        user_agent: str | None = None,
        ip_address: str | None = None,
        **options: Unpack[Options],
    ) -> Published:
        """A user signed out. Publishes `user.logout`."""
        return self._publish(
            "user.logout",
            user_id,
            options,
            userEmail=user_email,
            userAgent=user_agent,
            ipAddress=ip_address,
        )

    def publish_system_error(
        self,
        user_id: str,
        error_message: str,
        error_code: str | None = None,
        **options: Unpack[Options],
    ) -> Published:
        """Something failed at JobQuest. Publishes `system.error`."""
        return self._publish(
            "system.error", user_id, options, errorMessage=error_message, errorCode=error_code
        )

    def publish_notebook_entry_created(
        self,
        user_id: str,
        entry_id: str,
        title: str,
        tags: list[str],
        word_count: int,
        **options: Unpack[Options],
    ) -> Published:
        """A notebook entry was written. Publishes `notebook.entry.created`."""
        return self._publish(
            "notebook.entry.created",
            user_id,
            options,
            entryId=entry_id,
            title=title,
            tags=tags,
            wordCount=word_count,
        )
