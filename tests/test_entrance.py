"""The entrance: one way in, whatever the form of a request; guards, hooks and middleware of anybody
decide about every route."""

from __future__ import annotations

import gc
import http.client
import io
import json
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import flask
import pytest
from flask import Flask, abort
from flask.testing import FlaskClient
from werkzeug.exceptions import MethodNotAllowed, NotFound
from werkzeug.test import TestResponse

from jobquest import create_app
from jobquest.access.caller import LOCAL
from jobquest.web.answers import CALLER, Answer, failure
from tests.service import Service, wait_for
from tests.test_batch import xp
from tests.test_http import EVENTS, consume, data_of, error_of, runtime_of
from tests.test_strict_json import HOSTILE

BATCH = f"{EVENTS}/batch"
GOOD = b'{"eventType": "user.login", "data": {}}'
JSON = "application/json"
BY_THE_VIEWS = {"content_type": f"{JSON}; charset=utf-8"}  # Flask's views take more spellings
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
    """What must be the same whoever answered: all but ids, times and offsets."""
    text = re.sub(r'"(id|timestamp)": "[^"]+"|"offset": \d+', "", json.dumps(response.json))
    headers = {k: v for k, v in response.headers if k != "Content-Length"}
    return response.status_code, text, headers


@pytest.fixture
def viewed(shared_client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of the requests that Flask's views were asked to answer."""
    paths: list[str] = []
    entrance: Any = shared_client.application.extensions["jobquest.entrance"]
    views = entrance._views

    def note(environ: dict[str, Any], start_response: Any) -> Any:
        paths.append(environ["PATH_INFO"])
        return views(environ, start_response)

    monkeypatch.setattr(entrance, "_views", note)
    return paths


@pytest.mark.parametrize("path", [EVENTS, BATCH])
@pytest.mark.parametrize("body", BODIES, ids=lambda body: f"{body[:30]!r} {len(body)}")
def test_entrance_and_views_answer_alike(
    shared_client: FlaskClient, viewed: list[str], path: str, body: bytes
) -> None:
    shared_client.post(EVENTS, data=xp(1, id="known"), content_type=JSON)
    consume(shared_client)
    if path == BATCH:
        body = b'{"events": [%s, %s]}' % (GOOD, body)
    short = shared_client.post(path, data=body, content_type=JSON)
    assert viewed == []
    views = shared_client.post(path, data=body, **BY_THE_VIEWS)
    assert viewed == [path]
    assert shape_of(short) == shape_of(views)


# --- guards, hooks and middleware of anybody ---


def refuse_by_guard(app: Flask) -> None:
    entrance: Any = app.extensions["jobquest.entrance"]
    entrance.guards.append(lambda environ: Answer(401, failure("No.")))


def refuse_by_hook(app: Flask) -> None:
    app.before_request(lambda: abort(401, "No."))


def refuse_by_blueprint_hook(app: Flask) -> None:
    for blueprint in app.blueprints.values():
        app.before_request_funcs.setdefault(blueprint.name, []).append(lambda: abort(401, "No."))


def refuse_by_middleware(app: Flask) -> None:
    inner = app.wsgi_app

    def middleware(environ: dict[str, Any], start_response: Any) -> Any:
        if environ["REQUEST_METHOD"] == "NEVER":
            return inner(environ, start_response)
        start_response("401 Unauthorized", [("Content-Type", JSON)])
        return [b'{"status": "error", "message": "No."}']

    app.wsgi_app = middleware  # type: ignore[method-assign]


def refuse_by_signal(app: Flask) -> None:
    def refuse(_sender: object, **_more: object) -> None:
        abort(401, "No.")

    app.extensions["refuse"] = refuse  # a signal keeps no function alive by itself
    flask.request_started.connect(refuse, app)


REFUSALS = [refuse_by_guard, refuse_by_hook, refuse_by_middleware, refuse_by_signal]


def addresses(app: Flask) -> Iterator[tuple[str, str]]:
    """Every method of every route, with an address that the route matches."""
    for rule in app.url_map.iter_rules():
        values = {
            name: 1 if "int" in type(rule._converters[name]).__name__.lower() else "app.css"
            for name in rule.arguments
        }
        with app.test_request_context():
            address = flask.url_for(rule.endpoint, **values) if not rule.websocket else rule.rule
        for method in sorted((rule.methods or set()) - {"OPTIONS"}):
            yield method, address


FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "with an origin": {"headers": {"Origin": "http://localhost"}},
    "with what proxies and clients add": {
        "headers": {"Authorization": "Bearer x", "X-Forwarded-For": "1.2.3.4", "Cookie": "a=b"}
    },
    "with a query": {"query_string": "dryRun=0"},
    "with a charset": {"content_type": f"{JSON}; charset=utf-8"},
    "upgrading": {"headers": {"Connection": "Upgrade", "Upgrade": "websocket"}},
}


