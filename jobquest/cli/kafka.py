"""`flask kafka …`: the containers of the compose file, and the contents of the log."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import click
from flask.cli import AppGroup

from jobquest import compose
from jobquest.cli.command import current_runtime, one_line
from jobquest.errors import Unavailable
from jobquest.events import TOPICS
from jobquest.log import missing_right
from jobquest.report import HEALTHY
from jobquest.runtime import Runtime

kafka = AppGroup("kafka", short_help="The log: Kafka's containers, topics, groups, health.")

LOW_SPACE_BYTES = 1_000_000_000

# --- containers ---


@kafka.command()
@one_line
def up() -> None:
    """Start Kafka and Kafka UI in containers.

    Returns when they are healthy.
    """
    compose.up()
    click.echo("Kafka is up. Start the service with: KAFKA_BROKER=localhost:9092 python app.py")


@kafka.command()
@click.option("--volumes", is_flag=True, help="Also delete Kafka's data.")
@one_line
def down(volumes: bool) -> None:
    """Stop the containers. Kafka's data stays."""
    compose.down(volumes=volumes)
    if not volumes:
        click.echo("Stopped. The data stays; `flask kafka down --volumes` deletes it.")


@kafka.command()
@one_line
def ps() -> None:
    """Show the containers and their health."""
    compose.run("ps")


@kafka.command()
@click.argument("service", required=False)
@click.option("-f", "--follow", is_flag=True, help="Continue until Ctrl-C.")
@one_line
def logs(service: str | None, follow: bool) -> None:
    """Show the output of the containers (or of one SERVICE)."""
    options = ["--tail", "100"] + (["--follow"] if follow else [])
    compose.run("logs", *options, *([service] if service else []))


@kafka.command()
@one_line
def ui() -> None:
    """Open Kafka UI in the browser."""
    if not compose.ui_answers():
        raise compose.ComposeFailed(f"Nothing answers at {compose.UI_URL}: run `flask kafka up`.")
    click.echo(compose.UI_URL)
    click.launch(compose.UI_URL)


# --- the log ---


@kafka.command()
@one_line
def topics() -> None:
    """List the topics with their partitions, records and lag."""
    click.echo(f"{'TOPIC':<20} {'PARTITIONS':>10} {'RECORDS':>10} {'LAG':>8}")
    for topic in current_runtime().report.topics():
        parts = topic["partitions"]
        records = sum(part["next"] - part["first"] for part in parts)
        click.echo(f"{topic['name']:<20} {len(parts):>10} {records:>10} {topic['lag']:>8}")


@kafka.command()
@one_line
def groups() -> None:
    """Show the consumer group, its processes and its lag."""
    status = current_runtime().report.status()
    lag = status["lag"]["messages"]
    click.echo(f"{status['groupId']}: {status['state']}, lag {'unknown' if lag is None else lag}")
    for process in status["processes"]:
        click.echo(
            f"  {process['host']}:{process['pid']}  {process['version'] or 'older version'}"
            f"  {process['state']}  {len(process['assignment'])} partitions"
            f"  lag {'unknown' if (lag := process['lag']['messages']) is None else lag}"
            f"  {process['processed']} processed"
        )


@kafka.command()
@one_line
def doctor() -> None:
    """Check everything that the service needs.

    Exit code 1 if there is a problem.
    """
    wrong = 0
    for subject, problem in _checks(current_runtime()):
        wrong += bool(problem)
        click.echo(
            f"{'problem' if problem else 'ok':<8} {subject}{f': {problem}' if problem else ''}"
        )
    if wrong:
        raise click.exceptions.Exit(1)


def _checks(runtime: Runtime) -> Iterator[tuple[str, str | None]]:
    """Each subject, and its problem (None: there is none)."""
    brokers = ", ".join(runtime.config.kafka_broker)
    log = f"Kafka at {brokers}" if brokers else "the embedded log (KAFKA_BROKER is not set)"
    try:
        found = {topic["name"] for topic in runtime.report.topics()}
    except Unavailable as error:
        yield log, str(error)
    else:
        missing = [topic for topic in TOPICS if topic not in found]
        yield log, None
        yield f"{len(TOPICS)} topics", f"{', '.join(missing)} missing" if missing else None
        if brokers:
            yield "the rights on its topics and its group", _missing_rights(runtime)
    try:
        runtime.queries.last_seq()
        yield "the read side", None
    except Unavailable as error:
        yield "the read side", str(error)
    status = runtime.report.status()
    state = status["state"]
    hint = status["reason"] or "no process consumes; start the service, or its consumer"
    yield f"the consumer is {state}", None if state in HEALTHY else hint
    yield _free_space(runtime)


def _missing_rights(runtime: Runtime) -> str | None:
    try:
        found = runtime.log.missing_rights()
        runtime.log.committed(runtime.config.kafka_group_id, TOPICS)
    except Unavailable as error:
        return str(error)
    lines = (missing_right(right, topic) for topic in sorted(found) for right in found[topic])
    return " ".join(lines) or None


def _free_space(runtime: Runtime) -> tuple[str, str | None]:
    folder = runtime.config.data_dir.absolute()
    try:
        free = shutil.disk_usage(folder if folder.exists() else folder.parent).free
    except OSError as error:
        return f"the folder {folder}", str(error)
    low = "less than 1 GB is free" if free < LOW_SPACE_BYTES else None
    return f"the folder {folder}, {free / 1e9:.1f} GB free", low
