"""`create_app` connects the service's parts, and does nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from flask import Flask

from jobquest import cli, config, start_checks, web
from jobquest.runtime import Runtime

_ROOT = Path(__file__).parent.parent


def create_app(settings: Mapping[str, str] | None = None) -> Flask:
    """Build the application. `settings` override the environment and `.env`.

    `app.extensions["jobquest"]` is the `Runtime`: `.producer`, `.consumer`, `.activity`,
    `.notifications` and the rest. This starts no thread: the server does, or the first request.
    Raises SettingsError.
    """
    templates, static = str(_ROOT / "templates"), str(_ROOT / "static")
    app = Flask("jobquest", template_folder=templates, static_folder=static)
    loaded = config.load(settings)
    start_checks.check(loaded)
    runtime = Runtime(loaded)
    app.extensions["jobquest"] = runtime
    web.register(app, runtime)
    cli.register_commands(app)
    return app
