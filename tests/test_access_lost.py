"""Who is let in after somebody has removed or replaced the file of credentials."""

from __future__ import annotations

import logging
import os
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import jwt
import pytest
from flask.testing import FlaskClient

from jobquest import create_app
from jobquest.access import FILE, MARKER, Access, passwords
from jobquest.access.caller import READ, Caller
from jobquest.clock import now_ms
from jobquest.config import load
from jobquest.errors import Unauthenticated
from jobquest.read.database import Database
from tests.service import Service, wait_for
from tests.test_access import PASSWORD, bearer, sign_in
from tests.test_http import error_of

EVENTS = "/api/events"


@pytest.fixture
def elsewhere(settings: dict[str, str]) -> Iterator[Access]:
    """The credentials, in another process that has not opened them yet."""
    config = load(settings)
    made = Access(config, Database(f"sqlite:///{config.data_dir.absolute()}/read.db"))
    yield made
    made.close()


def remove(settings: dict[str, str]) -> None:
    for file in Path(settings["JOBQUEST_DATA_DIR"]).glob(f"{FILE}*"):
        file.unlink()


def status(client: FlaskClient, key: str) -> int:
    return client.get(EVENTS, headers=bearer(key)).status_code


def test_a_file_that_was_removed_lets_nobody_in_any_more(
    client: FlaskClient,
    access: Access,
    settings: dict[str, str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    access.operators.add("ada", PASSWORD, "operator")
    key = access.keys.create("ci", [READ], None)
    assert sign_in(client).status_code == 303
    assert client.get(EVENTS).status_code == status(client, key) == 200
    with caplog.at_level(logging.WARNING, "jobquest.access"):
        remove(settings)
        wait_for(lambda: status(client, key) == client.get(EVENTS).status_code == 503, 2.5)
    refused = error_of(client.get(EVENTS, headers=bearer(key)), 503)
    assert "flask operators add" in refused["message"]
    [line] = [record.getMessage() for record in caplog.records]
    assert line.startswith("The file of credentials was removed")
    assert "\n" not in line


def test_the_file_that_takes_its_place_counts_alone(
    client: FlaskClient, access: Access, elsewhere: Access, settings: dict[str, str]
) -> None:
    access.operators.add("ada", PASSWORD, "operator")
    lost = access.keys.create("ci", [READ], None)
    wait_for(lambda: status(client, lost) == 200, 2.5)
    remove(settings)
    # As many changes and the same ids as in the lost file.
    elsewhere.operators.add("bob", PASSWORD, "operator")
    found = elsewhere.keys.create("ci", [READ], None)
    wait_for(lambda: (status(client, lost), status(client, found)) == (401, 200), 2.5)
    assert sign_in(client, "ada").status_code == 401
    assert sign_in(client, "bob").status_code == 303
    assert client.get(EVENTS).status_code == 200
    elsewhere.keys.revoke("ci")
    wait_for(lambda: status(client, found) == 401, 2.5)


def test_the_connections_to_a_lost_file_leave_the_new_ones_log_alone(
    client: FlaskClient, access: Access, elsewhere: Access, settings: dict[str, str]
) -> None:
    secret = access.keys.create("ci", [READ], None)
    wait_for(lambda: status(client, secret) == 200, 2.5)
    file, before = Path(settings["JOBQUEST_DATA_DIR"]) / FILE, access._opened
    remove(settings)
    elsewhere.operators.add("bob", PASSWORD, "operator")
    wait_for(lambda: access._opened not in (None, before), 2.5)
    assert Path(f"{file}-wal").exists()
    with sqlite3.connect(file) as connection:
        assert connection.execute("SELECT name FROM access_operators").fetchall() == [("bob",)]
    connection.close()


def test_a_socket_ends_with_the_file_of_its_key_even_if_the_new_file_has_its_like(
    client: FlaskClient, access: Access, elsewhere: Access, settings: dict[str, str]
) -> None:
    secret = access.keys.create("ci", [READ], None)
    wait_for(lambda: status(client, secret) == 200, 2.5)
    caller, ended = access.caller(secret), list[str]()
    access.ended = ended.append
    access.watch(caller)
    wait_for(lambda: not access._is_watched_anew, 2.5)
    assert not ended
    remove(settings)
    fresh = elsewhere.keys.create("ci", [READ], None)
    assert elsewhere.caller(fresh) == caller
    wait_for(lambda: ended == [caller.credential], 2.5)


def test_what_was_looked_up_in_a_file_that_is_lost_meanwhile_is_not_remembered(
    access: Access, elsewhere: Access, settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = access.keys.create("ci", [READ], None)
    access._look()
    look_up = access.keys.caller

    def slow(digest: str) -> Caller | None:
        found = look_up(digest)
        remove(settings)
        elsewhere.keys.create("ci", [READ], None)
        access._look()
        return found

    with monkeypatch.context() as patched:
        patched.setattr(access.keys, "caller", slow)
        access.caller(secret)
    with pytest.raises(Unauthenticated):
        access.caller(secret)


@pytest.mark.parametrize("when", ["before the form", "while the password is checked"])
def test_nobody_signs_in_by_a_file_that_is_lost(
    settings: dict[str, str],
    made_read_side: None,
    monkeypatch: pytest.MonkeyPatch,
    when: str,
) -> None:
    app = create_app(settings)
    access, client = app.extensions["jobquest"].access, app.test_client()
    access.operators.add("ada", PASSWORD, "operator")
    wait_for(lambda: client.get(EVENTS).status_code == 401, 2.5)
    access.stop()  # nobody looks
    verify = passwords.verify
    if when == "before the form":
        remove(settings)
    else:
        monkeypatch.setattr(passwords, "verify", lambda *a: remove(settings) or verify(*a))
    assert sign_in(client).status_code == 503
    assert "jobquest_session" not in str(client._cookies)
    app.extensions["jobquest"].stop()


def test_a_password_of_a_file_that_was_replaced_a_moment_ago_is_wrong(
    client: FlaskClient, access: Access, elsewhere: Access, settings: dict[str, str]
) -> None:
    access.operators.add("ada", PASSWORD, "operator")
    access._look()
    access.stop()  # nobody looks
    remove(settings)
    elsewhere.operators.add("bob", PASSWORD, "operator")
    assert sign_in(client, "ada").status_code == 401
    assert sign_in(client, "bob").status_code == 303


def test_with_tokens_configured_a_lost_file_lets_keys_and_operators_in_no_more(
    settings: dict[str, str], made_read_side: None
) -> None:
    secret = "s" * 32
    app = create_app({**settings, "JOBQUEST_JWT_SECRET": secret})
    access, client = app.extensions["jobquest"].access, app.test_client()
    access.operators.add("ada", PASSWORD, "operator")
    key = access.keys.create("ci", [READ], None)
    assert status(client, key) == 200
    remove(settings)
    assert sign_in(client).status_code == 401
    assert client.get(EVENTS).status_code == 401
    wait_for(lambda: status(client, key) == 401, 2.5)
    token = jwt.encode({"sub": "ada", "exp": now_ms() // 1000 + 60}, secret, "HS256")
    assert client.get("/api/users/ada/progress", headers=bearer(token)).status_code != 401
    app.extensions["jobquest"].stop()


@pytest.mark.parametrize("first", [FILE, MARKER])
def test_a_process_that_was_protected_stays_so_and_puts_the_marker_back(
    client: FlaskClient, access: Access, settings: dict[str, str], first: str
) -> None:
    marker = Path(settings["JOBQUEST_DATA_DIR"]) / MARKER
    assert client.get(EVENTS).status_code == 200
    access.operators.add("ada", PASSWORD, "operator")
    wait_for(lambda: client.get(EVENTS).status_code == 401, 2.5)
    if first == FILE:
        remove(settings)
        wait_for(lambda: access._opened is None, 2.5)
        marker.unlink()
    else:
        marker.unlink()
        remove(settings)
    wait_for(marker.exists, 2.5)
    assert client.get(EVENTS).status_code == 401
    assert status(client, "jq_anything") == 503


def test_nobody_else_may_read_the_file_whatever_the_umask(
    elsewhere: Access, settings: dict[str, str]
) -> None:
    before = os.umask(0)
    try:
        elsewhere.keys.create("ci", [READ], None)
    finally:
        os.umask(before)
    files = list(Path(settings["JOBQUEST_DATA_DIR"]).glob(f"{FILE}*"))
    assert sorted(file.name for file in files) == [FILE, f"{FILE}-shm", f"{FILE}-wal"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


@pytest.mark.slow
def test_the_start_says_that_nobody_is_let_in_while_the_credentials_can_not_be_read(
    tmp_path: Path,
) -> None:
    service = Service(tmp_path)
    (tmp_path / FILE).write_text("no database")
    try:
        service.launch()
        wait_for(lambda: "Nobody can be let in now: " in "".join(service.output), 10, service.tail)
        assert "Protected: " not in "".join(service.output)
    finally:
        service.kill()
