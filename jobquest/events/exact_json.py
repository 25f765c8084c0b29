"""JSON with exact numbers: a number that fits no 64-bit integer and no double is a Decimal.

Other producers may put any number into a field that this version does not know. The tolerant
reader, what is stored and what is answered keep it digit by digit. It knows nothing about events.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

import orjson

_HELD_EXACTLY = 2**53  # doubles below it may round their fraction, but no whole part
_MOST_DIGITS = 18  # of an integer that surely has room in 64 bits
# Numbers follow a bracket, a comma, a colon or white space. A similar text only costs time.
_MAY_BE_HUGE = re.compile(rb"(?:^|[\[:,\s])-?(?:\d{16}|[\d.]+[eE])")


def may_hold_huge_number(body: bytes) -> bool:
    """Whether some number may be one that orjson and Python's own reader would round."""
    return bool(_MAY_BE_HUGE.search(body))


def loads(text: str | bytes) -> Any:
    """Read JSON that is checked already. Raises ValueError."""
    body = text.encode() if isinstance(text, str) else text
    if not may_hold_huge_number(body):
        return orjson.loads(body)
    try:
        return _DECODER.decode(body.decode())
    except RecursionError:
        raise ValueError("It nests too deeply.") from None


def dumps(value: Any, option: int | None = None) -> bytes:
    """JSON of plain values, mappings and Decimals; `option` is orjson's."""
    return orjson.dumps(value, default=_plain, option=option)


def integer(digits: str) -> int | Decimal:
    """A whole number from its digits; a Decimal if it needs more than 64 bits."""
    if len(digits) <= _MOST_DIGITS:
        return int(digits)
    number = Decimal(digits)
    return int(number) if -(2**63) <= number < 2**64 else number


def fraction(text: str) -> float | Decimal:
    """A number with a fraction or an exponent; a Decimal if a double would change its whole part.
    Raises ValueError if not even a Decimal holds it."""
    number = float(text)
    if -_HELD_EXACTLY < number < _HELD_EXACTLY:
        return number
    try:
        exact = Decimal(text)
    except InvalidOperation:
        raise ValueError("A number is too large.") from None
    return number if exact == Decimal(repr(number)) else exact


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return orjson.Fragment(str(value))
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError


_DECODER = json.JSONDecoder(parse_int=integer, parse_float=fraction)
