"""`flask events …`: publish events, follow them, rebuild what is derived from them."""

from __future__ import annotations

import json
import os
import re
import time
from itertools import islice
from typing import Any

import click
from flask.cli import AppGroup

from jobquest.cli.command import PERSONAL, current_runtime, one_line, record
from jobquest.collector import OF_A_REBUILD, collect_seldom
from jobquest.demo import MODULE, Traffic
from jobquest.errors import CursorOutdated, InvalidEvent
from jobquest.events import CATALOGUE, exact_json, strict_json
from jobquest.events.personal import masked
from jobquest.read.cursor import Cursor
from jobquest.read.event_filter import EventFilter
from jobquest.read.queries import MAX_LIMIT, Queries

events = AppGroup("events", short_help="Publish, follow, rebuild; dead letters.")

LOOK_SECONDS = 0.5
MAX_RATE = 1_000
MAX_USERS = 100_000  # of the demo, which keeps what each of them does next
MAX_PROCESSES = 4  # of a rebuild: SQLite has one writer at a time, so more would wait
REPORT_EVENTS = 100
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")


@events.command()
@click.argument("event_type", metavar="TYPE")
@click.option("-u", "--user", default="demo-user", show_default=True, help="Whose event it is.")
@click.option("--data", "text", help="The data as JSON; without it, the type's example.")
@click.option("--id", "event_id", help="Your own id: publishing the same event again is harmless.")
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
        click.echo(f"duplicate: {published.event.id} has already been processed")
    else:
        topic, partition, offset = published.position
        click.echo(f"{published.event.id}  {topic}/{partition}@{offset}")


@events.command()
@click.option("--type", "event_type", help="Only this type.")
@click.option("--topic", help="Only this topic.")
@click.option("-u", "--user", help="Only this user.")
@click.option(
    "-n",
    "--last",
    type=click.IntRange(0, 500),
    default=10,
    show_default=True,
    help="Start with the last N events.",
)
@click.option("--once", is_flag=True, help="Do not wait for new events.")
@PERSONAL
@one_line
def tail(
    event_type: str | None,
    topic: str | None,
    user: str | None,
    last: int,
    once: bool,
    personal: bool,
) -> None:
    """Show processed events as they arrive.

    One JSON object per line; stop with Ctrl-C.
    """
    if personal:
        record("reveal", "flask events tail", type=event_type, topic=topic, user=user)
    queries = current_runtime().queries
    wanted = EventFilter(types=_one(event_type), topics=_one(topic), users=_one(user))
    epoch, seq = queries.last_change()
    found = _events(queries, wanted, max(1, last), after=Cursor(seq + 1, epoch))
    while True:
        for item in reversed(found):
            seq = max(seq, item["seq"])
            event = item["event"] if personal else masked(item["event"])
            click.echo(_line({"outcome": item["outcome"], **event}))
        if once:
            return
        time.sleep(LOOK_SECONDS)  # a database tells nobody that it has a new event
        try:
            found = _events(queries, wanted, MAX_LIMIT, since=Cursor(seq, epoch))
        except CursorOutdated:
            click.echo("The read side was rebuilt: from here on, only new events follow.", err=True)
            (epoch, seq), found = queries.last_change(), []


def _events(
    queries: Queries, wanted: EventFilter, limit: int, *, after: Cursor | None = None, **more: Any
) -> list[Any]:
    """The latest events, newest first; from several answers if they are large."""
    found: list[Any] = []
    while len(found) < min(limit, MAX_LIMIT):
        answer = queries.events(wanted, after=after, limit=limit - len(found), **more)
        found += answer["events"]
        if answer["next"] is None:
            break
        after = Cursor.parse(answer["next"])
    return found


def _line(item: dict[str, Any]) -> str:
    """JSON in ASCII, so that an event's text can't control the terminal."""
    text = exact_json.dumps(item).decode()
    return _NOT_ASCII.sub(lambda found: json.dumps(found[0])[1:-1], text)


