"""One request answered, on a thread of `worker.py`: gunicorn's parser, the application, gunicorn's
spelling of its answer. Here no proxy is trusted, and nothing waits for a client.
"""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any, NamedTuple

import orjson
from gunicorn.config import Config
from gunicorn.http import errors
from gunicorn.http.message import Request
from gunicorn.http.unreader import IterUnreader
from gunicorn.http.wsgi import Response, create
from gunicorn.util import http_date

from jobquest.connection import ClientGone, Connection, Outlet
from jobquest.framing import MAX_BODY_BYTES

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
TOO_LONG = 10 * MAX_BODY_BYTES  # told of a body whose chunks were not waited for
MAX_SOUND = 100
PROMPT_BYTES = 32_768  # of a whole request that is read in the main loop
LATE = ("408 Request Timeout", "The request took too long to arrive.")
FAILED = ("500 Internal Server Error", "Something failed here; the log says what.")


def plain_settings(config: Config) -> SimpleNamespace:
    """The settings as plain attributes. gunicorn asks for some fifty with each request, and with
    its own object half of the time to read a head goes into finding them."""
    values = {name: setting.get() for name, setting in config.settings.items()}
    return SimpleNamespace(**values, is_ssl=False)


class OurRequest(Request):  # type: ignore[misc]
    """A request whose headers are believed by nobody here: that is the application's matter."""

    def _peer_trusted_for_forwarded(self) -> tuple[dict[str, str], list[str]]:
        return {}, []


class OurResponse(Response):  # type: ignore[misc]
    """An answer whose date is spelled once a second."""

    _date = (0, "")
    _sound: set[tuple[str, str]] = set()  # headers that gunicorn has found to be so

    def process_headers(self, headers: Iterable[tuple[str, str]]) -> None:
        """Check and take an answer's headers, most of which go with every answer."""
        for header in headers:
            if header in self._sound:
                self.headers.append(header)
                continue
            super().process_headers([header])
            is_plain = self.headers and self.headers[-1] == header
            if is_plain and header[0] != "Content-Length" and len(self._sound) < MAX_SOUND:
                self._sound.add(header)

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


class Answer(NamedTuple):
    """What is to be sent, and whether another request may follow."""

    data: bytes
    keep: bool


class Begun(NamedTuple):
    """A publish on its way: `wanted` is what `prompt` read of it, `rest` what came behind it."""

    conn: Connection
    response: Any
    environ: dict[str, Any]
    outlet: Outlet
    wanted: Any
    rest: bytes


