"""Starts the service: `python app.py`. The `flask` command finds the application here too."""

import sys

from flask import Flask

import jobquest
from jobquest.errors import SettingsError


def create_app() -> Flask:
    """The application, or one line that says which setting is unusable."""
    try:
        return jobquest.create_app()
    except SettingsError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)


if __name__ == "__main__":
    from jobquest.server import main

    main()
