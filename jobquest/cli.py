"""Flask's command line: `flask kafka …` for the log and its broker, `flask events …` for events.

Every error is one line on standard error, with code 1.
"""

from __future__ import annotations

import functools
import json
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import click
from flask import Flask, current_app
from flask.cli import AppGroup

from jobquest import compose
from jobquest.errors import InvalidEvent, JobQuestError, Unavailable
from jobquest.events import CATALOGUE, TOPICS, strict_json
from jobquest.runtime import WORKING, Runtime

kafka = AppGroup("kafka", short_help="The log: Kafka's containers, topics, groups, health.")
events = AppGroup("events", short_help="Publish events, follow them, list their types.")

LOOK_SECONDS = 0.5
LOW_SPACE_BYTES = 1_000_000_000
Command = Callable[..., None]


def register_commands(app: Flask) -> None:
    """Put the commands on the application."""
    from jobquest.cli_dead_letters import dead_letters  # it takes its tools from here

    events.add_command(dead_letters)
    app.cli.add_command(kafka)
    app.cli.add_command(events)


def one_line(command: Command) -> Command:
    """Show our errors as one line instead of a traceback."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except JobQuestError as error:
            raise click.ClickException(str(error)) from error

    return wrapped


def current_runtime() -> Runtime:
    return cast(Runtime, current_app.extensions["jobquest"])


# --- flask kafka: containers ---


@kafka.command()
@one_line
def up() -> None:
    """Start Kafka and Kafka UI in containers, and wait until they are healthy."""
    compose.up()
    click.echo("Kafka is up. Start the service with: KAFKA_BROKER=localhost:9092 python app.py")


@kafka.command()
@click.option("--volumes", is_flag=True, help="Delete Kafka's data too.")
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
@click.option("-f", "--follow", is_flag=True, help="Go on until Ctrl-C.")
@one_line
def logs(service: str | None, follow: bool) -> None:
    """Show what the containers (or one SERVICE) wrote."""
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


# --- flask kafka: the log ---


@kafka.command()
@one_line
def topics() -> None:
    """List the topics with their partitions, records and lag."""
    click.echo(f"{'TOPIC':<20} {'PARTITIONS':>10} {'RECORDS':>10} {'LAG':>8}")
    for topic in current_runtime().topics():
        parts = topic["partitions"]
        records = sum(part["next"] - part["first"] for part in parts)
        click.echo(f"{topic['name']:<20} {len(parts):>10} {records:>10} {topic['lag']:>8}")


@kafka.command()
@one_line
def groups() -> None:
    """Show the consumer group: which process reads how much, and how far behind it is."""
    status = current_runtime().service_status()
    lag = status["lag"]["messages"]
    click.echo(f"{status['groupId']}: {status['state']}, lag {'unknown' if lag is None else lag}")
    for process in status["processes"]:
        click.echo(
            f"  {process['host']}:{process['pid']}  {process['state']}"
            f"  {process['partitions']} partitions  {process['processed']} processed"
        )


@kafka.command()
@one_line
def doctor() -> None:
    """Check everything that the service needs; code 1 where something is wrong."""
    wrong = 0
    for subject, problem in _checks(current_runtime()):
        wrong += bool(problem)
        click.echo(
            f"{'problem' if problem else 'ok':<8} {subject}{f': {problem}' if problem else ''}"
        )
    if wrong:
        raise click.exceptions.Exit(1)


def _checks(runtime: Runtime) -> Iterator[tuple[str, str | None]]:
    """Subject, and what is wrong with it (None: nothing)."""
    brokers = ", ".join(runtime.config.kafka_broker)
    log = f"Kafka at {brokers}" if brokers else "the embedded log (KAFKA_BROKER is not set)"
    try:
        found = {topic["name"] for topic in runtime.topics()}
    except Unavailable as error:
        yield log, str(error)
    else:
        missing = [topic for topic in TOPICS if topic not in found]
        yield log, None
        yield f"{len(TOPICS)} topics", f"{', '.join(missing)} missing" if missing else None
    try:
        runtime.queries.last_seq()
        yield "the read side", None
    except Unavailable as error:
        yield "the read side", str(error)
    status = runtime.service_status()
    state = status["state"]
    hint = status["reason"] or "no process consumes; start the service, or its consumer"
    yield f"the consumer is {state}", None if state in WORKING else hint
    yield _free_space(runtime)


def _free_space(runtime: Runtime) -> tuple[str, str | None]:
    folder = runtime.config.data_dir.absolute()
    try:
        free = shutil.disk_usage(folder if folder.exists() else folder.parent).free
    except OSError as error:
        return f"the folder {folder}", str(error)
    low = "less than 1 GB is free" if free < LOW_SPACE_BYTES else None
    return f"the folder {folder}, {free / 1e9:.1f} GB free", low


# --- flask events ---


@events.command()
@click.argument("event_type", metavar="TYPE")
@click.option("-u", "--user", default="demo-user", show_default=True, help="Whose event it is.")
@click.option("--data", "text", help="The data as JSON; without any, the type's example.")
@click.option("--id", "event_id", help="An id of your own: publishing it again does no harm.")
@one_line
def publish(event_type: str, user: str, text: str | None, event_id: str | None) -> None:
    """Publish one event of TYPE."""
    if text is not None:
        data = strict_json.loads(text.encode())
    elif event_type in CATALOGUE:
        data = CATALOGUE[event_type].example
    else:
        raise InvalidEvent(f"Unknown event type {event_type}: `flask events types` lists them.")
    runtime = current_runtime()
    try:
        published = runtime.producer.publish(event_type, user, data, id=event_id)
    finally:
        runtime.close_log()
    if published.result == "queued":
        click.echo(f"queued: {published.event.id} waits in the outbox for Kafka")
    elif published.position is None:
        click.echo(f"duplicate: {published.event.id} is processed already")
    else:
        topic, partition, offset = published.position
        click.echo(f"{published.event.id}  {topic}/{partition}@{offset}")


@events.command()
@click.option("--type", "event_type", help="Only this type.")
@click.option("--topic", help="Only this topic.")
@click.option("-u", "--user", help="Only this user.")
@click.option("-n", "--last", default=10, show_default=True, help="Begin with this many.")
@click.option("--once", is_flag=True, help="Do not wait for more.")
@one_line
def tail(
    event_type: str | None, topic: str | None, user: str | None, last: int, once: bool
) -> None:
    """Show processed events as they come, one JSON object a line. Ctrl-C ends it."""
    queries = current_runtime().queries
    wanted: dict[str, Any] = {"type": event_type, "topic": topic, "user_id": user}
    found = queries.events(**wanted, limit=max(1, last))["events"]
    seq = queries.last_seq()
    while True:
        for item in reversed(found):
            seq = max(seq, item["seq"])
            click.echo(json.dumps({"outcome": item["outcome"], **item["event"]}))
        if once:
            return
        time.sleep(LOOK_SECONDS)
        newest = queries.events(**wanted, limit=500)["events"]
        found = [item for item in newest if item["seq"] > seq]


@events.command()
@one_line
def types() -> None:
    """List every event type with its topic and fields; optional ones in brackets."""
    for row in CATALOGUE.values():
        fields = [*row.required, *(f"[{name}]" for name in row.optional)]
        click.echo(f"{row.name:<26} {row.topic:<18} {' '.join(fields)}")


@events.command()
@one_line
def rebuild() -> None:
    """Make events, statistics and pipelines anew from the log; the service may run meanwhile."""
    runtime = current_runtime()
    try:
        with click.progressbar(length=0, label="Rebuilding from the log") as bar:

            def show(done: int, total: int) -> None:
                bar.length = total
                bar.update(done - bar.pos)

            made = runtime.rebuild.run(show)
    finally:
        runtime.log.close()
    if made.restored is not None:
        click.echo(
            f"The read side was new: {made.restored} dead letters are made anew, and the consumer"
            " goes on where the log ends now."
        )
    if made.lost:
        click.echo(f"{made.lost} events are not in the log any more: they are gone.", err=True)
    if made.buried:
        click.echo(f"{made.buried} records could not be counted: dead letters.", err=True)
    per_second = made.records / max(made.seconds, 0.001)
    click.echo(
        f"{made.events} events from {made.records} records in {made.seconds:.1f} s"
        f" ({per_second:.0f} a second)"
    )