class Exchange:
    """Answers requests with `application`, and plain publishes without a thread by its `prompt`
    (see `web/prompt.py`). A connection whose application takes the socket over is lent to it with
    `lend`."""

    def __init__(
        self,
        config: Config,
        application: Callable[[dict[str, Any], Any], Iterable[bytes]],
        prompt: Any,
        lend: Callable[[Connection], AbstractContextManager[None]],
    ) -> None:
        self._settings = plain_settings(config)
        self._application = application
        self._prompt = prompt
        self._begins = prompt.is_worth_it
        self._lend = lend

    # --- in the main loop ---

    def begin(self, conn: Connection, keep: bool) -> Begun | None:
        """Read a plain publish, if the connection's bytes begin with one."""
        is_small = len(conn.data) <= PROMPT_BYTES and not conn.framing.chunked
        if not (self._begins and is_small and conn.data.startswith(b"POST ")):
            return None
        unreader = IterUnreader((bytes(conn.data),))
        try:
            request = OurRequest(self._settings, unreader, conn.client)
            body = request.body.read()
            outlet = Outlet(conn)
            response, environ = self._created(conn, request, body, outlet, keep)
            wanted = None if "HTTP_UPGRADE" in environ else self._prompt.read(environ)
        except Exception:  # a thread says what is wrong
            return None
        if wanted is None:
            return None
        return Begun(conn, response, environ, outlet, wanted, unreader.take_buffered())

    def give(self, begun: Sequence[Begun]) -> list[Any | None]:
        """Give the events of publishes to the log; see `Prompt.give`."""
        given: list[Any | None] = self._prompt.give([one.wanted for one in begun])
        return given

    def when_settled(self, given: Any, callback: Callable[[], None]) -> None:
        """Have `callback` called once the log has the events of a publish, on any thread."""
        self._prompt.when_settled(given, callback)

    def expire(self, given: Any) -> None:
        """Wait no more for the log."""
        self._prompt.expire(given)

    def finish(self, begun: Begun, given: Any) -> Answer:
        """Answer a publish that is settled."""
        response = begun.response
        try:
            answer = self._prompt.answer(begun.wanted, given)
            for piece in self._prompt.send(answer, begun.environ, response.start_response):
                response.write(piece)
            response.close()
        except Exception:  # one answer that fails must not end the loop
            logger.exception("Error answering %s", begun.environ.get("RAW_URI"))
            return Answer(spelled(*FAILED), False)
        return Answer(begun.outlet.collected(), not response.should_close())

    @property
    def unlogged(self) -> int:
        """How many publishes were not logged yet."""
        return len(self._prompt.unlogged)

    def log_answered(self) -> None:
        """Log what was published since the last call."""
        self._prompt.log_answered()

    # --- on a thread ---

    def answer(self, conn: Connection, keep: bool) -> Answer:
        """Answer the request that the connection's bytes begin with. `keep`: if the client wants
        it, another one may follow."""
        data, conn.data = bytes(conn.data), b""
        unreader = IterUnreader((data,))
        try:
            request = OurRequest(self._settings, unreader, conn.client)
            _check_codings(request)
            body = b"" if conn.too_large else request.body.read()
        except (errors.ParseException, errors.NoMoreData) as error:
            logger.debug("Invalid request from %s: %s", conn.client[0], error)
            kind = next(kind for kind in REFUSED if isinstance(error, kind))
            return Answer(spelled(*REFUSED[kind]), False)
        if not conn.too_large:
            conn.data = unreader.take_buffered()
        if conn.framing.chunked:
            _tell_length(request, TOO_LONG if conn.too_large else len(body))
        outlet = Outlet(conn)
        try:
            return self._run(conn, request, body, outlet, keep and not conn.too_large)
        except StopIteration:  # a WebSocket was served, and has ended
            return Answer(b"", False)
        except ClientGone:
            return Answer(b"", False)
        except Exception:
            logger.exception("Error handling request %s %s", request.method, request.uri)
            return Answer(b"" if outlet.streamed else spelled(*FAILED), False)

    def _run(
        self, conn: Connection, request: Any, body: bytes, outlet: Outlet, keep: bool
    ) -> Answer:
        """Have the application answer."""
        response, environ = self._created(conn, request, body, outlet, keep)
        is_viewer = "websocket" in environ.get("HTTP_UPGRADE", "").lower()
        if is_viewer:
            environ["gunicorn.socket"] = conn.sock
            response.force_close()
        with self._lend(conn) if is_viewer else nullcontext():
            pieces = self._application(environ, response.start_response)
            try:
                for piece in pieces:
                    response.write(piece)
                response.close()
            finally:
                if hasattr(pieces, "close"):
                    pieces.close()
        return Answer(outlet.collected(), not response.should_close())

    def _created(
        self, conn: Connection, request: Any, body: bytes, outlet: Outlet, keep: bool
    ) -> tuple[Any, dict[str, Any]]:
        """gunicorn's response, and the request as WSGI has it."""
        request._expected_100_continue = False  # the loop has seen to that
        response, environ = create(
            request, outlet, conn.client, conn.server, self._settings, OurResponse
        )
        environ["wsgi.multithread"] = True
        environ["wsgi.input"] = io.BytesIO(body)
        del environ["gunicorn.socket"]
        if not keep:
            response.force_close()
        return response, environ


def spelled(status: str, message: str) -> bytes:
    """An error of ours, as the application spells its errors; the connection then closes."""
    body = orjson.dumps({"status": "error", "message": message}) + b"\n"
    head = (
        f"HTTP/1.1 {status}\r\nServer: gunicorn\r\nDate: {http_date()}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode("latin-1") + body


def _check_codings(request: Any) -> None:
    """gunicorn lets other codings through to the application, which would have to undo them."""
    codings = [value for name, value in request.headers if name == "TRANSFER-ENCODING"]
    if codings and [coding.strip().lower() for coding in codings] != ["chunked"]:
        raise errors.UnsupportedTransferCoding(", ".join(codings))


def _tell_length(request: Any, length: int) -> None:
    """A body whose chunks were read has a length (RFC 9112, section 7.1.3)."""
    kept = [(name, value) for name, value in request.headers if name != "TRANSFER-ENCODING"]
    request.headers = [*kept, ("CONTENT-LENGTH", str(length))]
