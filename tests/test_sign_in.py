"""Signing in and out by password: cookies, sessions, forms from elsewhere. `test_access.py` has the
usual way, `test_provider.py` the identity provider."""

from __future__ import annotations

import re
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import update

from jobquest import create_app
from jobquest.access import Access
from jobquest.access.bounds import SIGN_INS
from jobquest.access.tables import sessions
from jobquest.clock import now_ms
from tests.service import wait_for
from tests.test_access import AS_PAGE, PASSWORD, sign_in, token_in
from tests.test_http import EVENTS, LOGIN, data_of

COOKIE = "jobquest_session"
PROXY = {
    "JOBQUEST_PUBLIC_URL": "https://events.example.com/jobquest",
    "JOBQUEST_TRUSTED_PROXIES": "1",
}
BY_TLS = {"X-Forwarded-Proto": "https", "Host": "events.example.com"}


@pytest.fixture(autouse=True)
def operator(access: Access) -> None:
    access.operators.add("ada", PASSWORD, "operator")


def cookie_of(client: FlaskClient) -> str:
    found = client.get_cookie(COOKIE)
    assert found
    return found.value


# --- the form ---


@pytest.mark.parametrize("token", ["", "0" * 64, "é", "of another browser"])
def test_a_form_that_is_not_of_this_browser_signs_nobody_in(
    app: Flask, client: FlaskClient, token: str
) -> None:
    if token == "of another browser":
        token = token_in(app.test_client().get("/sign-in").text)
    client.get("/sign-in")
    form = {"csrf_token": token, "name": "ada", "password": PASSWORD}
    assert client.post("/sign-in", data=form).status_code == 403
    assert client.get_cookie(COOKIE) is None


def test_a_form_without_its_cookie_signs_nobody_in(client: FlaskClient) -> None:
    form = {"csrf_token": "", "name": "ada", "password": PASSWORD}
    assert client.post("/sign-in", data=form).status_code == 403


@pytest.mark.parametrize("origin", ["https://evil.example", "null"])
def test_a_form_of_another_origin_signs_nobody_in(client: FlaskClient, origin: str) -> None:
    form = {"csrf_token": token_in(client.get("/sign-in").text), "name": "ada"}
    answer = client.post("/sign-in", data=form, headers={"Origin": origin})
    assert answer.status_code == 403


def test_a_form_that_stays_open_while_somebody_fails_still_works(client: FlaskClient) -> None:
    token = token_in(client.get("/sign-in").text)
    form: dict[str, Any] = {"csrf_token": token, "name": "ada"}
    assert client.post("/sign-in", data=form | {"password": "wrong"}).status_code == 401
    assert client.post("/sign-in", data=form | {"password": PASSWORD}).status_code == 303


def test_whoever_is_refused_stays_at_the_form_and_reads_what_to_do(
    client: FlaskClient, access: Access
) -> None:
    def refusal(code: int, **form: str) -> str:
        answer = client.post("/sign-in", data={"name": "ada", "next": "/topics", **form})
        assert answer.status_code == code
        assert 'value="ada"' in answer.text
        assert 'name="next" value="/topics"' in answer.text
        return re.findall('role="alert">(.*)</p>', answer.text)[0] + str(answer.headers)

    token = token_in(client.get("/sign-in").text)
    assert "open for too long" in refusal(403, password=PASSWORD)
    for _ in range(SIGN_INS):
        access.bounds.sign_in("ada", "127.0.0.1")
    assert re.search(r"again in (\d) s\.[^§]*Retry-After: \1", refusal(429, csrf_token=token))
    access.operators.remove("ada")
    assert "flask operators add" in refusal(503, csrf_token=token)


def test_no_page_repeats_a_password_and_no_cache_keeps_one(client: FlaskClient) -> None:
    answer = sign_in(client, password="a wrong one that is long", name='"><b>x')
    assert answer.status_code == 401
    assert "a wrong one" not in answer.text
    assert "<b>x" not in answer.text
    assert answer.headers["Cache-Control"] == "no-store"
    assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    ("wanted", "leads"),
    [
        ("/users?q=a%26b", "/users?q=a%26b"),
        ("/%2F/evil.example", "/%2F/evil.example"),
        ("/\t/evil.example", "/"),
        ("/\x85/evil.example", "/"),
        ("/ /evil.example", "/ /evil.example"),
        ("/x\r\nSet-Cookie: a=b", "/"),
        ("///evil.example", "/"),
        ("evil.example", "/"),
        ("http:evil.example", "/"),
        ("data:text/html,x", "/"),
    ],
)
def test_a_wanted_page_is_one_of_ours(client: FlaskClient, wanted: str, leads: str) -> None:
    page = client.get("/sign-in", query_string={"next": wanted}).text
    assert ('name="next" value="/"' in page) == (leads == "/")
    found = sign_in(client, next=wanted).location
    assert found == leads.replace(" ", "%20")
    sent_on = client.get("/sign-in", query_string={"next": wanted}).location
    assert sent_on == leads.replace(" ", "%20")


# --- the session ---


