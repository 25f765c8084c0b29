"""The consumer group on Kafka: clients of others in it, partitions that come at run time, processes
that join."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaConsumer, KafkaProducer
from kafka.admin import KafkaAdminClient

from jobquest import create_app
from jobquest.config import load
from jobquest.events import CATALOGUE, TOPICS
from jobquest.report import HEALTHY
from jobquest.runtime import Runtime
from tests.load import children_of, consumer_of
from tests.logs import delete_topics
from tests.service import Service, wait_for
from tests.test_retries import failing, life, publish

pytestmark = pytest.mark.kafka

GROUP = "job-quest-consumer"


@pytest.fixture
def service(kafka_as_it_comes: str, tmp_path: Path) -> Iterator[Service]:
    made = Service(tmp_path, KAFKA_BROKER=kafka_as_it_comes, JOBQUEST_WORKERS="2").start()
    wait_for(reads_everything(made), 30, made.tail)
    yield made
    made.kill()


def reads_everything(service: Service) -> Callable[[], bool]:
    def found() -> bool:
        status, topics = service.status(), service.get("/api/kafka/topics")
        if topics.code != 200:
            return False
        found = [one for one in topics.json["data"]["topics"] if one["name"] in TOPICS]
        places = [part for topic in found for part in topic["partitions"]]
        return status["state"] in HEALTHY and bool(places) and all(one["process"] for one in places)

    return found


def processed(service: Service) -> list[str]:
    found = service.get("/api/events?limit=500").json["data"]["events"]
    return [one["event"]["id"] for one in found if one["outcome"] == "processed"]


def test_a_stranger_in_the_group_is_named_with_what_it_reads(service: Service) -> None:
    stranger = KafkaConsumer(
        bootstrap_servers=service.settings["KAFKA_BROKER"],
        group_id=GROUP,
        client_id="console-consumer-7",
        enable_auto_commit=False,
    )
    with closing(stranger):
        stranger.subscribe(list(TOPICS))

        def is_named() -> bool:
            stranger.poll(100)
            return service.status()["state"] == "degraded"

        wait_for(is_named, 20, lambda: str(service.status()))
        status = service.status()
        assert status["consumerRunning"] is True
        assert "console-consumer-7 at 127.0.0.1" in status["reason"]
        places = {f"{topic}/{number}" for topic, number in stranger.assignment()}
        assert places
        assert all(place in status["reason"] for place in places)
        ready = service.get("/readyz")
        assert (ready.code, ready.json["data"]["reason"]) == (200, status["reason"])
        app = create_app(service.settings)
        told = app.test_cli_runner().invoke(args=["kafka", "doctor"])
        app.extensions["jobquest"].stop()
        assert told.exit_code == 1
        assert f"problem  the consumer is degraded: {status['reason']}" in told.output
    wait_for(reads_everything(service), 20, lambda: str(service.status()))
    assert service.status()["reason"] is None


def test_partitions_that_come_at_run_time_are_read_soon(service: Service) -> None:
    broker = service.settings["KAFKA_BROKER"]
    with KafkaAdminClient(bootstrap_servers=broker, api_version=(4, 0)) as admin:
        admin.create_partitions({"system-events": 9})
    seen = []
    with closing(KafkaProducer(bootstrap_servers=broker, api_version=(4, 0))) as producer:
        for number in range(9):
            event = {
                "id": f"e-{number}",
                "type": "user.login",
                "userId": "ada",
                "timestamp": "2026-11-24T06:00:00.000Z",
                "metadata": {},
                "data": CATALOGUE["user.login"].example,
            }
            value = json.dumps(event).encode()
            producer.send("system-events", value, b"ada", partition=number)

        def are_processed() -> bool:
            seen.append((service.get("/api/kafka/topics").code, service.get("/readyz").code))
            return len(processed(service)) == 9

        wait_for(are_processed, 20, service.tail)
    assert set(seen) == {(200, 200)}
    assert "Traceback" not in "".join(service.output), "".join(service.output)[-6000:]
    wait_for(reads_everything(service), 10, service.tail)


def test_partitions_that_come_after_a_consumer_was_killed_are_read_soon(service: Service) -> None:
    """Its successor has its name in the group, and has to become what it was: the group's leader,
    which notices new partitions."""
    killed = consumer_of(service)
    os.kill(killed, signal.SIGKILL)

    def is_followed() -> bool:
        reading = {one["pid"] for one in service.status()["processes"] if one["assignment"]}
        return reading != {killed} and reads_everything(service)()

    began = time.monotonic()
    wait_for(is_followed, 20, service.tail)
    print(f"followed after {time.monotonic() - began:.1f} s")
    broker = service.settings["KAFKA_BROKER"]
    with KafkaAdminClient(bootstrap_servers=broker, api_version=(4, 0)) as admin:
        admin.create_partitions({"system-events": 9})

    def are_read() -> bool:
        topics = service.get("/api/kafka/topics").json["data"]["topics"]
        [found] = [one["partitions"] for one in topics if one["name"] == "system-events"]
        return len(found) == 9 and all(one["process"] for one in found)

    wait_for(are_read, 20, service.tail)


def test_a_process_that_joins_changes_nothing_in_the_status(
    service: Service, tmp_path: Path
) -> None:
    second = Service(tmp_path, **service.settings | {"PORT": "0"})
    stop, said = threading.Event(), []

    def watch() -> None:
        while not stop.is_set():
            said.append((service.get("/readyz").code, service.status()))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        second.start()

        def has_a_share() -> bool:
            sizes = [len(one["assignment"]) for one in service.status()["processes"]]
            return sum(size > 0 for size in sizes) == 2

        wait_for(has_a_share, 30, second.tail)
        looks = len(said) + 50  # a rebalance may follow
        wait_for(lambda: len(said) > looks, 30)
    finally:
        stop.set()
        watching.join()
        second.kill()
    assert {(code, status["consumerRunning"]) for code, status in said} == {(200, True)}
    assert {status["state"] for _, status in said} <= HEALTHY


def test_what_a_killed_instance_read_is_named_until_others_read_it(
    service: Service, tmp_path: Path
) -> None:
    second = Service(tmp_path, **service.settings | {"PORT": "0"}).start()

    def share() -> set[str]:
        pids = children_of(second)
        processes = service.status()["processes"]
        return {place for one in processes if one["pid"] in pids for place in one["assignment"]}

    wait_for(lambda: len(share()) == len(TOPICS) * 3 and reads_everything(service)(), 60)
    unread = share()
    second.kill()
    began, said = time.monotonic(), []

    def is_degraded() -> bool:
        said.append(service.status())
        return said[-1]["state"] == "degraded"

    wait_for(is_degraded, 9, lambda: str(said[-1]))
    print(f"degraded after {time.monotonic() - began:.1f} s")
    assert said[-1]["consumerRunning"] is True
    assert all(place in said[-1]["reason"] for place in unread)
    assert "silent for 10 s" in said[-1]["reason"]
    ready = service.get("/readyz")
    assert (ready.code, ready.json["data"]["reason"]) == (200, said[-1]["reason"])
    wait_for(lambda: not is_degraded(), 30, lambda: str(said[-1]))
    print(f"whole after {time.monotonic() - began:.1f} s")
    assert said[-1]["state"] in HEALTHY
    assert said[-1]["reason"] is None
    assert unread <= {place for one in said[-1]["processes"] for place in one["assignment"]}


def test_what_waits_in_partitions_that_a_topic_has_no_more_is_tried(
    empty_kafka: str, settings: dict[str, str]
) -> None:
    config = load({**settings, "KAFKA_BROKER": empty_kafka, "KAFKA_PARTITIONS": "12"})
    users = [f"u{number}" for number in range(12)]
    first = Runtime(config)
    failing(first, *users)
    for user in users:
        publish(first, user, user)
    wait_for(lambda: first.consumer.step(0.2) and len(waiting(first)) == len(users), 60)
    assert len({one["partition"] for one in waiting(first)}) > 1
    first.consumer.close()
    first.stop()
    delete_topics(empty_kafka, ["achievements"])
    one_partition = {"num_partitions": 1, "replication_factor": 1}
    with KafkaAdminClient(bootstrap_servers=empty_kafka, api_version=(4, 0)) as admin:
        admin.create_topics({"achievements": one_partition}, wait_for_metadata=True)
    second = Runtime(config)
    publish(second, "new")
    second.consumer.start()
    wait_for(lambda: not waiting(second) and second.queries.event("new") is not None, 60)
    assert {life(second, user)["outcome"] for user in users} == {"processed"}
    second.stop()


def waiting(runtime: Runtime) -> list[dict[str, Any]]:
    return runtime.queries.retries(500)
