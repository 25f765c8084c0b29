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
from typing import Any

import orjson

from jobquest.errors import JobQuestError
from jobquest.runtime import Runtime
from jobquest.web import publishing
from jobquest.web.errors import answer_to, unexpected
from jobquest.web.events import MAX_BATCH_BYTES
from jobquest.web.publishing import Answer

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 64 * 1024
_Environ = dict[str, Any]
_Application = Callable[[_Environ, Any], Iterable[bytes]]
_Take = Callable[[Runtime, bytes], Answer]
_ROUTES: Mapping[str, tuple[_Take, int]] = {
    "/api/kafka/events": (publishing.publish_one, MAX_BODY_BYTES),
    "/api/kafka/events/batch": (publishing.publish_batch, MAX_BATCH_BYTES),
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
        if environ["REQUEST_METHOD"] != "POST" or route not in _ROUTES:
            return self._application(environ, start_response)
        take, longest = _ROUTES[route]
        length = self._plain_length(environ, longest)
        if length is None:
            return self._application(environ, start_response)
        body = environ["wsgi.input"].read(length)
        if len(body) < length:  # the client has gone: the views say so
            environ["wsgi.input"] = io.BytesIO(body)
            return self._application(environ, start_response)
        answer = self._answer(take, body)
        self._count(route, "POST", answer.code)
        document = orjson.dumps(answer.document, option=orjson.OPT_APPEND_NEWLINE)
        headers = [*self._headers, ("Content-Length", str(len(document))), *answer.headers.items()]
        start_response(_STATUS[answer.code], headers)
        return (document,)

    def _plain_length(self, environ: _Environ, longest: int) -> int | None:
        """How long the body of a plain request is; None where it is none."""
        if environ.get("QUERY_STRING") or any(name in environ for name in _NOT_PLAIN):
            return None
        if environ.get("CONTENT_TYPE") != "application/json":
            return None
        host = environ.get("HTTP_HOST", "")
        if (host.rpartition(":")[0] or host) not in self._hosts:
            return None
        length = environ.get("CONTENT_LENGTH", "")
        if not (length.isascii() and length.isdigit() and len(length) < 10):
            return None
        return int(length) if int(length) <= longest else None

    def _answer(self, take: _Take, body: bytes) -> Answer:
        self._runtime.start()
        try:
            return take(self._runtime, body)
        except JobQuestError as error:
            return answer_to(error)
        except Exception as error:
            return unexpected(error)
