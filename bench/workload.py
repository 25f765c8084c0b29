"""What is published in every measure: the same requests and records for all contenders."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

from jobquest.events import CATALOGUE, Event, new_id

USERS = 1_000
PATH = "/api/kafka/events"
BATCH_PATH = "/api/kafka/events/batch"
BATCH_EVENTS = 100
_DIFFERENT_BATCHES = 20
_THINGS = 50  # different missions, jobs and so on
_TYPES = list(CATALOGUE)


class Request(NamedTuple):
    """How to publish: the path, bodies to take turns with, and the events in each."""

    path: str
    bodies: list[str]
    events: int


def single() -> Request:
    """One event a request: about 260 bytes on the topic, of 1,000 users."""
    return Request(PATH, [json.dumps(mission(number)) for number in range(USERS)], 1)


def batch() -> Request:
    """A hundred of the same a request."""
    numbers = range(_DIFFERENT_BATCHES * BATCH_EVENTS)
    missions = [mission(number % USERS) for number in numbers]
    bodies = [
        json.dumps({"events": missions[begin : begin + BATCH_EVENTS]})
        for begin in range(0, len(missions), BATCH_EVENTS)
    ]
    return Request(BATCH_PATH, bodies, BATCH_EVENTS)


def mission(number: int) -> dict[str, Any]:
    """The body of one request."""
    data = {"missionId": f"mission_{number % _THINGS}", "missionName": "Tailor my CV"}
    data |= {"missionType": "focus", "duration": 25, "xpEarned": 50}
    return {"eventType": "mission.completed", "userId": f"user_{number}", "data": data}


def mix(count: int, seed: int = 7) -> Iterator[Event]:
    """Valid events of every type, so of all eight topics, of 1,000 users in no order."""
    chance = random.Random(seed)
    for _ in range(count):
        kind, user = chance.choice(_TYPES), f"user_{chance.randrange(USERS)}"
        thing = chance.randrange(_THINGS)
        data = {
            name: f"{value}_{thing}" if name.endswith("Id") else value
            for name, value in CATALOGUE[kind].example.items()
        }
        yield Event(new_id(), kind, user, datetime.now(UTC), {}, data)


class Expected:
    """What the read side must come to, added up while events are passed on."""

    def __init__(self) -> None:
        self.events = self.xp = 0

    def counting(self, events: Iterable[Event]) -> Iterator[Event]:
        """The same events, counted."""
        for event in events:
            field = CATALOGUE[event.type].xp
            self.events += 1
            self.xp += int(event.data[field]) if field else 0
            yield event
