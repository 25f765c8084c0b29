"""An identity provider's keys: fetched, kept, looked for once, and withdrawn."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from jobquest import create_app
from jobquest.access import fetching, jwks
from jobquest.access.tokens import Tokens
from jobquest.config import load
from jobquest.errors import AccessUnavailable, Unauthenticated
from tests import identity_provider as idp
from tests.identity_provider import Provider
from tests.service import wait_for

Start = Callable[[str], Tokens]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts Tokens with the keys at an address."""
    monkeypatch.chdir(tmp_path)  # no .env of a developer's is found there
    started: list[Tokens] = []

    def make(url: str) -> Tokens:
        started.append(Tokens(load({"JOBQUEST_JWKS_URL": url}), lambda _: None))
        started[-1].start()
        return started[-1]

    yield make
    for one in started:
        one.stop()


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider(idp.jwk("RS256", "one")).serving() as found:
        yield found


def is_accepted(tokens: Tokens, token: str) -> bool:
    try:
        return tokens.check(token).name == "ada"
    except Unauthenticated:
        return False


def test_each_key_checks_the_tokens_of_its_algorithm(start: Start, provider: Provider) -> None:
    provider.lists(*(idp.jwk(algorithm, algorithm) for algorithm in idp.ALGORITHMS))
    tokens = start(provider.url)
    for algorithm in idp.ALGORITHMS:
        assert is_accepted(tokens, idp.token(algorithm, algorithm))
        for other in set(idp.ALGORITHMS) - {algorithm}:
            assert not is_accepted(tokens, idp.token(other, algorithm))
    assert not is_accepted(tokens, idp.token("HS256", "RS256"))


def test_the_providers_public_key_is_no_secret_to_sign_with(
    start: Start, provider: Provider
) -> None:
    provider.lists(idp.jwk("RS256", ""), {"kty": "oct", "kid": "oct", "k": "AAAA", "alg": "HS256"})
    tokens = start(provider.url)
    for secret in (idp.public_pem("RS256"), b"\0\0\0"):
        for header in (
            b'{"alg":"HS256"}',
            b'{"alg":"HS256","kid":""}',
            b'{"alg":"HS256","kid":"oct"}',
        ):
            forged = idp.raw_token(header, b'{"sub":"ada","exp":99999999999}', secret)
            assert not is_accepted(tokens, forged)


def test_a_token_without_a_name_of_its_key_needs_a_provider_with_one(
    start: Start, provider: Provider
) -> None:
    provider.lists(idp.jwk("RS256"), idp.jwk("ES256", "b"))
    tokens = start(provider.url)
    assert is_accepted(tokens, idp.token("RS256"))
    provider.lists(idp.jwk("ES256"), idp.jwk("ES256", "b"))
    assert not is_accepted(start(provider.url), idp.token("ES256"))


@pytest.mark.parametrize(
    "members",
    [
        {"use": "enc"},
        {"key_ops": ["sign"]},
        {"key_ops": "verify"},
        {"alg": "RS512"},
        {"alg": "HS256"},
        {"alg": 7},
        {"kty": "oct"},
        {"kty": ["RSA"]},
        {"kid": 7},
        {"n": "AQAB"},
        {"n": "!"},
        {"n": None},
        {"e": ""},
        {"n": "_" * 1400},
    ],
    ids=repr,
)
def test_a_key_that_is_for_something_else_is_left_out(
    start: Start, provider: Provider, members: dict[str, Any]
) -> None:
    provider.lists({**idp.jwk("RS256", "one"), **members}, idp.jwk("ES256", "two"))
    tokens = start(provider.url)
    assert is_accepted(tokens, idp.token("ES256", "two"))
    assert not is_accepted(tokens, idp.token("RS256", "one"))


