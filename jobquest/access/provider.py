"""The identity provider at which operators can sign in: OpenID Connect, by an authorization code
with PKCE.

It takes part in two requests: `begin` says where to send the browser, and `finish` learns from the
provider who came back. What has to be known in between is an `Attempt`, which the web side has the
browser keep. Nothing is stored here but what the provider says about itself.
"""

from __future__ import annotations

import base64
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from secrets import token_urlsafe
from typing import Any, TypeVar
from urllib.parse import quote_plus, urlencode, urlsplit

import msgspec
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet, import_key
from joserfc.jws import JWSRegistry

from jobquest import addresses
from jobquest.access.caller import is_of_trail
from jobquest.access.fetching import fetch, fetch_document, successful
from jobquest.config import Oidc
from jobquest.errors import AccessUnavailable, Unauthenticated, Unavailable

DISCOVERY_SECONDS = 3_600.0  # what the provider says about itself is asked again after it
LEEWAY_SECONDS = 30
AT_ONCE = 8  # threads that wait for the provider: if it is slow, the others have work to do
MAX_NAME = 100
ERROR_CODE = re.compile(r"[a-z_]{1,40}")
"""What a provider's error may look like to be shown."""

# Those with a public key. The provider names some of them; a token chooses none.
_ALGORITHMS = frozenset(
    {f"{family}{bits}" for family in ("RS", "PS", "ES") for bits in (256, 384, 512)}
    | {"EdDSA", "Ed25519"}
)

_T = TypeVar("_T")


class Attempt(msgspec.Struct, frozen=True):
    """A sign-in that has begun: what binds its end to the same browser and to the same request."""

    state: str
    nonce: str
    verifier: str


class Identity(msgspec.Struct, frozen=True):
    """Who signed in at the provider; `role` is None if no setting lists them."""

    name: str
    role: str | None


