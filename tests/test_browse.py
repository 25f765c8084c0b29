"""Looking through a topic: what stands there, raw and decoded, and why the look ended."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient

import jobquest.browse
from jobquest.log import NewRecord
from tests.test_http import EVENTS, LOGIN, data_of, error_of

PATH = "/api/kafka/topics/system-events/records"


def append(client: FlaskClient, *values: bytes | None, **more: Any) -> None:
    log = client.application.extensions["jobquest"].log
    records = [NewRecord("system-events", b"k", value, **more) for value in values]
    for future in log.append(records):
        future.result(10)


def records(client: FlaskClient, query: str = "") -> dict[str, Any]:
    found: dict[str, Any] = data_of(client.get(PATH + query))
    return found


def test_an_event_is_shown_raw_and_decoded_with_its_headers(client: FlaskClient) -> None:
    id = data_of(client.post(EVENTS, json=LOGIN), 201)["id"]
    found = records(client)
    [record] = found["records"]
    assert record["event"]["id"] == id
    assert record["value"].startswith('{"id":"' + id)
    assert {"name": "ce_id", "value": id} in record["headers"]
    assert (record["key"], record["offset"], record["error"]) == ("demo-user", 0, None)
    assert record["bytes"] == len(record["value"])


def test_what_is_no_event_is_shown_all_the_same(client: FlaskClient) -> None:
    append(client, b"\xff\x00", None, b"{}", headers=(("h", b"\xff"),))
    first, tombstone, empty = records(client)["records"]
    assert (first["value"], first["encoding"], first["event"]) == ("/wA=", "base64", None)
    assert first["headers"] == [{"name": "h", "value": "/w=="}]
    assert (tombstone["value"], tombstone["bytes"]) == (None, 0)
    assert tombstone["error"] == "The record has no value."
    assert empty["error"]


def test_without_a_place_the_last_records_are_shown(client: FlaskClient) -> None:
    append(client, *(b"%d" % n for n in range(10)))
    found = records(client, "?limit=3")
    assert [record["value"] for record in found["records"]] == ["7", "8", "9"]
    assert (found["stopped"], found["first"], found["end"]) == ("end", 0, 10)


def test_it_says_what_was_looked_at_and_why_it_stopped(client: FlaskClient) -> None:
    append(client, *(b"%d" % n for n in range(10)))
    found = records(client, "?offset=2&limit=3")
    assert [record["offset"] for record in found["records"]] == [2, 3, 4]
    assert found["scanned"] == {"from": 2, "to": 5, "records": 3}
    assert (found["stopped"], found["next"]) == ("limit", 5)
    assert records(client, "?offset=7")["stopped"] == "end"
    assert records(client, "?offset=99")["records"] == []


def test_a_text_is_looked_for_in_value_key_and_headers(client: FlaskClient) -> None:
    append(client, b"Apples", b"pears", headers=(("h", b"plums"),))
    append(client, b"APPLES and pears")
    assert [one["offset"] for one in records(client, "?q=apples")["records"]] == [0, 2]
    assert [one["offset"] for one in records(client, "?q=plum")["records"]] == [0, 1]
    assert records(client, "?q=cherry")["scanned"]["records"] == 3


def test_a_look_is_bounded(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    append(client, *(b"%d" % n for n in range(10)))
    monkeypatch.setattr(jobquest.browse, "MAX_SCANNED", 4)
    found = records(client, "?offset=0&q=nothing")
    assert (found["stopped"], found["scanned"]["records"], found["next"]) == ("scanned", 4, 4)
    monkeypatch.setattr(jobquest.browse, "MAX_SECONDS", -1.0)
    assert records(client, "?offset=0")["stopped"] == "time"


def test_records_are_found_from_a_time_on(client: FlaskClient) -> None:
    append(client, b"old")
    moment = records(client)["records"][0]["timestamp"]
    assert records(client, f"?timestamp={moment}")["scanned"]["from"] == 0
    assert records(client, "?timestamp=2099-01-01T00:00:00Z")["scanned"]["from"] == 1


def test_a_partition_that_is_not_there_is_not_found(client: FlaskClient) -> None:
    error_of(client.get("/api/kafka/topics/nothing/records"), 404)
    error_of(client.get(f"{PATH}?partition=7"), 404)
    for query in ("offset=-1", "limit=0", "partition=x", "timestamp=noon"):
        error_of(client.get(f"{PATH}?{query}"), 400)
