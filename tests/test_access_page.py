"""The page of keys, operators and sessions: what its forms do, and what they refuse."""

from __future__ import annotations

import re
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from jobquest import create_app
from jobquest.access import Access
from jobquest.access.caller import READ, WRITE
from jobquest.clock import now_ms
from tests.service import wait_for
from tests.test_access import AS_PAGE, PASSWORD, bearer, sign_in, token_in

NEW_KEY = re.compile(r"jq_[\w-]{43}")


@pytest.fixture
def access(access: Access) -> Access:
    access.operators.add("ada", PASSWORD, "operator")
    return access


@pytest.fixture
def client(app: Flask, access: Access) -> FlaskClient:
    """Ada's browser, signed in."""
    found = app.test_client()
    assert sign_in(found).status_code == 303
    return found


def page_of(client: FlaskClient) -> str:
    answer = client.get("/access", headers=AS_PAGE)
    assert answer.status_code == 200, answer.text
    return answer.text


def send(client: FlaskClient, path: str, code: int = 303, **form: Any) -> str:
    """Send a form of the page; the page that the browser shows then."""
    form["csrf_token"] = token_in(client.get("/", headers=AS_PAGE).text)
    answer = client.post(f"/access/{path}", data=form, headers=AS_PAGE)
    assert answer.status_code == code, answer.text
    if code != 303:
        return answer.text
    assert answer.location == "/access"
    return page_of(client)


def alert(page: str) -> str:
    return page.split('role="alert">')[1].split("</p>")[0]


# --- keys ---


def test_a_new_key_is_shown_once_and_works(client: FlaskClient, access: Access) -> None:
    page = send(client, "keys", name=" checkout ", scope=[READ, WRITE], expires="30")
    assert "Key checkout is created. Keep it now" in page
    [key] = set(NEW_KEY.findall(page))
    assert access.caller(key).scopes == {READ, WRITE}
    [row] = access.keys.listed()
    assert abs(row["expires_ms"] - now_ms() - 30 * 86_400_000) < 60_000
    again = page_of(client)
    assert not NEW_KEY.search(again)
    assert "is created" not in again
    assert "checkout" in again


def test_a_new_key_stays_out_of_addresses_and_of_pages_of_others(
    client: FlaskClient, app: Flask, access: Access
) -> None:
    form = {"csrf_token": token_in(page_of(client)), "name": "ci", "scope": READ, "expires": ""}
    answer = client.post("/access/keys", data=form)
    assert answer.location == "/access"
    assert not NEW_KEY.search(answer.text)
    [cookie] = answer.headers.getlist("Set-Cookie")
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert access.keys.listed()[0]["expires_ms"] is None
    other = app.test_client()
    sign_in(other)
    kept = client.get_cookie("jobquest_said")
    assert kept
    other.set_cookie("jobquest_said", kept.value)
    assert not NEW_KEY.search(page_of(other))
    assert NEW_KEY.search(page_of(client))


def test_a_key_is_replaced_and_revoked(client: FlaskClient, access: Access) -> None:
    old = access.keys.create("ci", [READ], None)
    page = send(client, "keys/ci/rotate")
    [key] = set(NEW_KEY.findall(page))
    assert access.caller(key).name == "ci"
    wait_for(lambda: client.get("/api/events", headers=bearer(old)).status_code == 401, 3)
    page = send(client, "keys/ci/revoke")
    assert "Key ci is revoked." in page
    assert 'data-word="revoked"' in page
    wait_for(lambda: client.get("/api/events", headers=bearer(key)).status_code == 401, 3)
    assert "no valid key ci" in alert(send(client, "keys/ci/revoke", 409))
    assert "no valid key ci" in alert(send(client, "keys/ci/rotate", 409))


@pytest.mark.parametrize(
    ("form", "line"),
    [
        ({"name": "a b", "scope": READ, "expires": "30"}, "1 to 100 letters"),
        ({"name": "ci", "expires": "30"}, "needs a scope"),
        ({"name": "ci", "scope": "manage", "expires": "30"}, "no scope manage"),
        ({"name": "ci", "scope": READ, "expires": "99999"}, "Choose one of the ends"),
        ({"name": "taken", "scope": READ, "expires": ""}, "a key taken already"),
    ],
)
def test_a_form_that_is_refused_says_so_and_keeps_what_was_typed(
    client: FlaskClient, access: Access, form: dict[str, str], line: str
) -> None:
    access.keys.create("taken", [READ], None)
    page = send(client, "keys", 409, **form)
    assert line in alert(page)
    assert f'value="{form["name"]}"' in page
    assert (f'value="{READ}" checked' in page) == (form.get("scope") == READ)
    assert len(access.keys.listed()) == 1


# --- operators ---


def test_another_operator_gets_another_role_and_is_removed(
    client: FlaskClient, app: Flask, access: Access
) -> None:
    access.operators.add("vic", PASSWORD, "viewer")
    other = app.test_client()
    sign_in(other, "vic")
    assert "vic is operator now." in send(client, "operators/vic/role", role="operator")
    wait_for(lambda: other.get("/access").status_code == 200, 3)
    assert "no role king" in alert(send(client, "operators/vic/role", 409, role="king"))
    assert "vic can&#39;t sign in any more." in send(client, "operators/vic/remove")
    wait_for(lambda: other.get("/access").status_code == 401, 3)
    assert "no operator vic" in alert(send(client, "operators/vic/remove", 409))