class _Metadata(msgspec.Struct):
    """What the provider says about itself (OpenID Connect Discovery 1.0, section 3)."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str | None = None
    scopes_supported: tuple[str, ...] = ()
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic",)
    id_token_signing_alg_values_supported: tuple[str, ...] = ("RS256",)


class _Tokens(msgspec.Struct):
    id_token: str
    access_token: str


class _Keys(msgspec.Struct):
    keys: list[dict[str, Any]]


class Provider:
    """The provider of the settings. Safe for several threads."""

    def __init__(self, settings: Oidc) -> None:
        self._settings = settings
        self._found: _Metadata | None = None
        self._found_at = float("-inf")
        self._places = threading.BoundedSemaphore(AT_ONCE)

    @property
    def host(self) -> str:
        """Its host, by which people know it."""
        return urlsplit(self._settings.issuer).netloc

    def begin(self, redirect_uri: str) -> tuple[str, Attempt]:
        """Where to send the browser, and what to keep meanwhile. Raises AccessUnavailable."""
        with self._talking():
            found = self._metadata()
        attempt = Attempt(token_urlsafe(32), token_urlsafe(32), token_urlsafe(48))
        query = {
            "response_type": "code",
            "client_id": self._settings.client_id,
            "redirect_uri": redirect_uri,
            "scope": _scope(found),
            "state": attempt.state,
            "nonce": attempt.nonce,
            "code_challenge": create_s256_code_challenge(attempt.verifier),
            "code_challenge_method": "S256",
        }
        endpoint = found.authorization_endpoint
        return f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(query)}", attempt

    def finish(self, attempt: Attempt, code: str, redirect_uri: str) -> Identity:
        """Who signed in. Raises Unauthenticated if the provider's answer proves nobody, and
        AccessUnavailable."""
        with self._talking():
            found = self._metadata()
            tokens = self._redeemed(found, attempt, code, redirect_uri)
            claims = self._claims(found, tokens, attempt.nonce)
            email, groups = _verified_email(claims), _groups(claims)
            if not (email and groups) and found.userinfo_endpoint:
                more = _userinfo(found.userinfo_endpoint, tokens.access_token, claims["sub"])
                email, groups = email or _verified_email(more), groups or _groups(more)
        name = email or _unverified_name(claims)
        if is_of_trail(name):
            raise Unauthenticated(
                f"{self.host} names you {name}, which the audit trail uses itself: have it send"
                " another name."
            )
        return Identity(name, self._role(email, groups))

    # --- the conversation ---

    @contextmanager
    def _talking(self) -> Iterator[None]:
        """A conversation, one of few at once. Its failures become AccessUnavailable."""
        if not self._places.acquire(blocking=False):
            raise AccessUnavailable(f"Too many wait for {self.host}: try again soon.")
        try:
            yield
        except Unavailable as error:
            raise AccessUnavailable(f"{self.host} can't sign you in now: {error}.") from error
        finally:
            self._places.release()

    def _metadata(self) -> _Metadata:
        if self._found is None or time.monotonic() - self._found_at > DISCOVERY_SECONDS:
            issuer = self._settings.issuer.rstrip("/")
            found = _document(f"{issuer}/.well-known/openid-configuration", _Metadata)
            if found.issuer.rstrip("/") != issuer:
                raise Unavailable("it names another issuer, see JOBQUEST_OIDC_ISSUER")
            _check_addresses(found)
            self._found, self._found_at = found, time.monotonic()
        return self._found

    def _redeemed(
        self, found: _Metadata, attempt: Attempt, code: str, redirect_uri: str
    ) -> _Tokens:
        """The tokens for a code (RFC 6749, section 4.1.3)."""
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": attempt.verifier,
        }
        headers = {}
        if "client_secret_basic" in found.token_endpoint_auth_methods_supported:
            headers["Authorization"] = _basic(self._settings)
        else:
            form["client_id"] = self._settings.client_id
            form["client_secret"] = self._settings.client_secret
        status, body = fetch(found.token_endpoint, form, headers)
        if status in (400, 401, 403):
            raise Unauthenticated(f"{self.host} refused this sign-in{_error_in(body)}.")
        return _decoded(successful(status, body), _Tokens)

    def _claims(self, found: _Metadata, tokens: _Tokens, nonce: str) -> Mapping[str, Any]:
        """What the ID token says, once all of it is checked (OpenID Connect Core 1.0, section
        3.1.3.7). Keys are fetched each time, so that one that is withdrawn ends at once."""
        keys = _key_set(_document(found.jwks_uri, _Keys))
        allowed = sorted(_ALGORITHMS.intersection(found.id_token_signing_alg_values_supported))
        registry = JWSRegistry(algorithms=allowed, strict_check_header=False)
        try:
            token = jwt.decode(tokens.id_token, keys, registry=registry)
            claims = CodeIDToken(
                token.claims,
                token.header,
                {"iss": {"value": found.issuer}, "aud": {"value": self._settings.client_id}},
                {
                    "client_id": self._settings.client_id,
                    "nonce": nonce,
                    "access_token": tokens.access_token,
                },
            )
            claims.validate(leeway=LEEWAY_SECONDS)
        except (JoseError, ValueError, TypeError, RecursionError) as error:
            why = getattr(error, "error", "it is no token")
            raise Unauthenticated(f"The ID token of {self.host} is not valid: {why}.") from None
        return dict(claims)

    def _role(self, email: str | None, groups: frozenset[str]) -> str | None:
        # A group that looks like an e-mail proves none.
        mine = {one for one in groups if "@" not in one} | {(email or "").casefold()}
        for role, listed in (
            ("operator", self._settings.operators),
            ("viewer", self._settings.viewers),
        ):
            if mine & {one.casefold() if "@" in one else one for one in listed}:
                return role
        return None


def _scope(found: _Metadata) -> str:
    # Some providers refuse a scope that they don't know, others need this one to tell groups.
    more = ["groups"] if "groups" in found.scopes_supported else []
    return " ".join(["openid", "email", "profile", *more])


def _check_addresses(found: _Metadata) -> None:
    for url in (
        found.authorization_endpoint,
        found.token_endpoint,
        found.jwks_uri,
        found.userinfo_endpoint,
    ):
        try:
            if url is not None:
                addresses.secure_url(url)
        except ValueError:
            raise Unavailable("an address in its discovery document is not https") from None


def _document(url: str, kind: type[_T], headers: Mapping[str, str] | None = None) -> _T:
    return _decoded(fetch_document(url, headers), kind)


def _decoded(body: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise Unavailable("it answered with something else than OpenID Connect demands") from None


def _key_set(listed: _Keys) -> KeySet:
    keys = []
    for one in listed.keys:
        if one.get("use", "sig") == "sig":
            try:
                keys.append(import_key(one))
            except (JoseError, ValueError, TypeError):
                continue  # of a kind that is not known here
    return KeySet(keys)


def _userinfo(url: str, access_token: str, subject: str) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {access_token}"}
    found: dict[str, Any] = _document(url, dict[str, Any], headers)
    if found.get("sub") != subject:  # OpenID Connect Core 1.0, section 5.3.2
        raise Unauthenticated("The identity provider's two answers are about different people.")
    return found


def _verified_email(claims: Mapping[str, Any]) -> str | None:
    email = claims.get("email")
    is_email = isinstance(email, str) and "@" in email
    return _named(email) if is_email and claims.get("email_verified") is True else None


def _groups(claims: Mapping[str, Any]) -> frozenset[str]:
    found = claims.get("groups")
    listed = found if isinstance(found, list) else [found]
    return frozenset(one for one in listed if isinstance(one, str))


def _unverified_name(claims: Mapping[str, Any]) -> str:
    """A name for somebody without a verified e-mail: people can choose the first part themselves,
    but not the second one."""
    subject, chosen = _named(claims["sub"]), claims.get("preferred_username")
    return _named(f"{chosen[:40]} ({subject[:50]})" if isinstance(chosen, str) else subject)


def _named(text: Any) -> str:
    return "".join(c for c in str(text) if c.isprintable())[:MAX_NAME]


def _basic(settings: Oidc) -> str:
    """The client's own credential (RFC 6749, section 2.3.1)."""
    pair = f"{quote_plus(settings.client_id)}:{quote_plus(settings.client_secret)}"
    return f"Basic {base64.b64encode(pair.encode()).decode()}"


def _error_in(body: bytes) -> str:
    """The code of an error answer (RFC 6749, section 5.2), for the sentence that tells of it."""
    try:
        code = msgspec.json.decode(body)["error"]
    except (msgspec.MsgspecError, UnicodeError, RecursionError, LookupError, TypeError):
        return ""
    return f" ({code})" if isinstance(code, str) and ERROR_CODE.fullmatch(code) else ""
