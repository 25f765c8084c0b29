"""A floor under the consumer's speed, with the full read side on SQLite. Far below what it does, so
that a noisy machine does not fail it: it is there to notice a transaction or a query per event."""

from __future__ import annotations

import random
import time

from jobquest.events import from_request
from jobquest.log import NewRecord
from jobquest.runtime import Runtime
from tests.samples import SAMPLES, TYPES

EVENTS = 10_000
FLOOR = 5_000  # events a second


def test_the_consumer_keeps_up_with_five_thousand_events_a_second(runtime: Runtime) -> None:
    chance = random.Random(7)
    best = 0.0
    for _ in range(3):
        records = []
        for _ in range(EVENTS):
            kind = chance.choice(TYPES)
            event = from_request(kind, f"user_{chance.randrange(1000)}", SAMPLES[kind])
            records.append(NewRecord(event.topic, event.user_id.encode(), event.to_json()))
        for future in runtime.log.append(records):
            future.result(30)
        began, count = time.perf_counter(), 0
        while taken := runtime.consumer.step():
            count += taken
        assert count == EVENTS
        best = max(best, count / (time.perf_counter() - began))
    assert best > FLOOR
