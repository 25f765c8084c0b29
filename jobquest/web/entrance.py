"""The entrance: every request passes here, whoever sends it and whatever it asks for.

A WSGI layer around the application. Its guards decide first, in one order, in one place; a guard
that is added to `guards` guards everything. A publish is then answered right here, because routing,
contexts and hooks in Flask cost five times what an event costs. Everything else goes to Flask's
views. If somebody has added a hook to the application, publishes go to the views too, which give
the same answers.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import flask
import orjson
from flask import Flask
from flask.sessions import SecureCookieSessionInterface

from jobquest.errors import JobQuestError
from jobquest.runtime import Runtime
from jobquest.web.answers import AT_ONCE, CALLER, RETRY_AFTER_SECONDS, Answer, failure
from jobquest.web.errors import REFUSAL, Refused, answer_to, unexpected, wants_page
from jobquest.web.paths import FROM_PROVIDER, LIVE, SLASH, TO_PROVIDER, canonical_path
from jobquest.web.proxies import ORIGINAL, Proxies
from jobquest.web.publishing import AsyncPublisher, Publish, publish_batch, publish_one

Environ = dict[str, Any]
Headers = Sequence[tuple[str, str]]
Guard = Callable[[Environ], Answer | None]
"""Looks at a request and lets it in (None) or answers it. It must not read the body."""

MAX_BODY_BYTES = 64 * 1024
MAX_BATCH_BYTES = 1024 * 1024
MAX_READERS = 4  # requests that read, at a time
READER_SECONDS = 10.0  # longer than the longest wait for the database
_EVENTS, _BATCH = "/api/kafka/events", "/api/kafka/events/batch"
_PUBLISHES = {_EVENTS: "events.publish", _BATCH: "events.publish_batch"}  # path → endpoint
_TOO_LARGE = "The body is too large: an event may have 64 KiB, a batch 1 MiB."
_UNKNOWN = f"/{SLASH}"  # no route has it
# Probes never wait for other requests; nor does any for one that waits for somebody else.
_NO_READERS = frozenset({"/healthz", "/readyz", "/metrics", LIVE, TO_PROVIDER, FROM_PROVIDER})
_READS = "jobquest.reads"  # in the environ: it is one of the readers
_ROUTE = "jobquest.route"  # in the environ: the rule that Flask has matched
_STATUS = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}
_METHODS = frozenset(
    name for name in dir(Flask) if callable(getattr(Flask, name)) and name != "wsgi_app"
)
_SIGNALS = (
    flask.request_started,
    flask.request_finished,
    flask.request_tearing_down,
    flask.got_request_exception,
    flask.appcontext_pushed,
    flask.appcontext_popped,
    flask.appcontext_tearing_down,
)


class Entrance:
    """Receives every request to `app`. `headers` go with every answer, by the request's origin;
    `count` counts each answer by route, method and code."""

    def __init__(
        self,
        app: Flask,
        runtime: Runtime,
        proxies: Proxies,
        guards: Iterable[Guard],
        headers: Mapping[str, Headers],
        count: Callable[[str, str, int], None],
    ) -> None:
        self.guards = list(guards)
        self.publisher = AsyncPublisher(runtime)
        self._own_guards = list(self.guards)
        self._proxies = proxies
        self._readers = threading.BoundedSemaphore(MAX_READERS)
        self._app = app
        self._views = app.wsgi_app
        self._runtime = runtime
        self._headers = headers
        self._count = count
        app.before_request(_note_route)
        self._own_hooks = _hooks(app)

    def __call__(self, environ: Environ, start_response: Any) -> Iterable[bytes]:
        try:
            answer = self._shown(self.refusal(environ), environ) or self._publish(environ)
        except Exception as error:
            answer = unexpected(error)
        if answer is None:
            answer = self._wait_to_read(environ)
        if answer is not None:
            return self.send(answer, environ, start_response)
        # The body is read when a view asks for it: hooks of others may refuse the request first.
        environ["wsgi.input"] = io.BufferedReader(_Body(environ))
        try:
            return self._views(environ, self._completed(environ, start_response))
        finally:
            if _READS in environ:
                self._readers.release()

    def receive(self, environ: Environ) -> Publish | None:
        """The valid events of a request that the worker's loop can answer. This neither waits nor
        takes long. None if a thread has to answer: a guard refuses the request, it is no plain
        publish, or somebody has added a layer, guard or hook that may refuse it."""
        environ[AT_ONCE] = True
        has_other_layers = self._app.wsgi_app is not self or self.guards != self._own_guards
        if has_other_layers or self.refusal(environ) or not self._is_ours_alone(environ):
            return None
        path = environ[_ROUTE] = environ["PATH_INFO"]
        try:
            body = _body(environ, environ["wsgi.input"])
        except Refused:
            return None
        return self.publisher.check(body, environ[CALLER], is_batch=path == _BATCH)

    def send(self, answer: Answer, environ: Environ, start_response: Any) -> Iterable[bytes]:
        """Answer a request that no view has answered."""
        own, document = list(answer.headers.items()), b""
        if answer.document is not None:
            document = orjson.dumps(answer.document, option=orjson.OPT_APPEND_NEWLINE)
            own.append(("Content-Type", "application/json"))
            own.append(("Content-Length", str(len(document))))
        self._completed(environ, start_response)(_STATUS[answer.code], own)
        return () if environ["REQUEST_METHOD"] == "HEAD" else (document,)

    def _wait_to_read(self, environ: Environ) -> Answer | None:
        """Limit how many requests read at a time: each may need ten megabytes, and only one thread
        runs at a time anyway."""
        if environ["REQUEST_METHOD"] != "GET" or environ["PATH_INFO"] in _NO_READERS:
            return None
        if not self._readers.acquire(timeout=READER_SECONDS):
            line = "Too many answers are being made; try again."
            return Answer(503, failure(line), {"Retry-After": str(RETRY_AFTER_SECONDS)})
        environ[_READS] = True
        return None

    def refusal(self, environ: Environ) -> Answer | None:
        """The first guard's refusal; None if all let the request pass."""
        self._proxies.apply(environ)
        _repair_cookies(environ)
        environ["PATH_INFO"] = canonical_path(environ) or _UNKNOWN
        for guard in self.guards:
            if refusal := guard(environ):
                return refusal
        return None

    def _shown(self, refusal: Answer | None, environ: Environ) -> Answer | None:
        """A refusal; or None if the application has to show it as a page, and nothing else: no
        view has the address that it gets. A request to another host gets no page."""
        is_ours = ORIGINAL in environ
        if not is_ours or refusal is None or not refusal.document or not wants_page(environ):
            return refusal
        environ[REFUSAL] = refusal
        environ["PATH_INFO"] = _UNKNOWN
        return None

    def _publish(self, environ: Environ) -> Answer | None:
        """The answer to a publish; None if a view has to answer."""
        path = environ["PATH_INFO"]
        if path != LIVE:  # a server may ignore the wish for another protocol (RFC 9110, 7.8)
            environ.pop("HTTP_UPGRADE", None)
        self._runtime.start()  # under the server it has started already
        if not self._is_ours_alone(environ):
            return None
        environ[_ROUTE] = path
        try:
            body = _body(environ, environ["wsgi.input"])
            if path == _BATCH:
                return publish_batch(self._runtime, body, environ[CALLER])
            return publish_one(self._runtime, body, environ[CALLER])
        except Refused as refused:
            return refused.answer
        except JobQuestError as error:
            return answer_to(error)

    def _is_ours_alone(self, environ: Environ) -> bool:
        """Whether it is a plain publish, and nobody has added a hook that may change its answer."""
        return (
            environ["PATH_INFO"] in _PUBLISHES
            and environ["REQUEST_METHOD"] == "POST"
            and not environ.get("QUERY_STRING")
            and environ.get("CONTENT_TYPE") == "application/json"
            and _hooks(self._app) == self._own_hooks
            and _is_plain_flask(self._app)
            and not any(s.receivers and any(s.receivers_for(self._app)) for s in _SIGNALS)
        )

    def _completed(self, environ: Environ, start_response: Any) -> Any:
        """A `start_response` that adds what goes with every answer, and counts it."""

        def start(
            status: str, headers: Iterable[tuple[str, str]], *more: Any
        ) -> Callable[[bytes], object]:
            route = environ.get(_ROUTE)
            method = environ["REQUEST_METHOD"] if route else "other"
            self._count(route or "none", method, int(status[:3]))
            added = self._headers.get(environ.get("HTTP_ORIGIN", ""), self._headers[""])
            written: Callable[[bytes], object] = start_response(
                status, _merged(headers, added), *more
            )
            return written

        return start


