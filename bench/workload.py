"""What every measure publishes: the same requests and records for all contenders."""

from __future__ import annotations

import json
import os
import random
import secrets
import time
import uuid
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

import jwt
import msgspec

from jobquest.access.digests import KEY_PREFIX, new_secret
from jobquest.clock import now_ms
from jobquest.events import CATALOGUE, Event, new_id

USERS = 1_000
PATH = "/api/kafka/events"
BATCH_PATH = "/api/kafka/events/batch"
BATCH_EVENTS = 100
ORIGIN = "http://localhost:3000"  # of the front end whose pages send the realistic requests
ID = "00000000-0000-4000-8000-000000000000"  # the placeholder for a new id in each request
# Every process of a bench inherits these from the first one, so a user has one token in all runs.
JWT_SECRET = os.environ.setdefault("BENCH_JWT_SECRET", secrets.token_hex(32))  # signs the tokens
API_KEY = os.environ.setdefault("BENCH_API_KEY", new_secret(KEY_PREFIX))  # of servers
_BEGAN = int(os.environ.setdefault("BENCH_BEGAN", str(int(time.time()))))
_TOKEN_SECONDS = 24 * 60 * 60
_DIFFERENT_BATCHES = 20
_THINGS = 50  # different missions, jobs and so on
_TYPES = list(CATALOGUE)
_MIXED = 2_654_435_761  # odd: multiples of it reach every 32-bit number once
_BROWSER = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko)"
    " Chrome/142.0.0.0 Safari/537.36 Edg/142.0.0.0"
)


class Request(NamedTuple):
    """How to publish: the path, bodies to be sent in turn, the events in each, and the header lines
    that differ from body to body. The sender replaces each `ID` by a new id.
    """

    path: str
    bodies: list[str]
    events: int
    heads: list[list[str]] = []

    def texts(self, host: str) -> list[str]:
        """The complete requests to `host`."""
        heads = self.heads or [[]] * len(self.bodies)
        return [
            "\r\n".join(
                [
                    f"POST {self.path} HTTP/1.1",
                    f"Host: {host}",
                    "Content-Type: application/json",
                    f"Content-Length: {len(body.encode())}",
                    *head,
                    "",
                    body,
                ]
            )
            for head, body in zip(heads, self.bodies, strict=True)
        ]


class Ids:
    """New ids, cheap to make, in the form of a UUIDv4. Like those they have no order, so they are
    spread over a database's index. Two objects of this class give different ids.
    """

    def __init__(self) -> None:
        self._rest = str(uuid.uuid4())[8:]
        self._count = 0

    def new(self) -> str:
        self._count += 1
        return f"{self._count * _MIXED % 2**32:08x}{self._rest}"

    def lua(self) -> str:
        """The same as a Lua function; Lua's numbers are exact for the first 3 million ids."""
        return f"""
local count = 0
local function new_id()
  count = count + 1
  return string.format("%08x{self._rest}", count * {_MIXED} % 2^32)
end
"""


def single() -> Request:
    """One event per request: about 260 bytes on the topic, from 1,000 users."""
    return Request(PATH, [json.dumps(mission(number)) for number in range(USERS)], 1)


def batch() -> Request:
    """A hundred of these events per request."""
    numbers = range(_DIFFERENT_BATCHES * BATCH_EVENTS)
    missions = [mission(number % USERS) for number in numbers]
    bodies = [
        json.dumps({"events": missions[begin : begin + BATCH_EVENTS]})
        for begin in range(0, len(missions), BATCH_EVENTS)
    ]
    return Request(BATCH_PATH, bodies, BATCH_EVENTS)


def realistic() -> Request:
    """What a page of the front end sends through a proxy, one event per request: of every type,
    from 1,000 users, each with an id, the time and its user's token."""
    events = list(_sent(USERS))
    tokens = [token(event["userId"]) for event in events]
    return _realistic(PATH, [json.dumps(event) for event in events], 1, tokens)


def realistic_batch() -> Request:
    """A hundred of these events per request, with a server's key: they are of many users."""
    events = list(_sent(_DIFFERENT_BATCHES * BATCH_EVENTS))
    bodies = [
        json.dumps({"events": events[begin : begin + BATCH_EVENTS]})
        for begin in range(0, len(events), BATCH_EVENTS)
    ]
    return _realistic(BATCH_PATH, bodies, BATCH_EVENTS, [API_KEY] * len(bodies))


def token(user: str) -> str:
    """A valid token of a user, as an identity provider gives it."""
    claims = {"sub": user, "iat": _BEGAN, "exp": _BEGAN + _TOKEN_SECONDS}
    return jwt.encode(claims, JWT_SECRET, "HS256")


def _realistic(path: str, bodies: list[str], events: int, credentials: list[str]) -> Request:
    heads = [
        [
            f"Origin: {ORIGIN}",
            f"User-Agent: {_BROWSER}",
            "Accept: application/json, text/plain, */*",
            f"Authorization: Bearer {credential}",
            f"X-Forwarded-For: 203.0.113.{number % 250 + 1}",
            "X-Forwarded-Proto: https",
            f"X-Request-Id: {ID}",
        ]
        for number, credential in enumerate(credentials)
    ]
    return Request(path, bodies, events, heads)


def _sent(count: int) -> Iterator[dict[str, Any]]:
    """Events as the front end sends them, each with `ID` and the current time."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    for event in mix(count):
        request = {"eventType": event.type, "data": event.data, "userId": event.user_id}
        yield request | {"id": ID, "timestamp": now}


def mission(number: int) -> dict[str, Any]:
    """The body of one request."""
    data: dict[str, Any] = {
        "missionId": f"mission_{number % _THINGS}",
        "missionName": "Tailor my CV",
    }
    data |= {"missionType": "focus", "duration": 25, "xpEarned": 50}
    return {"eventType": "mission.completed", "userId": f"user_{number}", "data": data}


def mix(count: int, seed: int = 7) -> Iterator[Event]:
    """Valid events of every type, and so of all eight topics, from 1,000 users in random order."""
    chance = random.Random(seed)
    for _ in range(count):
        kind, user = chance.choice(_TYPES), f"user_{chance.randrange(USERS)}"
        thing = chance.randrange(_THINGS)
        data = {
            name: f"{value}_{thing}" if name.endswith("Id") else value
            for name, value in CATALOGUE[kind].example.items()
        }
        yield Event(new_id(), kind, user, now_ms(), {}, data)


def with_client_ids(events: Iterable[Event]) -> Iterator[Event]:
    """The same events with ids in no order, as clients make them."""
    ids = Ids()
    return (msgspec.structs.replace(event, id=ids.new()) for event in events)


class Expected:
    """What the read side must contain; added up while events are passed on."""

    def __init__(self) -> None:
        self.events = self.xp = 0

    def counting(self, events: Iterable[Event]) -> Iterator[Event]:
        """The same events, counted."""
        for event in events:
            field = CATALOGUE[event.type].xp
            self.events += 1
            self.xp += int(event.data[field]) if field else 0
            yield event
