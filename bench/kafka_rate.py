"""Events written to Kafka at a steady rate by another producer than the service, in its own
process. Run by `bench.sockets`:

    python -m bench.kafka_rate BOOTSTRAP RATE USERS

Each event is of the next type and of the next of so many users; its id contains the time, except in
the first seconds, until everything is warm. It writes until its input ends, and prints how many
events with the time it has written.
"""

from __future__ import annotations

import select
import sys
import time
from itertools import count, cycle

from kafka import KafkaProducer

from jobquest.clock import now_ms
from jobquest.events import CATALOGUE, Event

BATCHES_PER_SECOND = 20
WARM_SECONDS = 3
CONFIRM_SECONDS = 60


def main(bootstrap: str, rate: int, users: int) -> None:
    producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all")
    types, due = cycle(CATALOGUE), time.monotonic()
    numbers = count(-rate * WARM_SECONDS)
    print("ready", flush=True)
    while not select.select([sys.stdin], [], [], max(0.0, due - time.monotonic()))[0]:
        for _ in range(rate // BATCHES_PER_SECOND):
            number = next(numbers)
            kind, user = next(types), f"user_{number % users}"
            id = f"{'bench' if number >= 0 else 'warm'}-{time.time_ns()}-{number}"
            event = Event(id, kind, user, now_ms(), {}, dict(CATALOGUE[kind].example))
            producer.send(event.topic, event.to_json(), user.encode(), list(event.headers()))
        due += 1 / BATCHES_PER_SECOND
    producer.flush(CONFIRM_SECONDS)
    print(next(numbers))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
