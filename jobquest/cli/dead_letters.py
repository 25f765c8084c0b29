"""`flask events dead-letters …`: the API's actions on dead letters, on the command line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import click
from flask.cli import AppGroup

from jobquest.cli.command import PERSONAL, current_runtime, one_line, record
from jobquest.consumer.redrive import Redriven
from jobquest.errors import StateConflict
from jobquest.events.personal import masked
from jobquest.read.dead_letters import DeadLetterFilter

dead_letters = AppGroup("dead-letters", short_help="List, redrive and discard dead letters.")

MAX_ERROR = 80
_ID = click.IntRange(1, 2**53)
_COUNT = click.IntRange(1, 100_000)
_STATES = click.Choice(["open", "redriven", "discarded"])


@dead_letters.command("list")
@click.option("--state", type=_STATES, default="open", show_default=True)
@click.option("--topic", help="Only of this topic.")
@click.option("--type", "event_type", help="Only of this event type.")
@click.option("-u", "--user", help="Only of this user.")
@click.option("--error-class", help="Only of this class of error, such as ValueError.")
@click.option("-n", "--last", type=_COUNT, default=20, show_default=True, help="At most this many.")
@one_line
def list_(last: int, **options: str | None) -> None:
    """List dead letters, newest first, and how many have the same error."""
    wanted = _wanted(**options)
    found = current_runtime().queries.dead_letters(wanted, None, max(1, last))
    dead_letters, following = found["deadLetters"], found["next"]
    while following is not None and len(dead_letters) < last:  # one answer holds at most 2 MB
        more = current_runtime().queries.dead_letters(wanted, following, last - len(dead_letters))
        dead_letters, following = dead_letters + more["deadLetters"], more["next"]
    click.echo(f"{'ID':>6}  {'DIED':<24}  {'TOPIC':<18}  {'USER':<16}  {'TRIES':>5}  ERROR")
    for dead_letter in dead_letters:
        error = _error_line(dead_letter)
        user = str(dead_letter["userId"] or "-")[:16]
        place = f"{dead_letter['topic']:<18}  {user:<16}  {dead_letter['attempts']:>5}"
        click.echo(f"{dead_letter['id']:>6}  {dead_letter['diedAt']:<24}  {place}  {error}")
    for group in found["groups"]:
        click.echo(f"{group['count']} of topic {group['topic']}: {_error_line(group)}")


def _error_line(failure: Mapping[str, Any]) -> str:
    line, name = failure["error"], failure["errorClass"]
    return (line if line.startswith(name) else f"{name}: {line}").splitlines()[0][:MAX_ERROR]


@dead_letters.command()
@click.argument("id", type=_ID)
@PERSONAL
@one_line
def show(id: int, personal: bool) -> None:
    """Show dead letter ID with its value, as JSON."""
    dead_letter = current_runtime().queries.dead_letter(id)
    if dead_letter is None:
        raise StateConflict(
            f"There is no dead letter {id}: `flask events dead-letters list --help`."
        )
    if personal:
        record("reveal", f"dead letter {id}")
    shown = dead_letter if personal else masked(dead_letter)
    click.echo(json.dumps(shown, indent=2, ensure_ascii=False))


@dead_letters.command()
@click.argument("ids", type=_ID, nargs=-1)
@click.option("--all", "every", is_flag=True, help="All open dead letters that the options select.")
@click.option("--topic", help="With --all: of this topic.")
@click.option("--type", "event_type", help="With --all: of this event type.")
@click.option("-u", "--user", help="With --all: of this user.")
@click.option("--error-class", help="With --all: of this class of error.")
@one_line
def redrive(ids: tuple[int, ...], every: bool, **options: str | None) -> None:
    """Process the dead letters IDS again; exit code 1 if one is refused."""
    if bool(ids) == every:
        raise click.UsageError("Give the ids of dead letters, or --all.")
    runtime = current_runtime()
    try:
        if every:
            result = runtime.redrive.redrive_matching(_wanted(state="open", **options))
        else:
            result = runtime.redrive.redrive(ids)
        chosen = {name: value for name, value in options.items() if value} if every else {}
        counted = {"redriven": result.redriven, "refused": len(result.refused)}
        record("redrive", "dead letters", **chosen, **counted)
    finally:
        runtime.close_log()
    _print(result)


@dead_letters.command()
@click.argument("id", type=_ID)
@click.option("--reason", required=True, help="Why it is discarded.")
@one_line
def discard(id: int, reason: str) -> None:
    """Discard dead letter ID."""
    current_runtime().redrive.discard(id, reason)
    record("discard", f"dead letter {id}", reason=reason)
    click.echo(f"Dead letter {id} is discarded.")


def _wanted(
    event_type: str | None = None, user: str | None = None, **same: Any
) -> DeadLetterFilter:
    return DeadLetterFilter(type=event_type, user_id=user, **same)


def _print(result: Redriven) -> None:
    click.echo(f"{len(result.redriven)} redriven, {len(result.refused)} refused.")
    for id, reason in result.refused:
        click.echo(f"{id:>6}  {reason}", err=True)
    if result.refused:
        raise click.exceptions.Exit(1)