def test_an_unknown_key_is_asked_for_once_and_at_most_every_30_seconds(
    start: Start, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = start(provider.url)
    assert is_accepted(tokens, idp.token("RS256", "one"))
    provider.lists(idp.jwk("RS256", "one"), idp.jwk("RS256", "two"))
    for kid in ("../../etc/passwd", "' OR 1=1 --", "http://127.0.0.1/", "two", ""):
        assert not is_accepted(tokens, idp.token("RS256", kid))  # the first fetch was just now
    assert provider.asked == 1
    monkeypatch.setattr(jwks, "ASK_SECONDS", 0.0)
    assert is_accepted(tokens, idp.token("RS256", "two"))
    assert provider.asked == 2
    for _ in range(5):
        assert not is_accepted(tokens, idp.token("RS256", "../../etc/passwd"))
    assert provider.asked == 3


def test_many_who_need_a_new_key_have_it_fetched_once(
    start: Start, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = start(provider.url)
    assert is_accepted(tokens, idp.token("RS256", "one"))
    monkeypatch.setattr(jwks, "ASK_SECONDS", 0.0)
    provider.lists(idp.jwk("ES256", "two"))
    provider.answer = _slowly(provider, 0.3)
    found: list[bool] = []
    token = idp.token("ES256", "two")
    threads = [
        threading.Thread(target=lambda: found.append(is_accepted(tokens, token))) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 6
    assert provider.asked == 2


def test_few_requests_wait_for_a_slow_provider_and_not_for_long(
    start: Start, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "WAIT_SECONDS", 3.0)
    hangs = threading.Event()
    provider.answer = lambda _: hangs.wait(60) and None
    tokens, lines = start(provider.url), list[str]()
    token = idp.token("RS256", "one")

    def check() -> None:
        with pytest.raises(AccessUnavailable) as refused:
            tokens.check(token)
        lines.append(str(refused.value))

    threads = [threading.Thread(target=check) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    hangs.set()
    too_many = "Too many requests wait for the identity provider's keys."
    in_vain = "The identity provider's keys can't be fetched now."
    assert lines == [too_many] * (20 - jwks.MAX_WAITING) + [in_vain] * jwks.MAX_WAITING


def test_the_keys_stay_while_the_provider_is_away(
    start: Start, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "REFRESH_SECONDS", 0.05)
    monkeypatch.setattr(jwks, "RETRY_SECONDS", 0.05)
    tokens = start(provider.url)
    assert is_accepted(tokens, idp.token("RS256", "one"))
    provider.status = 503
    asked = provider.asked
    wait_for(lambda: provider.asked > asked + 2, 10)
    assert is_accepted(tokens, idp.token("RS256", "one", jti="another"))
    with pytest.raises(AccessUnavailable):  # nobody can tell whether there is such a key now
        tokens.check(idp.token("RS256", "two"))


def test_a_withdrawn_key_ends_the_tokens_that_it_signed(
    start: Start, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "REFRESH_SECONDS", 0.05)
    provider.lists(idp.jwk("RS256", "one"), idp.jwk("ES256", "two"))
    tokens = start(provider.url)
    old, other = idp.token("RS256", "one"), idp.token("ES256", "two")
    assert is_accepted(tokens, old)
    assert is_accepted(tokens, other)
    provider.lists(idp.jwk("ES256", "two"))
    wait_for(lambda: tokens.known(old) is None, 10)
    assert not is_accepted(tokens, old)
    assert tokens.known(other)


def test_a_withdrawn_key_ends_the_sockets_of_all_whose_token_it_signed(
    provider: Provider, settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "REFRESH_SECONDS", 0.05)
    provider.lists(idp.jwk("RS256", "one"), idp.jwk("ES256", "two"))
    app = create_app({**settings, "JOBQUEST_JWKS_URL": provider.url})
    access, ended = app.extensions["jobquest"].access, list[str]()
    access.ended = ended.append
    access.start()
    try:
        old = access.bearer(idp.token("RS256", "one"))
        other = access.bearer(idp.token("ES256", "two"))
        access.watch(old)
        assert not ended
        provider.lists(idp.jwk("ES256", "two"))
        wait_for(lambda: ended == [old.credential], 10)
        access.watch(old)  # a ticket may be older than the news
        access.watch(other)
        assert ended == [old.credential] * 2
        provider.lists(idp.jwk("RS256", "one"), idp.jwk("ES256", "two"))
        wait_for(lambda: not access._tokens.is_withdrawn(old.credential), 10)
    finally:
        app.extensions["jobquest"].stop()


def test_a_key_with_the_name_of_another_one_replaces_it(
    start: Start, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "REFRESH_SECONDS", 0.05)
    tokens, old = start(provider.url), idp.token("RS256", "one")
    assert is_accepted(tokens, old)
    provider.lists({**idp.jwk("RS256", "two"), "kid": "one"})
    wait_for(lambda: tokens.known(old) is None, 10)
    assert not is_accepted(tokens, old)


def test_a_provider_that_is_away_at_the_start_is_tried_again(
    start: Start, provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    provider.status = 500
    tokens = start(provider.url)
    with pytest.raises(AccessUnavailable):
        tokens.check(idp.token("RS256", "one"))
    provider.status = 200
    wait_for(lambda: "keys are fetched: 1 new, 0 withdrawn" in caplog.text, 10)
    assert is_accepted(tokens, idp.token("RS256", "one"))
    assert caplog.text.count("can't be fetched: it answered 500") == 1


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"<html>", "its answer is no JSON"),
        (b'{"keys": [], "keys": []}', "its answer is no JSON"),
        (b'{"keys": 1}', "its answer has no list `keys`"),
        (b"[]", "its answer has no list `keys`"),
        (b'{"keys": [' + b"{}," * 100 + b"{}]}", "its answer has no list `keys` of at most 100"),
        (b'{"keys": [], "x": "' + b"x" * 300_000 + b'"}', "its answer is larger than 256 KB"),
    ],
    ids=["html", "twice", "number", "list", "many", "large"],
)
def test_an_answer_that_is_no_list_of_keys_changes_nothing(
    start: Start,
    provider: Provider,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    body: bytes,
    reason: str,
) -> None:
    monkeypatch.setattr(jwks, "REFRESH_SECONDS", 0.05)
    tokens = start(provider.url)
    assert is_accepted(tokens, idp.token("RS256", "one"))
    provider.body = body
    wait_for(lambda: reason in caplog.text, 10)
    assert is_accepted(tokens, idp.token("RS256", "one", jti="another"))


def test_no_redirect_is_followed(
    start: Start, provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    with Provider(idp.jwk("RS256", "eve")).serving() as other:
        provider.status, provider.headers = 302, {"Location": other.url}
        with pytest.raises(AccessUnavailable):
            start(provider.url).check(idp.token("RS256", "eve"))
        assert other.asked == 0
    assert "it answered 302" in caplog.text


def test_a_provider_with_tls_is_asked_if_its_certificate_is_trusted(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file, token = idp.certificate(tmp_path), idp.token("RS256", "one")
    with Provider(idp.jwk("RS256", "one"), certificate=file).serving() as provider:
        with pytest.raises(AccessUnavailable):
            start(provider.url).check(token)
        assert "certificate verify failed" in caplog.text
        monkeypatch.setenv("SSL_CERT_FILE", str(file))
        assert is_accepted(start(provider.url), token)
        with pytest.raises(AccessUnavailable):  # it is for another name
            start(provider.url.replace("127.0.0.1", "localhost")).check(token)


def test_an_answer_that_comes_byte_by_byte_ends(
    start: Start,
    provider: Provider,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(fetching, "SECONDS", 0.3)
    hangs = threading.Event()

    def drip(handler: BaseHTTPRequestHandler) -> None:
        try:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
            while not hangs.wait(0.05):
                handler.wfile.write(b"x")
        except OSError:
            pass

    provider.answer = drip
    tokens = start(provider.url)
    try:
        with pytest.raises(AccessUnavailable):
            tokens.check(idp.token("RS256", "one"))
        wait_for(lambda: provider.asked > 1, 10)
    finally:
        hangs.set()
    assert "can't be fetched" in caplog.text


def test_nobody_waits_for_keys_of_a_provider_that_is_not_there(start: Start) -> None:
    tokens = start("http://127.0.0.1:9/keys")
    with pytest.raises(AccessUnavailable) as refused:
        tokens.check(idp.token("RS256", "one"))
    assert str(refused.value) == "The identity provider's keys can't be fetched now."


def _slowly(provider: Provider, seconds: float) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(seconds)
        provider.send(handler)

    return answer
