"""Every route, and everything that must not open it. The routes are the URL map's own."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jwt
import orjson
import pytest
import websocket
from flask import Flask

from jobquest import create_app
from jobquest.access import Access
from jobquest.access.caller import KEY_SCOPES, OPERATE, OWN, READ, ROLES, WRITE
from jobquest.audit import TOPIC as AUDIT
from jobquest.clock import now_ms
from jobquest.log import missing_right
from jobquest.log.outbox import Waiting
from jobquest.web.needs import ANYBODY, PUBLIC, declared
from tests.identity_provider import private_key, public_pem, raw_token, token, write_pem
from tests.service import Service
from tests.test_access import PASSWORD, bearer, sign_in, token_in
from tests.test_http import EVENTS, LOGIN, data_of, error_of

ISSUER, AUDIENCE = "https://id.example.com", "jobquest"
GOOD = {"iss": ISSUER, "aud": AUDIENCE}
USER = frozenset({WRITE, OWN})
FRONT_END = "http://front.example"


@pytest.fixture
def app(settings: dict[str, str], made_read_side: None, tmp_path: Path) -> Iterator[Flask]:
    made = create_app(
        {
            **settings,
            "JOBQUEST_JWT_PUBLIC_KEY": write_pem(tmp_path, "RS256"),
            "JOBQUEST_JWT_ISSUER": ISSUER,
            "JOBQUEST_JWT_AUDIENCE": AUDIENCE,
            "JOBQUEST_CORS_ORIGINS": FRONT_END,
        }
    )
    access = made.extensions["jobquest"].access
    access.operators.add("ada", PASSWORD, "operator")
    access.operators.add("vic", PASSWORD, "viewer")
    yield made
    made.extensions["jobquest"].stop()


Route = tuple[str, str, frozenset[str]]


def routes(app: Flask) -> list[Route]:
    """Every route but the public ones: method, an address, and what it needs."""
    found = []
    for rule in app.url_map.iter_rules():
        needed = declared(app, rule.endpoint) or frozenset()
        for method in sorted((rule.methods or set()) - {"OPTIONS", "HEAD"}):
            path = re.sub(r"<int:\w+>", "1", rule.rule)
            path = re.sub(r"<(?:\w+:)?\w+>", "x", path)
            if PUBLIC not in needed:
                found.append((method, path, needed))
    assert len(found) > 40
    return found


def user_token(**changed: Any) -> str:
    return token("RS256", **{**GOOD, **changed})


def unsigned() -> str:
    head = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').rstrip(b"=").decode()
    return f"{head}.{user_token().split('.')[1]}."


def signed_with_the_public_key() -> str:
    """As HS256, with the text of the public key as its secret (CVE-2016-5431)."""
    claims = jwt.decode(user_token(), options={"verify_signature": False})
    return raw_token(
        b'{"alg":"HS256","typ":"JWT"}', json.dumps(claims).encode(), public_pem("RS256")
    )


def with_kid(kid: str) -> str:
    claims = jwt.decode(user_token(), options={"verify_signature": False})
    return jwt.encode(claims, private_key("RS256", "another"), "RS256", {"kid": kid})


NOW = int(time.time())
SECRET = "a secret of thirty-two bytes, or more"
REFUSED: dict[str, Callable[[], dict[str, str]]] = {
    "none": dict,
    "wrong key": lambda: bearer("jq_wrong"),
    "another scheme": lambda: {"Authorization": "Basic YWRhOmFkYQ=="},
    "no token": lambda: bearer("a.b.c"),
    "expired": lambda: bearer(user_token(exp=NOW - 60, iat=NOW - 120)),
    "not yet valid": lambda: bearer(user_token(nbf=NOW + 3_600)),
    "another audience": lambda: bearer(user_token(aud="another")),
    "another issuer": lambda: bearer(user_token(iss="https://evil.example")),
    "alg none": lambda: bearer(unsigned()),
    "the public key as a secret": lambda: bearer(signed_with_the_public_key()),
    "kid with a path": lambda: bearer(with_kid("../../dev/null")),
    "another key's signature": lambda: bearer(with_kid("")),
    "no user": lambda: bearer(user_token(sub="a\nb")),
    "wrong session": lambda: {"Cookie": "jobquest_session=wrong"},
    "a key as session": lambda: {"Cookie": "jobquest_session=jq_wrong"},
    "wrong ticket": lambda: {"X-Ticket": "wrong"},
}


@pytest.mark.parametrize("how", REFUSED)
def test_no_route_opens_to(app: Flask, how: str) -> None:
    headers = REFUSED[how]()
    for method, path, _ in routes(app):
        client = app.test_client(use_cookies=False)
        query = "?ticket=wrong" if how == "wrong ticket" else ""
        answer = client.open(path + query, method=method, headers=headers, json={})
        assert answer.status_code == 401, (method, path)
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert error_of(answer, 401)["message"].endswith(".")


@pytest.mark.parametrize("how", ["revoked", "expired"])
def test_no_route_opens_to_a_key_that_has_ended(app: Flask, access: Access, how: str) -> None:
    key = access.keys.create("ci", KEY_SCOPES, now_ms() - 1 if how == "expired" else None)
    if how == "revoked":
        access.keys.revoke("ci")
    for method, path, _ in routes(app):
        answer = app.test_client().open(path, method=method, headers=bearer(key), json={})
        assert answer.status_code == 401, (method, path)


def opened_by(app: Flask, needed: frozenset[str], scopes: frozenset[str]) -> bool:
    return ANYBODY in needed or not needed.isdisjoint(scopes)


def check_scopes(app: Flask, scopes: frozenset[str], send: Callable[..., Any]) -> None:
    """Whoever has these scopes gets past the guard where they suffice, and nowhere else."""
    for method, path, needed in routes(app):
        if path == "/sign-out":
            continue  # it would end the session that the rest needs
        code = send(path, method=method).status_code
        if opened_by(app, needed, scopes):
            assert code not in (401,), (method, path)
        else:
            assert code == 403, (method, path, code)


@pytest.mark.parametrize("scope", KEY_SCOPES)
def test_a_key_opens_what_its_scope_says(app: Flask, access: Access, scope: str) -> None:
    key, client = access.keys.create("ci", [scope], None), app.test_client()
    check_scopes(
        app,
        frozenset({scope}),
        lambda path, method: client.open(path, method=method, headers=bearer(key), json={}),
    )


def test_a_users_token_opens_what_is_their_own(app: Flask) -> None:
    client, mine = app.test_client(), bearer(user_token())
    check_scopes(
        app, USER, lambda path, method: client.open(path, method=method, headers=mine, json={})
    )


@pytest.mark.parametrize(("name", "role"), [("ada", "operator"), ("vic", "viewer")])
def test_a_session_opens_what_its_role_says(app: Flask, name: str, role: str) -> None:
    client = app.test_client()
    sign_in(client, name)
    token = token_in(client.get("/").text)

    def send(path: str, method: str) -> Any:
        return client.open(path, method=method, headers={"X-CSRF-Token": token}, json={})

    check_scopes(app, ROLES[role], send)


@pytest.mark.parametrize("who", [*KEY_SCOPES, "viewer"])
def test_no_answer_names_the_trails_topic_to_who_does_not_manage(
    app: Flask, access: Access, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    runtime, client = app.extensions["jobquest"], app.test_client()
    line = missing_right("WRITE", AUDIT)
    outbox = SimpleNamespace(waiting=lambda: Waiting(1, 2.0), barred={AUDIT: line}, stuck=line)
    working = replace(runtime._snapshot(), state="running", assignment=["achievements/0"])
    headers: dict[str, str] = {}
    client.get("/healthz")  # which starts the runtime
    if who in KEY_SCOPES:
        headers = bearer(access.keys.create("ci", [who], None))
    else:
        sign_in(client, "vic")
    with monkeypatch.context() as trouble:
        trouble.setattr(runtime, "outbox", outbox)
        trouble.setattr(runtime, "_obstacle_lines", [line])
        trouble.setattr(runtime, "_obstacles", SimpleNamespace(lines=lambda *_: [line]))
        trouble.setattr(runtime, "_snapshot", lambda: working)
        runtime.state.beat(orjson.dumps(runtime._own_heartbeat()))
        assert "audit trail" in runtime.report.status()["reason"]
        for method, path, _ in routes(app):
            if method == "GET":
                assert AUDIT not in client.get(path, headers=headers).text, path
        for path in ("/healthz", "/readyz"):
            assert AUDIT not in client.get(path).text


def test_after_sign_out_a_session_opens_nothing(app: Flask) -> None:
    client = app.test_client()
    sign_in(client)
    found = client.get_cookie("jobquest_session")
    assert found
    client.post("/sign-out", data={"csrf_token": token_in(client.get("/").text)})
    for method, path, _ in routes(app):
        headers = {"Cookie": f"jobquest_session={found.value}"}
        answer = app.test_client(use_cookies=False).open(path, method=method, headers=headers)
        assert answer.status_code == 401, (method, path)


@pytest.mark.parametrize("token", [None, "", "0" * 64])
def test_no_route_acts_by_a_cookie_without_its_token(app: Flask, token: str | None) -> None:
    client = app.test_client()
    sign_in(client)
    headers = {} if token is None else {"X-CSRF-Token": token}
    acting = [one for one in routes(app) if one[0] != "GET"]
    assert len(acting) > 10
    for method, path, _ in acting:
        as_json = client.open(path, method=method, headers=headers, json={})
        as_form = client.open(path, method=method, data={"csrf_token": token or ""})
        assert (as_json.status_code, as_form.status_code) == (403, 403), (method, path)


@pytest.mark.parametrize("origin", ["https://evil.example", FRONT_END, "null"])
def test_no_page_of_another_origin_acts_by_a_cookie(app: Flask, origin: str) -> None:
    client = app.test_client()
    sign_in(client)
    headers = {"X-CSRF-Token": token_in(client.get("/").text), "Origin": origin}
    for method, path, _ in routes(app):
        answer = client.open(path, method=method, headers=headers, json={})
        assert answer.status_code in (401, 403), (method, path)


def test_no_route_answers_to_a_foreign_host(app: Flask, access: Access) -> None:
    key = access.keys.create("ci", KEY_SCOPES, None)
    for method, path, _ in routes(app):
        headers = bearer(key) | {"Host": "evil.example"}
        assert app.test_client().open(path, method=method, headers=headers).status_code == 400


def test_a_preflight_needs_no_credential(app: Flask) -> None:
    asking = {"Origin": FRONT_END, "Access-Control-Request-Method": "POST"}
    answer = app.test_client().options(EVENTS, headers=asking)
    assert answer.status_code == 204
    assert app.test_client().options(EVENTS, headers={"Origin": FRONT_END}).status_code == 401


# --- what is a user's own ---


def test_a_user_publishes_for_themselves_alone(app: Flask) -> None:
    client, mine = app.test_client(), bearer(user_token())
    taken = data_of(client.post(EVENTS, json=LOGIN, headers=mine), 201)
    assert taken["userId"] == "ada"
    data_of(client.post(EVENTS, json=LOGIN | {"userId": "ada"}, headers=mine), 201)
    error_of(client.post(EVENTS, json=LOGIN | {"userId": "bob"}, headers=mine), 403)
    batch = {"events": [LOGIN, LOGIN | {"userId": "bob"}]}
    error_of(client.post(f"{EVENTS}/batch", json=batch, headers=mine), 403)
    results = data_of(client.post(f"{EVENTS}/batch", json={"events": [LOGIN]}, headers=mine), 201)
    assert results["results"][0]["userId"] == "ada"


def test_a_user_reads_their_own_data_alone(app: Flask) -> None:
    runtime, client, mine = app.extensions["jobquest"], app.test_client(), bearer(user_token())
    for user in ("ada", "bob"):
        runtime.producer.publish("xp.earned", user, {"xpAmount": 5, "totalXp": 5})
    while runtime.consumer.step() + runtime.relay.step():
        pass
    for path in ("", "/events", "/notifications", "/applications"):
        data_of(client.get(f"/api/users/me{path}", headers=mine))
        for other in ("bob", "ada", "me2"):
            error_of(client.get(f"/api/users/{other}{path}", headers=mine), 403)
    assert data_of(client.get("/api/users/me", headers=mine))["userId"] == "ada"
    error_of(client.get("/api/events", headers=mine), 403)


# --- limits ---


def test_a_user_publishes_so_many_events_a_second(
    settings: dict[str, str], made_read_side: None
) -> None:
    app = create_app(
        {**settings, "JOBQUEST_JWT_SECRET": SECRET, "JOBQUEST_USER_EVENTS_PER_SECOND": "1"}
    )
    try:
        client = app.test_client()
        for user, codes in (("ada", [201, 429]), ("bob", [201])):
            headers = bearer(token(sub=user))
            answers = [client.post(EVENTS, json=LOGIN, headers=headers) for _ in codes]
            assert [answer.status_code for answer in answers] == codes
        assert int(answers[-1].headers.get("Retry-After", 1)) >= 1
        refused = client.post(EVENTS, data=b"no JSON", headers=bearer(token(sub="ada")))
        assert int(error_of(refused, 429) and refused.headers["Retry-After"]) >= 1
        key = app.extensions["jobquest"].access.keys.create("ci", [WRITE], None)
        event = LOGIN | {"userId": "ada"}
        for _ in range(10):  # a key has no limit
            data_of(client.post(EVENTS, json=event, headers=bearer(key)), 201)
    finally:
        app.extensions["jobquest"].stop()


def test_a_stranger_who_guesses_locks_out_nobody_else(app: Flask) -> None:
    def try_from(address: str, password: str) -> int:
        client = app.test_client()
        client.environ_base["REMOTE_ADDR"] = address
        code: int = sign_in(client, password=password).status_code
        return code

    codes = [try_from("127.0.0.9", "a wrong password, again") for _ in range(10)]
    assert codes == [401] * 10
    # Each six seconds give one more, and a check may take a second on a busy machine.
    assert 429 in (try_from("127.0.0.9", "a wrong password, again") for _ in range(20))
    assert try_from("127.0.0.9", PASSWORD) == 429
    assert try_from("127.0.0.1", PASSWORD) == 303


def test_redrives_have_a_limit(app: Flask, access: Access) -> None:
    key, client = access.keys.create("ci", [OPERATE], None), app.test_client()
    path = "/api/kafka/dead-letters/redrive"
    codes = {
        client.post(path, json={"ids": [1]}, headers=bearer(key)).status_code for _ in range(65)
    }
    assert codes == {200, 429}


def test_reading_has_no_limit(app: Flask, access: Access) -> None:
    key, client = access.keys.create("ci", [READ], None), app.test_client()
    for _ in range(150):
        assert client.get("/api/kafka/events", headers=bearer(key)).status_code == 200


# --- sockets ---


@pytest.fixture
def service(tmp_path: Path) -> Iterator[tuple[Service, Access]]:
    """A protected service as a process, and its credentials."""
    settings = {"JOBQUEST_DATA_DIR": str(tmp_path), "JOBQUEST_JWT_SECRET": SECRET}
    runtime = create_app(settings).extensions["jobquest"]
    made = Service(tmp_path, JOBQUEST_JWT_SECRET=SECRET).start()
    yield made, runtime.access
    made.kill()
    runtime.stop()


def socket_of(service: Service, query: str = "", **header: str) -> websocket.WebSocket:
    address = f"{service.url.replace('http', 'ws', 1)}/ws/events{query}"
    return websocket.create_connection(address, timeout=10, header=header)


def close_code(socket: websocket.WebSocket) -> int:
    """The code with which the service ends the socket."""
    while True:
        opcode, data = socket.recv_data()
        if opcode == websocket.ABNF.OPCODE_CLOSE:
            return int.from_bytes(data[:2], "big")


@pytest.mark.slow
def test_a_socket_ends_with_its_credential(service: tuple[Service, Access]) -> None:
    served, access = service
    key = access.keys.create("ci", [READ], None)
    ticket = served.request("POST", "/api/tickets", b"", bearer(key)).json["data"]["ticket"]
    by_key, by_ticket = socket_of(served, **bearer(key)), socket_of(served, f"?ticket={ticket}")
    by_token = socket_of(served, **bearer(token(exp=int(time.time()) + 4)))
    lasting = socket_of(served, **bearer(token()))
    for one in (by_key, by_ticket, by_token, lasting):
        assert json.loads(one.recv())["kind"] == "hello"
    began = time.monotonic()
    access.keys.revoke("ci")
    assert [close_code(by_key), close_code(by_ticket)] == [1008, 1008]
    assert time.monotonic() - began < 3
    assert close_code(by_token) == 1008
    assert time.monotonic() - began < 7
    assert lasting.connected
    lasting.close()


@pytest.mark.slow
def test_a_users_socket_shows_their_own_events_and_not_the_service(
    service: tuple[Service, Access],
) -> None:
    served, access = service
    key = access.keys.create("ci", [WRITE], None)
    mine = socket_of(served, "?userId=bob", **bearer(token(sub="ada")))
    hello = json.loads(mine.recv())
    assert "status" not in hello
    for user in ("bob", "ada"):
        event = json.dumps(LOGIN | {"userId": user}).encode()
        assert served.request("POST", EVENTS, event, bearer(key)).code == 201
    while (frame := json.loads(mine.recv()))["kind"] != "events":
        assert frame["kind"] == "heartbeat"
    assert {item["event"]["userId"] for item in frame["items"]} == {"ada"}
    mine.close()
    open_ = [socket_of(served, **bearer(token(sub="ada"))) for _ in range(10)]
    with pytest.raises(websocket.WebSocketBadStatusException, match="429"):
        socket_of(served, **bearer(token(sub="ada")))
    socket_of(served, **bearer(token(sub="bob"))).close()
    for one in open_:
        one.close()
