"""Who is let in while the database is away: with a real PostgreSQL that is killed."""

from __future__ import annotations

from collections.abc import Iterator

import jwt
import pytest

from jobquest import create_app
from jobquest.access.caller import WRITE
from jobquest.clock import now_ms
from tests import postgres
from tests.service import wait_for
from tests.test_access import EVENT, EVENTS, bearer
from tests.test_http import data_of, error_of

pytestmark = pytest.mark.postgres

SECRET = "s" * 32


@pytest.fixture
def server() -> Iterator[postgres.Postgres]:
    if reason := postgres.why_not():
        pytest.skip(reason)
    started = postgres.Postgres().start()
    yield started
    started.stop()


def test_publishing_goes_on_for_tokens_and_whoever_was_seen(
    server: postgres.Postgres, settings: dict[str, str]
) -> None:
    app = create_app(
        {**settings, "DATABASE_URL": server.new_database(), "JOBQUEST_JWT_SECRET": SECRET}
    )
    client, access = app.test_client(), app.extensions["jobquest"].access
    names = ("seen", "unseen", "revoked")
    seen, unseen, revoked = (access.keys.create(name, [WRITE], None) for name in names)
    for key in (seen, revoked):
        data_of(client.post(EVENTS, json=EVENT, headers=bearer(key)), 201)
    access.keys.revoke("revoked")
    wait_for(lambda: client.post(EVENTS, json=EVENT, headers=bearer(revoked)).status_code == 401, 5)
    server.kill()
    wait_for(lambda: access._seen.is_away, 10)

    claims = {"sub": "ada", "exp": now_ms() // 1000 + 60}
    own = {**EVENT, "userId": "ada"}
    token = bearer(jwt.encode(claims, SECRET, "HS256"))
    data_of(client.post(EVENTS, json=own, headers=token), 201)
    error_of(client.post(EVENTS, json={**own, "userId": "bob"}, headers=token), 403)
    data_of(client.post(EVENTS, json=EVENT, headers=bearer(seen)), 201)
    for key in (unseen, revoked):
        refused = error_of(client.post(EVENTS, json=EVENT, headers=bearer(key)), 503)
        assert refused["message"].startswith("Nobody can be let in now: ")
    error_of(client.post(EVENTS, json=EVENT), 401)
    assert client.get("/healthz").status_code == 200
    server.start()
    app.extensions["jobquest"].stop()


def test_nobody_is_let_in_before_the_database_has_said_whether_there_are_credentials(
    server: postgres.Postgres, settings: dict[str, str]
) -> None:
    url = server.new_database()
    server.kill()
    app = create_app({**settings, "DATABASE_URL": url})
    client = app.test_client()
    refused = error_of(client.post(EVENTS, json=EVENT), 503)
    assert refused["message"].startswith("Nobody can be let in now: ")
    assert client.get("/healthz").status_code == 200
    server.start()
    wait_for(lambda: client.post(EVENTS, json=EVENT).status_code == 201, 20)
    app.extensions["jobquest"].stop()
