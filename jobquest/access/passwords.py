"""Placeholder until the branch `tokens` is merged."""

from __future__ import annotations

import hashlib


def hashed(password: str) -> str:
    return hashlib.sha256(password.encode()).hexdigest()


def verify(stored: str | None, password: str) -> bool:
    return stored == hashed(password)
