"""Safe by default: which hosts and origins may call, and what browsers are told.

One list of origins decides about POSTs, WebSockets and CORS headers alike. A request without an
`Origin` (curl, servers) passes: browsers send one with every cross-origin POST and WebSocket.
"""

from __future__ import annotations

from flask import Flask, Response, abort, request

from jobquest.config import Config

# No Cross-Origin-Opener-Policy: a browser then starts another process for the first page, which
# puts off its first paint by a third; and whoever opened it learns nothing from its window (it has
# no frames and listens to no messages).
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; object-src 'none'; base-uri 'none'; frame-ancestors 'none';"
        " form-action 'self'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
}
_PREFLIGHT_SECONDS = "600"
_NOT_KEPT = "no-store"


def hosts(config: Config) -> list[str]:
    """The names by which it may be called."""
    return ["localhost", "127.0.0.1", "[::1]", config.host]


def headers_of_answers(config: Config) -> dict[str, str]:
    """What goes with every answer of the API to who has no origin."""
    vary = {"Vary": "Origin"} if config.cors_origins else {}
    return {**_HEADERS, "Cache-Control": _NOT_KEPT, **vary}


def register(app: Flask, config: Config) -> None:
    """Check every request's host and origin; put the headers on every answer."""
    app.config["TRUSTED_HOSTS"] = hosts(config)
    allowed = frozenset(config.cors_origins)

    @app.before_request
    def _check_address() -> None:
        # No id has it, and PostgreSQL can't be asked for it.
        if "\0" in request.path or any("\0" in text for _, text in request.args.items(multi=True)):
            abort(400, "The address must not contain NUL.")

    @app.before_request
    def _check_origin() -> None:
        origin = request.headers.get("Origin")
        reads = request.method in ("GET", "HEAD", "OPTIONS") and "Upgrade" not in request.headers
        if origin is None or reads or origin in allowed or origin == _own_origin():
            return
        abort(403, "Pages of this origin may not call here; JOBQUEST_CORS_ORIGINS lets them in.")

    @app.after_request
    def _add_headers(response: Response) -> Response:
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        if request.endpoint != "static":
            response.headers.setdefault("Cache-Control", _NOT_KEPT)
        origin = request.headers.get("Origin", "")
        if allowed:
            response.vary.add("Origin")
        if origin in allowed:
            _let_in(response, origin)
        return response


def _own_origin() -> str:
    return f"{request.scheme}://{request.host}"


def _let_in(response: Response, origin: str) -> None:
    response.headers["Access-Control-Allow-Origin"] = origin
    response.headers["Access-Control-Expose-Headers"] = "Retry-After"
    if request.method == "OPTIONS":
        response.headers["Access-Control-Allow-Methods"] = response.headers.get("Allow", "")
        response.headers["Access-Control-Allow-Headers"] = "Content-Type, Authorization"
        response.headers["Access-Control-Max-Age"] = _PREFLIGHT_SECONDS
