"""Signing in at an identity provider: what is believed of it, and what is not."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from jobquest import create_app
from jobquest.access import MARKER, Access, fetching, limits, provider
from jobquest.config import load
from jobquest.errors import SettingsError
from jobquest.web.pages import provider as pages
from tests.oidc_provider import (
    CLIENT_ID,
    CLIENT_SECRET,
    OidcProvider,
    rsa_key,
    signed,
    signed_with,
    unsigned,
)
from tests.service import wait_for
from tests.test_access import AS_PAGE, PASSWORD, sign_in, token_in
from tests.test_http import EVENTS, LOGIN, data_of, error_of

LISTED_SECRET = b"a secret that the list of keys has"
BUTTON = 'href="/sign-in/provider?next='


@pytest.fixture
def oidc() -> Iterator[OidcProvider]:
    with OidcProvider().serving() as made:
        yield made


@pytest.fixture
def settings(settings: dict[str, str], oidc: OidcProvider) -> dict[str, str]:
    return settings | oidc.settings


def way_back(client: FlaskClient, oidc: OidcProvider, next: str = "/") -> str:
    """Begin to sign in; the address to which the provider sends the browser back."""
    answer = client.get("/sign-in/provider", query_string={"next": next})
    assert answer.status_code == 303, answer.text
    assert answer.location.startswith(f"{oidc.issuer}/authorize?")
    return oidc.authorize(answer.location)


def signed_in(client: FlaskClient, oidc: OidcProvider, next: str = "/") -> TestResponse:
    """Sign in; the answer on the way back."""
    return client.get(way_back(client, oidc, next))


def refused(answer: TestResponse, code: int) -> str:
    """The line of a page that begins no session."""
    assert answer.status_code == code, answer.text
    assert "jobquest_session" not in "".join(answer.headers.getlist("Set-Cookie"))
    line: str = answer.text.split('role="alert">')[1].split("</p>")[0]
    return line


# --- the way there and back ---


def test_an_operator_signs_in_at_the_provider(
    client: FlaskClient, oidc: OidcProvider, access: Access
) -> None:
    page = client.get("/topics?x=1", headers=AS_PAGE)
    assert page.location == "/sign-in?next=/topics%3Fx%3D1"
    assert f"Sign in with localhost:{urlsplit(oidc.issuer).port}" in client.get(page.location).text
    answer = signed_in(client, oidc, "/topics?x=1")
    assert (answer.status_code, answer.location) == (303, "/topics?x=1")
    cookie = next(c for c in answer.headers.getlist("Set-Cookie") if "jobquest_session=" in c)
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    page = client.get("/", headers=AS_PAGE)
    assert "Signed in as ada@example.org" in page.text
    token = {"X-CSRF-Token": token_in(page.text)}
    event = LOGIN | {"userId": "ada"}
    data_of(client.post(EVENTS, json=event, headers=token), 201)
    [session] = access.sessions.listed()
    assert (session["name"], session["role"]) == ("ada@example.org", "operator")
    assert 11.9 < (session["expires_ms"] - session["created_ms"]) / 3_600_000 <= 12


def test_the_provider_is_asked_for_a_code_with_pkce(
    client: FlaskClient, oidc: OidcProvider
) -> None:
    asked = parse_qs(urlsplit(client.get("/sign-in/provider").location).query)
    assert asked["response_type"] == ["code"]
    assert asked["client_id"] == [CLIENT_ID]
    assert asked["code_challenge_method"] == ["S256"]
    assert asked["scope"] == ["openid email profile groups"]
    assert asked["redirect_uri"] == ["http://localhost/sign-in/callback"]
    again = parse_qs(urlsplit(client.get("/sign-in/provider").location).query)
    for name in ("state", "nonce", "code_challenge"):
        assert len(asked[name][0]) >= 43
        assert again[name] != asked[name]


def test_behind_a_proxy_the_provider_sends_browsers_to_the_public_url(
    settings: dict[str, str], made_read_side: None, oidc: OidcProvider
) -> None:
    proxy = {
        "JOBQUEST_PUBLIC_URL": "https://events.example.com/jobquest",
        "JOBQUEST_TRUSTED_PROXIES": "1",
    }
    app = create_app(settings | oidc.settings | proxy)
    headers = {"X-Forwarded-Proto": "https", "Host": "events.example.com"}
    try:
        answer = app.test_client().get("/jobquest/sign-in/provider", headers=headers)
        asked = parse_qs(urlsplit(answer.location).query)
        assert asked["redirect_uri"] == ["https://events.example.com/jobquest/sign-in/callback"]
        [cookie] = [c for c in answer.headers.getlist("Set-Cookie") if pages.COOKIE in c]
        for word in ("Secure", "HttpOnly", "SameSite=Lax", "Path=/jobquest/"):
            assert word in cookie
        plain = headers | {"X-Forwarded-Proto": "http", "X-Forwarded-For": "203.0.113.9"}
        for path in ("provider", "callback"):
            answer = app.test_client().get(f"/jobquest/sign-in/{path}", headers=plain)
            assert answer.status_code == 403
            assert "needs https" in answer.text
    finally:
        app.extensions["jobquest"].stop()


@pytest.mark.parametrize(
    "wanted", ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:1", "\n/x"]
)
def test_signing_in_at_the_provider_leads_to_no_other_site(
    client: FlaskClient, oidc: OidcProvider, wanted: str
) -> None:
    assert signed_in(client, oidc, wanted).location == "/"


def test_what_the_provider_says_about_itself_is_asked_once(
    client: FlaskClient, oidc: OidcProvider
) -> None:
    for _ in range(3):
        assert signed_in(client, oidc).status_code == 303
    assert oidc.asked.count("/.well-known/openid-configuration") == 1
    assert oidc.asked.count("/keys") == 3  # a withdrawn key ends at once


# --- roles ---


@pytest.mark.parametrize(
    ("claims", "role"),
    [
        ({"email": "Ada@Example.org"}, "operator"),
        ({"email": "vic@example.org"}, "viewer"),
        ({"email": "eve@example.org"}, None),
        ({"email_verified": False}, None),
        ({"email_verified": "true"}, None),
        ({"email_verified": 1}, None),
        ({"email_verified": None}, None),
        ({"email": None, "groups": ["staff", "platform"]}, "operator"),
        ({"email": None, "groups": "support"}, "viewer"),
        ({"email": None, "groups": ["Platform"]}, None),
        ({"email": None, "groups": ["ada@example.org"]}, None),
        ({"email": None, "groups": [{"platform": 1}, None]}, None),
        ({"email": None, "groups": {"platform": True}}, None),
        ({"email": "vic@example.org", "groups": ["platform"]}, "operator"),
        ({"email": ["ada@example.org"]}, None),
        ({"email": "platform"}, None),
    ],
)
def test_a_verified_email_or_a_group_decides_the_role(
    client: FlaskClient, oidc: OidcProvider, access: Access, claims: dict[str, Any], role: str
) -> None:
    oidc.claims = claims
    answer = signed_in(client, oidc)
    if role is None:
        refused(answer, 403)
        assert access.sessions.listed() == []
    else:
        assert answer.status_code == 303
        assert [one["role"] for one in access.sessions.listed()] == [role]


def test_who_is_not_listed_learns_as_whom_they_signed_in_and_who_decides(
    client: FlaskClient, oidc: OidcProvider
) -> None:
    oidc.claims = {"email": None, "preferred_username": "<b>eve</b>\u202e"}
    line = refused(signed_in(client, oidc), 403)
    assert "as &lt;b&gt;eve&lt;/b&gt; (u-17), whom neither JOBQUEST_OIDC_OPERATORS" in line
    assert "whoever runs this service decides" in line


def test_a_name_that_people_choose_stands_beside_one_that_they_do_not(
    client: FlaskClient, oidc: OidcProvider, access: Access
) -> None:
    oidc.claims = {"email_verified": False, "groups": ["support"], "preferred_username": "a" * 300}
    signed_in(client, oidc)
    assert [one["name"] for one in access.sessions.listed()] == [f"{'a' * 40} (u-17)"]


@pytest.mark.parametrize("name", ["local", "Nobody", "key:ci", "cli:root"])
def test_a_name_of_the_audit_trails_own_signs_nobody_in(
    client: FlaskClient, oidc: OidcProvider, access: Access, name: str
) -> None:
    oidc.claims = {"email_verified": False, "groups": ["support"], "sub": name}
    oidc.userinfo = {"sub": name}
    assert f"names you {name}, which the audit trail" in refused(signed_in(client, oidc), 401)
    assert not access.sessions.listed()


def test_sign_ins_at_the_provider_have_a_limit_for_each_address_and_step(
    client: FlaskClient, oidc: OidcProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "_now", lambda: 10**15)
    signed_in(client, oidc)
    codes = [client.get("/sign-in/provider").status_code for _ in range(10)]
    assert codes == [303] * 9 + [429]
    client.environ_base["REMOTE_ADDR"] = "127.0.0.9"
    signed_in(client, oidc)
    way = way_back(client, oidc)
    kept = client.get_cookie("jobquest_attempt", path="/")
    assert kept
    asked = len(oidc.asked)
    codes = []
    for _ in range(12):  # whoever sends the same again has us ask the provider again
        client.set_cookie("jobquest_attempt", kept.value)
        codes.append(client.get(way).status_code)
    assert codes[0] == 303
    assert codes[-1] == 429
    assert len(oidc.asked) - asked < 40


def test_claims_that_the_token_lacks_are_asked_for(
    client: FlaskClient, oidc: OidcProvider, access: Access
) -> None:
    oidc.who = {}
    oidc.userinfo = {"email": "vic@example.org", "email_verified": True, "groups": ["platform"]}
    assert signed_in(client, oidc).status_code == 303
    [session] = access.sessions.listed()
    assert (session["name"], session["role"]) == ("vic@example.org", "operator")
    oidc.userinfo["sub"] = "somebody else"
    assert "different people" in refused(signed_in(client, oidc), 401)


def test_an_email_that_one_answer_verifies_and_the_other_names_is_not_believed(
    client: FlaskClient, oidc: OidcProvider
) -> None:
    oidc.who = {"email": "ada@example.org"}
    oidc.userinfo = {"email_verified": True}
    refused(signed_in(client, oidc), 403)


# --- what does not prove anything ---


def in_seconds(seconds: int) -> Callable[[], int]:
    """A moment from when the test runs: it may be collected many minutes before."""
    return lambda: int(time.time()) + seconds


@pytest.mark.parametrize(
    ("claims", "word"),
    [
        ({"aud": "another client"}, "invalid_claim"),
        ({"aud": [CLIENT_ID, "another"], "azp": "another"}, "invalid_claim"),
        ({"aud": None}, "missing_claim"),
        ({"iss": "https://evil.example"}, "invalid_claim"),
        ({"iss": None}, "missing_claim"),
        ({"nonce": "of another sign-in"}, "invalid_claim"),
        ({"nonce": None}, "missing_claim"),
        ({"exp": in_seconds(-31)}, "expired_token"),
        ({"exp": None}, "missing_claim"),
        ({"exp": "tomorrow"}, "invalid_claim"),
        ({"exp": True}, "invalid_claim"),
        ({"exp": float("nan")}, "invalid_claim"),
        ({"iat": in_seconds(600)}, "invalid_claim"),
        ({"nbf": in_seconds(600)}, "invalid_claim"),
        ({"sub": None}, "missing_claim"),
        ({"sub": 17}, "invalid_claim"),
        ({"at_hash": "of another access token"}, "invalid_claim"),
    ],
)
def test_an_id_token_that_is_not_for_this_sign_in_proves_nothing(
    client: FlaskClient, oidc: OidcProvider, claims: dict[str, Any], word: str
) -> None:
    oidc.claims = {k: v() if callable(v) else v for k, v in claims.items()}
    assert f"is not valid: {word}." in refused(signed_in(client, oidc), 401)


def test_clocks_may_differ_by_half_a_minute(client: FlaskClient, oidc: OidcProvider) -> None:
    oidc.claims = {"exp": int(time.time()) - 20, "iat": int(time.time()) + 20}
    assert signed_in(client, oidc).status_code == 303


def _by(key: Any, **header: Any) -> Callable[[Any], str]:
    return lambda claims: signed(claims, key, **header)


@pytest.mark.parametrize(
    "sign",
    [
        unsigned,
        signed_with(CLIENT_SECRET.encode()),
        signed_with(rsa_key().as_pem(private=False)),  # everybody knows it
        signed_with(LISTED_SECRET, kid="oct"),
        _by(rsa_key("other")),
        _by(rsa_key("other"), kid="other"),
        _by(rsa_key("other"), kid="../../etc/passwd"),
        _by(rsa_key("other"), kid="other", jwk=rsa_key("other").as_dict(private=False)),
        _by(rsa_key("other"), kid="other", jku="http://localhost:1/keys"),
        _by(rsa_key(), alg="PS256"),  # which the provider does not announce
        lambda claims: signed(claims)[:-5],
        lambda claims: signed(claims).replace(".", ".e30.", 1),
        lambda claims: "no token",
        lambda claims: "",
        lambda claims: "a.b.c.d.e",
        lambda claims: "é.é.é",
    ],
)
def test_an_id_token_that_the_provider_did_not_sign_proves_nothing(
    client: FlaskClient, oidc: OidcProvider, sign: Callable[[Any], str]
) -> None:
    secret = base64.urlsafe_b64encode(LISTED_SECRET).decode()
    oidc.keys.append({"kty": "oct", "kid": "oct", "k": secret})
    oidc.sign = sign
    assert "is not valid" in refused(signed_in(client, oidc), 401)


@pytest.mark.parametrize("announced", [["none"], ["HS256"], []])
def test_an_algorithm_that_proves_nothing_is_not_taken_even_if_the_provider_announces_it(
    client: FlaskClient, oidc: OidcProvider, announced: list[str]
) -> None:
    oidc.metadata = {"id_token_signing_alg_values_supported": announced}
    for sign in (unsigned, signed_with(CLIENT_SECRET.encode())):
        oidc.sign = sign
        assert "is not valid" in refused(signed_in(client, oidc), 401)


def test_a_new_key_of_the_provider_is_known_at_once_and_a_withdrawn_one_is_not(
    client: FlaskClient, oidc: OidcProvider
) -> None:
    assert signed_in(client, oidc).status_code == 303
    oidc.keys = [rsa_key("other").as_dict(private=False), {"kty": "RSA", "n": "broken"}]
    refused(signed_in(client, oidc), 401)
    oidc.sign = _by(rsa_key("other"), kid="other")
    assert signed_in(client, oidc).status_code == 303


@pytest.mark.parametrize("state", [None, "", "of another sign-in", "é"])
def test_a_state_that_this_browser_does_not_know_is_refused(
    client: FlaskClient, oidc: OidcProvider, state: str | None
) -> None:
    code = parse_qs(urlsplit(way_back(client, oidc)).query)["code"]
    query = {"code": code} | ({} if state is None else {"state": state})
    line = refused(client.get("/sign-in/callback", query_string=query), 401)
    assert "another browser began it" in line
    assert "/token" not in oidc.asked


def test_nobody_finishes_a_sign_in_in_the_browser_of_somebody_else(
    client: FlaskClient, oidc: OidcProvider
) -> None:
    address = way_back(client, oidc)
    victim = client.application.test_client()
    refused(victim.get(address), 401)
    victim.get("/sign-in/provider")  # has begun another one meanwhile
    refused(victim.get(address), 401)


def test_a_sign_in_ends_once(client: FlaskClient, oidc: OidcProvider) -> None:
    address = way_back(client, oidc)
    kept = client.get_cookie(pages.COOKIE)
    assert kept
    assert client.get(address).status_code == 303
    assert "another browser began it" in refused(client.get(address), 401)
    client.set_cookie(pages.COOKIE, kept.value)  # as if the browser had not deleted it
    assert "refused this sign-in (invalid_grant)" in refused(client.get(address), 401)


def test_a_code_of_another_sign_in_is_useless(client: FlaskClient, oidc: OidcProvider) -> None:
    stolen = parse_qs(urlsplit(way_back(client.application.test_client(), oidc)).query)["code"]
    state = parse_qs(urlsplit(way_back(client, oidc)).query)["state"]
    query = {"code": stolen, "state": state}
    line = refused(client.get("/sign-in/callback", query_string=query), 401)
    assert "invalid_grant" in line  # its verifier is in the other browser


@pytest.mark.parametrize("change", ["cut", "foreign", "old", "plain"])
def test_what_the_browser_keeps_counts_only_as_it_was_signed(
    client: FlaskClient, oidc: OidcProvider, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    address = way_back(client, oidc)
    kept = client.get_cookie(pages.COOKIE)
    assert kept
    if change == "old":
        monkeypatch.setattr(pages, "SECONDS", -1)
    elif change == "foreign":  # signed by us for something else
        signer = pages.URLSafeTimedSerializer("another key of 32 characters, or more", salt="x")
        client.set_cookie(pages.COOKIE, signer.dumps("{}"))
    else:
        client.set_cookie(pages.COOKIE, kept.value[:-2] if change == "cut" else "{}")
    assert "another browser began it" in refused(client.get(address), 401)


@pytest.mark.parametrize(
    ("query", "line"),
    [
        ({"error": "access_denied"}, "did not sign you in (access_denied)."),
        ({"error": "<script>"}, "did not sign you in."),
        ({}, "did not sign you in."),
    ],
)
def test_somebody_who_changes_their_mind_at_the_provider_learns_that(
    client: FlaskClient, oidc: OidcProvider, query: dict[str, str], line: str
) -> None:
    state = parse_qs(urlsplit(way_back(client, oidc)).query)["state"]
    answer = client.get("/sign-in/callback", query_string={"state": state, **query})
    assert line in refused(answer, 401)


# --- a provider that is away, or strange ---

DISCOVERY = "/.well-known/openid-configuration"
STRANGE = {
    "away": (503, b"", {}),
    "huge": (200, b" " * (fetching.MAX_BYTES + 1), {}),
    "no JSON": (200, b"<html>", {}),
    "no object": (200, b"[]", {}),
    "no UTF-8": (200, b'{"issuer": "\xff"}', {}),
    "deep": (200, b"[" * 100_000, {}),
    "elsewhere": (302, b"", {"Location": "http://localhost:1/"}),
}


@pytest.mark.parametrize("path", [DISCOVERY, "/token", "/keys", "/userinfo"])
@pytest.mark.parametrize("how", STRANGE)
def test_a_provider_that_is_away_or_strange_is_one_line_and_passwords_still_work(
    client: FlaskClient, oidc: OidcProvider, access: Access, path: str, how: str
) -> None:
    access.operators.add("ada", PASSWORD, "operator")
    oidc.instead[path] = STRANGE[how]
    if path == DISCOVERY:
        answer = client.get("/sign-in/provider?next=/topics")
    else:
        answer = client.get(way_back(client, oidc, "/topics"))
    line = refused(answer, 503)
    assert "sign you in now" in line
    assert ("larger than 256 KB" in line) == (how == "huge")
    assert f"{BUTTON}/topics" in answer.text
    assert 'type="password"' in answer.text
    assert sign_in(client).status_code == 303


def test_a_provider_that_nobody_reaches_is_one_line(
    client: FlaskClient, oidc: OidcProvider
) -> None:
    oidc.stop()
    assert "sign you in now: Connection refused." in refused(client.get("/sign-in/provider"), 503)


def test_a_provider_that_drips_is_not_waited_for(
    client: FlaskClient, oidc: OidcProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "SECONDS", 0.2)
    oidc.pause = 0.05  # less than a socket waits for a byte
    began = time.monotonic()
    assert "sign you in now" in refused(client.get("/sign-in/provider"), 503)
    assert time.monotonic() - began < 5


def test_few_wait_for_a_slow_provider(
    client: FlaskClient, oidc: OidcProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, goes_on = threading.Semaphore(0), threading.Event()

    def slow(*_: Any, **__: Any) -> tuple[int, bytes]:
        began.release()
        goes_on.wait(20)
        return 503, b""

    monkeypatch.setattr(fetching, "fetch", slow)
    threads = [
        threading.Thread(target=client.application.test_client().get, args=("/sign-in/provider",))
        for _ in range(provider.AT_ONCE)
    ]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert began.acquire(timeout=10)
    assert "Too many wait" in refused(client.get("/sign-in/provider"), 503)
    assert client.get("/sign-in").status_code == 200  # other requests do not wait for these
    goes_on.set()
    for thread in threads:
        thread.join(10)


@pytest.mark.parametrize(
    ("metadata", "line"),
    [
        ({"issuer": "https://evil.example"}, "names another issuer"),
        ({"token_endpoint": "http://evil.example/token"}, "not https"),
        ({"authorization_endpoint": "javascript:alert(1)"}, "not https"),
        ({"jwks_uri": "file:///etc/passwd"}, "not https"),
        ({"userinfo_endpoint": "http://evil.example/"}, "not https"),
        ({"jwks_uri": None}, "something else than OpenID Connect demands"),
    ],
)
def test_a_provider_that_sends_elsewhere_is_not_followed(
    client: FlaskClient, oidc: OidcProvider, metadata: dict[str, Any], line: str
) -> None:
    oidc.metadata = metadata
    assert line in refused(client.get("/sign-in/provider"), 503)
    oidc.metadata = {}
    assert signed_in(client, oidc).status_code == 303


def test_no_answer_and_no_log_line_has_the_secret(
    client: FlaskClient, oidc: OidcProvider, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    oidc.instead["/token"] = (401, json.dumps({"error": CLIENT_SECRET * 9}).encode(), {})
    address = way_back(client, oidc)
    page = client.get(address).text
    assert CLIENT_SECRET not in page + caplog.text + repr(load(oidc.settings).oidc)
    assert parse_qs(urlsplit(address).query)["code"][0] not in caplog.text


# --- the sign-in page, and signing out ---


def test_the_sign_in_page_offers_what_works(
    client: FlaskClient, oidc: OidcProvider, access: Access
) -> None:
    page = client.get("/sign-in").text
    assert BUTTON in page
    assert 'type="password"' not in page
    access.operators.add("ada", PASSWORD, "operator")
    page = client.get("/sign-in").text
    assert BUTTON in page
    assert 'type="password"' in page


def test_without_a_provider_the_sign_in_page_has_no_way_there(
    settings: dict[str, str], oidc: OidcProvider, made_read_side: None
) -> None:
    app = create_app(settings | dict.fromkeys(oidc.settings, ""))
    try:
        app.extensions["jobquest"].access.operators.add("ada", PASSWORD, "operator")
        client = app.test_client()
        assert BUTTON not in client.get("/sign-in").text
        for path in ("provider", "callback?code=x&state=y"):
            error_of(client.get(f"/sign-in/{path}"), 404)
    finally:
        app.extensions["jobquest"].stop()


def test_signing_out_ends_our_session_and_says_that_the_providers_goes_on(
    client: FlaskClient, oidc: OidcProvider
) -> None:
    signed_in(client, oidc)
    cookie = client.get_cookie("jobquest_session")
    token = token_in(client.get("/", headers=AS_PAGE).text)
    answer = client.post("/sign-out", data={"csrf_token": token})
    page = client.get(answer.location).text
    assert f"At localhost:{urlsplit(oidc.issuer).port} you may still be signed in." in page
    assert cookie
    client.set_cookie("jobquest_session", cookie.value)
    time.sleep(2.1)
    error_of(client.get("/api/events"), 401)


# --- settings ---


def test_a_provider_protects_the_service(
    client: FlaskClient, settings: dict[str, str], access: Access
) -> None:
    error_of(client.get("/api/events"), 401)
    error_of(client.get("/api/events", headers={"Authorization": "Bearer jq_unknown"}), 401)
    access.start()
    wait_for((Path(settings["JOBQUEST_DATA_DIR"]) / MARKER).exists, 5)


def test_a_provider_is_credential_enough_to_let_others_reach_the_service(
    settings: dict[str, str], oidc: OidcProvider
) -> None:
    app = create_app({**settings, **oidc.settings, "HOST": "0.0.0.0"})
    try:
        app.extensions["jobquest"].access.refuse_open_doors()
    finally:
        app.extensions["jobquest"].stop()


@pytest.mark.parametrize("missing", ["ISSUER", "CLIENT_ID", "CLIENT_SECRET"])
def test_half_a_provider_ends_the_start(oidc: OidcProvider, missing: str) -> None:
    given = {name: one for name, one in oidc.settings.items() if not name.endswith(missing)}
    with pytest.raises(SettingsError, match=f"needs JOBQUEST_OIDC_{missing} too") as error:
        load(given)
    assert "\n" not in str(error.value)
    assert CLIENT_SECRET not in str(error.value)


def test_a_provider_at_which_nobody_is_anything_ends_the_start(oidc: OidcProvider) -> None:
    one = {n: v for n, v in oidc.settings.items() if not n.endswith("OPERATORS")}
    assert load(one).oidc
    nobody = {n: v for n, v in one.items() if not n.endswith("VIEWERS")}
    with pytest.raises(SettingsError, match="JOBQUEST_OIDC_OPERATORS or JOBQUEST_OIDC_VIEWERS"):
        load(nobody)


@pytest.mark.parametrize(
    "issuer",
    [
        "id.example.com",
        "http://id.example.com",
        "https://id.example.com/?tenant=1",
        "https://ada:secret@id.example.com",
        "https://id.example.com/ x",
        "https://",
    ],
)
def test_an_issuer_that_can_not_be_asked_safely_is_refused(oidc: OidcProvider, issuer: str) -> None:
    with pytest.raises(SettingsError, match=r"^JOBQUEST_OIDC_ISSUER"):
        load(oidc.settings | {"JOBQUEST_OIDC_ISSUER": issuer})
