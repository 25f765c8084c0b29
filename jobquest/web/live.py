"""The live view's WebSocket, `/ws/events`: who may connect, and the handshake.

The library shakes hands. Then the feed gets the socket and the request's thread goes on to other
requests. Its socket is `_Wire`, so that it says nothing afterwards.
"""

from __future__ import annotations

import base64
import socket
import threading
from collections.abc import Callable
from typing import Any

import orjson
from flask import Flask, Response, abort, g, jsonify, request
from flask_sock import Sock
from werkzeug.exceptions import ServiceUnavailable, TooManyRequests
from werkzeug.routing import WebsocketMismatch
from wsproto.utilities import RemoteProtocolError

from jobquest.access.caller import OWN, READ
from jobquest.audience import NoSeat, NoSeatForOwner
from jobquest.viewer import Viewer
from jobquest.web import personal
from jobquest.web.answers import (
    RETRY_AFTER_SECONDS,
    Answer,
    caller,
    cursor_parameter,
    event_filter,
    failure,
    runtime,
)
from jobquest.web.errors import Refused
from jobquest.web.needs import needs
from jobquest.web.paths import LIVE

MAX_WITH_THREADS = 256  # viewers of Flask's own server, where each keeps its request's thread
SEND_BUFFER_BYTES = 256 * 1024  # the kernel's default needs megabytes per viewer
UNANSWERED_MS = 15_000  # of sent data, after which a dead peer's connection ends
KEY_BYTES = 16
MAX_OF_USER = 10  # sockets of one user of the front end, in one process
ENDPOINT = "live"
_WERKZEUG, _GUNICORN = "werkzeug.socket", "gunicorn.socket"


class _NoThread:
    """In place of the library's reader: the feed reads."""

    name = ""

    def __init__(self, **_options: Any) -> None:
        pass

    def start(self) -> None:
        """Nothing to do."""


class _Wire:
    """The viewer's socket as the library sees it. Its answer to the handshake goes the way of the
    feed's frames, which blocks nobody."""

    def __init__(self, viewer: Viewer) -> None:
        self._viewer = viewer
        self.is_over = False  # the library says nothing more

    def send(self, data: bytes) -> int:
        if not self.is_over:
            self._viewer.send(data)
        return len(data)


def register(app: Flask) -> None:
    """Put the WebSocket's route on the application."""
    # No ping_interval: the feed sends heartbeats.
    app.config["SOCK_SERVER_OPTIONS"] = {"thread_class": _NoThread}
    Sock(app).route(LIVE, endpoint=ENDPOINT)(view)
    app.register_error_handler(RemoteProtocolError, _no_handshake)
    app.register_error_handler(WebsocketMismatch, _no_upgrade)
    app.view_functions[ENDPOINT] = needs(READ, OWN)(_admitting(app.view_functions[ENDPOINT]))


def _admitting(upgrade: Callable[[], Any]) -> Callable[[], Any]:
    """The view with its checks before the upgrade, when an error can still be an answer."""

    def admit() -> Any:
        g.since = cursor_parameter("since")
        who = caller()
        wanted = event_filter(**({} if who.user is None else {"users": frozenset({who.user})}))
        _check_handshake()
        g.viewer = Viewer(
            _socket(request.environ),
            wanted,
            sees_personal=personal.sees_stream(),
            sees_status=who.may(READ),
            credential=who.credential,
            expires=who.expires,
            owner=f"{who.kind}:{who.name}",
            most=MAX_OF_USER if who.user else None,
        )
        g.is_handed_over = False
        _admit(g.viewer, request.environ)
        runtime().access.watch(who)
        try:
            _prepare(request.environ)
            return upgrade()
        finally:
            if not g.is_handed_over:
                runtime().feed.leave(g.viewer)

    return admit


def _admit(viewer: Viewer, environ: dict[str, Any]) -> None:
    """Get the viewer a seat; the feed takes it back when its connection ends."""
    feed = runtime().feed
    try:
        if _WERKZEUG in environ:
            feed.admit(viewer, MAX_WITH_THREADS)
        else:
            feed.admit(viewer)
    except NoSeatForOwner as error:
        raise TooManyRequests(str(error), retry_after=RETRY_AFTER_SECONDS) from None
    except NoSeat as error:
        raise ServiceUnavailable(str(error), retry_after=RETRY_AFTER_SECONDS) from None


def _check_handshake() -> None:
    """Check what the library does not (RFC 6455, section 4.2.1)."""
    for name, value in request.headers:
        if name.startswith("Sec-Websocket-") and not value.isascii():
            abort(400, f"This is no WebSocket handshake: {name} is not ASCII.")
    if request.headers.get("Sec-Websocket-Version") != "13":
        more = {"Sec-WebSocket-Version": "13"}
        line = "Only version 13 of the WebSocket protocol is spoken here."
        raise Refused(Answer(426, failure(line), more))
    try:
        key = base64.b64decode(request.headers.get("Sec-Websocket-Key", ""), validate=True)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES or request.method != "GET":
        abort(400, "This is no WebSocket handshake: send GET with a Sec-WebSocket-Key of 16 bytes.")


def view(_ws: Any) -> None:
    """Hand the viewer's socket to the feed, which keeps it until either side ends it."""
    viewer, feed = g.viewer, runtime().feed
    status = feed.status or orjson.dumps(runtime().report.status())  # which takes milliseconds
    g.wire.is_over = True
    if _WERKZEUG in request.environ:  # it ends the connection when this returns
        viewer.socket = viewer.socket.dup()
        viewer.over = threading.Event()
    else:
        viewer.socket = socket.socket(fileno=viewer.socket.detach())
    feed.join(viewer, g.since, status)
    g.is_handed_over = True
    if viewer.over:
        viewer.over.wait()


def _socket(environ: dict[str, Any]) -> socket.socket:
    """The connection, as this server gives it."""
    found: socket.socket | None = environ.get(_WERKZEUG) or environ.get(_GUNICORN)
    if found is None:
        abort(501, "This server can't do WebSockets.")
    return found


def _prepare(environ: dict[str, Any]) -> None:
    """Set the socket's bounds, and put the viewer's wire where the library will look for it."""
    connection = g.viewer.socket
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNANSWERED_MS)
    g.wire = environ[_WERKZEUG if _WERKZEUG in environ else _GUNICORN] = _Wire(g.viewer)
    # Compression is only the client's offer, and costs memory for each viewer.
    environ.pop("HTTP_SEC_WEBSOCKET_EXTENSIONS", None)


def _no_upgrade(_error: Exception) -> tuple[Response, int]:
    return jsonify(failure("This is a WebSocket: connect with ws://.")), 400


def _no_handshake(error: Exception) -> tuple[Response, int]:
    """The library does not accept it as one."""
    return jsonify(failure(f"This is no WebSocket handshake: {error}.")), 400
