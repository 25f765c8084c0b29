"""The whole service as a process, on both logs: from a POST to its effects, through kill -9."""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import websocket

from jobquest.config import load
from jobquest.events import from_request
from jobquest.log import NewRecord
from jobquest.runtime import Runtime
from tests.load import Load, events_of
from tests.logs import delete_topics
from tests.samples import SAMPLES, TYPES
from tests.service import Service, wait_for


def beside(service: Service) -> Runtime:
    """The parts of a second process on the same log and database."""
    return Runtime(load({**service.settings, "PORT": "0"}))


def outcome(service: Service, id: str) -> str | None:
    answer = service.get(f"/api/events/{id}")
    return answer.json["data"]["outcome"] if answer.code == 200 else None


@pytest.mark.slow
def test_the_first_start_says_only_what_matters(tmp_path: Path) -> None:
    """The library that makes the tables logged eight lines about itself."""
    service = Service(tmp_path, fresh=True).start()
    try:
        wait_for(lambda: service.status()["state"] == "idle", 30, service.tail)
        assert "alembic" not in service.tail()
    finally:
        service.kill()


def test_each_type_goes_from_a_post_to_the_live_view(service: Service) -> None:
    def greet() -> bool:
        """A group may have to join again at any time: then the greeting says `starting`."""
        nonlocal viewer
        viewer.close()
        viewer = websocket.create_connection(service.url.replace("http", "ws") + "/ws/events")
        hello = json.loads(viewer.recv())
        assert hello["kind"] == "hello"
        running: bool = hello["status"]["consumerRunning"]
        assert running == (hello["status"]["state"] in ("running", "idle"))
        return running

    viewer = websocket.WebSocket()
    wait_for(greet, 30, service.tail)
    expected = {}
    for name in TYPES:
        answer = service.post(name, SAMPLES[name], user_id="ada")
        assert answer.code == 201, answer.json
        expected[answer.json["data"]["id"]] = name
    seen: dict[str, str] = {}
    deadline = time.monotonic() + 30
    while expected.items() - seen.items() and time.monotonic() < deadline:
        frame = json.loads(viewer.recv())
        if frame["kind"] == "events":
            seen |= {item["event"]["id"]: item["event"]["type"] for item in frame["items"]}
            assert {item["outcome"] for item in frame["items"]} == {"processed"}
    assert expected.items() <= seen.items()
    viewer.close()


def test_kill_9_under_load_loses_no_answered_event_and_keeps_xp_exact(service: Service) -> None:
    with Load(service) as load:
        chance = random.Random(3)
        for kill in range(2):
            goal = len(load.answered) + 60
            wait_for(lambda goal=goal: len(load.answered) > goal, 60, service.tail)  # type: ignore[misc]
            threading.Event().wait(chance.random() / 5)  # at any moment of whatever it does
            service.kill()
            service.start()
            assert service.get("/healthz").code == 200, kill
    service.wait_until_caught_up(60)

    load.check()
    levels = Counter(e["userId"] for e in events_of(service, "level.up"))
    for user in {user for user, _ in load.answered.values()}:
        data = service.get(f"/api/users/{user}").json["data"]
        assert levels[user] == data["level"] - 1  # XP came in steps smaller than a level


def test_a_follow_up_lost_between_commit_and_publish_comes_after_the_restart(
    stopped_service: Service,
) -> None:
    """A process that dies right after the transaction: it consumed, and relayed nothing."""
    dying = beside(stopped_service)
    dying.producer.publish("xp.earned", "ada", {"xpAmount": 150, "totalXp": 150})
    wait_for(lambda: dying.consumer.step(0.2), 30)
    assert dying.queries.outcomes()["followUpsWaiting"] == 1
    dying.consumer.close()
    dying.log.close()
    service = stopped_service.start()
    wait_for(lambda: events_of(service, "notification.sent"), 30, service.tail)
    [level] = events_of(service, "level.up")
    assert (level["userId"], level["data"]) == ("ada", {"newLevel": 2, "totalXp": 150})


def test_a_record_of_another_client_with_an_unknown_field_is_processed(service: Service) -> None:
    event = from_request("xp.earned", "ada", SAMPLES["xp.earned"], id="foreign").to_dict()
    event["data"]["mood"] = "good"
    event["traceparent"] = "00-abc"
    other = beside(service)
    [appended] = other.log.append(
        [NewRecord("achievements", b"ada", json.dumps(event, indent=1).encode())]
    )
    appended.result(10)
    other.log.close()
    wait_for(lambda: outcome(service, "foreign"), 20, service.tail)
    life = service.get("/api/events/foreign").json["data"]
    assert life["outcome"] == "processed"
    assert (life["event"]["data"]["mood"], life["event"]["traceparent"]) == ("good", "00-abc")


