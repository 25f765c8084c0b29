"""Publishing many at once: a result for each, and one bad event never sinks the rest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from jobquest.events import OUR_PREFIX
from jobquest.events.requests import MAX_BATCH_EVENTS
from jobquest.web.entrance import MAX_BATCH_BYTES
from tests.kafka_broker import KafkaBroker, free_port
from tests.logs import delete_topics, everything
from tests.samples import SAMPLES, TYPES
from tests.service import Service, wait_for
from tests.test_http import EVENTS, consume, data_of, error_of, runtime_of

BATCH = f"{EVENTS}/batch"
LOGIN = b'{"eventType": "user.login", "data": {}, "userId": "good"}'


def post(client: FlaskClient, *events: bytes, path: str = BATCH) -> TestResponse:
    """A batch whose events are spelled out, sound or not."""
    body = b'{"events": [' + b", ".join(events) + b"]}"
    return client.post(path, data=body, content_type="application/json")


def event(kind: str = "user.login", **members: Any) -> bytes:
    return json.dumps({"eventType": kind, "data": SAMPLES[kind], **members}).encode()


def xp(number: int, **members: Any) -> bytes:
    data = {"xpAmount": number, "totalXp": 0}
    return json.dumps({"eventType": "xp.earned", "data": data, **members}).encode()


def results_of(response: TestResponse) -> list[dict[str, Any]]:
    assert response.json is not None
    results: list[dict[str, Any]] = response.json["data"]["results"]
    return results


def kinds(response: TestResponse) -> list[str]:
    return [one["result"] for one in results_of(response)]


def test_events_of_every_type_are_kept_in_their_order_each_with_its_place(
    client: FlaskClient,
) -> None:
    found = data_of(post(client, *[event(kind, userId="ada") for kind in TYPES * 5]), 201)
    assert [one["eventType"] for one in found["results"]] == TYPES * 5
    places = [(one["topic"], one["partition"], one["offset"]) for one in found["results"]]
    for topic in {place[0] for place in places}:
        offsets = [place[2] for place in places if place[0] == topic]
        assert offsets == list(range(len(offsets)))
    consume(client)
    for one in found["results"]:
        told = data_of(client.get(f"/api/events/{one['id']}"))
        assert (told["topic"], told["partition"], told["offset"]) in places
        assert told["event"]["timestamp"] == one["timestamp"]


def test_each_event_counts_once(client: FlaskClient) -> None:
    data_of(post(client, *[xp(1, userId="ada") for _ in range(MAX_BATCH_EVENTS)]), 201)
    again = [xp(1, userId="ada", id="twice")] * 2
    data_of(post(client, *again), 201)
    consume(client)
    assert data_of(client.get("/api/users/ada"))["xp"] == MAX_BATCH_EVENTS + 1


BAD = [
    pytest.param(b"null", id="null"),
    pytest.param(b"[]", id="a list"),
    pytest.param(b'{"eventType": "nope", "data": {}}', id="unknown type"),
    pytest.param(b'{"eventType": "user.login", "data": {}, "data": {}}', id="a key twice"),
    pytest.param(b'{"eventType": "user.login", "data": {"userAgent": "\\u0000"}}', id="NUL"),
    pytest.param(b'{"eventType": "user.login", "data": {"userAgent": "\\ud800"}}', id="surrogate"),
    pytest.param(b'{"eventType": "user.login", "data": {"userAgent": "\xff"}}', id="no UTF-8"),
    pytest.param(b'{"eventType": "user.login", "data": {"userAgent": NaN}}', id="NaN"),
    pytest.param(b'{"eventType": "user.login", "data": %s}' % (b"[" * 40 + b"]" * 40), id="deep"),
    pytest.param(b'{"eventType": "user.login", "data": {}, "id": "jq:1"}', id="our id"),
    pytest.param(b'{"eventType": "user.login", "data": {}, "more": 1}', id="unknown member"),
    pytest.param(b'{"eventType": "user.login", "data": {}, "userId": null}', id="null member"),
    pytest.param(b'{"eventType": "user.login", "data": {}, "metadata": {"n": 1e999}}', id="1e999"),
]


@pytest.mark.parametrize("bad", BAD)
def test_one_bad_event_never_sinks_the_rest(client: FlaskClient, bad: bytes) -> None:
    response = post(client, LOGIN, bad, LOGIN)
    assert response.status_code == 207, response.text
    assert kinds(response) == ["accepted", "rejected", "accepted"]
    refused = results_of(response)[1]
    assert refused["message"]
    alone = client.post(EVENTS, data=bad, content_type="application/json")
    body = error_of(alone, 400)
    assert refused["message"] == body["message"]
    assert refused["errors"] == body.get("errors", {})
    consume(client)
    assert data_of(client.get("/api/users/good"))["eventCount"] == 2


def test_where_all_are_bad_the_answer_is_an_error_that_says_why_for_each(
    shared_client: FlaskClient,
) -> None:
    response = post(shared_client, b"null", event("xp.earned", data={"xpAmount": -1}))
    error_of(response, 400)
    assert kinds(response) == ["rejected", "rejected"]
    assert results_of(response)[1]["errors"].keys() == {"data.xpAmount", "data.totalXp"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"events": []}',
        b'{"events": {}}',
        b'{"events": null}',
        b'{"events": [%s], "more": 1}' % LOGIN,
        b'{"events": [%s], "events": [%s]}' % (LOGIN, LOGIN),
        b'{"events": [%s]} {}' % LOGIN,
        b'{"events": [%s' % LOGIN,
        b'{"events": [%s]}' % (b"[" * 50_000),
        b'\xef\xbb\xbf{"events": [%s]}' % LOGIN,
        b'{"events": [%s, nope]}' % LOGIN,
        b'{"events": [%s, NaN], "more": 1}' % LOGIN,
        b'{"events": [%s, NaN]' % LOGIN,
        b'{"events": [%s]}' % b",".join([LOGIN] * (MAX_BATCH_EVENTS + 1)),
    ],
    ids=lambda body: body[:30].decode("latin-1") + f" {len(body)}",
)
def test_a_body_that_is_no_batch_is_refused_whole(shared_client: FlaskClient, body: bytes) -> None:
    error_of(shared_client.post(BATCH, data=body, content_type="application/json"), 400)
    assert all(info.next == 0 for info in runtime_of(shared_client).log.describe(["system-events"]))


def test_a_batch_may_be_larger_than_one_event_may_but_not_than_1_mib(client: FlaskClient) -> None:
    note = {**SAMPLES["notification.sent"], "message": "x" * 5_000}
    large = event("notification.sent", data=note)
    assert kinds(post(client, *[large] * 190)) == ["accepted"] * 190
    error_of(post(client, *[large] * 210), 413)
    assert len(large) * 190 < MAX_BATCH_BYTES < len(large) * 210
    error_of(client.post(EVENTS, data=b" " * 70_000, content_type="application/json"), 413)
    error_of(client.post(BATCH, data=LOGIN, content_type="text/plain"), 415)


def test_a_repeat_is_told_with_its_first_copy_and_another_content_is_refused(
    client: FlaskClient,
) -> None:
    [first] = data_of(post(client, xp(1, id="one")), 201)["results"]
    consume(client)
    response = post(client, xp(1, id="one"), xp(2, id="one"), xp(1, id="two"))
    assert kinds(response) == ["duplicate", "rejected", "accepted"]
    assert results_of(response)[0] == {**first, "result": "duplicate"}
    assert results_of(response)[1]["errors"].keys() == {"id"}
    data_of(post(client, xp(1, id="one")), 201)


def test_a_dry_run_publishes_nothing(client: FlaskClient) -> None:
    dry = f"{BATCH}?dryRun=1"
    found = data_of(post(client, LOGIN, LOGIN, path=dry))["results"]
    assert [one["result"] for one in found] == ["valid", "valid"]
    assert found[0]["topic"] == "system-events"
    assert found[0]["key"] == "good"
    assert post(client, LOGIN, b"1", path=dry).status_code == 207
    error_of(post(client, b"1", path=dry), 400)
    assert all(info.next == 0 for info in runtime_of(client).log.describe(["system-events"]))


def test_what_may_be_kept_or_not_is_to_be_sent_again_under_its_id(client: FlaskClient) -> None:
    runtime_of(client).log.close()
    response = post(client, LOGIN, xp(1, id="mine"))
    error_of(response, 503)
    assert response.headers["Retry-After"]
    assert kinds(response) == ["retry", "retry"]
    ids = [one["id"] for one in results_of(response)]
    assert ids[0]
    assert ids[1] == "mine"
    mixed = post(client, LOGIN, b"1")
    error_of(mixed, 503)
    assert kinds(mixed) == ["retry", "rejected"]


@pytest.mark.kafka
def test_while_kafka_is_away_a_batch_is_queued_and_delivered_later(
    kafka_broker: KafkaBroker, tmp_path: Path
) -> None:
    service = Service(tmp_path, KAFKA_BROKER=f"127.0.0.1:{free_port()}").start()
    body = json.dumps({"events": [json.loads(xp(n, userId="ada")) for n in range(200)]}).encode()
    answer = service.request("POST", BATCH, body)
    assert answer.code == 201
    assert {one["result"] for one in answer.json["data"]["results"]} == {"queued"}
    assert service.stop() == 0
    delete_topics(kafka_broker.bootstrap)
    service.settings["KAFKA_BROKER"] = kafka_broker.bootstrap
    service.start()
    ids = [one["id"] for one in answer.json["data"]["results"]]
    wait_for(lambda: service.get(f"/api/events/{ids[-1]}").code == 200, 60, service.tail)
    assert service.get("/api/users/ada").json["data"]["xp"] == sum(range(200))
    records = everything(kafka_broker.bootstrap, ["achievements"])
    arrived = [json.loads(record.value or b"")["id"] for record in records]
    assert [id for id in dict.fromkeys(arrived) if not id.startswith(OUR_PREFIX)] == ids
    service.kill()