def _repair_cookies(environ: Environ) -> None:
    """Make the cookies UTF-8, which Werkzeug demands: others on the same host may set any."""
    cookies = environ.get("HTTP_COOKIE", "")
    if not cookies.isascii():
        text = cookies.encode("latin-1").decode("utf-8", "replace")
        environ["HTTP_COOKIE"] = text.encode().decode("latin-1")


def _merged(
    own: Iterable[tuple[str, str]], added: Iterable[tuple[str, str]]
) -> list[tuple[str, str]]:
    """An answer's own headers, and those of `added` that it does not have; `Vary` adds up."""
    found = list(own)
    names = {name.lower() for name, _ in found}
    found += [one for one in added if one[0] == "Vary" or one[0].lower() not in names]
    return found


def _hooks(app: Flask) -> tuple[object, ...]:
    """Every function that Flask calls around a view that publishes, and these views.

    If a later Flask keeps them elsewhere, this raises at start and says so.
    """
    tables: tuple[Mapping[Any, Sequence[object]], ...] = (
        app.before_request_funcs,
        app.after_request_funcs,
        app.teardown_request_funcs,
        app.url_value_preprocessors,
    )
    found = [function for table in tables for added in table.values() for function in added]
    found += app.teardown_appcontext_funcs
    for by_code in app.error_handler_spec.values():
        for handlers in by_code.values():
            found += handlers.values()
    found += [app.view_functions.get(endpoint) for endpoint in _PUBLISHES.values()]
    return tuple(found)


