"""What all commands share: the application's runtime, arguments in UTF-8, and one-line errors with
exit code 1."""

from __future__ import annotations

import functools
import getpass
import os
import sys
from collections.abc import Callable
from typing import Any, cast

import click
from flask import current_app

from jobquest.errors import JobQuestError
from jobquest.events import format_time
from jobquest.runtime import Runtime

if sys.platform != "win32":
    import pwd

Command = Callable[..., None]


def one_line(command: Command) -> Command:
    """Show our errors as one line on standard error instead of a traceback."""

    @functools.wraps(command)
    def wrapped(**arguments: Any) -> None:
        try:
            command(**{name: _decoded(name, value) for name, value in arguments.items()})
        except JobQuestError as error:
            raise click.ClickException(str(error)) from error

    return wrapped


def _decoded(name: str, value: Any) -> Any:
    """An argument's bytes as UTF-8, whatever the locale made of them: it has half of a surrogate
    pair for each byte that it can't read, and no database or log takes that."""
    if isinstance(value, tuple):
        return tuple(_decoded(name, one) for one in value)
    if not isinstance(value, str) or value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError:
        try:
            return os.fsencode(value).decode()
        except UnicodeError:
            context = click.get_current_context()
            [given] = [one for one in context.command.params if one.name == name]
            raise click.ClickException(f"{given.get_error_hint(context)} is not UTF-8.") from None
    return value


def current_runtime() -> Runtime:
    """The runtime of the application for which the command runs."""
    return cast(Runtime, current_app.extensions["jobquest"])


def record(action: str, what: str, **details: Any) -> None:
    """Record in the audit trail what this command has done. It is then done with the log."""
    try:
        current_runtime().audit.record(f"cli:{_user()}", action, what, details)
    finally:
        current_runtime().close_log()


PERSONAL = click.option(
    "--personal", is_flag=True, help="Show personal data; the audit trail records that."
)


def _user() -> str:
    """The Unix user's name, which no variable can change."""
    if sys.platform == "win32":
        return getpass.getuser()
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # containers run as users that have no name
        return f"uid {os.getuid()}"


def time_or(moment_ms: int | None, instead: str) -> str:
    """A time as commands show it."""
    return instead if moment_ms is None else format_time(moment_ms)
