"""Dead letters: their record on the topic, and what an operator does with each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient
from kafka.admin import KafkaAdminClient

from jobquest import create_app
from jobquest.config import load
from jobquest.consumer.redrive import MAX_REDRIVES
from jobquest.errors import InvalidEvent, StateConflict
from jobquest.log import NewRecord, Partition, Record
from jobquest.read.dead_letters import REDRIVES_HEADER, DeadLetterFilter
from jobquest.read.dead_letters import TOPIC as DEAD_LETTERS
from jobquest.runtime import Runtime
from tests.kafka_broker import KafkaBroker
from tests.samples import SAMPLES
from tests.service import Service, wait_for
from tests.test_consumer import consume, stats, write
from tests.test_http import data_of, error_of
from tests.test_retries import Failing, failing, life, publish
from tests.test_service import outcome

PATH = "/api/kafka/dead-letters"
NOTICE = SAMPLES["notification.sent"]


@pytest.fixture
def settings(settings: dict[str, str]) -> dict[str, str]:
    """One try: what fails is dead."""
    return {**settings, "JOBQUEST_RETRY_MAX_ATTEMPTS": "1"}


def dead_letters(runtime: Runtime, **wanted: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = runtime.queries.dead_letters(
        DeadLetterFilter(**wanted), None, 50
    )["deadLetters"]
    return found


def on_topic(runtime: Runtime) -> list[Record]:
    """The records of the topic `dead-letters`; the embedded log has one partition of each."""
    return runtime.log.read(Partition(DEAD_LETTERS, 0), 0, 100)


def dead(runtime: Runtime, id: str = "a1", user: str = "ada") -> tuple[int, Failing]:
    """Have an event die by its handler: its dead letter's id, and the handler."""
    handler = failing(runtime, user)
    publish(runtime, id, user)
    consume(runtime)
    return dead_letters(runtime, event_id=id)[0]["id"], handler


def test_a_dead_letter_stands_on_its_topic_with_the_original_bytes_and_why(
    runtime: Runtime,
) -> None:
    dead(runtime)
    [original] = runtime.log.read(Partition("achievements", 0), 0, 10)
    [record] = on_topic(runtime)
    assert (record.key, record.value) == (original.key, original.value)
    headers = dict(record.headers)
    assert original.headers == record.headers[: len(original.headers)]
    assert {k: v for k, v in headers.items() if k.startswith("__dlq.")} == {
        "__dlq.errors.topic": b"achievements",
        "__dlq.errors.partition": b"0",
        "__dlq.errors.offset": b"0",
        "__dlq.errors.group": b"job-quest-consumer",
        "__dlq.errors.delivery.count": b"1",
        "__dlq.errors.message": b"ValueError: unlucky",
    }
    assert headers["jobquest.dlq.action"] == b"died"
    assert headers["jobquest.dlq.class"] == b"ValueError"
    assert headers["jobquest.dlq.path"].startswith(b"test_retries.py:")
    assert headers["jobquest.dlq.redrives"] == b"0"


def test_bytes_that_are_no_text_are_kept_and_told_in_base64(runtime: Runtime) -> None:
    write(runtime, "achievements", b"\xff\xfe")
    consume(runtime)
    [dead_letter] = dead_letters(runtime)
    assert (dead_letter["value"], dead_letter["encoding"]) == ("//4=", "base64")
    [record] = on_topic(runtime)
    assert record.value == b"\xff\xfe"


def test_a_tombstone_is_a_dead_letter_too(runtime: Runtime) -> None:
    [future] = runtime.log.append([NewRecord("achievements", b"k", None)])
    future.result(5)
    consume(runtime)
    [dead_letter] = dead_letters(runtime)
    assert dead_letter["value"] is None
    assert on_topic(runtime)[0].value is None


def test_a_redriven_event_counts_once_under_its_id(runtime: Runtime) -> None:
    id, handler = dead(runtime)
    handler.users.clear()
    assert runtime.redrive.redrive([id, id]).redriven == [id]
    again = runtime.redrive.redrive([id])
    assert [reason for _, reason in again.refused] == ["It is already redriven."]
    consume(runtime)
    assert life(runtime, "a1")["outcome"] == "processed"
    assert life(runtime, "a1")["deadLetter"]["state"] == "redriven"
    assert stats(runtime, "ada")["xp"] == 10
    [_, record] = runtime.log.read(Partition("achievements", 0), 0, 10)
    assert dict(record.headers)[REDRIVES_HEADER] == b"1"
    assert dict(record.headers)["ce_id"] == b"a1"


