"""A module for JOBQUEST_HANDLERS: three handlers of one type, of which the second has a bug."""

from __future__ import annotations

from jobquest.consumer import Consumer
from jobquest.events import Event

MODULE = "tests.three_handlers"


def greet(event: Event) -> None:
    """Succeeds."""


def pay(event: Event) -> None:
    """Takes a member that no event has."""
    event.data["salary"]


def log(event: Event) -> None:
    """Is called once `pay` has succeeded."""


def register(consumer: Consumer) -> None:
    for handler in (greet, pay, log):
        consumer.register_event_handler("user.login", handler)