def test_nobody_shuts_themselves_out(client: FlaskClient, access: Access) -> None:
    for path, form in (("role", {"role": "viewer"}), ("remove", {})):
        assert "That is you" in alert(send(client, f"operators/ada/{path}", 409, **form))
    assert access.operators.listed()[0]["role"] == "operator"
    assert "operators/ada/" not in page_of(client)


def test_the_page_says_how_operators_are_added(client: FlaskClient) -> None:
    assert "flask operators add NAME --role viewer" in page_of(client)


# --- sessions ---


def test_sessions_are_listed_and_one_is_ended(
    client: FlaskClient, app: Flask, access: Access
) -> None:
    thief = app.test_client()
    page = thief.get("/sign-in").text
    form = {"csrf_token": token_in(page), "name": "ada", "password": PASSWORD}
    thief.post("/sign-in", data=form, headers={"User-Agent": "<b>Thief</b>\u00ad 1.0"})
    page = page_of(client)
    assert "&lt;b&gt;Thief&lt;/b&gt; 1.0" in page
    assert page.count("(this one)") == 1
    assert "127.0.0.1" in page
    [other] = [one for one in access.sessions.listed() if "Thief" in one["agent"]]
    assert other["digest"] not in page
    assert "The session has ended." in send(client, f"sessions/{other['id']}/end")
    wait_for(lambda: thief.get("/api/events").status_code == 401, 3)
    assert "ended already" in alert(send(client, f"sessions/{other['id']}/end", 409))


def test_whoever_ends_their_own_session_is_signed_out(client: FlaskClient, access: Access) -> None:
    [own] = access.sessions.listed()
    token = token_in(page_of(client))
    answer = client.post(f"/access/sessions/{own['id']}/end", data={"csrf_token": token})
    assert answer.status_code == 303
    wait_for(lambda: client.get("/access").status_code == 401, 3)


@pytest.mark.parametrize("id", ["", "%25", "_", "a", "0" * 15])
def test_no_other_text_ends_sessions(client: FlaskClient, access: Access, id: str) -> None:
    token = token_in(page_of(client))
    answer = client.post(f"/access/sessions/{id}/end", data={"csrf_token": token})
    assert answer.status_code in (404, 409)
    assert len(access.sessions.listed()) == 1


# --- who may ---

FORMS = (
    "keys",
    "keys/ci/rotate",
    "keys/ci/revoke",
    "operators/vic/role",
    "operators/vic/remove",
    "sessions/0123456789abcdef/end",
)


def test_only_an_operator_sees_the_page_and_sends_its_forms(
    client: FlaskClient, app: Flask, access: Access
) -> None:
    assert 'href="/access" aria-current="page"' in page_of(client)
    access.operators.add("vic", PASSWORD, "viewer")
    viewer = app.test_client()
    sign_in(viewer, "vic")
    live = viewer.get("/", headers=AS_PAGE).text
    assert "/access" not in live
    key = access.keys.create("ci", [READ, WRITE, "operate"], None)
    assert viewer.get("/access").status_code == 403
    assert client.get("/access", headers=bearer(key)).status_code == 403
    for form in FORMS:
        assert (
            viewer.post(f"/access/{form}", data={"csrf_token": token_in(live)}).status_code == 403
        )
        assert client.post(f"/access/{form}", headers=bearer(key)).status_code == 403
        assert app.test_client().post(f"/access/{form}").status_code == 401
    assert access.caller(key).name == "ci"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("token", ["", "0" * 64])
def test_every_form_needs_the_token_of_its_session(
    client: FlaskClient, access: Access, form: str, token: str
) -> None:
    access.keys.create("ci", [READ], None)
    access.operators.add("vic", PASSWORD, "viewer")
    answer = client.post(f"/access/{form}", data={"csrf_token": token, "role": "operator"})
    assert answer.status_code == 403
    assert "out of date" in answer.text
    assert access.keys.listed()[0]["revoked_ms"] is None
    assert [one["role"] for one in access.operators.listed()] == ["operator", "viewer"]


@pytest.mark.parametrize("mode", ["local", "proxy"])
def test_an_open_service_explains_itself_and_makes_no_credentials(
    settings: dict[str, str], made_read_side: None, mode: str
) -> None:
    app = create_app(settings | ({"JOBQUEST_AUTH": "proxy"} if mode == "proxy" else {}))
    client, access = app.test_client(), app.extensions["jobquest"].access
    try:
        page = client.get("/access").text
        command = "flask operators add NAME --role operator"
        assert (command in page) == (mode == "local")
        assert ("JOBQUEST_AUTH=proxy" in page) == (mode == "proxy")
        assert "<form" not in page
        answer = client.post("/access/keys", data={"name": "ci", "scope": READ, "expires": ""})
        assert answer.status_code == 409
        assert "Add an operator first" in alert(answer.text)
        assert access.keys.listed() == []
        assert client.get("/").status_code == 200
    finally:
        app.extensions["jobquest"].stop()
