"""HTTP for `worker.py`: gunicorn's parser reads a request, gunicorn's response writes its answer.

In between, the application answers on a thread; or the entrance receives a plain publish, which
needs none. Nothing here trusts a proxy, and nothing waits for a client.
"""

from __future__ import annotations

import io
import logging
import select
import time
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any, NamedTuple

import orjson
from gunicorn.config import Config
from gunicorn.http import errors
from gunicorn.http.message import Request
from gunicorn.http.unreader import IterUnreader
from gunicorn.http.wsgi import Response, create
from gunicorn.util import http_date

from jobquest.connection import ANSWER_SECONDS, Connection
from jobquest.framing import MAX_BODY_BYTES
from jobquest.web.entrance import Entrance
from jobquest.web.publishing import Publish

logger = logging.getLogger(__name__)

REFUSED: dict[type[Exception], tuple[str, str]] = {
    errors.LimitRequestLine: ("414 URI Too Long", "The address is too long."),
    errors.LimitRequestHeaders: ("431 Request Header Fields Too Large", "The head is too large."),
    errors.ExpectationFailed: ("417 Expectation Failed", "Only 100-continue can be expected."),
    errors.UnsupportedTransferCoding: (
        "501 Not Implemented",
        "Of transfer codings only chunked is understood.",
    ),
    errors.NoMoreData: ("400 Bad Request", "The request ends early."),
    errors.ParseException: ("400 Bad Request", "This is not a valid HTTP request."),
}
TOO_LONG = 10 * MAX_BODY_BYTES  # the length given for a body whose chunks are not waited for
MAX_CHECKED = 100
MAX_ANSWER_BYTES = 4 << 20  # kept for a client; a longer one is a stream, whose thread waits
PROMPT_BYTES = 32_768  # of a whole request that is read in the main loop
LATE = ("408 Request Timeout", "The request took too long to arrive.")
FAILED = ("500 Internal Server Error", "Something failed here; the log says what.")


def plain_settings(config: Config) -> SimpleNamespace:
    """The settings as plain attributes. gunicorn reads some fifty of them for each request; from
    its own object, that takes half of the time that it needs to read a head."""
    values = {name: setting.get() for name, setting in config.settings.items()}
    return SimpleNamespace(**values, is_ssl=False)


class OurRequest(Request):  # type: ignore[misc]
    """A request whose forwarding headers have no effect here: the application reads them."""

    def _peer_trusted_for_forwarded(self) -> tuple[dict[str, str], list[str]]:
        return {}, []


class OurResponse(Response):  # type: ignore[misc]
    """An answer whose date is written once a second, and whose usual headers are checked once."""

    _date = (0, "")
    _checked: set[tuple[str, str]] = set()  # headers that gunicorn has checked

    def process_headers(self, headers: Iterable[tuple[str, str]]) -> None:
        """Check and add an answer's headers, most of which go with every answer."""
        for header in headers:
            if header in self._checked:
                self.headers.append(header)
                continue
            super().process_headers([header])
            is_plain = self.headers and self.headers[-1] == header
            if is_plain and header[0] != "Content-Length" and len(self._checked) < MAX_CHECKED:
                self._checked.add(header)

    def default_headers(self) -> list[str]:
        """The first lines of the head."""
        second = int(time.time())
        if OurResponse._date[0] != second:
            OurResponse._date = (second, http_date(second))
        connection = "close" if self.should_close() else "keep-alive"
        major, minor = self.req.version
        lines = [
            f"HTTP/{major}.{minor} {self.status}\r\nServer: {self.version}\r\n"
            f"Date: {OurResponse._date[1]}\r\nConnection: {connection}\r\n"
        ]
        if self.chunked:
            lines.append("Transfer-Encoding: chunked\r\n")
        return lines


class ClientGone(Exception):
    """The client of a stream has gone, or takes too long."""


class Outlet:
    """Replaces the socket while gunicorn writes an answer: collects it, so that head and body are
    sent together and no thread waits for a client."""

    __slots__ = ("_conn", "_parts", "_size", "streamed")

    def __init__(self, conn: Connection) -> None:
        self._conn = conn
        self._parts: list[bytes] = []
        self._size = 0
        self.streamed = False  # a part is sent: no other answer can replace it

    def sendall(self, data: bytes) -> None:
        """Add a piece to the answer."""
        self._parts.append(data)
        self._size += len(data)
        if self._size > MAX_ANSWER_BYTES:
            self._stream()

    def collected(self) -> bytes:
        """The answer, or what is left of one that was streamed."""
        return b"".join(self._parts)

    def _stream(self) -> None:
        """Wait until the client has received what was collected."""
        self.streamed = True
        left: bytes | None = self.collected()
        self._parts, self._size = [], 0
        poll = select.poll()
        poll.register(self._conn.fd, select.POLLOUT)
        deadline = time.monotonic() + ANSWER_SECONDS
        while left := self._conn.send(left):  # type: ignore[arg-type]
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                break
        if left != b"":
            raise ClientGone


class Reply(NamedTuple):
    """An answer as bytes, and whether another request may follow."""

    data: bytes
    keep: bool


class Received(NamedTuple):
    """A publish that waits for the log, and what its answer needs; `rest` are the bytes behind its
    request."""

    conn: Connection
    response: Any
    environ: dict[str, Any]
    outlet: Outlet
    publish: Publish
    rest: bytes


