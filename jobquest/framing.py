"""Whether the bytes that a client has sent so far are a whole HTTP request.

Called by `worker.py`, so that no thread waits for a client. Only lengths are read here: gunicorn's
parser alone decides what a request means and where it ends. Whatever looks odd counts as whole, and
the parser refuses it.
"""

from __future__ import annotations

import re
from enum import Enum

MAX_HEAD_BYTES = 65_536
MAX_BODY_BYTES = 1 << 20  # the largest that any route allows
LARGE_BODY_BYTES = 16_384
MAX_CHUNKED_BYTES = 2 * MAX_BODY_BYTES  # with the lines that have the sizes of chunks
_MAX_CHUNK_LINE = 4_096
_FIELDS = re.compile(rb"\r\n((?i:content-length|transfer-encoding|expect)):[ \t]*([^\r]*)")


class Arrived(Enum):
    """How much of a request has arrived."""

    PART = "more must come"
    WHOLE = "the parser has all it needs, be it to refuse"
    LONG_HEAD = "its head is longer than any client's"
    TOO_LARGE = "its body is longer than any route allows, so nobody waits for it"


class Framing:
    """What is known of one request's length. A connection has one, and resets it."""

    __slots__ = ("_end", "_seen", "chunked", "expects", "head")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin with the next request."""
        self.head = 0  # where the head ends; 0 until it is known
        self.expects = False  # whether the client waits for 100 Continue
        self._seen = 0  # where to search on
        self._end = 0  # where the body ends, unless it is chunked
        self.chunked = False

    @property
    def is_large(self) -> bool:
        """Whether the body is larger than most, or of unknown length."""
        return self.chunked or self._end - self.head > LARGE_BODY_BYTES

    def look(self, data: bytes | bytearray) -> Arrived:
        """How much has arrived of the request, of which `data` is everything so far."""
        if not self.head:
            end = data.find(b"\r\n\r\n", self._seen)
            if (len(data) if end < 0 else end) > MAX_HEAD_BYTES:
                return Arrived.LONG_HEAD
            if end < 0:
                return self._headless(data)
            self.head = self._seen = end + 4
            if not self._measure(_FIELDS.findall(data, 0, end)):
                return Arrived.WHOLE
            if self.expects:  # HTTP/1.0 has no such thing
                self.expects = data[: data.find(b"\r\n", 2)].endswith(b" HTTP/1.1")
        if self.chunked:
            return self._walk(data)
        if self._end - self.head > MAX_BODY_BYTES:
            return Arrived.TOO_LARGE
        return Arrived.WHOLE if len(data) >= self._end else Arrived.PART

    def _headless(self, data: bytes | bytearray) -> Arrived:
        self._seen = max(0, len(data) - 3)
        # A line that ends with LF alone is refused, so its head would never end.
        odd = data.count(b"\n") != data.count(b"\r\n")
        return Arrived.WHOLE if odd else Arrived.PART

    def _measure(self, fields: list[tuple[bytes, bytes]]) -> bool:
        """Read the body's length from the head; False if the head has it in an odd form."""
        self._end = self.head
        lengths, codings = 0, b""
        for name, value in fields:
            match name[0] | 0x20:  # in lower case
                case 0x63:  # content-length
                    lengths += 1
                    text = value.rstrip(b" \t")
                    if not text.isdigit():
                        return False
                    # `int` is slow for thousands of digits, and no length has so many.
                    self._end += int(text) if len(text) < 20 else MAX_BODY_BYTES + 1
                case 0x74:  # transfer-encoding
                    codings += value.lower()
                case _:  # expect
                    if value.rstrip(b" \t").lower() != b"100-continue":
                        return False
                    self.expects = True
        self.chunked = b"chunked" in codings
        return lengths <= 1 and (not codings or (self.chunked and not lengths))

    def _walk(self, data: bytes | bytearray) -> Arrived:
        """Go from chunk to chunk."""
        while (line := data.find(b"\r\n", self._seen)) >= 0:
            text = bytes(data[self._seen : line]).partition(b";")[0]
            try:
                size = int(text, 16)
            except ValueError:
                return Arrived.WHOLE
            if size < 0:
                return Arrived.WHOLE
            if size == 0:
                if data.find(b"\r\n\r\n", line) >= 0:
                    return Arrived.WHOLE
                break
            end = line + 2 + size
            if end - self.head > MAX_CHUNKED_BYTES:
                return Arrived.TOO_LARGE
            if len(data) < end + 2:
                break
            if data[end : end + 2] != b"\r\n":
                return Arrived.WHOLE
            self._seen = end + 2
        else:
            if len(data) - self._seen > _MAX_CHUNK_LINE:
                return Arrived.WHOLE
        return Arrived.TOO_LARGE if len(data) - self.head > MAX_CHUNKED_BYTES else Arrived.PART
