"""The command line on the embedded log: what each command says, and that errors are one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import Result
from flask.testing import FlaskCliRunner

from jobquest import create_app
from jobquest.events import CATALOGUE, TOPICS
from jobquest.runtime import Runtime
from tests.test_retries import Failing

ROOT = Path(__file__).parent.parent


@pytest.fixture
def cli(settings: dict[str, str]) -> Iterator[FlaskCliRunner]:
    app = create_app(settings)
    yield app.test_cli_runner()
    runtime: Runtime = app.extensions["jobquest"]
    runtime.consumer.close()
    runtime.stop()


def runtime_of(cli: FlaskCliRunner) -> Runtime:
    runtime: Runtime = cli.app.extensions["jobquest"]
    return runtime


def lines(result: Result) -> list[str]:
    assert result.exit_code == 0, result.output
    return result.output.splitlines()


def test_types_lists_the_catalogue(cli: FlaskCliRunner) -> None:
    listed = lines(cli.invoke(args=["events", "types"]))
    assert [line.split()[:2] for line in listed] == [[r.name, r.topic] for r in CATALOGUE.values()]


def test_publish_puts_an_event_on_its_topic(cli: FlaskCliRunner, settings: dict[str, str]) -> None:
    data = json.dumps({"userEmail": "a@b.c"})
    [line] = lines(
        cli.invoke(args=["events", "publish", "user.login", "-u", "ada", "--data", data])
    )
    assert line.endswith("system-events/0@0")
    reader = Runtime(runtime_of(cli).config)
    assert reader.consumer.step() == 1
    [item] = reader.queries.events()["events"]
    assert item["event"]["userId"] == "ada"
    assert (
        json.loads(lines(cli.invoke(args=["events", "tail", "--once"]))[0])["type"] == "user.login"
    )
    reader.consumer.close()
    reader.stop()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["events", "publish", "no.such"], "Unknown event type no.such"),
        (["events", "publish", "user.login", "--data", "{"], "not JSON"),
        (["events", "publish", "job.applied", "--data", "{}"], "data.jobId"),
    ],
)
def test_an_error_is_one_line(cli: FlaskCliRunner, arguments: list[str], says: str) -> None:
    result = cli.invoke(args=arguments)
    assert result.exit_code == 1
    [line] = result.output.splitlines()
    assert line.startswith("Error: ")
    assert says in line


@pytest.mark.parametrize("seconds", ["nan", "inf", "-1", "1e9", "86401"])
def test_an_upgrade_waits_for_a_number_of_seconds(cli: FlaskCliRunner, seconds: str) -> None:
    result = cli.invoke(args=["db", "upgrade", "--wait", seconds])
    assert result.exit_code == 2
    assert result.output.splitlines()[-1].startswith("Error: Invalid value for '--wait': ")
    assert cli.invoke(args=["db", "upgrade", "--wait", "60"]).exit_code == 0


NO_UTF_8 = "\udcff"  # what Python makes of the byte 0xff of an argument


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (
            ["events", "publish", "user.login", "--data", f'{{"userEmail":"{NO_UTF_8}"}}'],
            "'--data'",
        ),
        (["events", "publish", "user.login", "-u", NO_UTF_8], "'-u' / '--user'"),
        (["events", "tail", "--once", "-u", NO_UTF_8], "'-u' / '--user'"),
        (["events", "tail", "--once", "--type", NO_UTF_8], "'--type'"),
        (["events", "dead-letters", "list", "-u", NO_UTF_8], "'-u' / '--user'"),
        (["events", "dead-letters", "list", "--error-class", NO_UTF_8], "'--error-class'"),
        (["events", "dead-letters", "discard", "1", "--reason", NO_UTF_8], "'--reason'"),
        (["operators", "role", NO_UTF_8, "viewer"], "'NAME'"),
        (["keys", "revoke", NO_UTF_8], "'NAME'"),
    ],
)
def test_an_argument_that_is_not_utf_8_is_one_line(
    cli: FlaskCliRunner, arguments: list[str], name: str
) -> None:
    result = cli.invoke(args=arguments)
    assert (result.exit_code, result.output) == (1, f"Error: {name} is not UTF-8.\n")


@pytest.mark.slow
def test_an_argument_is_utf_8_whatever_the_locale(settings: dict[str, str]) -> None:
    data = json.dumps({"userEmail": "\N{GRINNING FACE}"}, ensure_ascii=False)
    ascii_only = {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "flask", "events", "publish", "user.login", "--data", data],
        cwd=ROOT,
        env={**os.environ, **settings, **ascii_only},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    app = create_app(settings)
    runtime: Runtime = app.extensions["jobquest"]
    runtime.consumer.step()
    [item] = runtime.queries.events()["events"]
    assert item["event"]["data"] == json.loads(data)
    runtime.consumer.close()
    runtime.stop()


def test_topics_and_groups_are_shown(cli: FlaskCliRunner) -> None:
    runtime_of(cli).producer.publish("user.login", "u", {})
    listed = lines(cli.invoke(args=["kafka", "topics"]))
    assert [line.split()[0] for line in listed[1:]] == list(TOPICS)
    assert "system-events                 1          1        1" in listed
    assert lines(cli.invoke(args=["kafka", "groups"])) == ["job-quest-consumer: stopped, lag 1"]


def test_the_doctor_says_what_is_wrong_and_what_to_do(cli: FlaskCliRunner) -> None:
    result = cli.invoke(args=["kafka", "doctor"])
    assert result.exit_code == 1
    problems = [line for line in result.output.splitlines() if line.startswith("problem")]
    assert problems == [
        "problem  the consumer is stopped: no process consumes; start the service, or its consumer"
    ]


def test_without_docker_the_containers_commands_say_what_to_install(
    cli: FlaskCliRunner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for command in (["up"], ["down"], ["ps"], ["logs"]):
        result = cli.invoke(args=["kafka", *command])
        assert result.exit_code == 1
        assert "install Docker" in result.output
        assert len(result.output.splitlines()) == 1


@pytest.mark.slow
def test_without_docker_s_engine_a_traceback_of_compose_is_one_line_of_ours(
    cli: FlaskCliRunner,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    compose = tmp_path / "docker-compose"  # as Debian's does
    compose.write_text(
        f"#!{sys.executable}\nraise OSError('Error while fetching server API version')\n"
    )
    compose.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    for command in (["up"], ["down"], ["ps"], ["logs"], ["logs", "job-quest-kafka"]):
        result = cli.invoke(args=["kafka", *command])
        assert result.exit_code == 1
        [line] = result.output.splitlines()
        assert line.startswith("Error: Docker's engine does not answer")
        assert line.endswith("OSError: Error while fetching server API version")
    assert capfd.readouterr() == ("", "")  # what a child writes passes click by


def test_every_command_has_help(cli: FlaskCliRunner) -> None:
    for group in ("kafka", "events"):
        listed = cli.invoke(args=[group, "--help"]).output
        commands = listed.split("Commands:\n")[1].splitlines()
        assert commands
        assert all(len(line.split(maxsplit=1)) == 2 for line in commands), listed


@pytest.mark.slow
def test_a_wrong_setting_ends_the_command_line_with_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flask", "events", "types"],
        cwd=ROOT,
        env={**os.environ, "JOBQUEST_DATA_DIR": str(tmp_path), "PORT": "http"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["error: PORT=http: use a whole number from 0 to 65535."]


def test_dead_letters_are_listed_shown_redriven_and_discarded(cli: FlaskCliRunner) -> None:
    runtime = runtime_of(cli)
    for user in ("ada", "bob"):
        runtime.producer.publish("user.login", user, {}, id=f"{user}-1")
    broken = Failing("ada", "bob")
    runtime.consumer.register_event_handler("user.login", broken)
    for _ in range(30):  # ten tries each, without waiting
        for id in ("ada-1", "bob-1"):
            if runtime.queries.retry(id):
                runtime.read_side.try_now(id)
        runtime.consumer.step()
    broken.users.clear()
    command = ["events", "dead-letters"]
    listed = lines(cli.invoke(args=[*command, "list"]))
    assert [line.split()[0] for line in listed] == ["ID", "2", "1", "2"]
    assert listed[-1] == "2 of topic system-events: ValueError: unlucky"
    shown = json.loads("\n".join(lines(cli.invoke(args=[*command, "show", "1"]))))
    assert (shown["eventId"], shown["attempts"]) == ("ada-1", 10)
    refused = cli.invoke(args=[*command, "redrive", "1", "7"])
    assert refused.exit_code == 1
    assert "1 redriven, 1 refused." in refused.output
    assert "There is no dead letter 7." in refused.output
    assert cli.invoke(args=[*command, "redrive"]).exit_code == 2
    [line] = lines(cli.invoke(args=[*command, "discard", "2", "--reason", "a test"]))
    assert line == "Dead letter 2 is discarded."
    result = cli.invoke(args=[*command, "show", "99"])
    assert (result.exit_code, len(result.output.splitlines())) == (1, 1)
