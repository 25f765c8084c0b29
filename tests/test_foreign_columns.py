"""Columns of our own files that somebody else wrote, or that lost bytes: each harms its own record
only, and nothing that runs by itself fails at it again and again."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import text

from jobquest.events import Event, from_request
from jobquest.log import NewRecord, load_headers
from jobquest.read.dead_letters import DeadLetterFilter
from jobquest.runtime import Runtime
from tests.test_http import consume, data_of, runtime_of

GARBAGE = [
    b"\xa5",
    b"",
    b"null",
    b"1",
    b'"text"',
    b'{"name": "value"}',
    b"[1]",
    b'["ab"]',
    b'[["name"]]',
    b'[["name", "value", "more"]]',
    b'[["name", 1]]',
    b'[[1, "value"]]',
    b'[["name", null]]',
    '[["name", "\u0100"]]'.encode(),
]


def append(runtime: Runtime, id: str) -> None:
    event = from_request("user.login", "ada", {}, id=id)
    [taken] = runtime.log.append([NewRecord(event.topic, b"ada", event.to_json(), event.headers())])
    taken.result(10)


def consumed(runtime: Runtime) -> None:
    while runtime.consumer.step() + runtime.relay.step():
        pass


def outcomes(runtime: Runtime) -> list[str]:
    return [item["outcome"] for item in runtime.queries.events()["events"]]


@pytest.mark.parametrize("stored", GARBAGE, ids=repr)
def test_headers_that_we_did_not_write_are_refused(stored: bytes) -> None:
    with pytest.raises(ValueError):
        load_headers(stored)


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_record_of_the_log_with_a_foreign_column_dies_alone(runtime: Runtime) -> None:
    columns: list[tuple[str, Any]] = [("headers", stored) for stored in GARBAGE]
    columns += [("headers", 5), ("headers", "[]x"), ("value", "text"), ("value", 1.5)]
    columns += [("key", "text"), ("key", 7), ("timestamp_ms", "noon"), ("timestamp_ms", 1.5)]
    for number in range(len(columns) + 1):
        append(runtime, f"e{number}")
    with closing(sqlite3.connect(runtime.config.data_dir / "log.db")) as file:
        for offset, (column, stored) in enumerate(columns):
            file.execute(f"UPDATE records SET {column} = ? WHERE offset = ?", (stored, offset))
        file.commit()
    consumed(runtime)
    assert sorted(outcomes(runtime)) == ["dead"] * len(columns) + ["processed"]
    assert runtime.queries.outcomes()["deadLetters"] == len(columns)


def change(runtime: Runtime, statement: str, stored: Any) -> None:
    with runtime.database.writing() as connection:
        connection.execute(text(statement), {"stored": stored})


def dead_letters_of(runtime: Runtime) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = runtime.queries.dead_letters(DeadLetterFilter(), None, 50)[
        "deadLetters"
    ]
    return found


def fail(_event: Event) -> None:
    raise ValueError("no")


@pytest.fixture
def failing(runtime: Runtime) -> Runtime:
    """A runtime in which one event waits for another try of its handler."""
    runtime.consumer.register_event_handler("user.login", fail)
    append(runtime, "waits")
    consumed(runtime)
    assert outcomes(runtime) == ["retrying"]
    return runtime


@pytest.mark.parametrize("stored", [GARBAGE[0], GARBAGE[6]], ids=repr)
def test_a_parked_event_with_foreign_headers_dies_alone(failing: Runtime, stored: bytes) -> None:
    change(failing, "UPDATE parked SET headers = :stored, next_ms = 1", stored)
    consumed(failing)
    assert outcomes(failing) == ["dead"]
    [dead_letter] = dead_letters_of(failing)
    assert "headers" in dead_letter["error"]
    assert '"waits"' in dead_letter["value"]


def test_a_dead_letter_and_what_waits_for_the_log_do_without_their_headers(
    failing: Runtime,
) -> None:
    change(failing, "UPDATE parked SET headers = :stored, next_ms = 1", b"[1]")
    while failing.consumer.step():
        pass
    for table in ("outgoing", "dead_letters"):
        change(failing, f"UPDATE {table} SET headers = :stored", b"[1]")
    consumed(failing)
    assert failing.queries.outcomes()["followUpsWaiting"] == 0
    failing.consumer.unregister_event_handler("user.login", fail)
    assert failing.redrive.redrive([dead_letters_of(failing)[0]["id"]]).redriven
    consumed(failing)
    assert outcomes(failing) == ["processed"]


@pytest.mark.parametrize("stored", ["", "no JSON", "[]", "7", '{"id": "other"}'])
def test_an_event_whose_row_is_foreign_is_listed_and_its_id_belongs_to_it(
    runtime: Runtime, stored: str
) -> None:
    append(runtime, "first")
    consumed(runtime)
    change(runtime, "UPDATE events SET body = :stored", stored)
    [item] = runtime.queries.events()["events"]
    assert item["event"].keys() >= {"id", "metadata", "data"}
    life = runtime.queries.event("first")
    assert life is not None
    assert life["event"]["metadata"] == {}
    append(runtime, "first")  # the same again: nobody can tell that it is
    append(runtime, "second")
    consumed(runtime)
    assert sorted(outcomes(runtime)) == ["dead", "processed", "processed"]


def test_a_process_whose_row_is_foreign_leaves_the_status_as_it_is(client: FlaskClient) -> None:
    runtime = runtime_of(client)
    runtime.state.beat(b'{"state": "stopped", "assignment": []}')
    for stored in ("", "[]", '{"state": 1}'):
        change(runtime, "UPDATE processes SET consumer = :stored", stored)
        assert data_of(client.get("/api/kafka/status"))["state"]


def test_a_foreign_record_without_metadata_has_a_page(client: FlaskClient) -> None:
    runtime = runtime_of(client)
    members = {"id": "foreign", "type": "user.login", "userId": "ada", "data": {}}
    for more in ({}, {"version": 2}):
        document = {**members, "timestamp": "2026-01-01T00:00:00.000Z", **more}
        document["id"] = f"foreign-{len(more)}"
        [taken] = runtime.log.append(
            [NewRecord("system-events", b"ada", json.dumps(document).encode())]
        )
        taken.result(10)
        consume(client)
        life = data_of(client.get(f"/api/events/{document['id']}"))
        assert life["event"] == {**document, "metadata": {}}
        assert client.get(f"/events/{document['id']}").status_code == 200
