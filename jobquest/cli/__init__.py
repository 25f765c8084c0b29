"""Flask's command line: `flask kafka …` for the log and its broker, `flask events …` for events,
`flask db …` for the read side's tables, `flask keys …` and `flask operators …` for credentials.

To add a command, add a function to the file of its group.
"""

from __future__ import annotations

from flask import Flask

from jobquest.cli.db import db
from jobquest.cli.dead_letters import dead_letters
from jobquest.cli.events import events
from jobquest.cli.kafka import kafka
from jobquest.cli.keys import keys
from jobquest.cli.operators import operators


def register_commands(app: Flask) -> None:
    """Register the commands with the application."""
    events.add_command(dead_letters)
    app.cli.add_command(kafka)
    app.cli.add_command(events)
    app.cli.add_command(db)
    app.cli.add_command(keys)
    app.cli.add_command(operators)
