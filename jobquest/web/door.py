"""The short way in: plain publishes are answered before Flask is asked.

A WSGI layer around the application. Routing, contexts and hooks cost Flask five times what taking
an event does. Whatever is not quite plain (an Origin, a query string, another host, an odd body)
goes on to the views, which do the same in the same words; the tests send both ways.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any, NamedTuple

import orjson

from jobquest.errors import JobQuestError
from jobquest.runtime import Runtime
from jobquest.web import publishing
from jobquest.web.errors import answer_to, unexpected
from jobquest.web.events import MAX_BATCH_BYTES
from jobquest.web.plain import PlainAnswer, PlainRequest
from jobquest.web.publishing import Answer

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 64 * 1024
_Environ = dict[str, Any]
_Application = Callable[[_Environ, Any], Iterable[bytes]]


class _Route(NamedTuple):
    taker: publishing.Taker
    longest: int  # body, in bytes


_ROUTES: Mapping[str, _Route] = {
    "/api/kafka/events": _Route(publishing.ONE, MAX_BODY_BYTES),
    "/api/kafka/events/batch": _Route(publishing.BATCH, MAX_BATCH_BYTES),
}
# What only the views look at.
_NOT_PLAIN = ("HTTP_ORIGIN", "HTTP_TRANSFER_ENCODING", "HTTP_UPGRADE", "HTTP_CONTENT_ENCODING")
_STATUS = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}


class Door:
    """Stands before `application`. `hosts` are those that may be called by, `headers` go with every
    answer, `count` is told of each (route, method, code)."""

    def __init__(
        self,
        application: _Application,
        runtime: Runtime,
        hosts: Iterable[str],
        headers: Mapping[str, str],
        count: Callable[[str, str, int], None],
    ) -> None:
        self._application = application
        self._runtime = runtime
        self._hosts = frozenset(hosts)
        self._headers = [("Content-Type", "application/json"), *headers.items()]
        self._count = count

    def __call__(self, environ: _Environ, start_response: Any) -> Iterable[bytes]:
        route = environ["PATH_INFO"]
        length = self._plain_length(environ) if environ["REQUEST_METHOD"] == "POST" else None
        if length is None:
            return self._application(environ, start_response)
        body = environ["wsgi.input"].read(length)
        if len(body) < length:  # the client has gone: the views say so
            environ["wsgi.input"] = io.BytesIO(body)
            return self._application(environ, start_response)
        taker = _ROUTES[route].taker
        status, headers, document = self._answer(
            route, lambda: publishing.publish(self._runtime, taker, body)
        )
        start_response(status, headers)
        return (document,)

    def begin(
        self, request: PlainRequest, done: Callable[[], None]
    ) -> Callable[[], PlainAnswer] | None:
        """See `worker.Application`."""
        path, body = request.path, request.body
        if not self._is_plain(path, request.host, request.content_type, len(body)):
            return None
        try:
            tell = publishing.begin(self._runtime, _ROUTES[path].taker, body, done)
        except JobQuestError as error:
            refused = answer_to(error)
        except Exception as error:  # the loop that called must go on
            refused = unexpected(error)
        else:
            return None if tell is None else lambda: self._answer(path, tell)
        done()
        return lambda: self._answer(path, lambda: refused)

    def _plain_length(self, environ: _Environ) -> int | None:
        """How long the body of a plain request is; None where it is none."""
        if environ.get("QUERY_STRING") or any(name in environ for name in _NOT_PLAIN):
            return None
        text = environ.get("CONTENT_LENGTH", "")
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            return None
        route, host = environ["PATH_INFO"], environ.get("HTTP_HOST", "")
        is_plain = self._is_plain(route, host, environ.get("CONTENT_TYPE", ""), int(text))
        return int(text) if is_plain else None

    def _is_plain(self, path: str, host: str, content_type: str, length: int) -> bool:
        return (
            path in _ROUTES
            and length <= _ROUTES[path].longest
            and content_type == "application/json"
            and (host.rpartition(":")[0] or host) in self._hosts
        )

    def _answer(self, route: str, tell: Callable[[], Answer]) -> PlainAnswer:
        self._runtime.start()
        try:
            answer = tell()
            document = _spelled(answer)
        except Exception as error:
            answer = answer_to(error) if isinstance(error, JobQuestError) else unexpected(error)
            document = _spelled(answer)
        self._count(route, "POST", answer.code)
        length = ("Content-Length", str(len(document)))
        headers = [*self._headers, length, *answer.headers.items()]
        return PlainAnswer(_STATUS[answer.code], headers, document)


def _spelled(answer: Answer) -> bytes:
    return orjson.dumps(answer.document, option=orjson.OPT_APPEND_NEWLINE)