def test_two_operators_who_redrive_at_once_count_it_once(runtime: Runtime) -> None:
    """Both have appended before either has said so: the id makes the second copy harmless."""
    id, handler = dead(runtime)
    handler.users.clear()
    dead_letter = runtime.dead_letters.get(id)
    assert dead_letter
    [copy] = runtime.log.append([NewRecord(dead_letter.topic, dead_letter.key, dead_letter.value)])
    copy.result(5)
    assert runtime.redrive.redrive([id]).redriven == [id]
    consume(runtime)
    assert stats(runtime, "ada")["xp"] == 10


def test_a_dead_letter_is_redriven_three_times_at_most(runtime: Runtime) -> None:
    id, _ = dead(runtime)
    for count in range(1, MAX_REDRIVES + 1):
        assert runtime.redrive.redrive([id]).redriven == [id]
        consume(runtime)
        newest = dead_letters(runtime, event_id="a1")[0]
        assert (newest["redrives"], newest["state"]) == (count, "open")
        assert newest["id"] != id
        id = newest["id"]
    [(_, reason)] = runtime.redrive.redrive([id]).refused
    assert "3 times" in reason


def test_what_would_die_again_is_refused_until_it_is_edited(runtime: Runtime) -> None:
    write(runtime, "achievements", b'{"id": "m1", "type": "xp.earned"')
    consume(runtime)
    [dead_letter] = dead_letters(runtime)
    [(_, reason)] = runtime.redrive.redrive([dead_letter["id"]]).refused
    assert "edit it first" in reason
    event = {"id": "m1", "type": "xp.earned", "userId": "ada", "metadata": {}}
    event |= {"timestamp": "2026-11-24T06:00:00.000Z", "data": {"xpAmount": 7, "totalXp": 7}}
    runtime.redrive.edit(dead_letter["id"], json.dumps(event).encode())
    assert runtime.redrive.redrive([dead_letter["id"]]).redriven
    consume(runtime)
    assert stats(runtime, "ada")["xp"] == 7
    actions = [dict(one.headers)["jobquest.dlq.action"] for one in on_topic(runtime)]
    assert actions == [b"died", b"edited", b"redriven"]
    assert json.loads(on_topic(runtime)[1].value or b"") == event
    assert dead_letters(runtime)[0]["value"] == '{"id": "m1", "type": "xp.earned"', (
        "the original stays"
    )


def test_a_edited_value_is_checked(runtime: Runtime) -> None:
    id, _ = dead(runtime)
    sound = json.loads(dead_letters(runtime)[0]["value"])
    for change, path in (
        ({"data": {"xpAmount": -1}}, "data.xpAmount"),
        ({"id": "other"}, "id"),
        ({"type": "user.login", "data": {}}, "type"),
    ):
        with pytest.raises(InvalidEvent) as refused:
            runtime.redrive.edit(id, json.dumps(sound | change).encode())
        assert path in refused.value.errors
    runtime.redrive.edit(id, json.dumps(sound | {"data": {"xpAmount": 5, "totalXp": 5}}).encode())


def test_a_discarded_dead_letter_stays_dead_and_says_why(runtime: Runtime) -> None:
    id, _ = dead(runtime)
    with pytest.raises(InvalidEvent):
        runtime.redrive.discard(id, "  ")
    runtime.redrive.discard(id, "a test of ours")
    [dead_letter] = dead_letters(runtime)
    assert (dead_letter["state"], dead_letter["reason"]) == ("discarded", "a test of ours")
    [(_, reason)] = runtime.redrive.redrive([id]).refused
    assert reason == "It is already discarded."
    with pytest.raises(StateConflict):
        runtime.redrive.discard(id, "again")
    consume(runtime)
    assert dict(on_topic(runtime)[1].headers)["jobquest.dlq.reason"] == b"a test of ours"
    assert runtime.queries.outcomes()["deadLetters"] == 0


