"""Something to see in an empty install: a handler that fails on demand, and realistic traffic.

`JOBQUEST_HANDLERS=jobquest.demo` registers the handler; `flask events demo` publishes the traffic.
The pages show whether the handler is registered. Nothing else knows of this module.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from jobquest.errors import JobQuestError, NotRetryable
from jobquest.events import CATALOGUE, Event
from jobquest.events.applications import FIRST_STATUS, STATUSES

if TYPE_CHECKING:
    from jobquest.consumer import Consumer

MODULE = "jobquest.demo"
MARK = "demo"
FAIL, REFUSE = "fail", "refuse"
NAMES = (
    "ada",
    "grace",
    "linus",
    "margaret",
    "edsger",
    "barbara",
    "donald",
    "radia",
    "alan",
    "joan",
)


class DemoFailure(JobQuestError):
    """The demo's handler failed for this event; it fails at each of its tries."""


class DemoRefusal(NotRetryable):
    """The demo's handler refused this event for good."""


def demo_handler(event: Event) -> None:
    """Fail for events whose metadata ask for it: `{"demo": "fail"}` (it is retried) or
    `{"demo": "refuse"}` (it becomes a dead letter at once)."""
    wish = event.metadata.get(MARK)
    if wish == FAIL:
        raise DemoFailure("The demo handler fails: metadata.demo asks for it.")
    if wish == REFUSE:
        raise DemoRefusal("The demo handler refuses this event: metadata.demo asks for it.")


def register(consumer: Consumer) -> None:
    """Register the demo's handler for every event type; called through JOBQUEST_HANDLERS."""
    for event_type in CATALOGUE:
        consumer.register_event_handler(event_type, demo_handler)


class NextEvent(NamedTuple):
    """An event to publish."""

    type: str
    user_id: str
    data: Mapping[str, Any]
    metadata: Mapping[str, Any]


_MISSIONS = (
    ("Tailor the CV", "writing"),
    ("Write three cover letters", "writing"),
    ("Prepare the system design interview", "interview"),
    ("Ask for two referrals", "networking"),
    ("Practise: tell me about yourself", "interview"),
)
_COMPANIES = ("Acme", "Globex", "Initech", "Umbrella Health", "Hooli", "Stark Industries")
_POSITIONS = ("Back-end developer", "Data engineer", "Platform engineer", "Product designer")
_COURSES = (
    ("Interviewing well", "course"),
    ("Kafka in an afternoon", "video"),
    ("Negotiating an offer", "article"),
)
_CHALLENGES = (
    ("Three applications", "Apply to three jobs today."),
    ("Early bird", "Start a mission before nine."),
    ("Say thanks", "Write to somebody who helped you."),
)
_WAY = STATUSES[: STATUSES.index("offer") + 1]
_STEPS = dict(pairwise(_WAY))  # status → the next status of a successful application


class Traffic:
    """The events of a few users of JobQuest, without end. `failures` is the share of events that
    ask the demo's handler to fail. The same `seed` gives the same events."""

    def __init__(self, users: int, failures: float, seed: int | None) -> None:
        self._chance = random.Random(seed)  # noqa: S311 (not used for secrets)  # nosec B311
        self._failures = failures
        self._number = 0
        self._lives = [self._life(_user(number)) for number in range(users)]

    def __iter__(self) -> Iterator[NextEvent]:
        while True:
            event = next(self._chance.choice(self._lives))
            yield event._replace(metadata=self._metadata())

    def _metadata(self) -> dict[str, Any]:
        if self._chance.random() >= self._failures:
            return {"source": "demo"}
        return {"source": "demo", MARK: self._chance.choice((FAIL, FAIL, REFUSE))}

    def _next(self, kind: str) -> str:
        self._number += 1
        return f"{kind}-{self._chance.getrandbits(32):08x}-{self._number}"

    def _life(self, user: str) -> Iterator[NextEvent]:
        yield _event("user.registered", user, {"userEmail": f"{user}@example.org"})
        days = 0
        while True:
            days += 1
            yield _event("user.login", user, {"userAgent": "Demo", "ipAddress": "192.0.2.7"})
            acts = [self._mission, self._application, self._course, self._challenge, self._notes]
            self._chance.shuffle(acts)
            for act in acts[: self._chance.randint(2, 5)]:
                yield from act(user)
            if days % 3 == 0:
                yield _event("streak.milestone", user, {"streakDays": days})
            yield _event("user.logout", user, {})

    def _mission(self, user: str) -> Iterator[NextEvent]:
        name, kind = self._chance.choice(_MISSIONS)
        mission = {"missionId": self._next("mission"), "missionName": name, "missionType": kind}
        yield _event("mission.started", user, mission)
        if self._chance.random() < 0.2:
            yield _event("mission.failed", user, {**mission, "reason": "Interrupted"})
            return
        minutes = self._chance.choice((15, 25, 45))
        done = {**mission, "duration": minutes, "xpEarned": minutes * 2}
        yield _event("mission.completed", user, done)

    def _application(self, user: str) -> Iterator[NextEvent]:
        job = {
            "jobId": self._next("job"),
            "companyName": self._chance.choice(_COMPANIES),
            "position": self._chance.choice(_POSITIONS),
        }
        yield _event("job.applied", user, job)
        status = FIRST_STATUS
        while status in _STEPS and self._chance.random() < 0.6:
            following = _STEPS[status] if self._chance.random() < 0.7 else "rejected"
            moved = {**job, "previousStatus": status, "newStatus": following}
            yield _event("job.status.updated", user, moved)
            status = following
        if status == "offer":
            won = {"achievementId": "first_offer", "achievementName": "An offer", "xpAmount": 250}
            yield _event("achievement.unlocked", user, won)

    def _course(self, user: str) -> Iterator[NextEvent]:
        title, kind = self._chance.choice(_COURSES)
        course = {"resourceId": title.lower().replace(" ", "-"), "resourceTitle": title}
        course["resourceType"] = kind
        yield _event("learning.started", user, course)
        if self._chance.random() < 0.7:
            yield _event("learning.completed", user, {**course, "progress": 100})

    def _challenge(self, user: str) -> Iterator[NextEvent]:
        title, description = self._chance.choice(_CHALLENGES)
        challenge = {"challengeId": self._next("challenge"), "challengeTitle": title}
        challenge["challengeDescription"] = description
        yield _event("daily.challenge.available", user, challenge)
        if self._chance.random() < 0.5:
            yield _event("daily.challenge.completed", user, {**challenge, "xpReward": 30})

    def _notes(self, user: str) -> Iterator[NextEvent]:
        entry = {"entryId": self._next("entry"), "title": "What went well", "tags": ["notes"]}
        words = self._chance.randint(40, 400)
        yield _event("notebook.entry.created", user, {**entry, "wordCount": words})


def _user(number: int) -> str:
    again = number // len(NAMES)
    return NAMES[number % len(NAMES)] + (f"-{again + 1}" if again else "")


def _event(event_type: str, user: str, data: Mapping[str, Any]) -> NextEvent:
    return NextEvent(event_type, user, data, {})
