"""`flask keys …`: API keys, for servers that publish, read or operate."""

from __future__ import annotations

import re

import click
from flask.cli import AppGroup

from jobquest.access.caller import KEY_SCOPES
from jobquest.cli.command import current_runtime, one_line, record, time_or
from jobquest.clock import now_ms

keys = AppGroup("keys", short_help="Create, list, rotate and revoke API keys.")

DAY_MS = 86_400_000
_SPANS = {"d": DAY_MS, "h": DAY_MS // 24}


class Span(click.ParamType[int]):
    """A time such as 90d or 12h, in milliseconds."""

    name = "TIME"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        found = re.fullmatch(r"([1-9][0-9]{0,4})([dh])", str(value))
        if not found:
            self.fail("Write days or hours, such as 90d or 12h, up to 99999.", param, ctx)
        return int(found[1]) * _SPANS[found[2]]


@keys.command()
@click.option("--name", required=True, help="What it is for, such as checkout.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    required=True,
    type=click.Choice(KEY_SCOPES),
    help="What it may do, repeatable: publish, read, or start, stop and redrive.",
)
@click.option("--expires", type=Span(), help="When it ends (90d, 12h); without it, never.")
@one_line
def create(name: str, scopes: tuple[str, ...], expires: int | None) -> None:
    """Create a key and show it, once."""
    ends = None if expires is None else now_ms() + expires
    _show(current_runtime().access.keys.create(name, scopes, ends))
    record("key.created", f"key {name}", scopes=scopes, expires=time_or(ends, "never"))


@keys.command("list")
@one_line
def list_() -> None:
    """List all keys; not their values, which nobody has."""
    click.echo(f"{'NAME':<20}  {'STATE':<8}  {'LAST USED':<24}  {'EXPIRES':<24}  SCOPES")
    for key in current_runtime().access.keys.listed():
        ended = key["expires_ms"] is not None and key["expires_ms"] <= now_ms()
        state = "revoked" if key["revoked_ms"] else "expired" if ended else "valid"
        used, expires = time_or(key["used_ms"], "never"), time_or(key["expires_ms"], "never")
        click.echo(f"{key['name']:<20}  {state:<8}  {used:<24}  {expires:<24}  {key['scopes']}")


@keys.command()
@click.argument("name")
@one_line
def revoke(name: str) -> None:
    """End key NAME, in every process within two seconds."""
    current_runtime().access.keys.revoke(name)
    record("key.revoked", f"key {name}")
    click.echo(f"Key {name} is revoked.")


@keys.command()
@click.argument("name")
@one_line
def rotate(name: str) -> None:
    """Replace key NAME by a new one with the same scopes and end; the old one ends."""
    _show(current_runtime().access.keys.rotate(name))
    record("key.rotated", f"key {name}")


def _show(key: str) -> None:
    click.echo(key)
    click.echo("Keep it now: it is stored nowhere and can't be shown again.", err=True)