def test_an_id_conflict_is_edited_with_an_id_of_its_own(runtime: Runtime) -> None:
    publish(runtime, "same")
    consume(runtime)
    event = json.loads(runtime.log.read(Partition("achievements", 0), 0, 1)[0].value or b"")
    event["data"] = {"xpAmount": 99, "totalXp": 0}
    write(runtime, "achievements", json.dumps(event).encode())
    consume(runtime)
    [dead_letter] = dead_letters(runtime)
    assert dead_letter["errorClass"] == "IdConflict"
    [(_, reason)] = runtime.redrive.redrive([dead_letter["id"]]).refused
    assert "another event has its id" in reason
    runtime.redrive.edit(dead_letter["id"], json.dumps(event | {"id": "its-own"}).encode())
    assert runtime.redrive.redrive([dead_letter["id"]]).redriven
    consume(runtime)
    assert stats(runtime)["xp"] == 109


def test_dead_letters_are_redriven_at_a_bounded_rate(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobquest.consumer.redrive.DEAD_LETTERS_PER_SECOND", 20)
    users = [f"u{n}" for n in range(5)]
    handler = failing(runtime, *users)
    for user in users:
        publish(runtime, user, user)
    consume(runtime)
    handler.users.clear()
    result = runtime.redrive.redrive_matching(DeadLetterFilter(state="open"))
    assert len(result.redriven) == 5
    consume(runtime)
    times = [one.timestamp_ms for one in runtime.log.read(Partition("achievements", 0), 5, 10)]
    assert times[-1] - times[0] >= 4 * 1000 / 20 - 20
    assert all(stats(runtime, user)["xp"] == 10 for user in users)


# --- the API ---


@pytest.fixture
def client(settings: dict[str, str], made_read_side: None) -> Iterator[FlaskClient]:
    app = create_app(settings)
    yield app.test_client()
    runtime: Runtime = app.extensions["jobquest"]
    runtime.consumer.close()
    runtime.stop()


def runtime_of(client: FlaskClient) -> Runtime:
    runtime: Runtime = client.application.extensions["jobquest"]
    return runtime


def test_dead_letters_are_listed_by_filter_and_grouped_by_error(client: FlaskClient) -> None:
    runtime = runtime_of(client)
    dead(runtime)
    write(runtime, "user-activities", b"null", b"null", b"{}")
    consume(runtime)
    found = data_of(client.get(PATH))
    assert [one["topic"] for one in found["deadLetters"]][-1] == "achievements"
    assert [(g["count"], g["errorClass"]) for g in found["groups"]] == [
        (2, "InvalidEvent"),
        (1, "InvalidEvent"),
        (1, "ValueError"),
    ]
    for query, count in (
        ("errorClass=ValueError", 1),
        ("userId=ada", 1),
        ("type=xp.earned&state=open", 1),
        ("topic=user-activities", 3),
        ("eventId=a1", 1),
        ("state=discarded", 0),
    ):
        assert len(data_of(client.get(f"{PATH}?{query}"))["deadLetters"]) == count, query
    page = data_of(client.get(f"{PATH}?limit=3"))
    assert len(page["deadLetters"]) == 3
    rest = data_of(client.get(f"{PATH}?limit=3&after={page['next']}"))
    assert (len(rest["deadLetters"]), rest["next"]) == (1, None)
    error_of(client.get(f"{PATH}?state=lost"), 400)
    dead_letter = data_of(client.get(f"{PATH}/{rest['deadLetters'][0]['id']}"))
    assert set(dead_letter) >= {
        *("id", "topic", "partition", "offset", "eventId", "userId", "error", "errorClass"),
        *("path", "attempts", "firstFailedAt", "value", "state"),
    }
    error_of(client.get(f"{PATH}/999"), 404)
    error_of(client.get(f"{PATH}/99999999999999"), 404)


def test_a_dead_letter_is_edited_redriven_and_discarded_over_the_api(client: FlaskClient) -> None:
    runtime = runtime_of(client)
    id, handler = dead(runtime)
    other, _ = dead(runtime, "b1", "bob")
    handler.users.clear()
    event = json.loads(data_of(client.get(f"{PATH}/{id}"))["value"])
    wrong = {"value": event | {"data": {"xpAmount": "x"}}}
    assert (
        "value.data.xpAmount" in error_of(client.patch(f"{PATH}/{id}", json=wrong), 400)["errors"]
    )
    error_of(client.patch(f"{PATH}/{id}?dryRun=1", json=wrong), 400)
    sound = {"value": event | {"data": {"xpAmount": 3, "totalXp": 3}}}
    assert data_of(client.patch(f"{PATH}/{id}?dryRun=1", json=sound))["edited"] is None
    assert json.loads(data_of(client.patch(f"{PATH}/{id}", json=sound))["edited"]) == sound["value"]
    result = data_of(client.post(f"{PATH}/redrive", json={"ids": [id, 999]}))
    assert result == {
        "redriven": [id],
        "refused": [{"id": 999, "reason": "There is no dead letter 999."}],
    }
    for dry in ("", "?dryRun=1"):
        error_of(client.patch(f"{PATH}/{id}{dry}", json=sound), 409)
    error_of(client.post(f"{PATH}/{other}/discard", json={}), 400)
    answer = data_of(client.post(f"{PATH}/{other}/discard", json={"reason": "no use"}))
    assert answer["state"] == "discarded"
    error_of(client.post(f"{PATH}/{other}/discard", json={"reason": "no use"}), 409)
    consume(runtime)
    assert stats(runtime, "ada")["xp"] == 3


def test_a_filter_redrives_only_open_dead_letters(client: FlaskClient) -> None:
    runtime = runtime_of(client)
    id, handler = dead(runtime)
    handler.users.clear()
    body = {"filter": {"errorClass": "ValueError"}}
    assert data_of(client.post(f"{PATH}/redrive", json=body))["redriven"] == [id]
    assert data_of(client.post(f"{PATH}/redrive", json=body)) == {"redriven": [], "refused": []}


def test_an_empty_filter_redrives_all_open_dead_letters(client: FlaskClient) -> None:
    runtime = runtime_of(client)
    ids = []
    for event_id in ("a1", "a2"):
        id, handler = dead(runtime, event_id)
        ids.append(id)
        handler.users.clear()
    assert data_of(client.post(f"{PATH}/redrive", json={"filter": {}}))["redriven"] == ids


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"ids": []},
        {"ids": ["1"]},
        {"ids": [True]},
        {"ids": [1], "filter": {}},
        {"filter": {"colour": "red"}},
        {"filter": {"topic": 1}},
    ],
)
def test_a_wrong_redrive_gets_400(client: FlaskClient, body: dict[str, Any]) -> None:
    error_of(client.post(f"{PATH}/redrive", json=body), 400)


