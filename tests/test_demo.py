"""The demo: believable traffic, and a handler that fails on demand."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from jobquest import create_app
from jobquest.config import load
from jobquest.demo import MODULE, Traffic
from jobquest.events import CATALOGUE, from_request
from jobquest.runtime import Runtime
from tests.service import ROOT, Service
from tests.test_consumer import consume
from tests.test_retries import life

STREAK = {"streakDays": 3}


def publish(runtime: Runtime, id: str, wish: str | None) -> None:
    metadata = {"demo": wish} if wish else {}
    runtime.producer.publish("streak.milestone", id, STREAK, id=id, metadata=metadata)


def test_events_that_ask_for_it_fail_where_the_module_is_named(settings: dict[str, str]) -> None:
    runtime = Runtime(load({**settings, "JOBQUEST_HANDLERS": MODULE}))
    for id, wish in (("fails", "fail"), ("dies", "refuse"), ("passes", None), ("odd", "other")):
        publish(runtime, id, wish)
    consume(runtime)
    outcomes = {id: life(runtime, id)["outcome"] for id in ("fails", "dies", "passes", "odd")}
    assert outcomes == {
        "fails": "retrying",
        "dies": "dead",
        "passes": "processed",
        "odd": "processed",
    }
    runtime.consumer.close()
    runtime.stop()


def test_where_the_module_is_not_named_they_go_through(runtime: Runtime) -> None:
    publish(runtime, "asks", "fail")
    consume(runtime)
    assert life(runtime, "asks")["outcome"] == "processed"
    assert "demo" not in runtime.report.status()


def test_everything_that_the_people_of_the_demo_do_is_valid() -> None:
    happenings = list(islice(Traffic(12, 0.0, 1), 3_000))
    for one in happenings:
        from_request(one.type, one.user_id, one.data, metadata=one.metadata)
    types = Counter(one.type for one in happenings)
    ours = {"level.up", "notification.sent", "notification.read", "system.error", "xp.earned"}
    assert CATALOGUE.keys() - types.keys() <= ours
    assert len({one.user_id for one in happenings}) == 12


def test_the_same_seed_brings_the_same_traffic_and_the_share_of_failures_holds() -> None:
    first, second = (list(islice(Traffic(5, 0.2, 7), 2_000)) for _ in range(2))
    assert first == second
    failing = sum("demo" in one.metadata for one in first)
    assert 300 < failing < 500


@pytest.mark.slow
@pytest.mark.parametrize(
    "wrong",
    [
        ["--rate", "0"],
        ["--rate", "nan"],
        ["--failures", "2"],
        ["--count", "0"],
        ["--users", "0"],
        ["--users", "-5"],
        ["--users", "1000000000"],
        ["--users", "99999999999999999999"],
    ],
)
def test_wrong_options_are_refused_with_one_line(tmp_path: Path, wrong: list[str]) -> None:
    app = create_app({"JOBQUEST_DATA_DIR": str(tmp_path)})
    done = app.test_cli_runner().invoke(args=["events", "demo", "--count", "1", *wrong])
    app.extensions["jobquest"].stop()
    assert isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code != 0
    line = done.output.strip().splitlines()[-1]
    assert line.startswith("Error: ")
    assert wrong[0] in line


def run(folder: Path, *options: str, **settings: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flask", "events", "demo", *options]
    environment = {"JOBQUEST_DATA_DIR": str(folder), "PATH": "", **settings}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.slow
def test_the_command_fills_an_empty_install(tmp_path: Path) -> None:
    handlers = {"JOBQUEST_HANDLERS": MODULE}
    service = Service(tmp_path, **handlers).start()
    options = ("--rate", "500", "--count", "200", "--failures", "0.1", "--seed", "3")
    try:
        done = run(tmp_path, *options, **handlers)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines()[-1] == "200 events published in all"
        service.wait_until_caught_up()
        status = service.status()
        assert status["retrying"] + status["deadLetters"] > 0
        assert len(service.get("/api/users").json["data"]["users"]) == 10
        assert service.request("POST", "/api/kafka/demo", b'{"failing": false}').code == 404
    finally:
        service.kill()


@pytest.mark.slow
def test_the_command_says_what_failures_need(tmp_path: Path) -> None:
    done = run(tmp_path, "--count", "1", "--failures", "0.1")
    assert done.returncode == 0
    [line] = done.stderr.splitlines()
    assert line.startswith("JOBQUEST_HANDLERS does not name jobquest.demo here")
