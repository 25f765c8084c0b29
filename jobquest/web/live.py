"""The live view's WebSocket, `/ws/events`.

A viewer's thread only reads; the feed's thread sends.
"""

from __future__ import annotations

import threading
from typing import Any

import orjson
from flask import Flask, abort, request
from flask_sock import Sock
from simple_websocket import ConnectionClosed

from jobquest.feed import Filter
from jobquest.web.answers import runtime, whole_parameter

MAX_VIEWERS = 256  # below the server's threads, so that requests are always answered
MAX_MESSAGE_BYTES = 4096  # viewers have nothing to say; unbounded, a compressed one fills memory
READ_SECONDS = 5.0
TRY_AGAIN_LATER = 1013
MAX_SEQ = 2**53


class _DaemonThread(threading.Thread):
    """simple-websocket's reader: its own threads would keep the process from ending."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, daemon=True)


def register(app: Flask) -> None:
    """Put the WebSocket's route on the application."""
    app.config["SOCK_SERVER_OPTIONS"] = {
        "max_message_size": MAX_MESSAGE_BYTES,
        "thread_class": _DaemonThread,
        # No ping_interval: the library must not write beside the feed, which sends heartbeats.
    }
    sock = Sock(app)
    sock.route("/ws/events")(view)

    @app.before_request
    def _refuse_early() -> None:
        """Before the upgrade an error is still an answer."""
        if request.path != "/ws/events":
            return
        if request.headers.get("Upgrade", "").lower() != "websocket":
            abort(400, "This is a WebSocket: connect with ws://.")
        whole_parameter("since", None, 0, MAX_SEQ)
        if runtime().feed.viewers >= MAX_VIEWERS:
            abort(503, f"{MAX_VIEWERS} viewers are connected already.")


def view(ws: Any) -> None:
    """Serve one viewer until either side ends it."""
    wanted = Filter(
        frozenset(request.args.getlist("type")),
        frozenset(request.args.getlist("topic")),
        frozenset(request.args.getlist("userId")),
    )
    feed = runtime().feed
    since = whole_parameter("since", None, 0, MAX_SEQ)
    viewer = feed.join(ws.sock, wanted, since, orjson.dumps(runtime().service_status()))
    if viewer is None:
        ws.close(TRY_AGAIN_LATER, "not ready")
        return
    try:
        while ws.connected:
            ws.receive(timeout=READ_SECONDS)
    except ConnectionClosed:
        pass
    finally:
        feed.leave(viewer)