def _is_plain_flask(app: Flask) -> bool:
    """Whether nobody has replaced one of Flask's own methods, as tracers and tests do."""
    return (
        type(app) is Flask
        and type(app.session_interface) is SecureCookieSessionInterface
        and _METHODS.isdisjoint(vars(app))
    )


def _note_route() -> None:
    rule = flask.request.url_rule
    if rule is not None:
        flask.request.environ[_ROUTE] = rule.rule


class _Body(io.RawIOBase):
    """A request's body, which is read and checked when a view asks for it."""

    def __init__(self, environ: Environ) -> None:
        self._environ, self._input = environ, environ["wsgi.input"]
        self._read: io.BytesIO | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Raises Refused."""
        if self._read is None:
            self._read = io.BytesIO(_body(self._environ, self._input))
        return self._read.readinto(buffer)


def _body(environ: Environ, stream: Any) -> bytes:
    """The whole body. Raises Refused."""
    chunked = "HTTP_TRANSFER_ENCODING" in environ
    length = environ.get("CONTENT_LENGTH") or "0"
    if environ.get("HTTP_CONTENT_ENCODING", "identity").lower() not in ("", "identity"):
        line = "Bodies must not be compressed: send no Content-Encoding."
        raise Refused(Answer(415, failure(line), {"Accept-Encoding": "identity"}))
    if not chunked and not (length.isascii() and length.isdigit()):
        raise _refused(400, "Content-Length is not a number.")
    longest = MAX_BATCH_BYTES if environ["PATH_INFO"] == _BATCH else MAX_BODY_BYTES
    if not chunked and (len(length) > 9 or int(length) > longest):
        raise _refused(413, _TOO_LARGE)
    try:
        body = _read(stream, longest + 1 if chunked else int(length))
    except Exception as error:  # each server raises its own for a broken body
        raise _refused(400, f"The body can't be read: {type(error).__name__}.") from None
    if len(body) > longest:
        raise _refused(413, _TOO_LARGE)
    if not chunked and len(body) < int(length):
        raise _refused(400, "The body ended before its Content-Length.")
    return body


def _refused(code: int, line: str) -> Refused:
    return Refused(Answer(code, failure(line)))


def _read(stream: Any, most: int) -> bytes:
    parts, left = [], most
    while left and (part := stream.read(left)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)
