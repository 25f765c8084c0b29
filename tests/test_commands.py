"""Every command against a service that runs, on both logs: none ends in a traceback."""

from __future__ import annotations

from collections.abc import Iterator

import click
from click.testing import Result

from jobquest import create_app
from jobquest.log import NewRecord
from jobquest.runtime import Runtime
from tests.service import Service, wait_for

# In this order: group, command, arguments; what the output says.
COMMANDS: list[tuple[list[str], str]] = [
    (["kafka", "topics"], "system-events"),
    (["kafka", "groups"], " processed"),
    (["kafka", "doctor"], "ok       the consumer is "),
    (["events", "types"], "user.login"),
    (["events", "publish", "user.login", "-u", "ada"], "system-events/"),
    (["events", "demo", "--count", "3", "--rate", "100"], "3 events published in all"),
    (["events", "tail", "--once"], '"type":"user.login"'),
    (["events", "rebuild"], " records in "),
    (["events", "dead-letters", "list"], "2 of topic system-events"),
    (["events", "dead-letters", "show", "1"], '"topic": "system-events"'),
    (["events", "dead-letters", "redrive", "1"], "0 redriven, 1 refused."),
    (
        ["events", "dead-letters", "discard", "2", "--reason", "a test"],
        "Dead letter 2 is discarded.",
    ),
    (["db", "upgrade"], "already"),
    (["db", "check"], "are those of the models"),
]
REFUSES = {"redrive"}  # what is no JSON stays so
CONTAINERS = {"up", "down", "ps", "logs", "ui"}  # of Docker, which says nothing of the service


def run(service: Service, arguments: list[str]) -> Result:
    """A command with the service's settings. Some give the log back: each has an application."""
    app = create_app(service.settings)
    try:
        return app.test_cli_runner().invoke(args=arguments)
    finally:
        app.extensions["jobquest"].stop()


def named(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command below a group, by its words."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from named(command, (*path, name))
        else:
            yield (*path, name)


def test_every_command_works_beside_a_service_that_runs(service: Service) -> None:
    app = create_app(service.settings)
    ours = {
        (name, *rest)
        for name in ("kafka", "events", "db")
        for rest in named(app.cli.commands[name])  # type: ignore[arg-type]
        if rest[0] not in CONTAINERS
    }
    tried = {tuple(arguments[:3]) for arguments, _ in COMMANDS}
    assert all(any(one == words[: len(one)] for words in tried) for one in ours)
    runtime: Runtime = app.extensions["jobquest"]
    for future in runtime.log.append([NewRecord("system-events", b"ada", b"no JSON")] * 2):
        future.result(10)
    runtime.stop()
    wait_for(lambda: service.status()["deadLetters"] == 2, 20, service.tail)
    for arguments, says in COMMANDS:
        service.wait_until_caught_up()  # with what the command before has published
        result = run(service, arguments)
        is_refused = not REFUSES.isdisjoint(arguments)
        assert result.exit_code == is_refused, (arguments, result.output, result.exception)
        assert says in result.output, (arguments, result.output)
    groups = run(service, ["kafka", "groups"]).output.splitlines()
    assert len(groups) == 1 + len(service.status()["processes"])
