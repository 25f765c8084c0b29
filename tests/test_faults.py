"""Faults that belong to no single part: clusters, zombies, clients that vanish, files that run out.

The rest of the faults stand with the parts that they hit; `docs/reliability.md` lists them all.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobquest import open_files
from jobquest.config import load
from jobquest.runtime import Runtime
from tests.kafka_broker import free_port
from tests.load import Load, children_of, worker_of
from tests.service import ROOT, Service, wait_for
from tests.test_service import outcome


@pytest.mark.kafka
def test_a_consumer_that_slept_through_its_session_counts_nothing_twice(
    empty_kafka: str, tmp_path: Path
) -> None:
    """SIGSTOP for longer than the group's patience: another instance takes its partitions, and when
    it wakes in the middle of its batch, its positions are not the stored ones any more."""
    service, other = (
        Service(tmp_path, KAFKA_BROKER=empty_kafka, JOBQUEST_WORKERS="1").start() for _ in range(2)
    )
    try:

        def readers() -> list[int]:
            processes = service.status()["processes"]
            return [process["pid"] for process in processes if process["assignment"]]

        wait_for(lambda: len(readers()) == 2, 60, service.tail)
        [sleeper] = set(readers()) & set(children_of(service))
        with Load(other) as load:
            wait_for(lambda: len(load.answered) > 50, 30, service.tail)
            os.kill(sleeper, signal.SIGSTOP)
            began = time.monotonic()
            wait_for(lambda: time.monotonic() - began > 14, 20)  # the session ends after ten
            os.kill(sleeper, signal.SIGCONT)
            goal = len(load.answered) + 50
            wait_for(lambda: len(load.answered) > goal, 30, service.tail)
        service.wait_until_caught_up(90)
        load.check()
    finally:
        service.kill()
        other.kill()


@pytest.mark.slow
def test_a_client_that_vanishes_in_the_middle_leaves_no_event(tmp_path: Path) -> None:
    service = Service(tmp_path).start()
    try:
        host, port = service.url.removeprefix("http://").split(":")
        body = json.dumps({"eventType": "user.login", "data": {}, "id": "half"}).encode()
        head = f"POST /api/kafka/events HTTP/1.1\r\nHost: {host}:{port}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        for cut in range(0, len(body), 7):
            with socket.create_connection((host, int(port))) as client:
                client.sendall(head.encode() + body[:cut])
        assert service.post("user.login", {}, id="whole").code == 201
        wait_for(lambda: outcome(service, "whole") == "processed", 20, service.tail)
        assert outcome(service, "half") is None
    finally:
        service.kill()


@pytest.mark.slow
def test_files_that_run_out_cost_no_answered_event(tmp_path: Path) -> None:
    """Connections come until the process may open no more: those that wait make room."""
    service = Service(tmp_path).start()
    try:
        assert service.post("user.login", {}, id="before").code == 201
        worker = worker_of(service)
        limits = resource.prlimit(worker, resource.RLIMIT_NOFILE)
        used = len(os.listdir(f"/proc/{worker}/fd"))
        resource.prlimit(worker, resource.RLIMIT_NOFILE, (used + 10, limits[1]))
        host, port = service.url.removeprefix("http://").split(":")
        greedy = [socket.create_connection((host, int(port)), timeout=5) for _ in range(60)]
        wait_for(lambda: service.post("user.login", {}, id="after").code in (200, 201), 30)
        for one in greedy:
            one.close()
        for id in ("before", "after"):
            wait_for(lambda id=id: outcome(service, id) == "processed", 20, service.tail)  # type: ignore[misc]
        assert [worker] == children_of(service)
    finally:
        service.kill()


@pytest.mark.slow
def test_it_may_open_as_many_files_as_the_machine_lets_it(tmp_path: Path) -> None:
    """A thousand idle connections and 256 viewers are more than the usual 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    service = Service(tmp_path)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    try:
        service.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    try:
        worker = worker_of(service)
        assert resource.prlimit(worker, resource.RLIMIT_NOFILE)[0] == min(hard, open_files.MOST)
    finally:
        service.kill()


@pytest.mark.slow
def test_under_the_reloader_one_process_consumes(tmp_path: Path) -> None:
    """`flask --debug run` imports the application twice; only the one that serves has a thread."""
    port = free_port()
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("JOBQUEST_", "KAFKA_"))}
    service = Service(tmp_path)
    service.url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [sys.executable, "-m", "flask", "--debug", "run", "--port", str(port)],
        cwd=ROOT,
        env={**kept, "JOBQUEST_DATA_DIR": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for(lambda: service.get("/healthz").code == 200, 30)
        wait_for(lambda: service.status()["consumerRunning"], 20)
        assert len(service.status()["processes"]) == 1
        assert service.post("user.login", {}, id="e").code == 201
        wait_for(lambda: outcome(service, "e") == "processed", 20)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


@pytest.mark.slow
def test_what_an_event_says_can_not_pass_for_a_line_of_the_log(tmp_path: Path) -> None:
    (tmp_path / "loud.py").write_text(
        "def shout(event):\n"
        "    raise ValueError('x\\n2026-11-24 INFO jobquest: all is \\x1b[32mwell')\n"
        "def register(consumer):\n    consumer.register_event_handler('user.login', shout)\n"
    )
    service = Service(tmp_path, JOBQUEST_HANDLERS="loud", JOBQUEST_RETRY_MAX_ATTEMPTS="1")
    service.python_path.append(str(tmp_path))
    try:
        service.start()
        service.post("user.login", {}, id="e")
        wait_for(lambda: outcome(service, "e") == "dead", 20, service.tail)
        wait_for(lambda: any("all is" in line for line in service.output), 10)
        [line] = [line for line in service.output if "all is" in line]
        assert "Failed to process event: x\\n2026-11-24" in line
        assert "\\x1b[32mwell" in line
    finally:
        service.kill()


def test_a_read_side_that_is_away_does_not_close_the_door(settings: dict[str, str]) -> None:
    """Taken means kept: the log has it, and what is a duplicate the consumer finds out later."""
    nowhere = {"DATABASE_URL": "postgresql+psycopg://nobody@127.0.0.1:1/none"}
    runtime = Runtime(load(settings | nowhere))
    published = runtime.producer.publish("user.login", "ada", {}, id="mine")
    assert (published.result, published.position is not None) == ("accepted", True)
    runtime.stop()