@pytest.fixture(scope="module", params=REFUSALS)
def refusing(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Flask]:
    """An application that refuses everything."""
    folder = tmp_path_factory.mktemp("refusing")
    app = create_app({"JOBQUEST_DATA_DIR": str(folder), "JOBQUEST_CONSUMER_AUTOSTART": "false"})
    request.param(app)
    yield app
    app.extensions["jobquest"].stop()
    if "refuse" in app.extensions:
        flask.request_started.disconnect(app.extensions["refuse"], app)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_what_refuses_once_refuses_every_route(refusing: Flask, form: str) -> None:
    client = refusing.test_client()
    for method, address in addresses(refusing):
        asked = {"data": GOOD, "content_type": JSON} | FORMS[form]
        answer = client.open(address, method=method, **asked)
        assert answer.status_code == 401, (method, address, answer.text)


def test_a_hook_of_a_blueprint_is_asked(settings: dict[str, str]) -> None:
    app = create_app(settings)
    refuse_by_blueprint_hook(app)
    error_of(app.test_client().post(EVENTS, data=GOOD, content_type=JSON), 401)
    app.extensions["jobquest"].stop()


def test_a_hook_that_comes_after_the_first_request_is_asked_too(client: FlaskClient) -> None:
    data_of(client.post(EVENTS, data=GOOD, content_type=JSON), 201)
    refuse_by_hook(client.application)
    error_of(client.post(EVENTS, data=GOOD, content_type=JSON), 401)


def test_whoever_changes_an_answer_changes_that_of_a_publish(settings: dict[str, str]) -> None:
    app = create_app(settings)

    @app.after_request
    def mark(response: flask.Response) -> flask.Response:
        response.headers["X-Marked"] = "yes"
        return response

    answer = app.test_client().post(EVENTS, data=GOOD, content_type=JSON)
    assert (answer.status_code, answer.headers["X-Marked"]) == (201, "yes")
    app.extensions["jobquest"].stop()


def test_a_view_that_somebody_has_wrapped_is_called(settings: dict[str, str]) -> None:
    app = create_app(settings)
    app.view_functions["events.publish"] = lambda: abort(403, "Not today.")
    error_of(app.test_client().post(EVENTS, data=GOOD, content_type=JSON), 403)
    app.extensions["jobquest"].stop()


GUARDED_SERVER = """
import sys
import jobquest
from jobquest import server

def create_app(*settings):
    app = jobquest.create_app(*settings)
    {refusal}
    return app

server.create_app = create_app
server.main()
"""
BY_HOOK = "app.before_request(lambda: ('{}', 401))"
BY_MIDDLEWARE = """
    def refuse(environ, start_response):
        start_response("401 Unauthorized", [("Content-Length", "2")])
        return [b"{}"]
    app.wsgi_app = refuse
"""
PROXY_FIX = """
    from werkzeug.middleware.proxy_fix import ProxyFix
    app.wsgi_app = ProxyFix(app.wsgi_app)
"""


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Callable[[str], Service]]:
    """Starts the service with something done to its application first."""
    started: list[Service] = []

    def serve(refusal: str) -> Service:
        script = tmp_path / "guarded.py"
        script.write_text(GUARDED_SERVER.format(refusal=refusal.strip()))
        service = Service(tmp_path, script)
        started.append(service)
        service.launch()
        wait_for(lambda: service.get("/healthz").code, 30, service.tail)
        return service

    yield serve
    for service in started:
        service.kill()


def codes_of(service: Service, body: bytes, path: str) -> list[int]:
    """The codes of the same request from several clients, as first and as later ones."""
    host, port = service.url.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    codes = []
    for headers in ({}, {}, {"X-Forwarded-For": "1.2.3.4"}, {"Authorization": "Bearer a"}):
        connection.request("POST", path, body, {"Content-Type": JSON, **headers})
        answer = connection.getresponse()
        answer.read()
        codes.append(answer.status)
    connection.close()
    request = b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" % (
        path.encode()
    )
    request += b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    with socket.create_connection((host, int(port)), 10) as raw:
        raw.sendall(request * 3)  # at once: each answer begins with its status line
        seen = b""
        while seen.count(b"HTTP/1.1 ") < 3 and (part := raw.recv(65_536)):
            seen += part
    codes += [int(code) for code in re.findall(rb"HTTP/1.1 (\d{3})", seen)]
    for command in (["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}"], ["node", "-e"]):
        if shutil.which(command[0]):
            codes.append(_code_of(command, service.url + path, body))
    return codes


