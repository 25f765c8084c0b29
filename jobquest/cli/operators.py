"""`flask operators …`: the people who may sign in."""

from __future__ import annotations

import click
from flask.cli import AppGroup

from jobquest.access.caller import ROLES
from jobquest.cli.command import current_runtime, one_line, record, time_or

operators = AppGroup("operators", short_help="Add, list, change and remove operators.")

_ROLE = click.Choice(list(ROLES))
_PASSWORD = click.password_option(help="Asked for if it is left out, so that no history has it.")


@operators.command()
@click.argument("name")
@click.option("--role", type=_ROLE, required=True, help="A viewer reads, an operator does all.")
@_PASSWORD
@one_line
def add(name: str, role: str, password: str) -> None:
    """Add operator NAME, who signs in with a password of at least 12 characters."""
    current_runtime().access.operators.add(name, password, role)
    record("operator.added", f"operator {name}", role=role)
    click.echo(f"{name} can sign in as {role}.")


@operators.command("list")
@one_line
def list_() -> None:
    """List all operators."""
    click.echo(f"{'NAME':<30}  {'ROLE':<10}  ADDED")
    for one in current_runtime().access.operators.listed():
        added = time_or(one["created_ms"], "")
        click.echo(f"{one['name']:<30}  {one['role']:<10}  {added}")


@operators.command()
@click.argument("name")
@click.argument("new_role", metavar="ROLE", type=_ROLE)
@one_line
def role(name: str, new_role: str) -> None:
    """Change what operator NAME may do."""
    current_runtime().access.operators.set_role(name, new_role)
    record("operator.changed", f"operator {name}", role=new_role)
    click.echo(f"{name} is {new_role} now.")


@operators.command()
@click.argument("name")
@_PASSWORD
@one_line
def password(name: str, password: str) -> None:
    """Change the password of operator NAME; their sessions end."""
    current_runtime().access.operators.set_password(name, password)
    # What the record says of it is no password.
    record("operator.changed", f"operator {name}", password="another one")  # noqa: S106  # nosec B106
    click.echo(f"{name} has a new password.")


@operators.command()
@click.argument("name")
@one_line
def remove(name: str) -> None:
    """Remove operator NAME; their sessions end."""
    current_runtime().access.operators.remove(name)
    record("operator.removed", f"operator {name}")
    click.echo(f"{name} can't sign in any more.")
