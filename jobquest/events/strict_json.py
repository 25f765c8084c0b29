"""One strict reader for JSON from outside, used for requests and for records.

Python's own reader takes more than JSON (NaN, duplicate keys, UTF-16) and numbers and texts that
a browser, SQLite or PostgreSQL cannot hold. Everything it lets through here can be stored and
shown. Only numbers may be of any size on a topic (`exact_json.py`). It knows nothing about events.
"""

from __future__ import annotations

import json
import math
import re
from decimal import Decimal
from typing import Any, NoReturn

from jobquest.errors import InvalidEvent
from jobquest.events import exact_json

MAX_DEPTH = 32
# Beyond this a browser's number is no longer exact (RFC 8259, section 6).
MAX_INTEGER = 2**53 - 1
# NUL breaks PostgreSQL's text and SQLite's length(); lone surrogates can't be written as UTF-8.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_UNSTORABLE_TEXT = "A string holds NUL or half of a surrogate pair."
_UNSAFE_INTEGER = "A whole number lies outside ±(2^53 - 1)."
_STRING = re.compile(
    rb'"[^"\\]*(?:\\.[^"\\]*)*"'
)  # for valid JSON only: its time is quadratic otherwise
_DIGITS = bytes.maketrans(b"123456789", b"000000000")
_BRACKETS = bytes.maketrans(b"[{]}", b"(())")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[{]}"))


def loads(body: bytes, *, huge_numbers: bool = False) -> Any:
    """Read one JSON document. With `huge_numbers`, such numbers are kept exactly, not refused.
    Raises InvalidEvent with one line that says what is wrong."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidEvent(f"The body is not UTF-8 (byte {error.start}).") from None
    if text.startswith("\ufeff"):
        raise InvalidEvent("The body starts with a byte order mark; send plain UTF-8.")
    try:
        document = _decoder_for(body, huge_numbers).decode(text)
    except json.JSONDecodeError as error:
        raise InvalidEvent(
            f"The body is not JSON: {error.msg} (line {error.lineno}, column {error.colno})."
        ) from None
    except RecursionError:
        raise InvalidEvent(_too_deep()) from None
    _check_read(body, text, huge_numbers)
    if b"\\u0000" in body or b"\\ud" in body or b"\\uD" in body:
        _check_texts(document)
    return document


def _decoder_for(body: bytes, huge_numbers: bool) -> json.JSONDecoder:
    """The fastest decoder that keeps the numbers in `body` exact."""
    if huge_numbers:
        return _EXACT_DECODER if exact_json.may_hold_huge_number(body) else _QUICK_DECODER
    return _DECODER if _may_hold_long_number(body) else _QUICK_DECODER


def _check_read(body: bytes, text: str, huge_numbers: bool) -> None:
    """What `check` does, for a body that is decoded already. It takes no step for each member,
    because anybody may send a megabyte of them."""
    is_flat = body.count(b"[") + body.count(b"{") <= MAX_DEPTH
    if is_flat and (huge_numbers or not _may_be_infinite(body)):
        return
    outside = _STRING.sub(b"", body)
    if not huge_numbers and _may_be_infinite(outside):
        _FINITE_DECODER.decode(text)
    nesting = outside.translate(_BRACKETS, _NO_BRACKETS)
    for _ in range(MAX_DEPTH):
        nesting = nesting.replace(b"()", b"")  # the innermost level
    if nesting:
        raise InvalidEvent(_too_deep())


def _may_hold_long_number(body: bytes) -> bool:
    return b"0" * 16 in body.translate(_DIGITS)


def _may_be_infinite(body: bytes) -> bool:
    """Whether some number may have an exponent, or hundreds of digits."""
    zeros = body.translate(_DIGITS)
    return b"0e" in zeros or b"0E" in zeros or b"0" * 300 in zeros


def _check_texts(document: Any) -> None:
    """Refuse a text that can't be stored, in a document with escapes."""
    try:
        spelled = exact_json.dumps(document)
    except TypeError:  # half of a surrogate pair
        raise InvalidEvent(_UNSTORABLE_TEXT) from None
    if b"\\u0000" in spelled:  # NUL, or a backslash and these letters
        check(document)


def check(value: Any, depth: int = 0) -> None:
    """Refuse what JSON can spell but a store or a browser cannot hold; raises InvalidEvent."""
    if depth >= MAX_DEPTH and isinstance(value, dict | list):
        raise InvalidEvent(_too_deep())
    if isinstance(value, str):
        _check_text(value)
    elif isinstance(value, dict):
        for key, member in value.items():
            _check_text(key)
            check(member, depth + 1)
    elif isinstance(value, list):
        for member in value:
            check(member, depth + 1)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidEvent("A number is too large.")
    elif isinstance(value, int) and not -MAX_INTEGER <= value <= MAX_INTEGER:
        raise InvalidEvent(_UNSAFE_INTEGER)


def depth_of(value: Any) -> int:
    """How deep objects and lists nest in `value`: 0 for a plain value, 1 for `{}`."""
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth_of, value), default=0)
    return 0


def _check_text(text: Any) -> None:
    if not isinstance(text, str):
        raise InvalidEvent("A key is not a string.")
    if _UNSTORABLE.search(text):
        raise InvalidEvent(_UNSTORABLE_TEXT)


def _too_deep() -> str:
    return f"The JSON nests deeper than {MAX_DEPTH} levels."


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise InvalidEvent(f"The key {twice[:100]!r} occurs twice in one object.")
    return members


def _integer(digits: str) -> int:
    # The length comes first, because int() takes quadratic time for thousands of digits.
    if len(digits) > 17 or abs(int(digits)) > MAX_INTEGER:
        raise InvalidEvent(_UNSAFE_INTEGER)
    return int(digits)


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise InvalidEvent("A number is too large.")
    return number


def _exact(text: str) -> float | Decimal:
    try:
        return exact_json.fraction(text)
    except ValueError as error:
        raise InvalidEvent(str(error)) from None


def _constant(name: str) -> NoReturn:
    raise InvalidEvent(f"{name} is not JSON.")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer, parse_constant=_constant)
_QUICK_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)
_EXACT_DECODER = json.JSONDecoder(
    object_pairs_hook=_object,
    parse_int=exact_json.integer,
    parse_float=_exact,
    parse_constant=_constant,
)
_FINITE_DECODER = json.JSONDecoder(parse_float=_finite)
