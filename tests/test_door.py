"""The short way in and the views behind it: the same words for the same request."""

from __future__ import annotations

import gc
import json
import re
import socket
import threading
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from jobquest import create_app
from jobquest.web.door import MAX_BODY_BYTES
from jobquest.web.plain import PlainRequest
from tests.test_batch import xp
from tests.test_http import EVENTS, consume, runtime_of
from tests.test_strict_json import HOSTILE

BATCH = f"{EVENTS}/batch"
GOOD = b'{"eventType": "user.login", "data": {}}'
BY_THE_VIEWS = {"Origin": "http://localhost"}  # its own: such a request is not quite plain
BODIES = [
    GOOD,
    xp(1, id="known"),
    xp(2, id="known"),
    b'{"eventType": "nope", "data": {}, "more": 1}',
    b"[]",
    b"",
    *HOSTILE.values(),
    b" " * 65_537,
]


def shape_of(response: TestResponse) -> tuple[Any, ...]:
    """What must be the same whichever way it went: all but ids, times and offsets."""
    text = re.sub(r'"(id|timestamp)": "[^"]+"|"offset": \d+', "", json.dumps(response.json))
    headers = {k: v for k, v in response.headers if k != "Content-Length"}
    return response.status_code, text, headers


@pytest.fixture
def went_on(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of the requests that the door let go on to the views."""
    paths: list[str] = []
    door: Any = client.application.wsgi_app
    views = door._application

    def note(environ: dict[str, Any], start_response: Any) -> Any:
        paths.append(environ["PATH_INFO"])
        return views(environ, start_response)

    monkeypatch.setattr(door, "_application", note)
    return paths


@pytest.mark.parametrize("path", [EVENTS, BATCH])
@pytest.mark.parametrize("body", BODIES, ids=lambda body: f"{body[:30]!r} {len(body)}")
def test_both_ways_answer_alike(
    client: FlaskClient, went_on: list[str], path: str, body: bytes
) -> None:
    client.post(EVENTS, data=xp(1, id="known"), content_type="application/json")
    consume(client)
    if path == BATCH:
        body = b'{"events": [%s, %s]}' % (GOOD, body)
    is_odd = path == EVENTS and not 0 < len(body) <= MAX_BODY_BYTES
    short = client.post(path, data=body, content_type="application/json")
    assert went_on == [path] * is_odd
    views = client.post(path, data=body, content_type="application/json", headers=BY_THE_VIEWS)
    assert went_on == [path] * (1 + is_odd)
    assert shape_of(short) == shape_of(views)


@pytest.mark.parametrize(
    "plain",
    [
        {"headers": {"Origin": "http://evil.example"}},
        {"headers": {"Host": "evil.example"}},
        {"headers": {"Content-Encoding": "gzip"}},
        {"environ_overrides": {"CONTENT_LENGTH": "1e1"}},
        {"content_type": "application/json; charset=utf-8"},
        {"content_type": "text/plain"},
        {"query_string": "dryRun=1"},
        {"method": "PUT"},
    ],
    ids=str,
)
def test_what_is_not_plain_goes_on_to_the_views(
    client: FlaskClient, went_on: list[str], plain: dict[str, Any]
) -> None:
    asked = {"method": "POST", "data": GOOD, "content_type": "application/json"} | plain
    client.open(EVENTS, **asked)
    assert went_on == [EVENTS]


def test_where_origins_are_let_in_both_ways_answer_alike_too(settings: dict[str, str]) -> None:
    app = create_app(settings | {"JOBQUEST_CORS_ORIGINS": "http://localhost:3000"})
    short, views = (
        app.test_client().post(EVENTS, data=GOOD, content_type=kind)
        for kind in ("application/json", "application/json; charset=utf-8")
    )
    assert shape_of(short) == shape_of(views)
    assert short.headers["Vary"] == "Origin"
    app.extensions["jobquest"].stop()


def test_an_error_of_our_own_is_told_and_logged(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(runtime_of(client), "producer", None)
    answer = client.post(EVENTS, data=GOOD, content_type="application/json")
    assert answer.status_code == 500
    assert answer.json == {
        "status": "error",
        "message": "Something failed here; the log says what.",
    }
    assert "A request failed" in caplog.text


def plain(body: bytes, **other: str) -> PlainRequest:
    fields = {"path": EVENTS, "host": "localhost", "content_type": "application/json"} | other
    return PlainRequest(body=body, **fields)


def test_a_request_that_is_begun_is_answered_when_it_says_so(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    door: Any = client.application.wsgi_app
    runtime_of(client).log.reach()

    def ask(body: bytes, **other: str) -> str | None:
        done = threading.Event()
        answer = door.begin(plain(body, **other), done.set)
        if answer is None:
            assert not done.wait(0.05)
            return None
        assert done.wait(10)
        status: str = answer().status
        return status

    assert ask(GOOD) == "201 Created"
    assert ask(b"1") == "400 Bad Request"
    assert ask(xp(1, id="mine")) is None, "the database has to be asked"
    assert ask(b" " * 65_537) is None
    assert ask(GOOD, path="/api/kafka/nothing") is None
    assert ask(GOOD, host="evil.example") is None
    assert ask(GOOD, content_type="text/plain") is None
    monkeypatch.setattr(runtime_of(client), "producer", None)
    assert ask(GOOD) == "500 Internal Server Error"


def test_requests_leave_no_garbage_that_refers_to_itself(client: FlaskClient) -> None:
    """Looking for it stops the whole worker: tens of milliseconds, a few times a second."""
    door: Any = client.application.wsgi_app
    runtime_of(client).log.reach()

    def ask() -> None:
        done = threading.Event()
        answer = door.begin(plain(GOOD), done.set)
        assert done.wait(10)
        assert answer().status == "201 Created"

    ask()
    gc.collect()
    gc.disable()
    try:
        for _ in range(200):
            ask()
        assert gc.collect() < 200
    finally:
        gc.enable()


def test_a_request_that_would_have_to_wait_for_a_connection_is_not_begun(
    settings: dict[str, str],
) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()  # the kernel takes connections; nobody says a word on them
        broker = f"127.0.0.1:{silent.getsockname()[1]}"
        app = create_app(settings | {"KAFKA_BROKER": broker})
        door: Any = app.wsgi_app
        try:
            assert door.begin(plain(GOOD), lambda: None) is None
        finally:
            app.extensions["jobquest"].stop()


def test_a_body_that_breaks_off_is_refused(client: FlaskClient) -> None:
    broken = {"data": GOOD, "content_type": "application/json"}
    answer = client.post(EVENTS, **broken, environ_overrides={"CONTENT_LENGTH": "100"})
    assert answer.status_code == 400


def test_answers_are_counted(client: FlaskClient) -> None:
    client.post(EVENTS, data=GOOD, content_type="application/json")
    line = f'code="201",method="POST",process="[^"]+",route="{EVENTS}"}} 1.0'
    assert re.search(line, client.get("/metrics").text)
