"""The outside, over HTTP and WebSocket: blueprints of thin views, one shape of errors, safe
defaults.

Nothing here decides about events: views read a request, call the runtime's parts, shape an answer.
To add a page or a route: a blueprint in a file of its own, and a line in `register`.
"""

from __future__ import annotations

from flask import Flask

from jobquest.runtime import Runtime
from jobquest.web import errors, live, metrics, security
from jobquest.web.dead_letters import dead_letters
from jobquest.web.door import MAX_BODY_BYTES, Door
from jobquest.web.events import events
from jobquest.web.health import health
from jobquest.web.pages import pages
from jobquest.web.reads import reads
from jobquest.web.status import status


def register(app: Flask, runtime: Runtime) -> None:
    """Put everything on the application."""
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.url_map.strict_slashes = False
    security.register(app, runtime.config)
    errors.register(app)
    count = metrics.register(app, runtime)
    for blueprint in (events, status, dead_letters, reads, health, pages):
        app.register_blueprint(blueprint)
    live.register(app)
    names, headers = security.hosts(runtime.config), security.headers_of_answers(runtime.config)
    app.wsgi_app = Door(app.wsgi_app, runtime, names, headers, count)  # type: ignore[method-assign]

    @app.before_request
    def _start() -> None:  # `flask run`; under the server it has started already
        runtime.start()
