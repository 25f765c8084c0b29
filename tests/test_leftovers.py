"""A test that fails leaves nothing behind that would disturb the tests after it."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from jobquest.config import load
from tests.logs import OnKafka, emptied
from tests.service import ROOT, wait_for
from tests.template import ForkedService

# A consumer in the tests' process, one that is stepped by hand, a service, and one whose fixture
# fails; and what a fixture made for the whole module, which lives on.
FAILING = """
import os, threading
import pytest
from jobquest.config import load
from jobquest.runtime import Runtime
from tests.template import ForkedService as Service

pytestmark = pytest.mark.slow
consumers = lambda: [one.name for one in threading.enumerate()].count("consumer")

@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    made = Runtime(load({"JOBQUEST_DATA_DIR": str(tmp_path_factory.mktemp("shared"))}))
    made.consumer.start()
    yield made
    made.stop()

@pytest.fixture
def broken(tmp_path):
    print("pid", Service(tmp_path).start().pid)
    assert False, "its setup fails"

def test_a_service_of_a_fixture(broken, shared): ...

def test_a_service(tmp_path):
    print("pid", Service(tmp_path).start().pid)
    assert False, "it fails"

def test_a_consumer(settings):
    runtime = Runtime(load(settings))
    runtime.consumer.start()
    assert False, "it fails"

def test_a_consumer_without_a_thread(settings):
    runtime = Runtime(load(settings))
    runtime.consumer.step()
    threading.members = [runtime.consumer]
    assert False, "it fails"

def test_what_is_left(shared):
    assert threading.members[0]._subscription is None
    assert consumers() == 1
    assert shared.consumer.snapshot.state in ("starting", "idle")
"""


@pytest.mark.slow
def test_what_a_test_leaves_is_ended_whatever_becomes_of_it(tmp_path: Path) -> None:
    (tmp_path / "test_failing.py").write_text(FAILING)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.conftest", "."],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    pids = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("pid ")]
    assert "3 failed, 1 passed" in done.stdout, done.stdout
    assert len(pids) == 2
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


@pytest.mark.kafka
def test_a_member_that_was_killed_is_gone_from_an_emptied_broker(
    empty_kafka: str, tmp_path: Path
) -> None:
    service = ForkedService(tmp_path, KAFKA_BROKER=empty_kafka, JOBQUEST_WORKERS="1").start()
    wait_for(lambda: service.status()["consumerRunning"], 30, service.tail)
    service.kill()
    group = load(service.settings | {"PORT": "0"}).kafka_group_id
    with closing(OnKafka(empty_kafka, ["t"]).open()) as log:
        assert log.members(group)
        emptied(empty_kafka)
        assert not log.members(group)
