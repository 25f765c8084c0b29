"""The floor of a single POST: kafka-python alone, `send().get()` in a loop. Run as a process:

python -m bench.floors.send_and_get BROKER SECONDS
"""

from __future__ import annotations

import json
import statistics
import sys
import time

from kafka import KafkaProducer

from bench.workload import mission
from jobquest.events import from_request

CONFIRM_SECONDS = 10


def main(bootstrap: str, seconds: float) -> None:
    body = mission(1)
    event = from_request(body["eventType"], body["userId"], body["data"])
    key, value = event.user_id.encode(), event.to_json()
    producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all")
    producer.send(event.topic, value, key).get(CONFIRM_SECONDS)
    took = []
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        began = time.perf_counter()
        producer.send(event.topic, value, key).get(CONFIRM_SECONDS)
        took.append((time.perf_counter() - began) * 1000)
    passed = time.perf_counter() - start
    producer.close()
    cuts = statistics.quantiles(took, n=100)
    run = {"answered": len(took), "seconds": passed, "p50_ms": cuts[49], "p99_ms": cuts[98]}
    print(json.dumps(run))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
