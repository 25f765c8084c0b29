"""Secrets that we give out, and what we store of them: a digest that nobody can turn back.

They have 256 random bits, so a plain SHA-256 is enough: there is no dictionary to try.
"""

from __future__ import annotations

import secrets
from hashlib import sha256

KEY_PREFIX = "jq_"


def new_secret(prefix: str = "") -> str:
    """A new secret, which is shown or sent once."""
    return prefix + secrets.token_urlsafe(32)


def digest(secret: str) -> str:
    """What is stored of a secret, and looked up: its SHA-256 in hexadecimal digits."""
    return sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()