def test_what_waits_is_listed_and_tried_now(settings: dict[str, str]) -> None:
    client = create_app({**settings, "JOBQUEST_RETRY_MAX_ATTEMPTS": "5"}).test_client()
    runtime = runtime_of(client)
    handler = failing(runtime, "ada")
    for id in ("a1", "a2"):
        publish(runtime, id, "ada")
    consume(runtime)
    listed = data_of(client.get("/api/kafka/retries"))["retries"]
    assert [one["id"] for one in listed] == ["a1", "a2"]
    assert data_of(client.get("/api/kafka/status"))["retrying"] == 2
    error_of(client.post("/api/kafka/retries/a2/now", json={}), 409)
    error_of(client.post("/api/kafka/retries/no/now", json={}), 404)
    handler.users.clear()
    data_of(client.post("/api/kafka/retries/a1/now", json={}))
    consume(runtime)
    assert data_of(client.get("/api/kafka/retries"))["retries"] == []
    runtime.consumer.close()
    runtime.stop()


@pytest.mark.kafka
def test_on_kafka_a_dead_letter_as_large_as_a_topic_takes_is_kept_and_redriven(
    empty_kafka: str, settings: dict[str, str]
) -> None:
    runtime = Runtime(load({**settings, "KAFKA_BROKER": empty_kafka}))
    runtime.log.describe([])
    large = b"x" * 1_048_400  # with its batch's overhead, what Kafka takes by default
    write(runtime, "achievements", large)
    wait_for(lambda: runtime.consumer.step(0.2) and runtime.queries.outcomes()["deadLetters"], 30)
    wait_for(lambda: runtime.relay.step(), 30)
    found = [
        record
        for info in runtime.log.describe([DEAD_LETTERS])
        for record in runtime.log.read(Partition(*info.origin[:2]), 0, 10 if info.next else 0)
    ]
    assert [record.value for record in found] == [large]
    assert dict(found[0].headers)["__dlq.errors.topic"] == b"achievements"
    runtime.consumer.close()
    runtime.stop()


