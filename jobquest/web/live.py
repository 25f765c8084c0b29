"""The live view's WebSocket, `/ws/events`.

A viewer's thread only reads; the feed's thread sends. The library does the handshake and reads
frames. Its socket is `_Wire`, so that it does not write while the feed does, nor read without a
bound.
"""

from __future__ import annotations

import base64
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import orjson
from flask import Flask, Response, abort, g, jsonify, request
from flask_sock import Sock
from simple_websocket import ConnectionClosed
from werkzeug.exceptions import ServiceUnavailable
from werkzeug.routing import WebsocketMismatch
from wsproto.utilities import RemoteProtocolError

from jobquest.access.caller import OWN, READ
from jobquest.feed import Viewer
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

MAX_VIEWERS = 256  # below the server's threads, so that requests are always answered
# Viewers have nothing to send: this is enough for messages, pings and fragments that never end.
MAX_MESSAGE_BYTES = 4096
RECEIVED_BYTES, RECEIVED_BYTES_PER_SECOND = 64 * 1024, 4096
SEND_BUFFER_BYTES = 256 * 1024  # the kernel's default needs megabytes per viewer
UNANSWERED_MS = 15_000  # of sent data, after which a dead peer's connection ends
READ_SECONDS = 5.0
KEY_BYTES = 16
POLICY_VIOLATION, TRY_AGAIN_LATER = 1008, 1013
ENDPOINT = "live"


class _DaemonThread(threading.Thread):
    """simple-websocket's reader: threads of the usual kind keep the process from ending."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, daemon=True)


class _Wire:
    """The viewer's socket as the library sees it.

    Its answers (handshake, pongs, closes) go behind the feed's frames and block nobody. What the
    peer may send is bounded. Closing ends the connection and leaves the file descriptor to the
    server, which owns it: if it were closed here, its number could belong to another connection
    when the feed sends.
    """

    def __init__(self, viewer: Viewer) -> None:
        self._viewer = viewer
        self._allowance = float(RECEIVED_BYTES)
        self._received = time.monotonic()

    def recv(self, size: int) -> bytes:
        data = self._viewer.socket.recv(size)
        now = time.monotonic()
        refilled = self._allowance + (now - self._received) * RECEIVED_BYTES_PER_SECOND
        self._received = now
        self._allowance = min(refilled, RECEIVED_BYTES) - len(data)
        if self._allowance < 0:
            self._viewer.close(POLICY_VIOLATION)
            return b""
        return data

    def send(self, data: bytes) -> int:
        if not self._viewer.send(data):
            self._viewer.cut()
        return len(data)

    def close(self) -> None:
        self._viewer.cut()


def register(app: Flask) -> None:
    """Put the WebSocket's route on the application."""
    app.config["SOCK_SERVER_OPTIONS"] = {
        "max_message_size": MAX_MESSAGE_BYTES,
        "thread_class": _DaemonThread,
        # No ping_interval: the feed sends heartbeats.
    }
    Sock(app).route(LIVE, endpoint=ENDPOINT)(view)
    app.register_error_handler(RemoteProtocolError, _no_handshake)
    app.register_error_handler(WebsocketMismatch, _no_upgrade)
    app.view_functions[ENDPOINT] = needs(READ, OWN)(_admitting(app.view_functions[ENDPOINT]))


def _admitting(upgrade: Callable[[], Any]) -> Callable[[], Any]:
    """The view with its checks before the upgrade, when an error can still be an answer. Every
    request that gets here counts as a connection."""
    connections = threading.BoundedSemaphore(MAX_VIEWERS)

    def admit() -> Any:
        g.since = cursor_parameter("since")
        own = caller().user
        g.filter = event_filter(**({} if own is None else {"users": frozenset({own})}))
        _check_handshake()
        if not connections.acquire(blocking=False):  # one step, so that no burst overruns it
            raise ServiceUnavailable(
                f"{MAX_VIEWERS} viewers are connected already.", retry_after=RETRY_AFTER_SECONDS
            )
        try:
            _prepare(request.environ)
            return upgrade()
        finally:
            connections.release()

    return admit


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


def view(ws: Any) -> None:
    """Serve one viewer until either side ends it."""
    viewer, feed = g.viewer, runtime().feed
    if not feed.join(viewer, g.since, orjson.dumps(runtime().report.status())):
        ws.close(TRY_AGAIN_LATER, "not ready")
        return
    try:
        while ws.connected and ws.thread.is_alive():
            ws.receive(timeout=READ_SECONDS)
    except ConnectionClosed:
        pass
    finally:
        feed.leave(viewer)


def _prepare(environ: dict[str, Any]) -> None:
    """Put a viewer's wire where the library will look for the socket."""
    name = next((name for name in ("werkzeug.socket", "gunicorn.socket") if name in environ), None)
    if name is None:
        abort(501, "This server can't do WebSockets.")
    connection: socket.socket = environ[name]
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNANSWERED_MS)
    g.viewer = Viewer(connection, g.filter, personal.sees_stream())
    environ[name] = _Wire(g.viewer)
    # Compression is only the client's offer. With it, 4 KB from the wire become 4 MB here before
    # the library checks the size.
    environ.pop("HTTP_SEC_WEBSOCKET_EXTENSIONS", None)


def _no_upgrade(_error: Exception) -> tuple[Response, int]:
    return jsonify(failure("This is a WebSocket: connect with ws://.")), 400


def _no_handshake(error: Exception) -> tuple[Response, int]:
    """The library does not accept it as one."""
    return jsonify(failure(f"This is no WebSocket handshake: {error}.")), 400
