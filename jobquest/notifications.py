"""JobQuest's notifications: telling a user something is an event like every other."""

from __future__ import annotations

from jobquest.events import new_id
from jobquest.producer import Producer, Published


class Notifications:
    """Shows notifications to users and notes that they were read."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer

    def show(self, user_id: str, notification_type: str, title: str, message: str) -> Published:
        """Tell the user something: publishes `notification.sent` under a new notification id."""
        return self._producer.publish_notification_sent(
            user_id, new_id(), notification_type, title, message
        )

    def mark_read(self, user_id: str, notification_id: str) -> Published:
        """Note that the user read a notification: publishes `notification.read`."""
        return self._producer.publish_notification_read(user_id, notification_id)
