"""An identity provider for tests: keys of every kind, tokens, and an address with the keys."""

from __future__ import annotations

import base64
import hmac
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

SECRET = "a secret of thirty-two bytes, or more"
ALGORITHMS = ("RS256", "ES256", "EdDSA")


@cache
def private_key(algorithm: str, _name: str) -> Any:
    """A private key for an algorithm; another one for each name, and the same each time."""
    if algorithm == "RS256":
        return rsa.generate_private_key(65_537, 2048)
    if algorithm == "ES256":
        return ec.generate_private_key(ec.SECP256R1())
    return ed25519.Ed25519PrivateKey.generate()


def public_pem(algorithm: str) -> bytes:
    public = private_key(algorithm, "").public_key()
    pem: bytes = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem


def jwk(algorithm: str, id: str | None = None, **members: Any) -> dict[str, Any]:
    """The public key as it is in a provider's list."""
    forms = {"RS256": RSAAlgorithm, "ES256": ECAlgorithm, "EdDSA": OKPAlgorithm}
    form: Any = forms[algorithm]
    found = form.to_jwk(private_key(algorithm, id or "").public_key(), as_dict=True)
    found.pop("key_ops", None)
    return {**found, **({"kid": id} if id is not None else {}), **members}


def claims(**changed: Any) -> dict[str, Any]:
    """The usual claims, changed; None leaves one out."""
    now = int(time.time())
    found = {"sub": "ada", "iat": now, "exp": now + 60, **changed}
    return {name: value for name, value in found.items() if value is not None}


def token(algorithm: str = "HS256", id: str | None = None, **changed: Any) -> str:
    """A token, signed as it should be."""
    key = SECRET if algorithm == "HS256" else private_key(algorithm, id or "")
    headers = {"kid": id} if id is not None else None
    return jwt.encode(claims(**changed), key, algorithm, headers)


def raw_token(header: bytes, payload: bytes, secret: bytes = SECRET.encode()) -> str:
    """A token of any bytes, with a signature by HMAC that is right."""
    signed = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in (header, payload))
    signature = base64.urlsafe_b64encode(hmac.digest(secret, signed, "sha256")).rstrip(b"=")
    return (signed + b"." + signature).decode()


def with_header(**header: Any) -> str:
    """A valid token with members in its header."""
    made = {"alg": "HS256", "typ": "JWT", **header}
    return raw_token(json.dumps(made).encode(), json.dumps(claims()).encode())


def write_pem(folder: Path, algorithm: str) -> str:
    """The path of a file with the public key."""
    path = folder / f"{algorithm}.pem"
    path.write_bytes(public_pem(algorithm))
    return str(path)


def certificate(folder: Path) -> Path:
    """A file with a certificate for 127.0.0.1 that signs itself, and its key."""
    key, now = private_key("ES256", "tls"), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "an identity provider")])
    address = x509.IPAddress(ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, SHA256())
    )
    form = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path = folder / "tls.pem"
    path.write_bytes(made.public_bytes(Encoding.PEM) + key.private_bytes(*form))
    return path


class Provider:
    """Lists its keys by http on loopback, or https with a certificate; counts how often it was
    asked."""

    def __init__(self, *keys: dict[str, Any], certificate: Path | None = None) -> None:
        self.asked = 0
        self.status = 200
        self.headers: dict[str, str] = {}
        self.answer: Callable[[BaseHTTPRequestHandler], None] | None = None
        self.lists(*keys)
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.asked += 1
                (provider.answer or provider.send)(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if certificate:
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(certificate)
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        scheme = "https" if certificate else "http"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_port}/keys?v=1"

    def lists(self, *keys: dict[str, Any]) -> None:
        self.body = json.dumps({"keys": keys}).encode()

    def send(self, handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(self.status)
        for name, value in {"Content-Length": str(len(self.body)), **self.headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(self.body)

    @contextmanager
    def serving(self) -> Iterator[Provider]:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
