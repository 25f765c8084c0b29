"""Bodies at the limits of size that are made to be slow to check, or to get long answers."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient
from hypothesis import given, settings
from hypothesis import strategies as st
from werkzeug.test import TestResponse

from jobquest.errors import InvalidEvent
from jobquest.events import requests, strict_json
from tests.samples import SAMPLES
from tests.test_http import EVENTS

SINGLE_BYTES, BATCH_BYTES = 64 * 1024, 1024 * 1024
# On two idle cores the worst takes 10 and 150 ms; without the bounds it was 30 and 900.
SINGLE_SECONDS, BATCH_SECONDS = 0.1, 0.6
ANSWER_BYTES = 256 * 1024
# What stands around a piece, the piece, what stands between two: as often as there is room.
LOGIN = '{"eventType":"user.login","data":{%s}}'
NOTE = '{"eventType":"notification.sent","data":{"notificationId":"a","title":"%s"}}'
TAGS = '{"eventType":"notebook.entry.created","data":{"entryId":"a","title":"b","tags":[%s]}}'
KINDS = {
    "escapes": (NOTE, "\\u0041", ""),
    "escaped quotes": (NOTE, '\\"', ""),
    "escaped backslashes": (NOTE, "\\\\", ""),
    "surrogate pairs": (NOTE, "\\ud83d\\ude00", ""),
    "unknown fields": (LOGIN, '"k%d":1', ","),
    "escaped fields": (LOGIN, '"\\u006b%d":1', ","),
    "long fields": (LOGIN, '"' + "k" * 400 + '%d":1', ","),
    "unknown members": ("{%s}", '"k%d":1', ","),
    "nulls": ("{%s}", '"k%d":null', ","),
    "one key": (LOGIN, '"a":1', ","),
    "lists": (LOGIN % '"a":[%s]', "[]", ","),
    "objects": (LOGIN % '"a":[%s]', "{}", ","),
    "deep lists": (LOGIN % '"a":[%s]', "[" * 28 + "]" * 28, ","),
    "too deep": (LOGIN % '"a":[%s]', "[" * 400 + "]" * 400, ","),
    "unclosed": (LOGIN % '"a":%s', "[", ""),
    "numbers": (LOGIN % '"a":[%s]', "1", ","),
    "floats": (LOGIN % '"a":[%s]', "1e5", ","),
    "digits": (LOGIN % '"a":%s', "9", ""),
    "tags": (TAGS, '""', ","),
    "white space": (NOTE, " ", ""),
    "brackets in texts": (NOTE, "[", ""),
    "metadata": ('{"eventType":"user.login","data":{},"metadata":{%s}}', '"k%d":[]', ","),
}


@pytest.fixture(scope="module", autouse=True)
def _collected_seldom() -> Iterator[None]:
    """Of the tests before nothing is collected here; the service freezes what it has, too."""
    gc.collect()
    gc.freeze()
    before = gc.get_threshold()
    gc.set_threshold(50_000, 20, 100)
    yield
    gc.set_threshold(*before)


def event_of(kind: str, size: int) -> bytes:
    around, piece, between = KINDS[kind]
    head, tail = around.split("%s")
    room = size - len(head) - len(tail) - 8
    count = max(1, room // (len(piece.replace("%d", "1234")) + len(between)))
    pieces = [piece.replace("%d", str(number)) for number in range(count)]
    return (head + between.join(pieces) + tail).encode()


def batch_of(kind: str, size: int) -> bytes:
    event = event_of(kind, size)
    count = min(requests.MAX_BATCH_EVENTS, (BATCH_BYTES - 16) // (len(event) + 1))
    return b'{"events":[' + b",".join([event] * count) + b"]}"


def answer_within(seconds: float, client: FlaskClient, path: str, body: bytes) -> TestResponse:
    """The answer; it takes less of this thread's time, at the best of three times."""
    for _ in range(3):
        began = time.thread_time()
        answer = client.post(path, data=body, content_type="application/json")
        if time.thread_time() - began < seconds:
            return answer
    pytest.fail(f"It takes more than {seconds} s.")


@pytest.mark.parametrize("kind", KINDS)
def test_no_event_takes_long_to_check_or_gets_a_long_answer(
    shared_client: FlaskClient, kind: str
) -> None:
    body = event_of(kind, SINGLE_BYTES)
    assert len(body) <= SINGLE_BYTES
    answer = answer_within(SINGLE_SECONDS, shared_client, EVENTS, body)
    assert answer.status_code == 400
    assert len(answer.data) < 10_000


