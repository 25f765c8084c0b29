"""A small OpenID Connect provider for tests. It keeps to the rules itself, unless a test tells it
what to say instead."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import RSAKey
from joserfc.jws import JWSRegistry

CLIENT_ID, CLIENT_SECRET = "jobquest: events", "a secret of the client, with % and :"
ALGORITHMS = ["RS256", "PS256"]


@cache
def rsa_key(name: str = "first") -> RSAKey:
    return RSAKey.generate_key(2048, {"kid": name, "use": "sig"}, auto_kid=False)


def signed(claims: Mapping[str, Any], key: Any = None, **header: Any) -> str:
    """A token, signed as it should be unless `alg` says otherwise."""
    made = {"alg": "RS256", "kid": "first", **header}
    registry = JWSRegistry(algorithms=ALGORITHMS)
    return jwt.encode(made, dict(claims), key or rsa_key(), registry=registry)


def _encoded(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).rstrip(b"=").decode()


def unsigned(claims: Mapping[str, Any]) -> str:
    """A token with `alg: none`."""
    header = {"alg": "none"}
    return ".".join([*(_encoded(json.dumps(one).encode()) for one in (header, claims)), ""])


def signed_with(secret: bytes, **header: Any) -> Callable[[Mapping[str, Any]], str]:
    """Signs by HMAC, as whoever knows the secret can do."""

    def sign(claims: Mapping[str, Any]) -> str:
        parts = ({"alg": "HS256", **header}, claims)
        text = ".".join(_encoded(json.dumps(one).encode()) for one in parts)
        return f"{text}.{_encoded(hmac.digest(secret, text.encode(), 'sha256'))}"

    return sign


class OidcProvider:
    """On another host than the service, as browsers see it: `localhost`."""

    def __init__(self) -> None:
        self.who: dict[str, Any] = {"email": "ada@example.org", "email_verified": True}
        self.claims: dict[str, Any] = {}  # other than the usual ones; None leaves one out
        self.userinfo: dict[str, Any] = {}
        self.sign: Callable[[Mapping[str, Any]], str] = signed
        self.keys: list[dict[str, Any]] = [rsa_key().as_dict(private=False)]
        self.metadata: dict[str, Any] = {}  # other than the usual ones
        self.instead: dict[str, tuple[int, bytes, dict[str, str]]] = {}  # answers by path
        self.pause = 0.0  # between two bytes of an answer
        self.asked: list[str] = []  # paths, in order
        self.codes: dict[str, dict[str, str]] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.issuer = f"http://localhost:{self._server.server_port}"
        self.settings = {
            "JOBQUEST_OIDC_ISSUER": self.issuer,
            "JOBQUEST_OIDC_CLIENT_ID": CLIENT_ID,
            "JOBQUEST_OIDC_CLIENT_SECRET": CLIENT_SECRET,
            "JOBQUEST_OIDC_OPERATORS": "ada@example.org, platform",
            "JOBQUEST_OIDC_VIEWERS": "vic@example.org,support",
        }

    @contextmanager
    def serving(self) -> Iterator[OidcProvider]:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield self
        finally:
            self.stop()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def authorize(self, address: str) -> str:
        """Where a browser is sent back to by somebody who is signed in here."""
        asked = {name: one for name, [one] in parse_qs(urlsplit(address).query).items()}
        code = secrets.token_urlsafe(16)
        self.codes[code] = asked
        return f"{asked['redirect_uri']}?{urlencode({'code': code, 'state': asked['state']})}"

    # --- what it answers ---

    def _discovery(self) -> dict[str, Any]:
        paths = {"authorization": "authorize", "token": "token", "userinfo": "userinfo"}
        return {
            "issuer": self.issuer,
            **{f"{name}_endpoint": f"{self.issuer}/{path}" for name, path in paths.items()},
            "jwks_uri": f"{self.issuer}/keys",
            "scopes_supported": ["openid", "email", "groups"],
            "id_token_signing_alg_values_supported": ["RS256"],
            **self.metadata,
        }

    def _tokens(self, form: dict[str, str], authorization: str) -> tuple[int, dict[str, Any]]:
        asked = self.codes.pop(form["code"], None)  # valid once
        challenge = hashlib.sha256(form["code_verifier"].encode()).digest()
        pair = base64.b64decode(authorization.removeprefix("Basic ")).decode()
        if pair != "jobquest%3A+events:a+secret+of+the+client%2C+with+%25+and+%3A":
            return 401, {"error": "invalid_client"}
        if (
            asked is None
            or asked["redirect_uri"] != form["redirect_uri"]
            or asked["code_challenge_method"] != "S256"
            or base64.urlsafe_b64decode(asked["code_challenge"] + "=") != challenge
        ):
            return 400, {"error": "invalid_grant"}
        now = int(time.time())
        claims = {"iss": self.issuer, "sub": "u-17", "aud": CLIENT_ID, "iat": now, "exp": now + 300}
        claims |= {"nonce": asked["nonce"], **self.who, **self.claims}
        claims = {name: value for name, value in claims.items() if value is not None}
        return 200, {
            "access_token": "an access token",
            "token_type": "Bearer",
            "id_token": self.sign(claims),
        }

    def _answer(self, handler: BaseHTTPRequestHandler) -> tuple[int, bytes, dict[str, str]]:
        path = urlsplit(handler.path).path
        self.asked.append(path)
        if path in self.instead:
            return self.instead[path]
        if path == "/authorize":
            back = self.authorize(handler.path).replace("&", "&amp;")
            page = f'<!doctype html><title>Provider</title><a href="{back}">Continue as Ada</a>'
            return 200, page.encode(), {"Content-Type": "text/html"}
        code, document = 200, self._discovery()
        if path == "/token":
            length = int(handler.headers["Content-Length"])
            form = parse_qs(handler.rfile.read(length).decode())
            one_each = {name: one for name, [one] in form.items()}
            code, document = self._tokens(one_each, handler.headers["Authorization"])
        elif path == "/keys":
            document = {"keys": self.keys}
        elif path == "/userinfo":
            assert handler.headers["Authorization"] == "Bearer an access token"
            document = {"sub": "u-17", **self.userinfo}
        return code, json.dumps(document).encode(), {"Content-Type": "application/json"}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                code, body, headers = provider._answer(self)
                self.send_response(code)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                with suppress(OSError):  # nobody waits for the rest
                    for part in (
                        [body] if not provider.pause else map(bytes, zip(body, strict=True))
                    ):
                        self.wfile.write(part)
                        time.sleep(provider.pause)

            do_POST = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        return Handler
