"""JobQuest's activity log: one function for each thing a user does, on top of the producer.

Each publishes one event and returns what `Producer.publish` returns; errors are its errors.
"""

from __future__ import annotations

from collections.abc import Sequence

from jobquest.producer import Producer, Published


class Activity:
    """One method for each thing that users do, in JobQuest's own words."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer

    def log_mission_started(
        self, user_id: str, mission_title: str, mission_id: str, mission_type: str = "focus"
    ) -> Published:
        """A focus mission began."""
        return self._producer.publish_mission_started(
            user_id, mission_id, mission_title, mission_type
        )

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
        return self._producer.publish_mission_completed(
            user_id, mission_id, mission_title, mission_type, duration, xp_earned
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
        return self._producer.publish_mission_failed(
            user_id, mission_id, mission_title, mission_type, duration, reason
        )

    def log_job_applied(
        self, user_id: str, company_name: str, position: str, job_id: str, status: str | None = None
    ) -> Published:
        """The user applied to a job."""
        return self._producer.publish_job_applied(user_id, job_id, company_name, position, status)

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
        return self._producer.publish_job_status_updated(
            user_id, job_id, company_name, position, new_status, previous_status
        )

    def log_achievement_unlocked(
        self, user_id: str, achievement_name: str, achievement_id: str, xp_amount: int
    ) -> Published:
        """An achievement was unlocked."""
        return self._producer.publish_achievement_unlocked(
            user_id, achievement_id, achievement_name, xp_amount
        )

    def log_level_up(self, user_id: str, new_level: int, total_xp: int) -> Published:
        """The user reached a level, as JobQuest itself counts."""
        return self._producer.publish_level_up(user_id, new_level, total_xp)

    def log_xp_earned(
        self, user_id: str, xp_amount: int, total_xp: int, source: str | None = None
    ) -> Published:
        """XP that no mission, achievement or challenge awards."""
        return self._producer.publish_xp_earned(user_id, xp_amount, total_xp, source)

    def log_streak_milestone(self, user_id: str, streak_days: int) -> Published:
        """A streak reached `streak_days` days."""
        return self._producer.publish_streak_milestone(user_id, streak_days)

    def log_daily_challenge_completed(
        self,
        user_id: str,
        challenge_title: str,
        challenge_id: str,
        challenge_description: str,
        xp_reward: int,
    ) -> Published:
        """A daily challenge was finished."""
        return self._producer.publish_daily_challenge_completed(
            user_id, challenge_id, challenge_title, challenge_description, xp_reward
        )

    def log_learning_started(
        self, user_id: str, resource_title: str, resource_id: str, resource_type: str
    ) -> Published:
        """A learning resource was begun."""
        return self._producer.publish_learning_started(
            user_id, resource_id, resource_title, resource_type
        )

    def log_learning_completed(
        self,
        user_id: str,
        resource_title: str,
        resource_id: str,
        resource_type: str,
        progress: float = 100,
    ) -> Published:
        """A learning resource was finished; `progress` in percent."""
        return self._producer.publish_learning_completed(
            user_id, resource_id, resource_title, resource_type, progress
        )

    def log_notebook_entry_created(
        self, user_id: str, title: str, entry_id: str, tags: Sequence[str] = (), word_count: int = 0
    ) -> Published:
        """A notebook entry of `word_count` words was written."""
        return self._producer.publish_notebook_entry_created(
            user_id, entry_id, title, list(tags), word_count
        )

    def log_user_registered(
        self,
        user_id: str,
        *,
        user_email: str | None = None,
        user_agent: str | None = None,
        ip_address: str | None = None,
    ) -> Published:
        """A user signed up."""
        return self._producer.publish_user_registered(user_id, user_email, user_agent, ip_address)

    def log_user_login(
        self,
        user_id: str,
        *,
        user_email: str | None = None,
        user_agent: str | None = None,
        ip_address: str | None = None,
    ) -> Published:
        """A user signed in."""
        return self._producer.publish_user_login(user_id, user_email, user_agent, ip_address)

    def log_user_logout(
        self,
        user_id: str,
        *,
        user_email: str | None = None,
        user_agent: str | None = None,
        ip_address: str | None = None,
    ) -> Published:
        """A user signed out."""
        return self._producer.publish_user_logout(user_id, user_email, user_agent, ip_address)
