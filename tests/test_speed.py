"""A floor under the consumer's speed with the full read side, as a share of what checking the same
records with marshmallow alone takes on the same machine in the same run: a machine that is slow or
busy is so for both. It is there to notice a query, a transaction or a log record per event."""

from __future__ import annotations

import random
import time

import orjson
import pytest

from jobquest.events import CATALOGUE, from_request
from jobquest.log import NewRecord
from jobquest.runtime import Runtime
from tests.samples import SAMPLES, TYPES

EVENTS = 10_000
ROUNDS = 4
FLOORS = {"sqlite": 0.17, "postgresql": 0.08}  # 0.28 and 0.13 were measured


def numbered_records(chance: random.Random) -> list[NewRecord]:
    records = []
    for _ in range(EVENTS):
        kind = chance.choice(TYPES)
        event = from_request(kind, f"user_{chance.randrange(1000)}", SAMPLES[kind])
        records.append(NewRecord(event.topic, event.user_id.encode(), event.to_json()))
    return records


@pytest.mark.alone
def test_the_consumer_costs_little_more_than_checking_its_records(runtime: Runtime) -> None:
    chance = random.Random(7)
    shares = []
    for _ in range(ROUNDS):
        records = numbered_records(chance)
        for future in runtime.log.append(records):
            future.result(30)
        began = time.perf_counter()
        for record in records:
            event = orjson.loads(record.value or b"")
            CATALOGUE[event["type"]].schema.load(event["data"])
        alone = time.perf_counter() - began
        began, count = time.perf_counter(), 0
        while taken := runtime.consumer.step():
            count += taken
        assert count == EVENTS
        whole = time.perf_counter() - began
        shares.append(alone / whole)
        print(f"{EVENTS / whole:.0f} events/s, {shares[-1]:.2f} of {EVENTS / alone:.0f}")
    assert max(shares) > FLOORS[runtime.database.engine.dialect.name]
