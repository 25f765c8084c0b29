"""The JSON reader takes JSON, and nothing that a browser or a database cannot hold."""

from __future__ import annotations

import contextlib
import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobquest.errors import InvalidEvent
from jobquest.events import strict_json

HOSTILE = {
    "empty": b"",
    "not UTF-8": b'"\xff\xfe"',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "byte order mark": b'\xef\xbb\xbf{"a": 1}',
    "NaN": b'{"a": NaN}',
    "Infinity": b"[Infinity]",
    "too large a number": b"[1e999]",
    "too large an integer": b"[9007199254740992]",
    "too small an integer": b"[-9007199254740992]",
    "five thousand digits": b"[" + b"9" * 5000 + b"]",
    "key twice": b'{"a": 1, "a": 2}',
    "key twice, spelt otherwise": b'{"a": 1, "\\u0061": 2}',
    "lone surrogate": b'["\\ud800"]',
    "lone surrogate in a key": b'{"\\udfff": 1}',
    "NUL": b'["a\\u0000b"]',
    "33 levels": b"[" * 33 + b"]" * 33,
    "900 levels": b"[" * 900 + b"]" * 900,
    "50,000 levels": b"[" * 50_000,
    "100,000 levels": b"[" * 100_000,
    "15,000 levels of objects": b'{"":' * 15_000,
    "trailing comma": b"[1,]",
    "two documents": b"{} {}",
    "cut off": b'{"a": ',
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_json_is_refused_with_one_line(body: bytes) -> None:
    with pytest.raises(InvalidEvent) as refused:
        strict_json.loads(body)
    assert str(refused.value).endswith(".")
    assert "\n" not in str(refused.value)


def test_thirty_two_levels_pass() -> None:
    assert strict_json.loads(b"[" * 32 + b"]" * 32)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(plain)
def test_what_it_takes_every_other_reader_reads_the_same(value: object) -> None:
    body = json.dumps(value).encode()
    try:
        taken = strict_json.loads(body)
    except InvalidEvent:
        return
    assert orjson.loads(orjson.dumps(taken)) == json.loads(body)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_but_never_break_it(body: bytes) -> None:
    with contextlib.suppress(InvalidEvent):
        strict_json.loads(body)


@pytest.mark.parametrize("name", ["NaN", "Infinity", "-Infinity"])
def test_what_only_python_takes_for_a_number_is_told_by_its_name(name: str) -> None:
    with pytest.raises(InvalidEvent, match=f"{name} is not JSON"):
        strict_json.loads(f'{{"a": {name}}}'.encode())
