"""JobQuest's notifications: each is an event like every other."""

from __future__ import annotations

from jobquest.events import new_id
from jobquest.producer import Producer, Published


class Notifications:
    """Publishes the events of notifications: shown to a user, read by a user."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer

    def show(self, user_id: str, notification_type: str, title: str, message: str) -> Published:
        """Show the user a notification: publishes `notification.sent` with a new id."""
        return self._producer.publish_notification_sent(
            user_id, new_id(), notification_type, title, message
        )

    def mark_read(self, user_id: str, notification_id: str) -> Published:
        """Store that the user read a notification: publishes `notification.read`."""
        return self._producer.publish_notification_read(user_id, notification_id)
