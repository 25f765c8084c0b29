"""The keys that check tokens: from a PEM file, and from the JSON of an identity provider.

A key's own type decides its algorithm, so a token can't choose one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)

from jobquest.errors import SettingsError

RSA_BITS = range(2048, 8193)  # fewer are too weak, and more take long to check
_USABLE = "an RSA key of 2,048 to 8,192 bits, an EC key on P-256 or an Ed25519 key"
_ALGORITHMS = {("RSA", None): "RS256", ("EC", "P-256"): "ES256", ("OKP", "Ed25519"): "EdDSA"}
_PUBLIC = ("kty", "crv", "n", "e", "x", "y")
_LARGEST_FILE = 64 * 1024


@dataclass(slots=True, eq=False)
class TokenKey:
    """A key with the one algorithm that it is for."""

    material: Any = field(repr=False)  # what PyJWT takes; it may be a secret
    algorithm: str
    id: str | None = None
    is_withdrawn: bool = False

    @property
    def identity(self) -> tuple[str | None, str, bytes]:
        """What tells one of a provider's keys from another."""
        der = self.material.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return self.id, self.algorithm, der


def read_pem(path: Path) -> TokenKey:
    """The key in the file of JOBQUEST_JWT_PUBLIC_KEY. Raises SettingsError."""
    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST_FILE)
        material = load_pem_public_key(text)
        return TokenKey(material, _algorithm_of(material))
    except OSError as error:
        reason = f"can't be read ({error.strerror}); name another file"
    except (ValueError, UnsupportedAlgorithm):
        reason = _instead_of_key(text)
    raise SettingsError(f"JOBQUEST_JWT_PUBLIC_KEY: {path} {reason}.")


def _instead_of_key(text: bytes) -> str:
    """What is in a file that has no usable public key, and what to do."""
    if b"PRIVATE KEY-----" in text:
        return (
            "holds a private key, which only the issuer of the tokens may have; make the public one"
            " by `openssl pkey -pubout`"
        )
    if b"BEGIN CERTIFICATE-----" in text:
        return "holds a certificate; take its key out by `openssl x509 -pubkey -noout`"
    return f"holds no public key in PEM form that can be used; use {_USABLE}"


def from_jwk(members: Mapping[str, Any]) -> TokenKey | None:
    """The key in one object of a provider's list; None if it is not for checking our tokens."""
    operations = members.get("key_ops", ["verify"])
    is_for_signatures = members.get("use", "sig") == "sig" and (
        isinstance(operations, list) and "verify" in operations
    )
    public = {name: members[name] for name in _PUBLIC if name in members}
    texts = [*public.values(), members.get("kid", ""), members.get("alg", "")]
    if not is_for_signatures or not all(isinstance(text, str) for text in texts):
        return None
    algorithm = _ALGORITHMS.get((public.get("kty", ""), public.get("crv")))
    if algorithm is None or members.get("alg", algorithm) != algorithm:
        return None
    try:
        material = jwt.PyJWK(public, algorithm).key
        return TokenKey(material, _algorithm_of(material), members.get("kid"))
    except (jwt.PyJWTError, ValueError, TypeError, UnsupportedAlgorithm):
        return None


def _algorithm_of(material: Any) -> str:
    """The algorithm of a public key. Raises ValueError if it has none that we use."""
    if isinstance(material, RSAPublicKey) and material.key_size in RSA_BITS:
        return "RS256"
    if isinstance(material, EllipticCurvePublicKey) and isinstance(material.curve, SECP256R1):
        return "ES256"
    if isinstance(material, Ed25519PublicKey):
        return "EdDSA"
    raise ValueError(f"use {_USABLE}")
