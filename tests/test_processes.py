"""Which processes live: judged by the database's clock, and by pids only where these mean it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import pairwise

import orjson
import pytest
from sqlalchemy import text

from jobquest.config import load
from jobquest.consumer import Snapshot
from jobquest.lag import Progress
from jobquest.read.processes import FORGET_AFTER_MS
from jobquest.read.service_state import ServiceState
from jobquest.runtime import Runtime
from jobquest.version import version
from tests.service import ROOT, wait_for

WORKING = {"starting", "running", "idle"}
IN_A_CONTAINER = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tests.skewed_process", *arguments]


@contextmanager
def another(
    settings: dict[str, str], skew: int, container: Sequence[str] = ()
) -> Iterator[subprocess.Popen[str]]:
    """One more process of the service, its clock wrong by so many seconds."""
    process = subprocess.Popen(
        [*container, *command(str(skew))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, **settings},
    )
    try:
        assert process.stdout
        assert process.stdout.readline() == "started\n"
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def shared(settings: dict[str, str], database: dict[str, str]) -> dict[str, str]:
    return {**settings, **database, "JOBQUEST_CONSUMER_AUTOSTART": "true"}


@pytest.fixture
def runtime(shared: dict[str, str]) -> Iterator[Runtime]:
    """One process of the service: this one."""
    made = Runtime(load(shared))
    made.start()
    wait_for(lambda: made.report.status()["consumerRunning"], 20)
    yield made
    made.stop()


@pytest.mark.slow
@pytest.mark.parametrize("skew", [-30, 30])
def test_a_process_whose_clock_is_wrong_is_not_silent_and_calls_nobody_silent(
    runtime: Runtime, shared: dict[str, str], skew: int
) -> None:
    with another(shared, skew) as process:
        wait_for(lambda: len(runtime.report.processes()) == 2, 20)
        heard = {one["heartbeat"] for one in runtime.report.processes()}
        wait_for(lambda: not heard & {one["heartbeat"] for one in runtime.report.processes()}, 10)
        states = [one["state"] for one in runtime.report.processes()]
        assert set(states) <= WORKING, states
        said = process.communicate("", timeout=30)[0]
        assert "stalled" not in said, said


@pytest.mark.slow
def test_a_process_that_says_nothing_is_silent_after_seconds_whatever_its_clock(
    runtime: Runtime, shared: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobquest.report.SILENT_AFTER_MS", 2_000)
    with another(shared, 30) as process:
        wait_for(lambda: len(runtime.report.processes()) == 2, 20)
        process.send_signal(signal.SIGSTOP)
        wait_for(lambda: "stalled" in {one["state"] for one in runtime.report.processes()}, 10)


@pytest.mark.slow
def test_what_a_process_with_a_clock_that_is_ahead_has_left_is_relayed_by_another(
    settings: dict[str, str], database: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobquest.read.outgoing.LEFT_AFTER_MS", 500)
    shared = settings | database
    environment = {**os.environ, **shared}
    subprocess.run(command("3600", "leave"), cwd=ROOT, env=environment, check=True, timeout=60)
    runtime = Runtime(load(shared))
    assert runtime.queries.outcomes()["followUpsWaiting"] == 1
    wait_for(lambda: runtime.relay.step() == 1, 5)
    runtime.stop()


def rows_of(runtime: Runtime) -> set[str]:
    with runtime.database.reading() as connection:
        return set(connection.execute(text("SELECT id FROM processes")).scalars())


@pytest.mark.slow
def test_containers_of_one_host_name_do_not_delete_each_others_processes(
    runtime: Runtime, shared: dict[str, str]
) -> None:
    """Each has a process namespace, in which the other's pids are unknown or somebody else's."""
    if not shutil.which("unshare") or subprocess.run([*IN_A_CONTAINER, "true"]).returncode:
        pytest.skip("no right to make a process namespace here")
    with another(shared, 0, IN_A_CONTAINER):
        wait_for(lambda: len(rows_of(runtime)) == 2, 20)
        both, until = rows_of(runtime), time.monotonic() + 3
        while time.monotonic() < until:
            assert rows_of(runtime) == both


def test_a_pid_is_looked_up_only_where_it_is_known_to_mean_that_process(
    runtime: Runtime,
) -> None:
    mine = runtime.state.process_id
    host, _, place, unique = mine.rsplit(":", 3)
    no_pid = 2**22 + 1  # above what Linux gives
    rows = {
        "here": f"{host}:{no_pid}:{place}:other",
        "container": f"{host}:{no_pid}:elsewhere:{unique}",
        "unknown": f"{host}:{no_pid}:-:{unique}",
        "older": f"{host}:{no_pid}:abcd",
    }
    insert = f"""INSERT INTO processes (id, host, pid, heartbeat_ms, consumer)
                 SELECT :id, host, {no_pid}, heartbeat_ms + :later, consumer
                 FROM processes WHERE id = :mine"""
    with runtime.database.writing() as connection:
        for id in rows.values():
            connection.execute(text(insert), {"id": id, "later": 0, "mine": mine})
        for id, later in (("past", -FORGET_AFTER_MS), ("future", FORGET_AFTER_MS * 2)):
            connection.execute(text(insert), {"id": id, "later": later - 5_000, "mine": mine})
    assert host == socket.gethostname()
    runtime.state.forget_dead_processes()
    assert rows_of(runtime) == {mine, rows["container"], rows["unknown"], rows["older"]}


@pytest.mark.kafka
def test_heartbeats_go_on_while_kafka_takes_connections_and_answers_nothing(
    settings: dict[str, str],
) -> None:
    """The log is asked for the lag, and each question waits for seconds."""
    with socket.create_server(("127.0.0.1", 0)) as hole:
        broker = f"127.0.0.1:{hole.getsockname()[1]}"
        runtime = Runtime(load({**settings, "KAFKA_BROKER": broker}))
        runtime.start()
        beats: list[float] = []
        last, until = "", time.monotonic() + 8
        while time.monotonic() < until:
            for row in runtime.state.processes():
                if row["heartbeat_ms"] != last:
                    last = row["heartbeat_ms"]
                    beats.append(time.monotonic())
            threading.Event().wait(0.02)
        runtime.stop()
    longest = max(after - before for before, after in pairwise(beats))
    print(f"at most {longest:.2f} s apart")
    assert longest < 2.2


def test_each_process_says_its_version_and_the_lag_of_its_partitions(runtime: Runtime) -> None:
    wait_for(lambda: runtime.report.processes()[0]["assignment"], 10)
    before = asdict(Snapshot(state="running", assignment=("achievements/0",)))
    ServiceState(runtime.database).beat(orjson.dumps(before))  # one that is too old to say more
    block = threading.Event()
    runtime.consumer.register_event_handler("user.login", lambda event: block.wait(10))
    for _ in range(3):
        runtime.producer.publish("user.login", "ada", {})

    def lags() -> list[int]:
        status = runtime.report.status()
        assert {one["version"] for one in status["processes"]} == {version(), None}
        found = {one["version"]: one["lag"]["messages"] for one in status["processes"]}
        return [status["lag"]["messages"], found[version()], found[None]]

    wait_for(lambda: lags() == [3, 3, 0], 10, lambda: str(lags()))
    block.set()
    wait_for(lambda: lags() == [0, 0, 0], 20, lambda: str(lags()))


def test_the_lag_of_partitions_is_unknown_if_that_of_all_is() -> None:
    unknown = {"messages": None, "seconds": None}
    assert Progress(unknown, {}).lag_of(["achievements/0"]) == unknown
