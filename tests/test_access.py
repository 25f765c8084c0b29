"""Who is let in, and what they may do: modes, keys, sessions, tickets, and every route's need."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from jobquest import create_app
from jobquest.access import FILE, MARKER, Access, seen
from jobquest.access.caller import KEY_SCOPES, OPERATE, READ, WRITE, Caller
from jobquest.access.digests import digest
from jobquest.clock import now_ms
from jobquest.errors import AccessUnavailable, SettingsError, StateConflict, Unauthenticated
from jobquest.web.needs import declared
from tests.service import wait_for
from tests.test_http import EVENTS, LOGIN, data_of, error_of

PASSWORD = "correct horse battery"
EVENT = LOGIN | {"userId": "ada"}
AS_PAGE = {"Accept": "text/html"}


@pytest.fixture
def operator(access: Access) -> None:
    """The service is protected: there is an operator."""
    access.operators.add("ada", PASSWORD, "operator")


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def token_in(page: str) -> str:
    [token] = set(re.findall(r'name="csrf_token" value="(\w+)"', page))
    return token


def sign_in(client: FlaskClient, name: str = "ada", **more: str) -> Any:
    page = client.get("/sign-in").text
    form = {"csrf_token": token_in(page), "name": name, "password": PASSWORD, **more}
    return client.post("/sign-in", data=form)


# --- open or protected ---


def test_everybody_is_let_in_while_there_is_no_credential(client: FlaskClient) -> None:
    data_of(client.post(EVENTS, json=LOGIN), 201)
    assert client.get("/").status_code == 200
    assert client.get("/sign-in").location == "/"


@pytest.mark.parametrize("first", ["operator", "key"])
def test_the_first_credential_protects_a_service_that_runs(
    client: FlaskClient, access: Access, first: str
) -> None:
    data_of(client.get("/api/events"))
    if first == "key":
        access.keys.create("ci", [READ], None)
    else:
        access.operators.add("ada", PASSWORD, "viewer")
    wait_for(lambda: client.get("/api/events").status_code == 401, 5)


def test_a_service_whose_credentials_are_lost_stays_protected_and_says_what_to_do(
    settings: dict[str, str], made_read_side: None, app: Flask, operator: None
) -> None:
    folder = Path(settings["JOBQUEST_DATA_DIR"])
    app.extensions["jobquest"].stop()
    for file in folder.glob(f"{FILE}*"):
        file.unlink()
    assert (folder / MARKER).exists()
    again = create_app(settings)
    try:
        for headers in ({}, bearer("jq_anything")):
            answer = again.test_client().get("/api/events", headers=headers)
            code = 503 if headers else 401
            body = error_of(answer, code)
            assert ("flask operators add" in body["message"]) == (code == 503)
    finally:
        again.extensions["jobquest"].stop()


def test_a_rebuild_leaves_the_credentials_alone(app: Flask, access: Access, operator: None) -> None:
    key = access.keys.create("ci", [READ], None)
    app.extensions["jobquest"].rebuild.run()
    assert access.caller(key).name == "ci"
    assert [one["name"] for one in access.operators.listed()] == ["ada"]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("HOST", "0.0.0.0"),
        ("HOST", "::"),
        ("HOST", "192.0.2.1"),
        ("HOST", "example.com"),
        ("JOBQUEST_PUBLIC_URL", "https://events.example.com"),
        ("JOBQUEST_TRUSTED_PROXIES", "1"),
    ],
)
def test_a_service_that_others_can_reach_lets_nobody_in_without_a_credential(
    settings: dict[str, str], made_read_side: None, setting: str, value: str
) -> None:
    app = create_app({**settings, setting: value})
    runtime = app.extensions["jobquest"]
    try:
        with pytest.raises(SettingsError, match=rf"{setting}.*flask operators add"):
            runtime.access.refuse_open_doors()
        assert app.test_client().get("/api/events").status_code == 401
        runtime.access.operators.add("ada", PASSWORD, "operator")
        runtime.access.refuse_open_doors()
    finally:
        runtime.stop()


def test_a_proxy_that_authenticates_is_declared(
    settings: dict[str, str], made_read_side: None
) -> None:
    app = create_app({**settings, "HOST": "0.0.0.0", "JOBQUEST_AUTH": "proxy"})
    try:
        app.extensions["jobquest"].access.refuse_open_doors()
        data_of(app.test_client().post(EVENTS, json=LOGIN), 201)
    finally:
        app.extensions["jobquest"].stop()


# --- every route ---


def test_every_route_says_what_it_needs(app: Flask) -> None:
    silent = [r.rule for r in app.url_map.iter_rules() if declared(app, r.endpoint) is None]
    assert silent == []


def test_a_route_that_says_nothing_lets_nobody_in(app: Flask, access: Access) -> None:
    app.add_url_rule("/forgotten", "forgotten", lambda: "secret")
    key = access.keys.create("ci", KEY_SCOPES, None)
    error_of(app.test_client().get("/forgotten", headers=bearer(key)), 403)


def test_without_a_credential_only_what_is_public_answers(app: Flask, operator: None) -> None:
    public = set()
    for rule in app.url_map.iter_rules():
        for method in (rule.methods or set()) - {"OPTIONS", "HEAD"}:
            path = re.sub(r"<int:\w+>", "1", rule.rule)
            path = re.sub(r"<path:\w+>", "app.css", path)
            path = re.sub(r"<[\w:]+>", "x", path)
            answer = app.test_client().open(path, method=method)
            if answer.status_code != 401:
                public.add(f"{method} {rule.rule}")
            else:
                assert answer.headers["WWW-Authenticate"] == "Bearer"
                error_of(answer, 401)
    assert public == {
        "GET /healthz",
        "GET /readyz",
        "GET /sign-in",
        "POST /sign-in",
        "GET /sign-in/provider",
        "GET /sign-in/callback",
        "GET /static/<path:filename>",
    }


def test_an_address_that_nobody_serves_tells_strangers_nothing(
    client: FlaskClient, access: Access
) -> None:
    key = access.keys.create("ci", [READ], None)
    error_of(client.get("/nothing/here"), 401)
    error_of(client.get("/nothing/here", headers=bearer(key)), 404)
    error_of(client.delete("/api/events", headers=bearer(key)), 405)


# --- keys ---


@pytest.mark.parametrize(
    ("scope", "method", "path", "body"),
    [
        (WRITE, "POST", EVENTS, EVENT),
        (READ, "GET", "/api/events", None),
        (READ, "GET", "/metrics", None),
        (OPERATE, "POST", "/api/kafka/dead-letters/redrive", {"ids": [1]}),
    ],
)
def test_a_key_may_what_its_scopes_say(
    client: FlaskClient,
    access: Access,
    scope: str,
    method: str,
    path: str,
    body: Any,
) -> None:
    for one in KEY_SCOPES:
        key = access.keys.create(one.replace(":", "-"), [one], None)
        answer = client.open(path, method=method, json=body, headers=bearer(key))
        if one == scope:
            assert answer.status_code < 300
        else:
            assert scope in error_of(answer, 403)["message"]


def test_an_event_of_a_key_says_whose_it_is(client: FlaskClient, access: Access) -> None:
    key = access.keys.create("ci", [WRITE], None)
    body = error_of(client.post(EVENTS, json=LOGIN, headers=bearer(key)), 400)
    assert list(body["errors"]) == ["userId"]
    batch = {"events": [LOGIN, EVENT]}
    results = data_of(client.post(f"{EVENTS}/batch", json=batch, headers=bearer(key)), 207)
    assert [one["result"] for one in results["results"]] == ["rejected", "accepted"]


def test_a_key_is_stored_as_a_digest_alone(access: Access, settings: dict[str, str]) -> None:
    key = access.keys.create("ci", [READ], None)
    stored = b"".join(
        file.read_bytes() for file in Path(settings["JOBQUEST_DATA_DIR"]).glob(f"{FILE}*")
    )
    assert digest(key).encode() in stored
    assert key.encode() not in stored
    assert key.removeprefix("jq_").encode() not in stored


@pytest.mark.parametrize("how", ["revoked", "rotated", "expired"])
def test_a_key_that_has_ended_lets_nobody_in(client: FlaskClient, access: Access, how: str) -> None:
    key = access.keys.create("ci", [READ], now_ms() + (1_500 if how == "expired" else 60_000))
    data_of(client.get("/api/events", headers=bearer(key)))
    began = time.monotonic()
    if how == "revoked":
        access.keys.revoke("ci")
    if how == "rotated":
        fresh = access.keys.rotate("ci")
        data_of(client.get("/api/events", headers=bearer(fresh)))
    wait_for(lambda: client.get("/api/events", headers=bearer(key)).status_code == 401, 5)
    assert time.monotonic() - began < 3
    with pytest.raises(Unauthenticated):
        access.caller(key)


def test_the_list_of_keys_knows_when_each_was_used(access: Access) -> None:
    key = access.keys.create("ci", [READ], None)
    access.caller(key)
    access._note_used()
    [row] = access.keys.listed()
    assert abs(row["used_ms"] - now_ms()) < 5_000
    assert "digest" not in row


@pytest.mark.parametrize(
    ("name", "scopes", "line"),
    [
        ("", [READ], "1 to 100 letters"),
        ("a b", [READ], "1 to 100 letters"),
        ("ci", ["events:all"], "no scope events:all"),
        ("ci", [], "needs a scope"),
    ],
)
def test_a_key_that_makes_no_sense_is_refused(
    access: Access, name: str, scopes: list[str], line: str
) -> None:
    with pytest.raises(StateConflict, match=line):
        access.keys.create(name, scopes, None)


def test_two_keys_have_different_names(access: Access) -> None:
    access.keys.create("ci", [READ], None)
    with pytest.raises(StateConflict, match="revoke or rotate"):
        access.keys.create("ci", [READ], None)
    access.keys.revoke("ci")
    with pytest.raises(StateConflict, match="no valid key"):
        access.keys.revoke("ci")
    access.keys.create("ci", [READ], None)


@pytest.mark.parametrize(
    "header",
    ["", "Basic YTpi", "Bearer", "Bearer ", "bearer jq_unknown", "Bearer " + "x" * 9_000, "jq_x"],
)
def test_a_header_without_a_usable_key_is_refused(
    client: FlaskClient, operator: None, header: str
) -> None:
    error_of(client.get("/api/events", headers={"Authorization": header}), 401)


# --- sessions ---


def test_an_operator_signs_in_and_out(client: FlaskClient, operator: None) -> None:
    answer = client.get("/topics?x=1", headers=AS_PAGE)
    assert (answer.status_code, answer.location) == (303, "/sign-in?next=/topics%3Fx%3D1")
    answer = sign_in(client, next="/topics?x=1")
    assert (answer.status_code, answer.location) == (303, "/topics?x=1")
    cookie = next(c for c in answer.headers.getlist("Set-Cookie") if "jobquest_session=" in c)
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    page = client.get("/topics", headers=AS_PAGE)
    assert page.status_code == 200
    answer = client.post("/sign-out", data={"csrf_token": token_in(page.text)})
    assert answer.location == "/sign-in"
    assert '"storage"' in answer.headers["Clear-Site-Data"]
    assert client.get("/topics").status_code == 401


def test_a_session_ends_for_whoever_has_copied_its_cookie(
    app: Flask, client: FlaskClient, operator: None
) -> None:
    sign_in(client)
    thief = app.test_client()
    found = client.get_cookie("jobquest_session")
    assert found
    thief.set_cookie("jobquest_session", found.value)
    data_of(thief.get("/api/events"))
    client.post("/sign-out", data={"csrf_token": token_in(client.get("/").text)})
    wait_for(lambda: thief.get("/api/events").status_code == 401, 3)


@pytest.mark.parametrize(
    "wanted",
    ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:1", "\n/x", ""],
)
def test_signing_in_leads_to_no_other_site(
    client: FlaskClient, operator: None, wanted: str
) -> None:
    assert sign_in(client, next=wanted).location == "/"


@pytest.mark.parametrize("name", ["local", "Proxy", "unknown", "nobody"])
def test_no_operator_has_a_name_of_the_audit_trails_own(app: Flask, name: str) -> None:
    command = ["operators", "add", name, "--role", "viewer"]
    told = app.test_cli_runner().invoke(args=command, input=f"{PASSWORD}\n{PASSWORD}\n")
    assert told.exit_code != 0
    line = f"Error: The audit trail itself uses the name {name}: choose another."
    assert told.output.splitlines()[-1] == line


def test_the_sign_in_page_sends_on_who_is_signed_in(
    client: FlaskClient, access: Access, operator: None
) -> None:
    key = access.keys.create("ci", [READ], None)
    client.set_cookie("jobquest_session", key)
    assert client.get("/sign-in").status_code == 200
    sign_in(client)
    for wanted, leads in (("", "/"), ("?next=/topics%3Fa=1", "/topics?a=1")):
        answer = client.get(f"/sign-in{wanted}")
        assert (answer.status_code, answer.location) == (303, leads)
    foreign = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    assert client.get("/sign-in", headers=foreign).status_code == 200
    access.operators.remove("ada")
    access._look()
    assert client.get("/sign-in").status_code == 200


def test_a_wrong_password_and_an_unknown_name_are_refused_alike(
    client: FlaskClient, operator: None
) -> None:
    wrong = sign_in(client, password="something else entirely")
    unknown = sign_in(client, name="nobody")
    assert wrong.status_code == unknown.status_code == 401
    assert wrong.text.replace("ada", "") != ""
    line = "This name and password do not belong together."
    assert line in wrong.text
    assert line in unknown.text


def test_the_sign_in_page_shows_nothing_of_the_service(client: FlaskClient, operator: None) -> None:
    page = client.get("/sign-in").text
    assert "service-now" not in page
    assert "<nav" not in page


@pytest.mark.parametrize("token", ["", "0" * 64, "stale"])
def test_a_request_by_cookie_needs_the_token_of_its_session(
    client: FlaskClient, operator: None, token: str
) -> None:
    if token == "stale":  # of an earlier session
        sign_in(client)
        token = token_in(client.get("/").text)
        client.delete_cookie("jobquest_session")
    sign_in(client)
    for answer in (
        client.post(EVENTS, json=EVENT, headers={"X-CSRF-Token": token}),
        client.post("/sign-out", data={"csrf_token": token}),
    ):
        assert answer.status_code == 403
    token = token_in(client.get("/").text)
    data_of(client.post(EVENTS, json=EVENT, headers={"X-CSRF-Token": token}), 201)


@pytest.mark.parametrize("origin", ["http://front.example", "https://evil.example", "null"])
def test_a_cookie_counts_only_for_our_own_pages(
    settings: dict[str, str], made_read_side: None, origin: str
) -> None:
    app = create_app({**settings, "JOBQUEST_CORS_ORIGINS": "http://front.example"})
    client = app.test_client()
    try:
        app.extensions["jobquest"].access.operators.add("ada", PASSWORD, "operator")
        sign_in(client)
        token = token_in(client.get("/").text)
        headers = {"Origin": origin, "X-CSRF-Token": token}
        assert client.get("/api/events", headers=headers).status_code == 401
        assert client.post(EVENTS, json=EVENT, headers=headers).status_code in (401, 403)
        data_of(client.get("/api/events", headers={"Origin": "http://localhost"}))
        site = {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"}
        assert client.get("/api/events", headers=site).status_code == 401
    finally:
        app.extensions["jobquest"].stop()


def test_a_viewer_reads_and_does_nothing(client: FlaskClient, access: Access) -> None:
    access.operators.add("vic", PASSWORD, "viewer")
    sign_in(client, "vic")
    page = client.get("/", headers=AS_PAGE).text
    assert "/publish" not in page
    refused = client.get("/publish", headers=AS_PAGE)
    assert refused.status_code == 403
    assert "Only operators may do this" in refused.text
    assert refused.mimetype == "text/html"
    assert re.search('href="/topics".*Sign out', refused.text, re.DOTALL)  # and goes on from here
    token = {"X-CSRF-Token": token_in(page)}
    error_of(client.post("/api/kafka/status", json={"action": "stop"}, headers=token), 403)
    error_of(client.post(EVENTS, json=EVENT, headers=token), 403)


def test_a_role_changes_at_once_and_a_removed_operator_is_out(
    client: FlaskClient, access: Access, operator: None
) -> None:
    sign_in(client)
    token = {"X-CSRF-Token": token_in(client.get("/").text)}
    access.operators.set_role("ada", "viewer")
    wait_for(lambda: client.post(EVENTS, json=EVENT, headers=token).status_code == 403, 3)
    access.operators.remove("ada")
    access.keys.create("another", [READ], None)  # the service is not lost
    wait_for(lambda: client.get("/api/events").status_code == 401, 3)


def test_signing_in_over_plain_http_from_elsewhere_is_refused(
    settings: dict[str, str], made_read_side: None
) -> None:
    app = create_app({**settings, "JOBQUEST_TRUSTED_PROXIES": "1"})
    try:
        app.extensions["jobquest"].access.operators.add("ada", PASSWORD, "operator")
        client = app.test_client()
        form = {"csrf_token": token_in(client.get("/sign-in").text)}
        form |= {"name": "ada", "password": PASSWORD}
        for proto, code in (("http", 403), ("https", 303)):
            forwarded = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": proto}
            page = client.get("/sign-in", headers=forwarded).text
            assert ('type="password"' in page) == (proto == "https")  # nobody is led to type it
            answer = client.post("/sign-in", data=form, headers=forwarded)
            assert answer.status_code == code
            if code == 303:
                assert "Secure" in answer.headers.getlist("Set-Cookie")[0]
    finally:
        app.extensions["jobquest"].stop()


# --- tickets ---


def test_a_ticket_stands_for_its_caller_once(client: FlaskClient, access: Access) -> None:
    key = access.keys.create("ci", [READ], None)
    answer = data_of(client.post("/api/tickets", headers=bearer(key)), 201)
    assert answer["expiresInSeconds"] == 30
    found = access.tickets.redeem(answer["ticket"])
    assert found == access.caller(key)
    assert access.tickets.redeem(answer["ticket"]) is None


def test_a_ticket_opens_the_live_view_alone(client: FlaskClient, access: Access) -> None:
    key = access.keys.create("ci", [READ], None)
    ticket = data_of(client.post("/api/tickets", headers=bearer(key)), 201)["ticket"]
    error_of(client.get(f"/api/events?ticket={ticket}"), 401)
    # It is no WebSocket, but it was let in.
    assert client.get(f"/ws/events?ticket={ticket}").status_code == 400
    assert client.get(f"/ws/events?ticket={ticket}").status_code == 401


# --- while the database is away ---


def test_while_the_database_is_away_whoever_was_seen_is_let_in(
    app: Flask, access: Access, settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = app.test_client()
    key, other = (access.keys.create(name, [WRITE], None) for name in ("seen", "unseen"))
    data_of(client.post(EVENTS, json=EVENT, headers=bearer(key)), 201)
    access.close()
    file = Path(settings["JOBQUEST_DATA_DIR"]) / FILE
    shutil.copy(file, f"{file}.kept")
    file.write_bytes(b"no database" * 100)
    wait_for(lambda: access._seen.is_away, 5)
    data_of(client.post(EVENTS, json=EVENT, headers=bearer(key)), 201)
    body = error_of(client.post(EVENTS, json=EVENT, headers=bearer(other)), 503)
    assert "can be let in" in body["message"]
    monkeypatch.setattr(seen, "AWAY_SECONDS", 0.0)
    error_of(client.post(EVENTS, json=EVENT, headers=bearer(key)), 503)


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seen, "MAX_REMEMBERED", 100)
    remembered = seen.Seen()
    remembered.looked(1)
    for n in range(1_000):
        remembered.add(str(n), Caller("key", str(n), frozenset()), 1)
    assert len(remembered._entries) <= 100
    assert remembered.caller("999")


def test_a_look_that_hangs_means_that_the_database_is_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    remembered = seen.Seen()
    remembered.looked(1)
    remembered.add("a", Caller("key", "a", frozenset()), 1)
    monkeypatch.setattr(seen, "FRESH_SECONDS", -1.0)
    assert remembered.caller("a") is None  # nobody looks: the database is asked
    remembered.looking()
    assert remembered.caller("a")


def test_nobody_can_tell_means_nobody_is_let_in(access: Access, operator: None) -> None:
    with pytest.raises(Unauthenticated):
        access.caller("jq_unknown")
    access.operators.remove("ada")
    with pytest.raises(AccessUnavailable, match="flask operators add"):
        access.caller("jq_unknown")


def test_without_credentials_the_service_is_for_its_own_machine_alone(app: Flask) -> None:
    """`flask run -h 0.0.0.0` and other servers listen where no setting of ours says so."""
    for peer, code in (("127.0.0.1", 201), ("::1", 201), ("192.0.2.2", 403), ("", 403)):
        client = app.test_client()
        client.environ_base["REMOTE_ADDR"] = peer
        answer = client.post(EVENTS, json=EVENT)
        assert answer.status_code == code, peer
        assert client.get("/healthz").status_code == 200
        if code == 403:
            assert "flask operators add" in error_of(answer, 403)["message"]