def _one(value: str | None) -> frozenset[str]:
    return frozenset() if value is None else frozenset({value})


@events.command()
@one_line
def types() -> None:
    """List every event type, its topic and fields.

    Optional fields are in brackets.
    """
    for row in CATALOGUE.values():
        fields = [*row.required, *(f"[{name}]" for name in row.optional)]
        click.echo(f"{row.name:<26} {row.topic:<18} {' '.join(fields)}")


@events.command()
@click.option("--rate", default=5.0, show_default=True, help="Events per second.")
@click.option("--failures", default=0.0, show_default=True, help="Share of events that fail.")
@click.option(
    "--users",
    type=click.IntRange(1, MAX_USERS),
    default=10,
    show_default=True,
    help="Number of users.",
)
@click.option("--count", type=click.IntRange(min=1), help="Stop after this many events.")
@click.option("--seed", type=int, help="The same seed gives the same traffic each time.")
@one_line
def demo(rate: float, failures: float, users: int, count: int | None, seed: int | None) -> None:
    """Publish realistic traffic until Ctrl-C.

    With --failures, some events ask the demo's handler to fail. Start the service with
    JOBQUEST_HANDLERS=jobquest.demo; without it, those events succeed.
    """
    if not (0 < rate <= MAX_RATE and 0 <= failures <= 1):
        raise InvalidEvent(
            f"--rate must be above 0 and at most {MAX_RATE}, --failures between 0 and 1."
        )
    runtime = current_runtime()
    if failures and MODULE not in runtime.config.handlers:
        click.echo(
            f"JOBQUEST_HANDLERS does not name {MODULE} here. If it does not name it in the service"
            " either, no event will fail.",
            err=True,
        )
    traffic = Traffic(users, failures, seed)
    published, began = 0, time.monotonic()
    try:
        for event in islice(traffic, count):
            # Timed from the start, so that slow calls don't lower the rate.
            time.sleep(max(0.0, began + published / rate - time.monotonic()))
            runtime.producer.publish(event.type, event.user_id, event.data, metadata=event.metadata)
            published += 1
            if published % REPORT_EVENTS == 0:
                click.echo(f"{published} events published")
    except KeyboardInterrupt:
        click.echo()
    finally:
        runtime.close_log()
    click.echo(f"{published} events published in all")


def _cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


@events.command()
@click.option(
    "--processes",
    type=click.IntRange(1, 16),
    help="Processes that count events at the same time, if there are many and the database is"
    f" SQLite. Each needs about 220 MB. Default: one for each core, and at most {MAX_PROCESSES}.",
)
@one_line
def rebuild(processes: int | None) -> None:
    """Rebuild everything that is derived from the log.

    These are events, statistics, pipelines, inboxes and counts. The service may run meanwhile. No
    handler runs. Dead letters and an operator's decisions about them stay; if the read side was
    lost, they are restored from their topic.
    """
    collect_seldom(OF_A_REBUILD)
    runtime = current_runtime()
    try:
        with click.progressbar(length=0, label="Rebuilding from the log") as bar:

            def show(done: int, total: int) -> None:
                bar.length = total
                bar.update(done - bar.pos)

            result = runtime.rebuild.run(show, processes or min(MAX_PROCESSES, _cores()))
    finally:
        runtime.close_log()
    if result.restored is not None:
        click.echo(
            f"The read side was new: {result.restored} dead letters and {result.waiting} events"
            " that wait for another try were restored from their topics. The consumer continues at"
            " the offsets that its group has committed."
        )
    if result.lost:
        click.echo(f"{result.lost} events are no longer in the log: they are gone.", err=True)
    if result.dead_lettered:
        click.echo(
            f"{result.dead_lettered} records could not be counted: they are dead letters now.",
            err=True,
        )
    per_second = result.records / max(result.seconds, 0.001)
    click.echo(
        f"{result.events} events from {result.records} records in {result.seconds:.1f} s"
        f" ({per_second:.0f} per second)"
    )
