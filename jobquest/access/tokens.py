"""The tokens of front-end users: JWTs (RFC 7519) that the front end's identity provider signs.

The settings say with which key, and the key says with which algorithm; nothing in a token does. The
addresses and keys that a token's header may carry (`jku`, `x5u`, `jwk`, `x5c`) are not looked at.
"""

from __future__ import annotations

import re
import threading
import time
from base64 import urlsafe_b64decode
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import jwt

from jobquest.access.caller import Caller, of_user
from jobquest.access.jwks import Jwks, signer
from jobquest.access.public_keys import TokenKey, read_pem
from jobquest.config import Config
from jobquest.errors import InvalidEvent, Unauthenticated
from jobquest.events import strict_json, wrong_with_user_id

MAX_BYTES = 8 * 1024
MAX_REMEMBERED = 10_000
LEEWAY_SECONDS = 30  # that the issuer's clock may differ from ours
LAST_SECOND = 253_402_300_799  # of the year 9999; a time in milliseconds is later
_COMPACT = re.compile(r"([\w-]+)\.([\w-]+)\.[\w-]+", re.ASCII)
_TYPES = ("jwt", "at+jwt", "application/jwt", "application/at+jwt")
_LINES: dict[type[Exception], str] = {
    jwt.InvalidSignatureError: "The token's signature is wrong.",
    jwt.ExpiredSignatureError: "The token has expired.",
    jwt.ImmatureSignatureError: "The token is not valid yet.",
    jwt.InvalidIssuerError: "The token is from another issuer.",
    jwt.InvalidAudienceError: "The token is for another audience.",
}


class Tokens:
    """Checks tokens with the key of the settings, and remembers those that are valid. Safe for
    several threads."""

    def __init__(self, config: Config, ended: Callable[[str], None]) -> None:
        """`ended` is called with the credential of all whose token a withdrawn key has signed."""
        self._issuer = config.jwt_issuer
        self._audience = config.jwt_audience
        self._jwks = Jwks(config.jwks_url, ended) if config.jwks_url else None
        self._key: TokenKey | None = None
        if config.jwt_secret:
            self._key = TokenKey(config.jwt_secret.encode(), "HS256")
        elif config.jwt_public_key:
            self._key = read_pem(config.jwt_public_key)
        self._seen: dict[str, tuple[Caller, TokenKey]] = {}  # by digest
        self._lock = threading.Lock()  # held while it is written

    def start(self) -> None:
        """Start to fetch the provider's keys, if the settings name their address."""
        if self._jwks:
            self._jwks.start()

    def stop(self) -> None:
        """Stop that. Does not wait."""
        if self._jwks:
            self._jwks.stop()

    def is_withdrawn(self, credential: str) -> bool:
        """Whether the key is withdrawn that has signed a user's token."""
        return self._jwks is not None and self._jwks.is_withdrawn(credential)

    def known(self, token: str) -> Caller | None:
        """Whose token this is if it was checked before and is still valid. Never waits."""
        if len(token) > MAX_BYTES or not token.isascii():
            return None
        found = self._seen.get(_digest(token))
        if found is None:
            return None
        caller, key = found
        return None if key.is_withdrawn or _has_expired(caller) else caller

    def check(self, token: str) -> Caller:
        """Whose token this is; it may wait for the provider's keys. Raises Unauthenticated with one
        line, and AccessUnavailable if the keys can't be had."""
        if found := self.known(token):
            return found
        header, claims = _read(token)
        _check_header(header)
        _check_claims(claims)
        key = self._key_for(header)
        self._verify(token, key)
        digest = _digest(token)
        caller = of_user(claims["sub"], self._signer(key), float(claims["exp"]))
        self._remember(digest, caller, key)
        return caller

    def _key_for(self, header: dict[str, Any]) -> TokenKey:
        algorithm = header["alg"]
        key = self._jwks.find(header.get("kid"), algorithm) if self._jwks else self._key
        if key is None or key.algorithm != algorithm:
            raise Unauthenticated("The token is not signed with a key that is accepted here.")
        return key

    def _signer(self, key: TokenKey) -> str:
        return signer(key) if self._jwks else "signer:setting"

    def _verify(self, token: str, key: TokenKey) -> None:
        """Check the signature, the times, the issuer and the audience."""
        try:
            jwt.decode(
                token,
                key.material,
                algorithms=[key.algorithm],
                issuer=self._issuer,
                audience=self._audience,
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "sub"]},
            )
        except jwt.PyJWTError as error:
            raise Unauthenticated(self._line(error)) from None

    def _line(self, error: jwt.PyJWTError) -> str:
        if isinstance(error, jwt.MissingRequiredClaimError):
            return f"The token has no `{error.claim}`."
        if isinstance(error, jwt.InvalidAudienceError) and self._audience is None:
            # RFC 7519, 4.1.3: only those whom it names may accept it. A provider signs the tokens
            # of many applications with one key, and nothing else tells them apart.
            return "The token is for an audience, and JOBQUEST_JWT_AUDIENCE names none."
        return _LINES.get(type(error), "The token is not valid.")

    def _remember(self, digest: str, caller: Caller, key: TokenKey) -> None:
        with self._lock:
            if len(self._seen) >= MAX_REMEMBERED:
                for old in list(self._seen)[: MAX_REMEMBERED // 10]:
                    del self._seen[old]
            self._seen[digest] = caller, key


def _digest(token: str) -> str:
    return sha256(token.encode()).hexdigest()


def _has_expired(caller: Caller) -> bool:
    return caller.expires is None or caller.expires <= time.time()


def _read(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The header and the claims of a token that nobody has checked. Raises Unauthenticated."""
    if len(token) > MAX_BYTES:
        raise Unauthenticated(f"The token is longer than {MAX_BYTES // 1024} KB.")
    parts = _COMPACT.fullmatch(token)
    try:
        header, claims = (_object(part) for part in parts.groups()) if parts else (None, None)
    except (InvalidEvent, ValueError):
        header, claims = None, None
    if not isinstance(header, dict) or not isinstance(claims, dict):
        raise Unauthenticated("This is no signed token (JWT).")
    return header, claims


def _object(part: str) -> Any:
    # PyJWT's own reader takes a member twice, NaN and any depth.
    return strict_json.loads(urlsafe_b64decode(part + "=" * (-len(part) % 4)))


def _check_header(header: dict[str, Any]) -> None:
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.lower() not in _TYPES:
        raise Unauthenticated("The token is of a kind that is not for access.")
    if "crit" in header or "b64" in header:
        raise Unauthenticated("The token demands an extension that is not known here.")
    if not isinstance(header.get("alg"), str) or not isinstance(header.get("kid", ""), str):
        raise Unauthenticated("The token's `alg` or `kid` is no text.")


def _check_claims(claims: dict[str, Any]) -> None:
    """Check what PyJWT takes too kindly: it converts texts to times."""
    for name in ("exp", "nbf", "iat"):
        if name in claims and not _is_time(claims[name]):
            raise Unauthenticated(f"The token's `{name}` is no time.")
    if "exp" not in claims or "sub" not in claims:
        raise Unauthenticated(f"The token has no `{'sub' if 'exp' in claims else 'exp'}`.")
    if not isinstance(claims.get("iss", ""), str):
        raise Unauthenticated("The token's `iss` is no text.")
    if claims.get("iat", 0) > claims["exp"]:
        raise Unauthenticated("The token ends before it was issued.")
    if wrong_with_user_id(claims["sub"]):
        raise Unauthenticated("The token's `sub` is no valid userId.")


def _is_time(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 <= value <= LAST_SECOND