def _code_of(command: list[str], url: str, body: bytes) -> int:
    if command[0] == "curl":
        command = [*command, "-H", f"Content-Type: {JSON}", "--data-binary", body.decode(), url]
    else:
        options = {"method": "POST", "body": body.decode(), "headers": {"content-type": JSON}}
        script = f"fetch({json.dumps(url)}, {json.dumps(options)})"
        command = [*command, f"{script}.then(answer => console.log(answer.status))"]
    return int(subprocess.run(command, capture_output=True, text=True, timeout=30).stdout)


@pytest.mark.parametrize("refusal", [BY_HOOK, BY_MIDDLEWARE], ids=["hook", "middleware"])
def test_real_clients_are_refused_on_the_first_and_on_later_requests(
    serving: Callable[[str], Service], refusal: str
) -> None:
    service = serving(refusal)
    for path, body in ((EVENTS, GOOD), (BATCH, b'{"events": [%s]}' % GOOD)):
        assert set(codes_of(service, body, path)) == {401}


def test_a_middleware_does_not_end_the_worker(serving: Callable[[str], Service]) -> None:
    service = serving(PROXY_FIX)
    codes = codes_of(service, GOOD, EVENTS)
    assert len(codes) >= 7
    assert set(codes) == {201}


# --- one spelling ---


@pytest.mark.parametrize(
    "spelled",
    [
        "//api/kafka/events",
        "/api//kafka/events",
        "/api/kafka/events/",
        "/api%2fkafka/events",
        "/api/kafka%2Fevents",
        "/%61pi/kafka/events",
        "/api/./kafka/events",
        "/api/x/../kafka/events",
        "/api/%2e/kafka/events",
        "/api/kafka/events#x",
        "/api/kafka/events%20",
        "/api/kafka/events%0a",
        "/API/kafka/events",
        "/api\\kafka\\events",
        "/api/kafka%1fevents",
    ],
)
def test_a_route_has_one_spelling(shared_client: FlaskClient, spelled: str) -> None:
    path = unquote(spelled.partition("#")[0])
    target = {"RAW_URI": spelled, "REQUEST_URI": spelled, "PATH_INFO": path}
    answer = shared_client.post(EVENTS, data=GOOD, content_type=JSON, environ_overrides=target)
    assert error_of(answer, 404)["message"] == "There is nothing here."


def test_a_target_that_names_its_host_is_the_same_address(shared_client: FlaskClient) -> None:
    def ask(host: str) -> TestResponse:
        target = {"RAW_URI": f"http://{host}{EVENTS}?dryRun=1"}
        return shared_client.post(EVENTS, data=GOOD, content_type=JSON, environ_overrides=target)

    assert ask("localhost").status_code == 201
    error_of(ask("evil.example"), 400)


@pytest.mark.parametrize(
    "id", ["a/b", "a//b", "bob/events", "/", "ä/ö", "a b", "50%", "a?b#c", "…"]
)
def test_an_id_is_one_segment_whatever_is_in_it(shared_client: FlaskClient, id: str) -> None:
    login = {"eventType": "user.login", "data": {}, "userId": id}
    data_of(shared_client.post(EVENTS, json=login), 201)
    consume(shared_client)
    spelled = quote(id, safe="")
    assert data_of(shared_client.get(f"/api/users/{spelled}"))["userId"] == id
    found = data_of(shared_client.get(f"/api/users/{spelled}/events"))["events"]
    assert [item["event"]["userId"] for item in found] == [id]
    assert shared_client.get(f"/users/{spelled}").status_code == 200
    with shared_client.application.test_request_context():
        assert flask.url_for("reads.user", user_id=id) == f"/api/users/{spelled}"


def test_a_slash_between_segments_is_no_part_of_an_id(shared_client: FlaskClient) -> None:
    login = {"eventType": "user.login", "data": {}, "userId": "eve"}
    data_of(shared_client.post(EVENTS, json=login), 201)
    consume(shared_client)
    assert "events" in data_of(shared_client.get("/api/users/eve/events"))
    error_of(shared_client.get("/api/users/eve%2Fevents"), 404)
    error_of(shared_client.get("/api/users/eve//events"), 404)


# --- hosts ---


@pytest.mark.parametrize("kind", ["text/html", JSON])
@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost:99999999", "localhost:x", "[::1", "a@localhost", "[::1]x", ""],
)
def test_a_host_that_is_not_ours_is_refused_in_the_one_shape(
    shared_client: FlaskClient, host: str, kind: str
) -> None:
    for path in ("/", "/nope", EVENTS):
        error_of(shared_client.get(path, headers={"Host": host, "Accept": kind}), 400)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:80", "[::1]:5000", "LOCALHOST:1"])
