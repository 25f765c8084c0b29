"""What every command has: the application's runtime, and errors of one line with code 1."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, cast

import click
from flask import current_app

from jobquest.errors import JobQuestError
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
    """The runtime of the application that the command runs in."""
    return cast(Runtime, current_app.extensions["jobquest"])