def test_poison_on_a_topic_dies_alone(service: Service) -> None:
    other = beside(service)
    values = [b"\xff\xfe", b"", b"[" * 1_000_000, b"null", b'{"type": "user.login"}']
    for future in other.log.append([NewRecord("system-events", b"k", value) for value in values]):
        future.result(10)
    other.log.close()
    service.post("user.login", {}, id="after")
    wait_for(lambda: outcome(service, "after") == "processed", 20, service.tail)
    wait_for(lambda: service.status()["deadLetters"] == len(values), 20, service.tail)
    wait_for(lambda: service.status()["consumerRunning"], 20, service.tail)


@pytest.mark.kafka
def test_a_topic_deleted_and_created_again_is_consumed_from_its_start(
    empty_kafka: str, tmp_path: Path
) -> None:
    service = Service(tmp_path, KAFKA_BROKER=empty_kafka, JOBQUEST_WORKERS="1").start()
    try:
        for n in range(3):
            service.post("user.login", {}, id=f"before-{n}")
        wait_for(lambda: outcome(service, "before-2"), 30, service.tail)
        delete_topics(empty_kafka, ["system-events"])
        other = beside(service)  # makes what is missing, as a restarted process does
        assert len(other.report.topics()) == 8
        for n in range(5):
            other.producer.publish("user.login", "ada", {}, id=f"after-{n}")
        other.log.close()
        wait_for(lambda: all(outcome(service, f"after-{n}") for n in range(5)), 30, service.tail)
    finally:
        service.kill()


def test_what_the_operator_wants_outlives_a_restart(service: Service) -> None:
    assert service.switch("stop").json["data"]["state"] == "stopped"
    service.post("user.login", {}, id="waits")
    service.stop()
    service.start()
    status = service.status()
    assert (status["state"], status["consumerRunning"]) == ("stopped", False)
    assert status["lag"]["messages"] == 1
    assert status["lag"]["seconds"] > 0
    assert outcome(service, "waits") is None
    answer = service.switch("start")
    assert answer.code == 200, answer.json
    wait_for(lambda: outcome(service, "waits") == "processed", 20, service.tail)


def test_viewers_replay_what_they_missed_and_are_told_of_gaps(service: Service) -> None:
    service.post("user.login", {}, user_id="u1", id="e0")
    wait_for(lambda: len(events_of(service, "user.login")) == 1, 20, service.tail)
    [seen_before] = service.get("/api/events").json["data"]["events"]
    for n in range(1, 4):
        service.post("user.login", {}, user_id=f"u{n}", id=f"e{n}")
    wait_for(lambda: len(events_of(service, "user.login")) == 4, 20, service.tail)
    base = service.url.replace("http", "ws") + "/ws/events"
    query = f"since={seen_before['seq']}&userId=u1&userId=u2"
    viewer = websocket.create_connection(f"{base}?{query}", timeout=20)
    frames = [json.loads(viewer.recv()) for _ in range(2)]
    assert frames[0]["kind"] == "hello"
    seen = {item["event"]["id"] for frame in frames for item in frame.get("items", [])}
    while len(seen) < 2:
        seen |= {item["event"]["id"] for item in json.loads(viewer.recv()).get("items", [])}
    assert seen == {"e1", "e2"}
    viewer.close()


@pytest.mark.slow
def test_a_second_server_on_a_taken_port_ends_with_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        second = Service(tmp_path, PORT=str(taken.getsockname()[1]))
        with pytest.raises(AssertionError):
            second.start()
    assert second.output == [line for line in second.output if line.startswith("error: PORT=")]
    assert len(second.output) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "value", "says"),
    [
        ("HOST", "0.0.0.0", "flask operators add"),
        ("JOBQUEST_PUBLIC_URL", "https://events.example", "flask operators add"),
        ("JOBQUEST_TRUSTED_PROXIES", "1", "JOBQUEST_AUTH=proxy"),
        ("KAFKA_BROKER", "localhost", "localhost:9092"),
        ("JOBQUEST_WORKERS", "4", "embedded"),
        ("JOBQUEST_TYPO", "1", "not a setting"),
        ("JOBQUEST_HANDLERS", "no_such_module", "can't be imported"),
    ],
)
def test_a_wrong_setting_ends_the_start_with_one_line(
    tmp_path: Path, setting: str, value: str, says: str
) -> None:
    service = Service(tmp_path, **{setting: value})
    with pytest.raises(AssertionError):
        service.start()
    [line] = service.output
    assert line.startswith(f"error: {setting}")
    assert says in line
