"""A plain request: a whole POST with nothing unusual in it, which can be answered without a thread.

What is spelled otherwise is no error: it goes to the server's own parser. The worker reads plain
requests, the door answers them; here is what they hand each other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

# RFC 9112, sections 2.2 and 3; what is spelled otherwise goes to gunicorn's parser.
_HEAD = re.compile(
    rb"POST (/[A-Za-z0-9/_-]*) HTTP/1\.1\r\n((?:[A-Za-z-]+: [\x21-\x7e][\x20-\x7e]*\r\n)+)\r\n"
)
# Nobody here looks at these, or (the first three) `begin` does.
_USUAL = frozenset(
    b"host content-type content-length user-agent accept accept-encoding accept-language"
    b" sec-fetch-mode traceparent tracestate x-request-id connection".split()
)


class PlainRequest(NamedTuple):
    """A whole POST that has nothing unusual in its head."""

    path: str
    host: str
    content_type: str
    body: bytes


class PlainAnswer(NamedTuple):
    """Its answer: `status` as in `201 Created`."""

    status: str
    headers: Iterable[tuple[str, str]]
    body: bytes


class Application(Protocol):
    """An application that may answer plain requests without a thread."""

    def begin(
        self, request: PlainRequest, done: Callable[[], None]
    ) -> Callable[[], PlainAnswer] | None:
        """Begin it and return at once; None where it needs a thread after all. Any thread calls
        `done`, once; then what is returned here tells the answer."""
        ...


def plain_request(data: bytes) -> PlainRequest | None:
    """What `data` is, if it is one whole plain request."""
    head = _HEAD.match(data)
    if head is None:
        return None
    fields: dict[bytes, bytes] = {}
    for line in head[2].split(b"\r\n")[:-1]:
        name, _, value = line.partition(b": ")
        name = name.lower()
        if name not in _USUAL or name in fields:
            return None
        fields[name] = value
    length = fields.get(b"content-length", b"")
    if not (length.isdigit() and len(length) < 10 and head.end() + int(length) == len(data)):
        return None
    if fields.get(b"connection", b"keep-alive").lower() != b"keep-alive":
        return None
    return PlainRequest(
        head[1].decode(),
        fields.get(b"host", b"").decode(),
        fields.get(b"content-type", b"").decode(),
        data[head.end() :],
    )