class Exchange:
    """Answers requests with `application`; its `entrance` receives plain publishes. `let_go` is
    called for a connection whose socket the application may take over."""

    def __init__(
        self,
        config: Config,
        application: Callable[[dict[str, Any], Any], Iterable[bytes]],
        entrance: Entrance,
        let_go: Callable[[Connection], None],
    ) -> None:
        self._settings = plain_settings(config)
        self._application = application
        self._entrance = entrance
        self._receives = entrance.publisher.is_worth_it
        self._let_go = let_go

    # --- in the main loop ---

    def receive(self, conn: Connection, keep: bool) -> Received | None:
        """Read a plain publish, if the connection's bytes begin with one; None if a thread has to
        answer."""
        is_small = len(conn.data) <= PROMPT_BYTES and not conn.framing.chunked
        if not (self._receives and is_small and conn.data.startswith(b"POST ")):
            return None
        unreader = IterUnreader((bytes(conn.data),))
        try:
            request = OurRequest(self._settings, unreader, conn.client)
            body = request.body.read()
            outlet = Outlet(conn)
            response, environ = self._created(conn, request, body, outlet, keep)
            publish = None if "HTTP_UPGRADE" in environ else self._entrance.receive(environ)
        except Exception:  # a thread says what is wrong
            return None
        if publish is None:
            return None
        return Received(conn, response, environ, outlet, publish, unreader.take_buffered())

    def answer_publish(self, received: Received) -> Reply:
        """Answer a publish, once the log has settled its events."""
        response = received.response
        try:
            answer = self._entrance.publisher.answer(received.publish)
            for piece in self._entrance.send(answer, received.environ, response.start_response):
                response.write(piece)
            response.close()
        except Exception:  # one answer that fails must not end the loop
            logger.exception("Error answering %s", received.environ.get("RAW_URI"))
            return Reply(error_response(*FAILED), False)
        return Reply(received.outlet.collected(), not response.should_close())

    # --- on a thread ---

    def refusal(self, conn: Connection) -> Reply | None:
        """The answer to a request whose guards refuse it by its head, before its body arrives; None
        if they let it in."""
        outlet = Outlet(conn)
        try:
            head = bytes(conn.data[: conn.framing.head])
            request = OurRequest(self._settings, IterUnreader((head,)), conn.client)
            response, environ = self._created(conn, request, b"", outlet, False)
            answer = self._entrance.refusal(environ)
            if answer is None:
                return None
            for piece in self._entrance.send(answer, environ, response.start_response):
                response.write(piece)
            response.close()
        except Exception:  # whoever answers the whole request says what is wrong
            return None
        return Reply(outlet.collected(), False)

    def answer(self, conn: Connection, keep: bool) -> Reply:
        """Answer the request that the connection's bytes begin with. `keep`: another one may
        follow, if the client wants that."""
        data, conn.data = bytes(conn.data), b""
        unreader = IterUnreader((data,))
        try:
            request = OurRequest(self._settings, unreader, conn.client)
            _check_codings(request)
            body = b"" if conn.too_large else request.body.read()
        except (errors.ParseException, errors.NoMoreData) as error:
            logger.debug("Invalid request from %s: %s", conn.client[0], error)
            kind = next(kind for kind in REFUSED if isinstance(error, kind))
            return Reply(error_response(*REFUSED[kind]), False)
        if not conn.too_large:
            conn.data = unreader.take_buffered()
        if conn.framing.chunked:
            _tell_length(request, TOO_LONG if conn.too_large else len(body))
        outlet = Outlet(conn)
        try:
            return self._run(conn, request, body, outlet, keep and not conn.too_large)
        except StopIteration:  # it has taken the socket over
            return Reply(b"", False)
        except ClientGone:
            return Reply(b"", False)
        except Exception:
            logger.exception("Error handling request %s %s", request.method, request.uri)
            return Reply(b"" if outlet.streamed else error_response(*FAILED), False)

    def _run(
        self, conn: Connection, request: Any, body: bytes, outlet: Outlet, keep: bool
    ) -> Reply:
        """Have the application answer."""
        response, environ = self._created(conn, request, body, outlet, keep)
        is_viewer = "websocket" in environ.get("HTTP_UPGRADE", "").lower()
        if is_viewer:
            self._let_go(conn)
            environ["gunicorn.socket"] = conn.sock
            response.force_close()
        pieces = self._application(environ, response.start_response)
        try:
            for piece in pieces:
                response.write(piece)
            response.close()
        finally:
            if hasattr(pieces, "close"):
                pieces.close()
        return Reply(outlet.collected(), not response.should_close())

    def _created(
        self, conn: Connection, request: Any, body: bytes, outlet: Outlet, keep: bool
    ) -> tuple[Any, dict[str, Any]]:
        """gunicorn's response, and the request's WSGI environ."""
        request._expected_100_continue = False  # the loop has answered that
        response, environ = create(
            request, outlet, conn.client, conn.server, self._settings, OurResponse
        )
        environ["wsgi.multithread"] = True
        environ["wsgi.input"] = io.BytesIO(body)
        del environ["gunicorn.socket"]
        if not keep:
            response.force_close()
        return response, environ


def error_response(status: str, message: str) -> bytes:
    """An error of ours, in the shape of the application's errors; the connection then closes."""
    body = orjson.dumps({"status": "error", "message": message}) + b"\n"
    head = (
        f"HTTP/1.1 {status}\r\nServer: gunicorn\r\nDate: {http_date()}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode("latin-1") + body


def _check_codings(request: Any) -> None:
    """gunicorn lets other codings through to the application, which would have to decode them."""
    codings = [value for name, value in request.headers if name == "TRANSFER-ENCODING"]
    if codings and [coding.strip().lower() for coding in codings] != ["chunked"]:
        raise errors.UnsupportedTransferCoding(", ".join(codings))


def _tell_length(request: Any, length: int) -> None:
    """A body whose chunks were read has a length (RFC 9112, section 7.1.3)."""
    kept = [(name, value) for name, value in request.headers if name != "TRANSFER-ENCODING"]
    request.headers = [*kept, ("CONTENT-LENGTH", str(length))]
