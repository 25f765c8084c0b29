"""A protected service, and the operator who is signed in: for tests that do what operators do.

Its credentials are made once and copied, because a password's hash takes longer than most of these
tests. A cookie is for a host and not for a port, so one fits all services that tests start.
"""

from __future__ import annotations

import hmac
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from playwright.sync_api import StorageState

from jobquest.access import FILE, MARKER
from jobquest.config import load
from jobquest.runtime import Runtime
from jobquest.web.guard import COOKIE
from tests.service import Answer
from tests.template import ForkedService

NAME, PASSWORD = "ada", "correct horse battery"
_SECRET_KEY = "k" * 32


class ProtectedService(ForkedService):
    """A service with one operator, whose requests are that operator's."""

    def __init__(self, folder: Path, **settings: str) -> None:
        super().__init__(folder, JOBQUEST_SECRET_KEY=_SECRET_KEY, **settings)

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        return super().request(method, path, body, {**signed_in(), **(headers or {})})

    def post(
        self, event_type: str, data: Mapping[str, Any], user_id: str | None = None, **more: Any
    ) -> Answer:
        """The same as without credentials: an operator's event names its user."""
        return super().post(event_type, data, user_id or "demo-user", **more)

    def _make_tables(self) -> None:
        super()._make_tables()
        (self.folder / FILE).write_bytes(_credentials()[0])
        (self.folder / MARKER).touch()


def signed_in() -> dict[str, str]:
    """The headers of the operator's requests."""
    return {"Cookie": f"{COOKIE}={_session()}", "X-CSRF-Token": _csrf_token()}


def cookies(host: str = "127.0.0.1", path: str = "/") -> StorageState:
    """What a browser has after the operator has signed in."""
    cookie = {"name": COOKIE, "value": _session(), "domain": host, "path": path}
    more = {"expires": -1, "httpOnly": True, "secure": False, "sameSite": "Lax"}
    return {"cookies": [{**cookie, **more}], "origins": []}  # type: ignore[typeddict-item]


def _session() -> str:
    return _credentials()[1]


def _csrf_token() -> str:
    return hmac.new(_SECRET_KEY.encode(), f"csrf {_session()}".encode(), "sha256").hexdigest()


@cache
def _credentials() -> tuple[bytes, str]:
    """The file of credentials, and the value of the session's cookie."""
    with tempfile.TemporaryDirectory() as folder:
        access = Runtime(load({"JOBQUEST_DATA_DIR": folder})).access
        access.operators.add(NAME, PASSWORD, "operator")
        secret = access.sessions.begin(NAME, address="127.0.0.1", agent="tests")
        access.close()
        return (Path(folder) / FILE).read_bytes(), secret
