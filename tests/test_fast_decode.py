"""Fast decoding compared with validation: what it takes, validation takes with the same result.
Not the other way round: unusual valid events may be left to validation."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jobquest.events import CATALOGUE, Event, fast_decode, from_record, requests, validation
from jobquest.events.fields import MAX_LONG_TEXT, MAX_TAGS, MAX_TEXT
from tests.samples import SAMPLES, TYPES

APPENDED_MS = 1_795_000_000_000  # 2026-11-18
SIX_MEMBERS = {"id", "type", "userId", "timestamp", "metadata", "data"}
GOOD = {"userId": "user_1", "id": "an-id", "timestamp": "2026-11-17T06:00:00.000Z"}


def as_record(kind: str, **members: Any) -> dict[str, Any]:
    return {**GOOD, "type": kind, "metadata": {}, "data": SAMPLES[kind], **members}


def as_request(kind: str, **members: Any) -> dict[str, Any]:
    return {"eventType": kind, "data": SAMPLES[kind], **members}


@pytest.mark.parametrize("kind", TYPES)
def test_it_takes_every_type_as_it_usually_comes(kind: str) -> None:
    for document in (as_record(kind), as_record(kind, metadata={"page": 1})):
        assert fast_decode.from_record(json.dumps(document).encode(), APPENDED_MS)
    required = {name: SAMPLES[kind][name] for name in CATALOGUE[kind].required}
    for document in (as_request(kind), as_request(kind, **GOOD), as_request(kind, data=required)):
        assert fast_decode.from_request(json.dumps(document).encode(), "demo-user")


def test_an_event_keeps_the_bytes_it_was_read_from() -> None:
    body = json.dumps(as_record("job.applied"), indent=1).encode()
    event = fast_decode.from_record(body, APPENDED_MS)
    assert event is not None
    assert event.to_json() == body


# --- anything at all ---

_ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2),
    st.sampled_from([10**9, 10**9 + 1, 2**53, 2**64, 10**30, 1e9, 1e300, 0.5, -0.0, 100, 100.5]),
    st.text(max_size=4),
    st.sampled_from(
        ["", " ", "\u00a0", "\u2028", "\x1f", "\x85", "a\x00", "\ud800", "😀", '"', "\\"]
    ),
    st.sampled_from([n * "x" for n in (MAX_TEXT, MAX_TEXT + 1, MAX_LONG_TEXT, MAX_LONG_TEXT + 1)]),
    st.sampled_from([["a"], [], [""], [1], ["a"] * (MAX_TAGS + 1), {}, {"a": {"a": 1}}]),
)
_IDS = st.sampled_from(["", "a", "jq:a", "a\n", "a b", "x" * 100, "x" * 101, "é", 1])
_TIMES = [
    "2026-11-17T06:00:00.000Z",
    "2026-11-17T06:00:00Z",
    "2026-11-17T06:00:00.000+02:00",
    "2026-11-17T24:00:00.000Z",
    "2026-02-30T06:00:00.000Z",
    "2026-11-17T06:00:00.0001Z",
    "2026-11-17T06:00:00,000Z",
    "2026-11-17t06:00:00.000z",
    "\u0662026-11-17T06:00:00.000Z",
    "1999-12-31T23:59:59.999Z",
    "2000-01-01T00:00:00.000Z",
    "2099-01-01T00:00:00.000Z",
    "",
]
_USERS = st.one_of(st.sampled_from(["u" * 128, "u" * 129, "a b", "\u2028", "é", "\x7f"]), _ODD)
_METADATA = st.one_of(
    _ODD,
    st.recursive(_ODD, lambda below: st.dictionaries(st.text(max_size=3), below), max_leaves=5),
    st.sampled_from([{"a": "x" * 8192}, {"a": 10**20}, {"a": 1.5}, {"é": "é"}]),
)
_MEMBERS = {
    "id": _IDS,
    "timestamp": st.sampled_from(_TIMES),
    "userId": _USERS,
    "metadata": _METADATA,
    "version": st.sampled_from([1, "2", None]),
    "extra": _ODD,
    "data": _ODD,
    "eventType": _ODD,
    "type": _ODD,
}
# Strategies are made once: to make one takes longer than to draw from it.
_KINDS = st.sampled_from(TYPES)
_CHANGED = st.sets(st.sampled_from(list(_MEMBERS)), max_size=2)
_SPACES = st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t:")])
_EITHER = st.booleans()
_PLACES = st.integers(0, 2**20)
_BYTES, _CUTS = st.binary(max_size=2), st.integers(0, 2)


@cache
def _some_of(names: tuple[str, ...], most: int) -> st.SearchStrategy[set[str]]:
    return st.sets(st.sampled_from(names), max_size=most)


@cache
def _orders(count: int) -> st.SearchStrategy[list[int]]:
    return st.permutations(range(count))


@st.composite
def _bodies(draw: Callable[..., Any], make: Callable[..., dict[str, Any]]) -> bytes:
    """A good event, a few of its members changed, spelled in some way, a few bytes changed."""
    kind = draw(_KINDS)
    data = dict(SAMPLES[kind])
    for name in draw(_some_of((*data, "more"), 2)) if data else ():
        data[name] = draw(_ODD)
    for name in draw(_some_of((*data, "more"), 1)):
        data.pop(name, None)
    document = make(kind, data=data)
    for name in draw(_CHANGED):
        document[name] = draw(_MEMBERS[name])
    for name in draw(_some_of(tuple(document), 1)):
        del document[name]
    members = list(document.items())
    document = dict(members[n] for n in draw(_orders(len(members))))
    spaces = draw(_SPACES)
    text = json.dumps(document, ensure_ascii=draw(_EITHER), separators=spaces)
    body = text.encode("utf-8", "surrogatepass")
    if draw(_EITHER):
        names = sorted({*document, *data})
        body = _twice(body, names[draw(_PLACES) % len(names)])
    if draw(_EITHER):
        at = draw(_PLACES) % (len(body) + 1)
        body = body[:at] + draw(_BYTES) + body[at + draw(_CUTS) :]
    return body


def _twice(body: bytes, key: str) -> bytes:
    """The same with a repeated key: JSON allows it, and readers differ."""
    spelled = json.dumps(key).encode()
    return body.replace(spelled, spelled + b":1," + spelled, 1)


@pytest.mark.parametrize("text", _TIMES)
def test_it_takes_no_time_that_validation_refuses(text: str) -> None:
    record = json.dumps(as_record("user.login", timestamp=text)).encode()
    if event := fast_decode.from_record(record, APPENDED_MS):
        assert event == validation.from_record(record, APPENDED_MS)
    request = json.dumps(as_request("user.login", timestamp=text)).encode()
    if found := fast_decode.from_request(request, requests.DEMO_USER):
        assert found[0].timestamp == requests.read_strictly(request).event.timestamp


def _as_told(event: Event) -> tuple[Any, ...]:
    return event, event.to_dict(), event.topic, event.time_ms, event.headers()


@pytest.mark.slow
@settings(max_examples=1_500, deadline=None)
@given(_bodies(as_record))
@example(json.dumps(as_record("user.login")).encode())
@example(json.dumps({k: v for k, v in as_record("user.login").items() if k != "metadata"}).encode())
@example(b"\xef\xbb\xbf" + json.dumps(as_record("user.login")).encode())
def test_a_record_that_it_takes_is_taken_with_the_same_result(body: bytes) -> None:
    event = fast_decode.from_record(body, APPENDED_MS)
    if event:
        assert _as_told(event) == _as_told(validation.from_record(body, APPENDED_MS))
        assert event.to_dict().keys() == SIX_MEMBERS


@pytest.mark.slow
@settings(max_examples=500, deadline=None)
@given(st.lists(_bodies(as_record), max_size=6))
@example([b"{", json.dumps(as_record("user.login")).encode(), b"}"])
def test_many_records_are_read_together_as_each_alone(bodies: list[bytes]) -> None:
    alone = [fast_decode.from_record(body, APPENDED_MS) for body in bodies]
    together = fast_decode.from_records(bodies, APPENDED_MS)
    assert [one and _as_told(one) for one in together] == [one and _as_told(one) for one in alone]


def test_odd_records_among_many_are_left_out_alone() -> None:
    good = [json.dumps(as_record("user.login", id=f"n{n}")).encode() for n in range(250)]
    late = json.dumps(as_record("user.login", timestamp="2099-01-01T00:00:00.000Z")).encode()
    odd = {0: b"", 99: b"\\", 100: b"[]", 201: late, 249: b'{"id": " "}'}
    bodies = [odd.get(n, body) for n, body in enumerate(good)]
    events = fast_decode.from_records(bodies, APPENDED_MS)
    assert [event and event.id for event in events] == [
        None if n in odd else f"n{n}" for n in range(250)
    ]
    assert fast_decode.from_records([]) == []


@pytest.mark.parametrize("more", [{}, {"version": 2}, {"id": "\u0061"}])
def test_an_event_has_its_six_members_however_it_is_read(more: dict[str, Any]) -> None:
    for given_metadata in ({}, {"metadata": {}}, {"metadata": {"page": 1}}):
        document = {**as_record("user.login"), **more}
        del document["metadata"]
        body = json.dumps(document | given_metadata).encode()
        event = from_record(body, APPENDED_MS)
        assert event.to_dict().keys() >= SIX_MEMBERS
        assert event.to_dict().items() >= more.items()
        assert _as_told(event) == _as_told(validation.from_record(body, APPENDED_MS))


@pytest.mark.slow
@settings(max_examples=1_500, deadline=None)
@given(_bodies(as_request))
def test_a_request_that_it_takes_is_taken_with_the_same_result(body: bytes) -> None:
    found = fast_decode.from_request(body, requests.DEMO_USER)
    if found is None:
        return
    event, has_id = found
    same, same_has_id = requests.read_strictly(body)
    assert has_id == same_has_id
    left_out = {"id": event.id} if not has_id else {}
    if "timestamp" not in json.loads(body):
        left_out["timestamp"] = event.to_dict()["timestamp"]
    assert event.to_dict() == same.to_dict() | left_out
    assert event.data == same.data
    assert event.metadata == same.metadata
    assert validation.from_record(event.to_json(), event.time_ms) == event
