"""The topic of each event type, and the field that awards XP."""

TOPICS = {
    "mission": "mission-events",
    "job": "job-applications",
    "achievement": "achievements",
    "level": "achievements",
    "xp": "achievements",
    "streak": "achievements",
    "daily": "daily-challenges",
    "learning": "learning-progress",
    "notification": "notifications",
    "user": "system-events",
    "system": "system-events",
    "notebook": "user-activities",
}
"""Topic by the first word of the type."""

XP_FIELDS = {
    "mission.completed": "xpEarned",
    "achievement.unlocked": "xpAmount",
    "xp.earned": "xpAmount",
    "daily.challenge.completed": "xpReward",
}
"""The field that awards XP, by type."""