@pytest.mark.parametrize("size", [350, 1_000, 8_000, 63_000])
@pytest.mark.parametrize("kind", KINDS)
def test_no_batch_takes_long_to_check_or_gets_a_long_answer(
    shared_client: FlaskClient, kind: str, size: int
) -> None:
    body = batch_of(kind, size)
    assert len(body) <= BATCH_BYTES
    answer = answer_within(BATCH_SECONDS, shared_client, f"{EVENTS}/batch?dryRun=1", body)
    assert answer.status_code in (200, 400)
    assert len(answer.data) < ANSWER_BYTES


@pytest.mark.parametrize("item", [b"1", b"{}", b"[]", b"NaN", b'"\\ud800"'])
def test_a_batch_of_very_many_very_small_events_is_refused_at_once(
    shared_client: FlaskClient, item: bytes
) -> None:
    count = (BATCH_BYTES - 20) // (len(item) + 1)
    body = b'{"events":[' + b",".join([item] * count) + b"]}"
    answer = answer_within(BATCH_SECONDS, shared_client, f"{EVENTS}/batch", body)
    assert answer.status_code == 400


def test_a_small_batch_gets_no_answer_that_is_many_times_as_large(
    shared_client: FlaskClient,
) -> None:
    body = b'{"events":[' + b",".join([b"{}"] * 1_000) + b"]}"
    answer = shared_client.post(f"{EVENTS}/batch", data=body, content_type="application/json")
    results = answer.json["data"]["results"] if answer.json else []
    assert [one["result"] for one in results] == ["rejected"] * 1_000
    assert results[0]["errors"] == {"eventType": ["Missing."], "data": ["Missing."]}
    assert results[-1]["message"] == requests.NO_ROOM
    assert len(answer.data) < 100_000


def test_a_good_event_behind_bad_ones_is_taken_all_the_same(shared_client: FlaskClient) -> None:
    bad = [{"eventType": "nothing", "data": {}}] * 999
    good = {"eventType": "user.login", "data": SAMPLES["user.login"]}
    answer = shared_client.post(f"{EVENTS}/batch", json={"events": [*bad, good]})
    assert answer.status_code == 207
    assert answer.json is not None
    assert answer.json["data"]["results"][-1]["result"] == "accepted"


def test_of_thousands_of_unknown_fields_the_first_are_named() -> None:
    with pytest.raises(InvalidEvent) as refused:
        requests.read(event_of("unknown fields", SINGLE_BYTES))
    errors = refused.value.errors
    assert errors["data.k0"] == ["Unknown field."]
    assert len(errors) == 21
    assert errors["data.…"][0].endswith("more unknown fields.")


# --- the strict reader's short cuts ---

_TEXTS = st.one_of(
    st.text(max_size=5),
    st.sampled_from(["\x00", "\ud800", "\udfff", "\\u0000", "\\", '"', "[{", "}]", "1e999", "😀"]),
)
_LEAVES = st.one_of(
    _TEXTS,
    st.none(),
    st.booleans(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0, -1, 2**53 - 1, 2**53, -(2**53), 10**16, 10**17, 10**18, 10**400]),
)


def _wrapped(value: Any, levels: int) -> Any:
    for level in range(levels):
        value = [value] if level % 3 else {"k": value, "a": []}
    return value


@pytest.mark.slow
@settings(max_examples=1_500, deadline=None)
@given(
    st.recursive(
        _LEAVES,
        lambda below: st.lists(below, max_size=3) | st.dictionaries(_TEXTS, below, max_size=3),
        max_leaves=8,
    ),
    st.integers(0, 34),
    st.booleans(),
    st.sampled_from([None, "1e400", "-1e400", "1" * 320 + ".0", "1E5"]),
)
def test_the_strict_reader_refuses_what_a_look_at_each_member_refuses(
    value: Any, levels: int, escaped: bool, number: str | None
) -> None:
    text = json.dumps(_wrapped([value, "number"], levels), ensure_ascii=escaped)
    if number:
        text = text.replace('"number"', number)
    try:
        body = text.encode()
    except UnicodeEncodeError:
        return
    document = json.loads(text)
    try:
        strict_json.check(document)
        expected = None
    except InvalidEvent:
        expected = InvalidEvent
    if expected:
        with pytest.raises(expected):
            strict_json.loads(body)
    else:
        assert strict_json.loads(body) == document
