"""Personal data of events: masks the fields that the catalogue declares personal.

In every form in which an event may be shown: plain values, JSON, a record's raw text, an
exception's message. It decides nothing: who sees personal data is the web side's decision
(`web/personal.py`). Most events have none, so a search for the fields' names comes first.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, quote_plus

import orjson

from jobquest.events import exact_json
from jobquest.events.event import Event
from jobquest.events.fields import PERSONAL_FIELDS

MASK = "[masked]"
NOT_JSON = f"{MASK} It may contain personal data and is not JSON, so all of it is masked."
MAX_VALUES = 1_000  # looked for in one text
SHORT = 4  # a value that is shorter is masked as a whole word only
_NAMES = tuple(name.encode() for name in sorted(PERSONAL_FIELDS))
_SEARCHED = (*_NAMES, b"\\u00")  # a letter of a name may be written so
# Members that have a record's raw text, and the member that says whether it is base64.
_RAW = {"value": "encoding", "edited": "", "key": "keyEncoding"}


def may_be_in(body: bytes) -> bool:
    """Whether JSON may have personal data; no, if it names no such field."""
    for name in _SEARCHED:  # noqa: SIM110 - a generator would take most of the time
        if name in body:
            return True
    return False


def masked(value: Any) -> Any:
    """Plain values without personal data, at any depth. Of records and dead letters, raw texts and
    headers are masked too."""
    if isinstance(value, Mapping):
        if isinstance(name := value.get("name"), str) and name in PERSONAL_FIELDS:
            value = {**value, "value": MASK}  # a header
        return {name: _member(name, member, value) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [masked(member) for member in value]
    return value


def masked_json(body: bytes) -> bytes:
    """The same for JSON."""
    if not may_be_in(body):
        return body
    try:
        return exact_json.dumps(masked(exact_json.loads(body)))
    except (ValueError, TypeError):  # such as half of a surrogate pair
        return orjson.dumps(MASK)


def masked_text(text: str) -> str:
    """The same for a text that may be JSON. One that names a personal field and is not JSON is
    masked as a whole."""
    if not may_be_in(text.encode("utf-8", "replace")):
        return text
    try:
        return exact_json.dumps(masked(exact_json.loads(text))).decode()
    except (ValueError, TypeError):  # such as half of a surrogate pair
        return NOT_JSON


def masked_base64(text: str) -> str:
    """The same for the base64, perhaps cut, of something that is not text."""
    return NOT_JSON if may_be_in(base64.b64decode(text[: len(text) // 4 * 4])) else text


def without_personal(text: str, event: Event | None) -> str:
    """Somebody else's text about an event, such as a handler's exception, without the event's
    personal values, however Python, JSON or an address spells them."""
    parts = (event.data, event.metadata, event.extra) if event else ()
    values = {value for part in parts for value in _values(part, is_personal=False)}
    if not values:
        return text
    if len(values) > MAX_VALUES:
        return MASK
    spelled = {one for value in values for one in _spellings(value)}
    longest_first = sorted(spelled, key=len, reverse=True)
    return re.sub("|".join(map(_pattern, longest_first)), MASK, text, flags=re.IGNORECASE)


def masked_fields(data: Mapping[str, Any]) -> list[str]:
    """The personal fields that have the mask for a value: somebody sends back what they were
    shown."""
    return [name for name in data if name in PERSONAL_FIELDS and data[name] == MASK]


def _member(name: str, member: Any, whole: Mapping[str, Any]) -> Any:
    if name in PERSONAL_FIELDS:
        return MASK
    if name in _RAW and isinstance(member, str):
        is_base64 = whole.get(_RAW[name]) == "base64"
        return masked_base64(member) if is_base64 else masked_text(member)
    return masked(member)


def _values(value: Any, *, is_personal: bool) -> Iterator[str]:
    """The texts and numbers below a personal field."""
    if isinstance(value, Mapping):
        for name, member in value.items():
            yield from _values(member, is_personal=is_personal or name in PERSONAL_FIELDS)
    elif isinstance(value, list | tuple):
        for member in value:
            yield from _values(member, is_personal=is_personal)
    elif is_personal and not isinstance(value, bool) and str(value or "").strip():
        yield str(value).strip()


def _spellings(value: str) -> Iterator[str]:
    value = value.encode("utf-8", "replace").decode()
    yield value
    yield repr(value)[1:-1]
    yield json.dumps(value)[1:-1]
    yield json.dumps(value, ensure_ascii=False)[1:-1]
    yield quote(value)
    yield quote(value, safe="")
    yield quote_plus(value)


def _pattern(value: str) -> str:
    found = re.escape(value)
    return found if len(value) >= SHORT else rf"(?<!\w){found}(?!\w)"