def test_a_dead_letter_of_the_running_service_is_redriven_and_processed(service: Service) -> None:
    """End to end on both logs: poison dies, is edited over HTTP, redriven, and counts."""
    other = Runtime(load({**service.settings, "PORT": "0"}))
    write(other, "achievements", b"{}")
    other.log.close()
    wait_for(lambda: service.status()["deadLetters"] == 1, 30, service.tail)
    [dead_letter] = service.get(PATH).json["data"]["deadLetters"]
    event = {"id": "good", "type": "xp.earned", "userId": "ada", "metadata": {}}
    event |= {"timestamp": "2026-11-24T06:00:00.000Z", "data": {"xpAmount": 7, "totalXp": 7}}
    path = f"{PATH}/{dead_letter['id']}"
    edited = service.request("PATCH", path, json.dumps({"value": event}).encode())
    assert edited.code == 200, edited.json
    ids = json.dumps({"ids": [dead_letter["id"]]}).encode()
    answer = service.request("POST", f"{PATH}/redrive", ids).json["data"]
    assert answer["redriven"] == [dead_letter["id"]]
    wait_for(lambda: outcome(service, "good") == "processed", 30, service.tail)
    assert service.status()["deadLetters"] == 0


@pytest.mark.kafka
def test_what_kafka_refuses_after_it_was_queued_becomes_a_dead_letter(
    kafka_broker: KafkaBroker, empty_kafka: str, settings: dict[str, str]
) -> None:
    """The topic takes 2,000 bytes; the outbox took more, and answered for it."""
    narrow = {
        "num_partitions": 1,
        "replication_factor": 1,
        "configs": {"max.message.bytes": "2000"},
    }
    with KafkaAdminClient(bootstrap_servers=empty_kafka, api_version=(4, 0)) as admin:
        admin.create_topics({"notifications": narrow}, wait_for_metadata=True)
    kafka_broker.freeze()
    runtime = Runtime(load({**settings, "KAFKA_BROKER": empty_kafka}))
    assert runtime.outbox
    try:
        runtime.outbox.start()
        for id, size in (("large", 4000), ("small", 10)):
            queued = runtime.producer.publish(
                "notification.sent", "ada", {**NOTICE, "message": "x" * size}, id=id
            )
            assert queued.result == "queued"
    finally:
        kafka_broker.thaw()
    wait_for(lambda: dead_letters(runtime), 30)
    [dead_letter] = dead_letters(runtime)
    assert (dead_letter["eventId"], dead_letter["partition"], dead_letter["offset"]) == (
        "large",
        None,
        None,
    )
    assert dead_letter["errorClass"] == "RecordRefused"
    wait_for(lambda: runtime.outbox.waiting().events == 0, 20)  # type: ignore[union-attr]
    wait_for(lambda: runtime.consumer.step(0.2) and runtime.queries.event("small"), 30)
    assert life(runtime, "small")["outcome"] == "processed"
    runtime.consumer.close()
    runtime.stop()


@pytest.mark.kafka
def test_a_dead_letter_that_its_topic_refuses_holds_up_no_other(
    empty_kafka: str, settings: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    narrow = {
        "num_partitions": 1,
        "replication_factor": 1,
        "configs": {"max.message.bytes": "3000"},
    }
    with KafkaAdminClient(bootstrap_servers=empty_kafka, api_version=(4, 0)) as admin:
        admin.create_topics({DEAD_LETTERS: narrow}, wait_for_metadata=True)
    runtime = Runtime(load({**settings, "KAFKA_BROKER": empty_kafka}))
    write(runtime, "achievements", b"x" * 5000, b"small")
    wait_for(lambda: runtime.consumer.step(0.2) and len(dead_letters(runtime)) == 2, 30)
    wait_for(lambda: runtime.relay.step(), 30)
    assert [one.value for one in on_topic(runtime)] == [b"small"]
    assert runtime.queries.outcomes()["followUpsWaiting"] == 0
    assert any("died:" in line and "is not published" in line for line in caplog.messages)
    assert len(dead_letters(runtime, state="open")) == 2, "the table has both"
    runtime.consumer.close()
    runtime.stop()