def test_signing_in_begins_a_session_that_nobody_knew_before(client: FlaskClient) -> None:
    client.set_cookie(COOKIE, "chosen by somebody else")
    sign_in(client)
    first = cookie_of(client)
    assert len(first) >= 43
    client.delete_cookie(COOKIE)
    sign_in(client)
    assert cookie_of(client) not in (first, "chosen by somebody else")


@pytest.mark.parametrize("value", ["x", "jq_x", "é", "x" * 5_000, '"', "a b"])
def test_a_cookie_that_we_did_not_give_is_nobody(client: FlaskClient, value: str) -> None:
    headers = {"Cookie": f"{COOKIE}={value}".encode().decode("latin-1")}
    assert client.get("/api/events", headers=headers).status_code == 401


def test_a_session_ends_after_12_hours(client: FlaskClient, access: Access) -> None:
    sign_in(client)
    assert client.get("/api/events").status_code == 200
    [row] = access.sessions.listed()
    assert row["expires_ms"] - row["created_ms"] == 12 * 3_600_000
    with access._database.writing() as connection:
        connection.execute(update(sessions).values(expires_ms=now_ms() + 300))
    access._seen.forget(row["digest"])
    wait_for(lambda: client.get("/api/events").status_code == 401, 5)
    assert access.sessions.listed() == []


def test_another_password_ends_all_sessions_and_signing_out_only_one(
    app: Flask, client: FlaskClient, access: Access
) -> None:
    other = app.test_client()
    for one in (client, other):
        sign_in(one)
    client.post("/sign-out", data={"csrf_token": token_in(client.get("/", headers=AS_PAGE).text)})
    wait_for(lambda: client.get("/api/events").status_code == 401, 3)
    assert other.get("/api/events").status_code == 200
    access.operators.set_password("ada", "another horse battery")
    wait_for(lambda: other.get("/api/events").status_code == 401, 3)
    assert sign_in(client).status_code == 401
    assert sign_in(client, password="another horse battery").status_code == 303


def test_a_session_says_where_it_began(client: FlaskClient, access: Access) -> None:
    page = client.get("/sign-in").text
    form = {"csrf_token": token_in(page), "name": "ada", "password": PASSWORD}
    client.post("/sign-in", data=form, headers={"User-Agent": "x\x7f" * 500})
    [row] = access.sessions.listed()
    assert (row["name"], row["address"], row["agent"]) == ("ada", "127.0.0.1", "x" * 200)


# --- signing out ---


def test_a_link_signs_nobody_out(client: FlaskClient) -> None:
    sign_in(client)
    assert client.get("/sign-out").status_code == 405
    assert client.get("/api/events").status_code == 200


def test_signing_out_has_the_browser_forget(client: FlaskClient) -> None:
    sign_in(client)
    token = token_in(client.get("/", headers=AS_PAGE).text)
    answer = client.post("/sign-out", data={"csrf_token": token})
    assert answer.headers["Clear-Site-Data"] == '"cache", "storage"'
    assert client.get_cookie(COOKIE) is None
    again = client.post("/sign-out", data={"csrf_token": token})
    assert again.status_code == 401


# --- behind a proxy ---


def test_behind_a_proxy_cookies_are_for_https_and_below_the_prefix(
    settings: dict[str, str], made_read_side: None
) -> None:
    app = create_app(settings | PROXY)
    client = app.test_client()
    try:
        answer = client.get("/jobquest/topics", headers=BY_TLS | AS_PAGE)
        assert answer.location == "/jobquest/sign-in?next=/topics"
        page = client.get(answer.location, headers=BY_TLS)
        form = {"csrf_token": token_in(page.text), "name": "ada", "password": PASSWORD}
        kept = page.headers["Set-Cookie"].split(";")[0]
        headers = BY_TLS | {"Cookie": kept, "Origin": "https://events.example.com"}
        answer = client.post("/jobquest/sign-in", data=form | {"next": "/topics"}, headers=headers)
        assert answer.location == "/jobquest/topics"
        [cookie] = [c for c in answer.headers.getlist("Set-Cookie") if f"{COOKIE}=" in c]
        assert {"Secure", "HttpOnly", "Path=/jobquest/", "SameSite=Lax"} <= set(cookie.split("; "))
        headers = BY_TLS | {"Cookie": cookie.split(";")[0]}
        assert client.get("/jobquest/api/events", headers=headers).status_code == 200
        foreign = {"Origin": "https://other.example.com"}
        assert client.get("/jobquest/api/events", headers=headers | foreign).status_code == 401
    finally:
        app.extensions["jobquest"].stop()


def test_a_token_in_the_query_string_counts_nowhere(client: FlaskClient) -> None:
    sign_in(client)
    token = token_in(client.get("/", headers=AS_PAGE).text)
    event = LOGIN | {"userId": "ada"}
    assert client.post(f"{EVENTS}?csrf_token={token}", json=event).status_code == 403
    assert client.post(f"/sign-out?csrf_token={token}", data={"x": "y"}).status_code == 403
    data_of(client.post(EVENTS, json=event, headers={"X-CSRF-Token": token}), 201)
