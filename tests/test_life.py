"""One event's life: each failed try, what it changed, what caused it and what followed; and what
was done in each minute."""

from __future__ import annotations

from typing import Any

import pytest

from jobquest.runtime import Runtime
from tests.samples import SAMPLES, TYPES
from tests.test_consumer import consume
from tests.test_retries import failing, life, publish, retry


@pytest.fixture
def settings(settings: dict[str, str]) -> dict[str, str]:
    return {**settings, "JOBQUEST_RETRY_MAX_ATTEMPTS": "3"}


def test_each_failed_try_stands_with_its_error(runtime: Runtime) -> None:
    handler = failing(runtime, "ada")
    publish(runtime, "a1", "ada")
    publish(runtime, "a2", "ada")
    consume(runtime)
    retry(runtime, "a1")
    handler.users.clear()
    retry(runtime, "a1")
    tries = life(runtime, "a1")["attempts"]
    assert [(one["attempt"], one["outcome"]) for one in tries] == [(1, "retrying"), (2, "retrying")]
    assert {one["error"] for one in tries} == {"ValueError: unlucky"}
    assert {one["errorClass"] for one in tries} == {"ValueError"}
    assert all(one["failedAt"] and one["path"].startswith("test_retries.py") for one in tries)
    assert life(runtime, "a2")["attempts"] == [], "it only waited"


def test_the_try_that_an_event_dies_of_is_its_last(runtime: Runtime) -> None:
    failing(runtime, "ada")
    publish(runtime, "a1", "ada")
    consume(runtime)
    for _ in range(2):
        retry(runtime, "a1")
    runtime.redrive.redrive([life(runtime, "a1")["deadLetter"]["id"]])
    consume(runtime)
    found = life(runtime, "a1")
    assert [one["outcome"] for one in found["attempts"]] == [
        "retrying",
        "retrying",
        "dead",
        "retrying",  # the first after the redrive
    ]
    assert [dead_letter["state"] for dead_letter in found["deadLetters"]] == ["redriven"]


@pytest.mark.parametrize("event_type", TYPES)
def test_every_type_tells_the_rows_that_it_changed(runtime: Runtime, event_type: str) -> None:
    runtime.producer.publish(event_type, "ada", SAMPLES[event_type], id="e1")
    consume(runtime)
    effects = {one["table"]: one for one in life(runtime, "e1")["effects"]}
    assert {"user_stats", "minute_counts"} <= effects.keys()
    stats = effects["user_stats"]
    assert stats["key"] == {"userId": "ada"}
    assert stats["added"]["eventCount"] == 1
    assert "level" not in stats["added"] | stats["given"]
    for effect in effects.values():
        assert effect["now"] is not None
        for name, value in effect["given"].items():
            if effect["table"] != "user_stats":
                assert effect["now"][name] == value


def test_what_an_event_added_and_set_is_told_apart(runtime: Runtime) -> None:
    data = {"missionId": "m", "missionName": "Tailor", "missionType": "cv"}
    data |= {"duration": 25, "xpEarned": 350}
    for id in ("m1", "m2"):
        runtime.producer.publish("mission.completed", "ada", data, id=id)
    runtime.producer.publish("job.applied", "ada", SAMPLES["job.applied"], id="j1")
    consume(runtime)
    [stats] = [one for one in life(runtime, "m1")["effects"] if one["table"] == "user_stats"]
    assert stats["added"] == {
        "xp": 350,
        "missionsCompleted": 1,
        "focusMinutes": 25,
        "eventCount": 1,
    }
    assert stats["now"]["xp"] == 700, "as it is now, with what came later"
    [job] = [one for one in life(runtime, "j1")["effects"] if one["table"] == "applications"]
    assert (job["added"], job["given"]["status"]) == ({}, "applied")


def test_follow_ups_and_their_cause_know_each_other(runtime: Runtime) -> None:
    runtime.producer.publish("xp.earned", "ada", {"xpAmount": 150, "totalXp": 0}, id="x1")
    consume(runtime)
    runtime.relay.step()
    consume(runtime)
    runtime.relay.step()
    consume(runtime)
    [level_up] = life(runtime, "x1")["followUps"]
    assert level_up["event"]["type"] == "level.up"
    level = life(runtime, level_up["event"]["id"])
    assert level["causedBy"] == "x1"
    [notice] = level["followUps"]
    assert notice["event"]["type"] == "notification.sent"
    assert life(runtime, "x1")["causedBy"] is None
    runtime.rebuild.run()
    assert life(runtime, level_up["event"]["id"])["causedBy"] == "x1", "a rebuild finds it again"


def test_a_client_can_not_claim_a_cause(runtime: Runtime) -> None:
    runtime.producer.publish("xp.earned", "ada", {"xpAmount": 1, "totalXp": 0}, id="x1")
    metadata: dict[str, Any] = {"causedBy": "x1"}
    runtime.producer.publish(
        "streak.milestone", "ada", {"streakDays": 1}, metadata=metadata, id="s1"
    )
    consume(runtime)
    assert life(runtime, "s1")["causedBy"] is None
    assert life(runtime, "x1")["followUps"] == []


def test_minutes_count_what_was_done_in_them(runtime: Runtime) -> None:
    failing(runtime, "ada")
    publish(runtime, "a1", "ada")
    publish(runtime, "b1", "bob")
    publish(runtime, "b2", "bob")
    consume(runtime)
    runtime.read_side.note_lag(7, 1.5)
    runtime.read_side.note_lag(3, 0.5)
    for _ in range(2):
        retry(runtime, "a1")
    minutes = runtime.queries.minutes(60)
    total = {name: sum(one[name] for one in minutes) for name in ("processed", "retrying", "dead")}
    assert total == {"processed": 2, "retrying": 2, "dead": 1}
    assert max((one["lagMessages"], one["lagSeconds"]) for one in minutes) == (7, 1.5)
    runtime.rebuild.run()
    assert runtime.queries.minutes(60) == minutes
