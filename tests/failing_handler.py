"""A module for JOBQUEST_HANDLERS: the demo's handler, while a file `failing` is in the folder that
the service runs in. So a test can have what failed succeed later."""

from __future__ import annotations

from pathlib import Path

from jobquest.consumer import Consumer
from jobquest.demo import demo_handler
from jobquest.events import CATALOGUE, Event

MODULE = "tests.failing_handler"
FILE = "failing"


def handler(event: Event) -> None:
    if Path(FILE).exists():
        demo_handler(event)


def register(consumer: Consumer) -> None:
    for event_type in CATALOGUE:
        consumer.register_event_handler(event_type, handler)
