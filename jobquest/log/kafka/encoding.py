"""A record's key, value and headers in Kafka's record format.

https://kafka.apache.org/documentation/#record. Both ways of sending use it to measure a record; the
fast path also sends these bytes.
"""

from __future__ import annotations

from functools import lru_cache

from jobquest.log import NewRecord


def varint(number: int) -> bytes:
    """A whole number in the format's encoding: zigzag, seven bits per byte."""
    if 0 <= number < len(_SMALL):
        return _SMALL[number]
    rest, found = (number << 1) ^ (number >> 63), bytearray()
    while rest > 0x7F:
        found.append(rest & 0x7F | 0x80)
        rest >>= 7
    found.append(rest)
    return bytes(found)


_SMALL: list[bytes] = []
_SMALL = [varint(number) for number in range(8_192)]
_NONE = varint(-1)


@lru_cache(maxsize=4_096)
def _header(name: str, size: int) -> bytes:
    """The bytes before a header's value of that many bytes."""
    encoded = name.encode()
    return varint(len(encoded)) + encoded + varint(size)


def encode(record: NewRecord) -> bytes:
    """A record's key, value and headers in Kafka's record format."""
    parts: list[bytes] = []
    for part in (record.key, record.value):
        parts += (_NONE,) if part is None else (varint(len(part)), part)
    parts.append(varint(len(record.headers)))
    for name, value in record.headers:
        parts += (_header(name, len(value)), value)
    return b"".join(parts)
