"""JobQuest's activity log: one function for each thing a user does, on top of the producer.

Each publishes one event and returns what `Producer.publish` returns; errors are its errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jobquest.producer import Producer, Published


class Activity:
    """What users do, told in JobQuest's own words."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer

    def log_mission_started(
        self, user_id: str, mission_title: str, mission_id: str, mission_type: str = "focus"
    ) -> Published:
        """A focus mission began."""
        mission = _mission(mission_title, mission_id, mission_type)
        return self._log("mission.started", user_id, **mission)

    def log_mission_completed(
        self,
        user_id: str,
        mission_title: str,
        mission_id: str,
        duration: float,
        xp_earned: int,
        mission_type: str = "focus",
    ) -> Published:
        """A focus mission was finished after `duration` minutes."""
        mission = _mission(mission_title, mission_id, mission_type)
        return self._log(
            "mission.completed", user_id, **mission, duration=duration, xpEarned=xp_earned
        )

    def log_mission_failed(
        self,
        user_id: str,
        mission_title: str,
        mission_id: str,
        duration: float | None = None,
        reason: str | None = None,
        mission_type: str = "focus",
    ) -> Published:
        """A focus mission was given up after `duration` minutes."""
        mission = _mission(mission_title, mission_id, mission_type)
        return self._log("mission.failed", user_id, **mission, duration=duration, reason=reason)

    def log_job_applied(
        self, user_id: str, company_name: str, position: str, job_id: str, status: str | None = None
    ) -> Published:
        """The user applied to a job."""
        job = {"jobId": job_id, "companyName": company_name, "position": position}
        return self._log("job.applied", user_id, **job, status=status)

    def log_job_status_updated(
        self,
        user_id: str,
        company_name: str,
        position: str,
        job_id: str,
        new_status: str,
        previous_status: str,
    ) -> Published:
        """An application moved from one status to another."""
        job = {"jobId": job_id, "companyName": company_name, "position": position}
        return self._log(
            "job.status.updated",
            user_id,
            **job,
            newStatus=new_status,
            previousStatus=previous_status,
        )

    def log_achievement_unlocked(
        self, user_id: str, achievement_name: str, achievement_id: str, xp_amount: int
    ) -> Published:
        """An achievement was unlocked."""
        return self._log(
            "achievement.unlocked",
            user_id,
            achievementId=achievement_id,
            achievementName=achievement_name,
            xpAmount=xp_amount,
        )

    def log_level_up(self, user_id: str, new_level: int, total_xp: int) -> Published:
        """The user reached a level, as JobQuest itself counts."""
        return self._log("level.up", user_id, newLevel=new_level, totalXp=total_xp)

    def log_xp_earned(
        self, user_id: str, xp_amount: int, total_xp: int, source: str | None = None
    ) -> Published:
        """XP of its own, beside what missions, achievements and challenges award."""
        return self._log("xp.earned", user_id, xpAmount=xp_amount, totalXp=total_xp, source=source)

    def log_streak_milestone(self, user_id: str, streak_days: int) -> Published:
        """A streak reached `streak_days` days."""
        return self._log("streak.milestone", user_id, streakDays=streak_days)

    def log_daily_challenge_completed(
        self,
        user_id: str,
        challenge_title: str,
        challenge_id: str,
        challenge_description: str,
        xp_reward: int,
    ) -> Published:
        """A daily challenge was finished."""
        return self._log(
            "daily.challenge.completed",
            user_id,
            challengeId=challenge_id,
            challengeTitle=challenge_title,
            challengeDescription=challenge_description,
            xpReward=xp_reward,
        )

    def log_learning_started(
        self, user_id: str, resource_title: str, resource_id: str, resource_type: str
    ) -> Published:
        """A learning resource was begun."""
        resource = _resource(resource_title, resource_id, resource_type)
        return self._log("learning.started", user_id, **resource)

    def log_learning_completed(
        self,
        user_id: str,
        resource_title: str,
        resource_id: str,
        resource_type: str,
        progress: float = 100,
    ) -> Published:
        """A learning resource was finished; `progress` in percent."""
        resource = _resource(resource_title, resource_id, resource_type)
        return self._log("learning.completed", user_id, **resource, progress=progress)

    def log_notebook_entry_created(
        self, user_id: str, title: str, entry_id: str, tags: Sequence[str] = (), word_count: int = 0
    ) -> Published:
        """A notebook entry of `word_count` words was written."""
        return self._log(
            "notebook.entry.created",
            user_id,
            entryId=entry_id,
            title=title,
            tags=list(tags),
            wordCount=word_count,
        )

    def log_user_registered(self, user_id: str, **session: str | None) -> Published:
        """A user signed up; `session` may give user_email, user_agent, ip_address."""
        return self._log("user.registered", user_id, **_session(**session))

    def log_user_login(self, user_id: str, **session: str | None) -> Published:
        """A user signed in; `session` as in `log_user_registered`."""
        return self._log("user.login", user_id, **_session(**session))

    def log_user_logout(self, user_id: str, **session: str | None) -> Published:
        """A user signed out; `session` as in `log_user_registered`."""
        return self._log("user.logout", user_id, **_session(**session))

    def _log(self, event_type: str, user_id: str, **data: Any) -> Published:
        given = {name: value for name, value in data.items() if value is not None}
        return self._producer.publish(event_type, user_id, given)


def _mission(title: str, id: str, kind: str) -> dict[str, str]:
    return {"missionId": id, "missionName": title, "missionType": kind}


def _resource(title: str, id: str, kind: str) -> dict[str, str]:
    return {"resourceId": id, "resourceTitle": title, "resourceType": kind}


def _session(
    user_email: str | None = None, user_agent: str | None = None, ip_address: str | None = None
) -> dict[str, str | None]:
    return {"userEmail": user_email, "userAgent": user_agent, "ipAddress": ip_address}
