"""Front-end users' tokens: which are accepted, and which error each wrong one gets."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest

from jobquest.access import tokens
from jobquest.access.caller import OWN, WRITE
from jobquest.access.tokens import Tokens
from jobquest.config import load
from jobquest.errors import SettingsError, Unauthenticated
from jobquest.start_checks import check as check_start
from tests import identity_provider as idp

HEADER = b'{"alg":"HS256","typ":"JWT"}'


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # no .env of a developer's is found there


def by_secret(**settings: str) -> Tokens:
    return Tokens(load({"JOBQUEST_JWT_SECRET": idp.SECRET, **settings}), lambda _: None)


def by_file(folder: Path, algorithm: str) -> Tokens:
    return Tokens(
        load({"JOBQUEST_JWT_PUBLIC_KEY": idp.write_pem(folder, algorithm)}), lambda _: None
    )


def refusal(tokens: Tokens, token: str) -> str:
    """The line with which a token is refused, now and when it comes again."""
    for _ in range(2):
        assert tokens.known(token) is None
        with pytest.raises(Unauthenticated) as refused:
            tokens.check(token)
    line = str(refused.value)
    assert len(line.splitlines()) == 1
    assert idp.SECRET not in line
    return line


# --- what is accepted ---


def test_a_users_token_says_who_they_are_what_they_may_and_until_when() -> None:
    token = idp.token(sub="ada", exp=int(time.time()) + 90)
    caller = by_secret().check(token)
    assert (caller.kind, caller.name, caller.scopes) == ("user", "ada", {OWN, WRITE})
    assert caller.expires == jwt.decode(token, options={"verify_signature": False})["exp"]
    assert caller.credential == "signer:setting"


@pytest.mark.parametrize("algorithm", idp.ALGORITHMS)
def test_a_public_key_checks_the_tokens_of_its_own_algorithm(
    tmp_path: Path, algorithm: str
) -> None:
    tokens = by_file(tmp_path, algorithm)
    assert tokens.check(idp.token(algorithm)).name == "ada"
    for other in {*idp.ALGORITHMS, "HS256"} - {algorithm}:
        assert "not signed with a key" in refusal(tokens, idp.token(other))


def test_a_token_of_a_plain_kind_is_accepted() -> None:
    tokens = by_secret()
    for kind in ("JWT", "jwt", "at+jwt", "application/at+jwt"):
        assert tokens.check(idp.with_header(typ=kind)).name == "ada"


def test_a_clock_may_differ_by_thirty_seconds() -> None:
    tokens, now = by_secret(), int(time.time())
    assert tokens.check(idp.token(iat=now - 60, exp=now - 25)).name == "ada"
    assert tokens.check(idp.token(iat=now + 25, nbf=now + 25)).name == "ada"
    assert refusal(tokens, idp.token(iat=now - 60, exp=now - 32)) == "The token has expired."
    for claim in ("iat", "nbf"):
        late = idp.token(**{claim: now + 40})
        assert refusal(tokens, late) == "The token is not valid yet."


def test_the_issuer_and_the_audience_of_the_settings_must_match() -> None:
    both = {"JOBQUEST_JWT_ISSUER": "https://id.example", "JOBQUEST_JWT_AUDIENCE": "quest"}
    tokens, right = by_secret(**both), {"iss": "https://id.example", "aud": ["other", "quest"]}
    assert tokens.check(idp.token(**right)).name == "ada"
    for wrong, line in (
        ({"iss": "https://id.example/"}, "The token is from another issuer."),
        ({"iss": None}, "The token has no `iss`."),
        ({"aud": "Quest"}, "The token is for another audience."),
        ({"aud": []}, "The token has no `aud`."),
        ({"aud": None}, "The token has no `aud`."),
        ({"aud": {"quest": 1}}, "The token is for another audience."),
        ({"aud": ["quest", 1]}, "The token is for another audience."),
    ):
        assert refusal(tokens, idp.token(**{**right, **wrong})) == line  # type: ignore[arg-type]
    payload = json.dumps(idp.claims(iss=["https://id.example"], aud="quest")).encode()
    line = refusal(tokens, idp.raw_token(HEADER, payload))
    assert line == "The token's `iss` is no text."


def test_a_token_for_an_audience_is_refused_if_the_settings_name_none() -> None:
    line = "The token is for an audience, and JOBQUEST_JWT_AUDIENCE names none."
    assert refusal(by_secret(), idp.token(aud="quest")) == line


# --- what is refused ---


def test_a_token_without_a_signature_is_refused(tmp_path: Path) -> None:
    parts = idp.token().split(".")
    for name in ("none", "None", "NONE"):
        header = base64.urlsafe_b64encode(b'{"alg":"%s"}' % name.encode()).rstrip(b"=").decode()
        for signature in ("", parts[2]):
            for each in (by_secret(), by_file(tmp_path, "RS256")):
                refusal(each, f"{header}.{parts[1]}.{signature}")


def test_a_public_keys_text_is_no_secret_to_sign_with(tmp_path: Path) -> None:
    for algorithm in idp.ALGORITHMS:
        text = idp.public_pem(algorithm)
        payload = json.dumps(idp.claims()).encode()
        for secret in (text, text.strip()):
            forged = idp.raw_token(HEADER, payload, secret)
            assert "not signed with a key" in refusal(by_file(tmp_path, algorithm), forged)


def test_a_changed_token_is_refused() -> None:
    tokens, token = by_secret(), idp.token()
    header, _, signature = token.split(".")
    other = idp.token(sub="eve").split(".")[1]
    assert refusal(tokens, f"{header}.{other}.{signature}") == "The token's signature is wrong."


def test_keys_and_addresses_in_a_token_are_not_looked_at(tmp_path: Path) -> None:
    theirs = idp.jwk("RS256", "eve")
    header = {"jwk": theirs, "jku": "http://127.0.0.1:1/", "x5u": "http://127.0.0.1:1/", "x5c": []}
    forged = jwt.encode(idp.claims(), idp.private_key("RS256", "eve"), "RS256", header)
    assert refusal(by_file(tmp_path, "RS256"), forged) == "The token's signature is wrong."
    assert by_secret().check(idp.with_header(**header)).name == "ada"


@pytest.mark.parametrize(
    "header",
    [
        {"crit": ["exp"], "exp": 1},
        {"crit": []},
        {"b64": True},
        {"typ": "logout+jwt"},
        {"typ": "dpop+jwt"},
        {"typ": 1},
        {"alg": None},
        {"alg": ["HS256"]},
        {"alg": "hs256"},
        {"alg": "HS512"},
        {"kid": 1},
        {"kid": {"$ne": 0}},
    ],
    ids=repr,
)
def test_a_header_that_demands_or_is_something_else_is_refused(header: dict[str, Any]) -> None:
    refusal(by_secret(), idp.with_header(**header))


@pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
@pytest.mark.parametrize(
    "value",
    [
        *(
            '"99999999999"',
            "NaN",
            "Infinity",
            "-Infinity",
            "-1",
            "-0.5",
            "true",
            "null",
            "[]",
            "{}",
        ),
        *("1e999", "1e300", "9" * 16, "9" * 5000, "253402300800", "1800000000000"),
    ],
    ids=lambda value: value[:20],
)
def test_a_time_that_is_none_is_refused(name: str, value: str) -> None:
    others = {one: 10**11 if one == "exp" else 1 for one in ("exp", "nbf", "iat") if one != name}
    payload = json.dumps({"sub": "ada", **others})[:-1] + f', "{name}": {value}}}'
    line = refusal(by_secret(), idp.raw_token(HEADER, payload.encode()))
    assert line in (f"The token's `{name}` is no time.", "This is no signed token (JWT).")


def test_a_time_may_have_a_fraction() -> None:
    payload = json.dumps(idp.claims(exp=time.time() + 60.25)).encode()
    assert by_secret().check(idp.raw_token(HEADER, payload)).name == "ada"


def test_a_token_that_ends_before_it_was_issued_is_refused() -> None:
    now = int(time.time())
    line = refusal(by_secret(), idp.token(iat=now + 20, exp=now + 10))
    assert line == "The token ends before it was issued."


@pytest.mark.parametrize("name", ["exp", "sub"])
def test_a_token_says_who_and_until_when(name: str) -> None:
    assert refusal(by_secret(), idp.token(**{name: None})) == f"The token has no `{name}`."


@pytest.mark.parametrize(
    "subject", ["", " ", "a" * 129, "a\nb", "a\u200bb", "a\u2028", "\ue000\u0378", 7, None, ["ada"]]
)
def test_a_subject_that_can_be_no_user_id_is_refused(subject: object) -> None:
    payload = json.dumps({**idp.claims(), "sub": subject}).encode()
    line = refusal(by_secret(), idp.raw_token(HEADER, payload))
    assert line == "The token's `sub` is no valid userId."


@pytest.mark.parametrize(
    "payload",
    [
        b'{"sub":"ada","sub":"eve","exp":99999999999}',
        b'{"sub":"ada","exp":99999999999,"x":{"y":1,"y":2}}',
        b'{"sub":"\xff","exp":99999999999}',
        b'\xef\xbb\xbf{"sub":"ada","exp":99999999999}',
        b'{"sub":"a\\u0000","exp":99999999999}',
        b'{"sub":"a\\ud800","exp":99999999999}',
        b'{"sub":"ada","exp":99999999999,"x":' + b"[" * 2000 + b"]" * 2000 + b"}",
        b"[" * 5000,
        b"[]",
        b'"ada"',
        b"null",
        b"{",
        b"",
    ],
    ids=lambda payload: repr(payload[:30]),
)
def test_what_is_no_plain_json_object_is_refused_in_either_part(payload: bytes) -> None:
    refusal(by_secret(), idp.raw_token(HEADER, payload))
    in_header = payload.replace(b"{", b'{"alg":"HS256",', 1)
    refusal(by_secret(), idp.raw_token(in_header, json.dumps(idp.claims()).encode()))


@pytest.mark.parametrize(
    "text",
    [
        *("", ".", "..", "...", "a.b", "a.b.c.d", "a.b.c", "jq_abc", "é.é.é", "\udcff.a.b"),
        *("a b.c.d", "=.=.=", "e30.e30.e30\n", "\x00.\x00.\x00", "AAAAA.A.A"),
    ],
)
def test_what_is_no_token_at_all_is_refused(text: str) -> None:
    assert refusal(by_secret(), text) == "This is no signed token (JWT)."


def test_a_token_of_more_than_8_kb_is_refused_before_any_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for size in (5_000, 6_500):
        token = idp.token(x="x" * size)
        if len(token) <= 8192:
            assert by_secret().check(token).name == "ada"
    monkeypatch.setattr(tokens, "_COMPACT", None)
    monkeypatch.setattr(tokens, "sha256", None)
    assert refusal(by_secret(), token) == "The token is longer than 8 KB."


# --- what is remembered ---


def test_a_token_seen_before_is_known_until_it_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, token = by_secret(), idp.token()
    assert tokens.known(token) is None
    caller = tokens.check(token)
    assert tokens.known(token) is caller
    monkeypatch.setattr(jwt, "decode", None)  # it is not checked again
    assert tokens.check(token) is caller
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 61)
    assert tokens.known(token) is None


def test_a_token_within_the_leeway_is_checked_each_time() -> None:
    tokens, now = by_secret(), int(time.time())
    token = idp.token(iat=now - 60, exp=now - 10)
    assert tokens.check(token).name == "ada"
    assert tokens.known(token) is None


def test_the_memory_of_tokens_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "MAX_REMEMBERED", 10)
    found = by_secret()
    made = [idp.token(sub=f"user {at}") for at in range(25)]
    for token in made:
        found.check(token)
    known = [token for token in made if found.known(token)]
    assert len(known) == 10
    assert made[-1] in known


def test_no_text_of_a_token_is_kept_and_no_secret_is_shown() -> None:
    found, token = by_secret(), idp.token()
    found.check(token)
    assert token not in repr(found.__dict__)
    assert idp.SECRET not in repr(found.__dict__)


@pytest.mark.alone
def test_a_token_seen_before_costs_microseconds() -> None:
    found, token = by_secret(), idp.token(x="x" * 500)
    found.check(token)
    took = []
    for _ in range(100):
        began = time.perf_counter()
        for _ in range(100):
            found.known(token)
        took.append((time.perf_counter() - began) / 100)
    assert min(took) < 10e-6, min(took)


# --- the settings ---


def start_refusal(**settings: str) -> str:
    with pytest.raises(SettingsError) as refused:
        check_start(load(settings))
    line = str(refused.value)
    assert len(line.splitlines()) == 1
    return line


def test_a_short_secret_is_refused_and_not_shown() -> None:
    line = start_refusal(JOBQUEST_JWT_SECRET="x" * 31)
    assert line.startswith("JOBQUEST_JWT_SECRET: use at least 32 bytes")
    assert "xxx" not in line
    assert load({"JOBQUEST_JWT_SECRET": "ü" * 16}).takes_tokens


def test_a_secret_is_in_no_text_of_the_settings() -> None:
    config = load({"JOBQUEST_JWT_SECRET": idp.SECRET, "KAFKA_SASL_PASSWORD": "hush-hush"})
    assert idp.SECRET not in repr(config)
    assert "hush-hush" not in repr(config)


def test_a_key_that_is_pasted_into_a_setting_is_refused_and_not_shown() -> None:
    text = idp.public_pem("RS256").decode()
    line = start_refusal(JOBQUEST_JWT_SECRET=text)
    assert line.endswith("name its file in JOBQUEST_JWT_PUBLIC_KEY.")
    line = start_refusal(JOBQUEST_JWT_PUBLIC_KEY=text)
    assert line.endswith("write it to a file, and name that.")


def test_tokens_have_one_kind_of_key() -> None:
    line = start_refusal(JOBQUEST_JWT_SECRET=idp.SECRET, JOBQUEST_JWKS_URL="https://id.example/k")
    assert line.startswith("JOBQUEST_JWT_SECRET and JOBQUEST_JWKS_URL: set only one")
    for variable in ("JOBQUEST_JWT_ISSUER", "JOBQUEST_JWT_AUDIENCE"):
        assert "useless alone" in start_refusal(**{variable: "x"})
    assert not load().takes_tokens


@pytest.mark.parametrize(
    "url",
    [
        *("http://id.example/keys", "ftp://id.example/keys", "https://", "id.example/keys"),
        *("https://a:b@c/", "https://a:0/", "https://a:99999/", "https://a/\u00e9"),
        *("https://a/#b", "https://a b/", "https://a\\b/"),
    ],
)
def test_the_address_of_keys_is_https_or_on_loopback(url: str) -> None:
    line = start_refusal(JOBQUEST_JWKS_URL=url)
    assert line.startswith("JOBQUEST_JWKS_URL: ")
    for fine in (
        "https://id.example:8443/k?p=1",
        "http://127.0.0.1:9/k",
        "http://[::1]/",
        "http://localhost",
    ):
        assert load({"JOBQUEST_JWKS_URL": fine}).jwks_url == fine


def test_a_key_file_that_is_not_usable_is_one_line(tmp_path: Path) -> None:
    for content, reason in (
        (b"", "holds no public key in PEM form"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "holds no public key"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "holds a private key"),
        (b"-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----\n", "holds a certificate"),
    ):
        (tmp_path / "key.pem").write_bytes(content)
        line = start_refusal(JOBQUEST_JWT_PUBLIC_KEY="key.pem")
        assert line.startswith(f"JOBQUEST_JWT_PUBLIC_KEY: key.pem {reason}"), line
    missing = start_refusal(JOBQUEST_JWT_PUBLIC_KEY="missing.pem")
    assert missing.startswith("JOBQUEST_JWT_PUBLIC_KEY: missing.pem can't be read (No such file")
    assert "can't be read (Is a directory" in start_refusal(JOBQUEST_JWT_PUBLIC_KEY=str(tmp_path))


def test_a_key_that_is_too_weak_or_of_another_kind_is_refused(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa, x25519
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    for key in (
        rsa.generate_private_key(65_537, 1024),
        ec.generate_private_key(ec.SECP384R1()),
        ed448.Ed448PrivateKey.generate(),
        x25519.X25519PrivateKey.generate(),
    ):
        form = (Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (tmp_path / "key.pem").write_bytes(key.public_key().public_bytes(*form))
        assert "2,048 to 8,192 bits" in start_refusal(JOBQUEST_JWT_PUBLIC_KEY="key.pem")


@pytest.mark.parametrize("algorithm", idp.ALGORITHMS)
def test_a_usable_key_file_lets_the_service_start(tmp_path: Path, algorithm: str) -> None:
    check_start(load({"JOBQUEST_JWT_PUBLIC_KEY": idp.write_pem(tmp_path, algorithm)}))
