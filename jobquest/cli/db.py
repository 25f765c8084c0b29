"""`flask db …`: the revision of the read side's tables."""

from __future__ import annotations

import sys
import time

import click
from flask.cli import AppGroup

from jobquest.cli.command import current_runtime, one_line
from jobquest.errors import UpgradeWaits
from jobquest.read.schema import REVISION

LOOK_SECONDS = 0.5
MAX_WAIT_SECONDS = 86_400

db = AppGroup("db", short_help="Upgrade or check the read side's tables.")


@db.command()
@click.option(
    "--wait",
    type=click.IntRange(0, MAX_WAIT_SECONDS),
    default=0,
    metavar="SECONDS",
    help="How long to wait for processes of an older version to stop.",
)
@one_line
def upgrade(wait: int) -> None:
    """Upgrade the read side's tables to the revision that this version needs."""
    before, now = _upgrade_within(wait)
    if before == now:
        click.echo(f"The tables already have revision {now}.")
    elif before is None:
        click.echo(f"Created the tables, revision {now}.")
    else:
        click.echo(f"Upgraded the tables from revision {before} to {now}.")
    if current_runtime().rebuild.is_due():
        click.echo("The service rebuilds the derived tables now, in the background.")


@db.command()
@one_line
def check() -> None:
    """Compare the read side's tables with the models: a line for each difference, and exit code 1
    if there is one."""
    if found := current_runtime().database.differences():
        click.echo("\n".join(found))
        sys.exit(1)
    click.echo(f"The tables are those of the models, revision {REVISION}.")


def _upgrade_within(seconds: int) -> tuple[str | None, str]:
    deadline, shown = time.monotonic() + seconds, ""
    while True:
        try:
            return current_runtime().database.upgrade()
        except UpgradeWaits as waits:
            if time.monotonic() >= deadline:
                raise
            if shown != str(waits):
                shown = str(waits)
                click.echo(shown, err=True)
            time.sleep(LOOK_SECONDS)  # nothing tells us when an old process has stopped
