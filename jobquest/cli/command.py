"""What all commands share: the application's runtime, and one-line errors with exit code 1."""

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
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except JobQuestError as error:
            raise click.ClickException(str(error)) from error

    return wrapped


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
