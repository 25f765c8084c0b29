"""Flask's command line: `flask kafka …` and `flask events …`."""

from __future__ import annotations

from flask import Flask


def register_commands(app: Flask) -> None:
    """Put the commands on the application."""
