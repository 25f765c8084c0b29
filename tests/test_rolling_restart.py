"""A rolling restart of three instances behind nginx: partitions stop briefly, nothing is lost or
counted twice, and no client waits long."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobquest.version import version
from tests import nginx
from tests.instances import PARTITIONS, Standstills, SteadyLoad, all_read, is_quiet, new_instances
from tests.nginx import Nginx
from tests.postgres import Postgres
from tests.service import Service, wait_for

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.postgres,
    pytest.mark.nginx,
    pytest.mark.alone,
    pytest.mark.timeout(300),
]

RATE = 500  # events a second
STANDSTILL_SECONDS = 5.0
ANSWER_SECONDS = 2.0


@pytest.fixture
def database(postgres_server: Postgres) -> str:
    return postgres_server.new_database()


@pytest.fixture
def instances(tmp_path: Path, kafka_as_it_comes: str, database: str) -> Iterator[list[Service]]:
    made = new_instances(tmp_path, kafka_as_it_comes, database)
    for one in made:
        one.launch()
    yield made
    for one in made:
        one.kill()


@pytest.fixture
def front(instances: list[Service]) -> Iterator[Nginx]:
    """nginx with the upstreams of docs/deployment.md."""
    if reason := nginx.why_not():
        pytest.skip(reason)  # no nginx on this machine
    made = Nginx()
    yield made.start(nginx.of_instances([one.url for one in instances], made.port))
    made.stop()


def test_a_rolling_restart_under_load_stops_a_partition_briefly_and_loses_nothing(
    instances: list[Service], front: Nginx, database: str
) -> None:
    first = instances[0]
    wait_for(lambda: all_read(first), 60, first.tail)
    partitions_of_users(first)
    with SteadyLoad(first, front.port, RATE) as load:
        wait_for(lambda: len(load.answered) > 2 * RATE, 60, first.tail)
        with Standstills(database, load) as stood:
            for one in instances:
                assert one.stop() == 0, one.tail()
                one.start()
                wait_for(lambda one=one: all_read(one), 60, one.tail)  # type: ignore[misc]
            threading.Event().wait(2.0)
    wait_for(lambda: is_quiet(first), 60, first.tail)
    print(
        f"standstill {max(stood.longest.values()):.2f} s, slowest {load.slowest:.2f} s,"
        f" {len(load.answered)} events, {dict(load.codes)}"
    )
    assert len(stood.longest) == PARTITIONS
    assert load.answered.keys() == load.asked.keys()
    load.check()
    assert max(stood.longest.values()) < STANDSTILL_SECONDS
    assert load.slowest < ANSWER_SECONDS
    partitions_of_users(first)
    assert {one["version"] for one in first.status()["processes"]} == {version()}


def partitions_of_users(service: Service) -> None:
    """Each process reads the same partitions of every topic, so all events of a user."""
    for process in service.status()["processes"]:
        numbers: dict[str, set[str]] = {}
        for place in process["assignment"]:
            topic, _, number = place.rpartition("/")
            numbers.setdefault(topic, set()).add(number)
        assert len({frozenset(found) for found in numbers.values()}) <= 1, process
