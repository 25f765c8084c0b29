"""The service over HTTP and WebSocket: blueprints of thin views, one shape of errors, safe
defaults.

Nothing here decides about events: views read a request, call the runtime's parts, shape an answer.
To add a route of the API, write a blueprint in a new file and name it in `register`. Pages are in
`pages`, guards in `security.py`.
"""

from __future__ import annotations

from flask import Flask

from jobquest.runtime import Runtime
from jobquest.web import errors, live, metrics, security
from jobquest.web.audit import audit
from jobquest.web.csrf import Csrf
from jobquest.web.dead_letters import dead_letters
from jobquest.web.entrance import Entrance
from jobquest.web.events import events
from jobquest.web.guard import AccessGuard
from jobquest.web.health import health
from jobquest.web.needs import PUBLIC, needs
from jobquest.web.pages import pages
from jobquest.web.paths import Segment
from jobquest.web.proxies import Proxies
from jobquest.web.reads import reads
from jobquest.web.status import status
from jobquest.web.tickets import tickets


def register(app: Flask, runtime: Runtime) -> None:
    """Put everything on the application."""
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.url_map.merge_slashes = False  # the entrance knows one spelling of each address
    app.url_map.converters["segment"] = Segment
    errors.register(app)
    count = metrics.register(app, runtime)
    for blueprint in (events, status, dead_letters, reads, health, tickets, audit, pages):
        app.register_blueprint(blueprint)
    live.register(app)
    needs(PUBLIC)(app.view_functions["static"])
    csrf = Csrf(lambda: runtime.access.secret_key.value)
    csrf.register(app)
    app.extensions["jobquest.csrf"] = csrf
    access = AccessGuard(app, runtime.config, runtime.access, csrf)
    guards, headers = security.guards(runtime.config, access), security.headers(runtime.config)
    entrance = Entrance(app, runtime, Proxies(runtime.config), guards, headers, count)
    app.extensions["jobquest.entrance"] = entrance
    app.wsgi_app = entrance  # type: ignore[method-assign]
