"""What all commands share: the application's runtime, and one-line errors with exit code 1."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, cast

import click
from flask import current_app

from jobquest.errors import JobQuestError
from jobquest.events import format_time
from jobquest.runtime import Runtime

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


def time_or(moment_ms: int | None, instead: str) -> str:
    """A time as commands show it."""
    return instead if moment_ms is None else format_time(moment_ms)