def test_the_hosts_of_this_machine_are_ours(shared_client: FlaskClient, host: str) -> None:
    assert shared_client.get("/healthz", headers={"Host": host}).status_code == 200


# --- bodies ---


@pytest.mark.parametrize(
    "name", ["preprocess_request", "full_dispatch_request", "dispatch_request"]
)
def test_a_method_of_flask_s_that_somebody_has_replaced_is_called(
    settings: dict[str, str], name: str
) -> None:
    app = create_app(settings)
    setattr(app, name, lambda *_: app.response_class("{}", 401))
    assert app.test_client().post(EVENTS, data=GOOD, content_type=JSON).status_code == 401
    app.extensions["jobquest"].stop()


def test_a_guard_in_the_place_of_another_is_asked(settings: dict[str, str]) -> None:
    app = create_app(settings)
    app.before_request_funcs[None][-1] = lambda: abort(401, "No.")
    error_of(app.test_client().post(EVENTS, data=GOOD, content_type=JSON), 401)
    app.extensions["jobquest"].stop()


def test_a_class_of_somebody_s_own_is_asked(settings: dict[str, str]) -> None:
    app = create_app(settings)
    app.__class__ = type("Own", (Flask,), {"preprocess_request": lambda _app, *_: ("{}", 401)})
    assert app.test_client().post(EVENTS, data=GOOD, content_type=JSON).status_code == 401
    app.extensions["jobquest"].stop()


@pytest.mark.parametrize("body", [b" " * 70_000, b" " * 2_000_000], ids=len)
def test_who_refuses_does_so_before_the_body_is_looked_at(refusing: Flask, body: bytes) -> None:
    for headers in ({}, {"Content-Encoding": "gzip"}):
        answer = refusing.test_client().post(EVENTS, data=body, content_type=JSON, headers=headers)
        assert answer.status_code == 401


@pytest.mark.parametrize("path", [EVENTS, BATCH, "/api/kafka/status"])
@pytest.mark.parametrize("coding", ["gzip", "br", "x-unknown"])
def test_a_compressed_body_is_refused_by_name(
    shared_client: FlaskClient, path: str, coding: str
) -> None:
    coded = {"Content-Encoding": coding}
    answer = shared_client.post(path, data=b"\x1f\x8b", content_type=JSON, headers=coded)
    assert "Content-Encoding" in error_of(answer, 415)["message"]
    assert answer.headers["Accept-Encoding"] == "identity"


def test_a_body_that_breaks_off_is_refused(shared_client: FlaskClient) -> None:
    broken = {"data": GOOD, "content_type": JSON}
    answer = shared_client.post(EVENTS, **broken, environ_overrides={"CONTENT_LENGTH": "100"})
    error_of(answer, 400)


def test_an_error_of_our_own_is_told_and_logged(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(runtime_of(client), "producer", None)
    answer = client.post(EVENTS, data=GOOD, content_type=JSON)
    assert error_of(answer, 500)["message"] == "Something failed here; the log says what."
    assert "A request failed" in caplog.text


@pytest.mark.parametrize(("method", "path"), [("GET", "/nope"), ("DELETE", EVENTS)])
def test_flask_s_own_refusals_keep_their_codes(
    shared_client: FlaskClient, method: str, path: str
) -> None:
    expected = NotFound.code if path == "/nope" else MethodNotAllowed.code
    assert shared_client.open(path, method=method).status_code == expected


def test_answers_are_counted(client: FlaskClient) -> None:
    client.post(EVENTS, data=GOOD, content_type=JSON)
    client.get("/nope")
    text = client.get("/metrics").text
    assert re.search(f'code="201",method="POST",process="[^"]+",route="{EVENTS}"}} 1.0', text)
    assert re.search('code="404",method="other",process="[^"]+",route="none"} 1.0', text)


def test_publishes_leave_no_garbage_that_refers_to_itself(client: FlaskClient) -> None:
    """Looking for it stops the whole worker: tens of milliseconds, a few times a second."""
    client.application.extensions["jobquest"].queries.last_seq()  # the tables are made by now
    environ = client.post(EVENTS, data=GOOD, content_type=JSON).request.environ
    entrance: Any = client.application.extensions["jobquest.entrance"]

    def leave_none() -> bool:
        """Other threads leave some now and then, so in some attempts there is more."""
        gc.collect()
        for _ in range(20):
            entrance._publish(environ | {"wsgi.input": io.BytesIO(GOOD), CALLER: LOCAL})
        return gc.collect() < 20

    gc.disable()
    try:
        wait_for(leave_none, 20)
    finally:
        gc.enable()
