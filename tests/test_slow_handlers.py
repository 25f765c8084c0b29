"""Slow handlers on real Kafka: whoever is busy for minutes stays a member and lets others join."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path

import pytest

from jobquest.config import load
from jobquest.events import Event
from jobquest.log import NewRecord
from jobquest.runtime import Runtime
from tests.service import wait_for

pytestmark = pytest.mark.kafka

HANDLER_SECONDS = 0.2
WAITING = 3_000
SHARE_SECONDS = 10.0


class Slow:
    """A handler that takes its time, and notes whom it was called for."""

    def __init__(self, calls: Counter[str]) -> None:
        self.calls = calls
        self.mine: list[str] = []

    def __call__(self, event: Event) -> None:
        self.calls[event.id] += 1
        self.mine.append(event.id)
        time.sleep(HANDLER_SECONDS)  # what it is there for


def runtime(tmp_path: Path, broker: str, calls: Counter[str]) -> tuple[Runtime, Slow]:
    settings = {
        "JOBQUEST_DATA_DIR": str(tmp_path),
        "KAFKA_BROKER": broker,
        "JOBQUEST_CONSUMER_AUTOSTART": "false",
    }
    made, handler = Runtime(load(settings)), Slow(calls)
    made.consumer.register_event_handler("user.login", handler)
    return made, handler


def append(runtime: Runtime) -> None:
    records = []
    for n in range(WAITING):
        event = {"id": f"e{n}", "type": "user.login", "userId": f"u{n}", "data": {}, "metadata": {}}
        value = json.dumps({**event, "timestamp": "2026-01-01T00:00:00.000Z"}).encode()
        records.append(NewRecord("system-events", b"u%d" % n, value))
    for future in runtime.log.append(records, 30.0):
        future.result(30)


def test_a_second_instance_has_its_share_soon_and_no_handler_runs_twice_for_it(
    tmp_path: Path, kafka_as_it_comes: str
) -> None:
    calls: Counter[str] = Counter()
    first, busy = runtime(tmp_path, kafka_as_it_comes, calls)
    second, other = runtime(tmp_path, kafka_as_it_comes, calls)
    append(first)
    first.consumer.start()
    wait_for(lambda: len(busy.mine) >= 5, 60)
    second.consumer.start()
    began = time.monotonic()
    wait_for(lambda: other.mine, SHARE_SECONDS)
    assert time.monotonic() - began < SHARE_SECONDS
    wait_for(lambda: len(other.mine) >= 10 and len(busy.mine) >= 20, 30)
    mine, others = (set(one.consumer.snapshot.assignment) for one in (first, second))
    assert mine
    assert others
    assert not mine & others
    second.consumer.stop()  # and gives it back as soon
    given_back = len(busy.mine)
    wait_for(lambda: len(first.consumer.snapshot.assignment) == len(mine | others), 15)
    wait_for(lambda: len(busy.mine) > given_back + 5, 15)
    first.consumer.stop()
    assert max(calls.values()) == 1, "a rebalance called a handler twice"
    for one in (first, second):
        one.stop()
