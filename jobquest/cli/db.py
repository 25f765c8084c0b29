"""`flask db …`: the revision of the read side's tables."""

from __future__ import annotations

import click
from flask.cli import AppGroup

from jobquest.cli.command import current_runtime, one_line

db = AppGroup("db", short_help="Upgrade the read side's tables.")


@db.command()
@one_line
def upgrade() -> None:
    """Upgrade the read side's tables to the revision that this version needs."""
    before, now = current_runtime().database.upgrade()
    if before == now:
        click.echo(f"The tables already have revision {now}.")
    elif before is None:
        click.echo(f"Created the tables, revision {now}.")
    else:
        click.echo(f"Upgraded the tables from revision {before} to {now}.")
