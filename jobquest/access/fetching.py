"""Asking an identity provider over HTTP, with limits for the time and the size of its answer.

Nothing that an answer refers to is followed, and no setting of the environment sends the request
elsewhere.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from socket import SHUT_RDWR, create_connection, socket
from urllib.parse import SplitResult, urlencode, urlsplit

from jobquest.errors import Unavailable

SECONDS = 10.0
MAX_BYTES = 256 * 1024


def fetch(
    url: str, form: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None
) -> tuple[int, bytes]:
    """The code and the body of the answer to a GET, or to a POST of a form. Raises Unavailable."""
    parts = urlsplit(url)
    path = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
    sent = {"Accept": "application/json", **(headers or {})}
    if form is not None:
        sent["Content-Type"] = "application/x-www-form-urlencoded"
    try:
        with closing(_connected(parts)) as sock, _ending(sock):
            if isinstance(sock, ssl.SSLSocket):
                sock.do_handshake()
            connection = HTTPConnection(parts.netloc)
            connection.sock = sock
            if form is None:
                connection.request("GET", path, headers=sent)
            else:
                connection.request("POST", path, urlencode(form), sent)
            answer = connection.getresponse()
            body = answer.read(MAX_BYTES + 1)
    except OSError as error:
        raise Unavailable(error.strerror or str(error)) from None
    except HTTPException:
        raise Unavailable("it does not answer as HTTP demands") from None
    if len(body) > MAX_BYTES:
        raise Unavailable(f"its answer is larger than {MAX_BYTES // 1024} KB")
    return answer.status, body


def fetch_document(url: str, headers: Mapping[str, str] | None = None) -> bytes:
    """What is at an address. Raises Unavailable, also if the answer's code is not 200."""
    return successful(*fetch(url, headers=headers))


def successful(status: int, body: bytes) -> bytes:
    """The body of an answer. Raises Unavailable if its code is not 200."""
    if status != 200:
        raise Unavailable(f"it answered {status}")
    return body


def _connected(parts: SplitResult) -> socket:
    tls = ssl.create_default_context() if parts.scheme == "https" else None
    host = parts.hostname or ""
    sock = create_connection((host, parts.port or (443 if tls else 80)), SECONDS)
    if not tls:
        return sock
    # The handshake comes later, because somebody could make it last for hours.
    return tls.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)


@contextmanager
def _ending(sock: socket) -> Iterator[None]:
    """End a connection after SECONDS: a socket's own limit is for each byte."""

    def end() -> None:
        with suppress(OSError):
            sock.shutdown(SHUT_RDWR)

    timer = threading.Timer(SECONDS, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
