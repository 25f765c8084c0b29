"""JobQuest's own services on top of the producer, and the exact log lines."""

from __future__ import annotations

import inspect
import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jobquest.activity import Activity
from jobquest.config import load
from jobquest.errors import InvalidEvent, LogUnavailable
from jobquest.events import CATALOGUE
from jobquest.producer import Producer
from jobquest.runtime import Runtime
from tests import publish_methods
from tests.samples import SAMPLES, TYPES

ACTIVITY: list[tuple[str, dict[str, Any], str]] = [
    ("log_mission_started", {"mission_title": "T", "mission_id": "m"}, "mission.started"),
    (
        "log_mission_completed",
        {"mission_title": "T", "mission_id": "m", "duration": 5, "xp_earned": 1},
        "mission.completed",
    ),
    ("log_mission_failed", {"mission_title": "T", "mission_id": "m"}, "mission.failed"),
    ("log_job_applied", {"company_name": "A", "position": "P", "job_id": "j"}, "job.applied"),
    (
        "log_job_status_updated",
        {
            "company_name": "A",
            "position": "P",
            "job_id": "j",
            "new_status": "offer",
            "previous_status": "applied",
        },
        "job.status.updated",
    ),
    (
        "log_achievement_unlocked",
        {"achievement_name": "A", "achievement_id": "a", "xp_amount": 1},
        "achievement.unlocked",
    ),
    ("log_level_up", {"new_level": 2, "total_xp": 100}, "level.up"),
    ("log_xp_earned", {"xp_amount": 1, "total_xp": 1}, "xp.earned"),
    ("log_streak_milestone", {"streak_days": 7}, "streak.milestone"),
    (
        "log_daily_challenge_completed",
        {
            "challenge_title": "T",
            "challenge_id": "c",
            "challenge_description": "D",
            "xp_reward": 1,
        },
        "daily.challenge.completed",
    ),
    (
        "log_learning_started",
        {"resource_title": "T", "resource_id": "r", "resource_type": "course"},
        "learning.started",
    ),
    (
        "log_learning_completed",
        {"resource_title": "T", "resource_id": "r", "resource_type": "course"},
        "learning.completed",
    ),
    (
        "log_notebook_entry_created",
        {"title": "T", "entry_id": "e", "tags": ["a"], "word_count": 3},
        "notebook.entry.created",
    ),
    ("log_user_registered", {"user_email": "a@b.c"}, "user.registered"),
    ("log_user_login", {"ip_address": "192.0.2.1"}, "user.login"),
    ("log_user_logout", {}, "user.logout"),
]


@pytest.mark.parametrize(
    ("name", "arguments", "event_type"), ACTIVITY, ids=[a[0] for a in ACTIVITY]
)
def test_each_activity_publishes_its_event(
    runtime: Runtime, name: str, arguments: dict[str, Any], event_type: str
) -> None:
    published = getattr(runtime.activity, name)("ada", **arguments)
    assert (published.event.type, published.event.user_id) == (event_type, "ada")
    assert published.position.topic == CATALOGUE[event_type].topic


def test_every_activity_is_covered() -> None:
    assert {a[0] for a in ACTIVITY} == {n for n in dir(Activity) if n.startswith("log_")}


def test_the_documented_call_of_an_activity_works_by_position(runtime: Runtime) -> None:
    published = runtime.activity.log_mission_started("ada", "Tailor the CV", "m1")
    assert published.event.data["missionName"] == "Tailor the CV"
    assert published.event.data["missionId"] == "m1"


@pytest.mark.parametrize("name", TYPES)
def test_each_type_has_a_publish_method_with_its_fields(runtime: Runtime, name: str) -> None:
    method = getattr(runtime.producer, "publish_" + name.replace(".", "_"))
    data = SAMPLES[name]
    published = method("ada", *(data[field] for field in CATALOGUE[name].required))
    assert dict(published.event.to_dict()["data"]) == {f: data[f] for f in CATALOGUE[name].required}
    assert method.__doc__
    with pytest.raises(TypeError):
        method("ada", no_such_field=1)


def test_the_documented_signature_of_a_publish_method() -> None:
    signature = inspect.signature(Producer.publish_mission_completed)
    assert list(signature.parameters)[1:7] == [
        "user_id",
        "mission_id",
        "mission_name",
        "mission_type",
        "duration",
        "xp_earned",
    ]


def test_the_publish_methods_are_those_of_the_catalogue() -> None:
    assert publish_methods.PLACE.read_text() == publish_methods.text(), (
        "run `python -m tests.publish_methods`"
    )


def test_no_other_publish_method_exists(runtime: Runtime) -> None:
    assert not hasattr(runtime.producer, "publish_mission_complete")


# What a caller writes → a word of mypy's message, none where the call is right.
CALLS = {
    'p.publish_mission_completed("ada", "m1", "CV", "focus", 25, 50)': "",
    'p.publish_mission_completed("ada", "m1", "CV", "focus", duration=2.5, xp_earned=50)': "",
    'p.publish_mission_failed("ada", "m1", "CV", "focus", reason="Interrupted")': "",
    'p.publish_user_login("ada", id="a", timestamp="2026-11-24T06:00:00Z", metadata={"a": 1})': "",
    'p.publish_notebook_entry_created("ada", "e1", "Notes", ["a"], 12)': "",
    'p.publish_mission_complete("ada", "m1", "CV", "focus", 25, 50)': "has no attribute",
    'p.publish_xp("ada", 1, 2)': "has no attribute",
    'p.publish_mission_completed("ada", "m1", "CV", "focus", 25)': "Missing positional argument",
    'p.publish_mission_completed("ada", "m1", "CV", "focus", 25, "50")': "incompatible type",
    'p.publish_mission_completed("ada", "m1", "CV", "focus", 25, 1.5)': "incompatible type",
    'p.publish_mission_completed("ada", 1, "CV", "focus", 25, 50)': "incompatible type",
    'p.publish_mission_started("ada", "m1", "CV", "focus", xp=1)': "Unexpected keyword",
    'p.publish_user_login("ada", timestamp=1)': "incompatible type",
    'p.publish_user_login("ada", None, None, None, "an-id")': "Too many positional arguments",
    'p.publish_notebook_entry_created("ada", "e1", "Notes", "a", 12)': "incompatible type",
    'p.publish_level_up("ada", new_level=3)': "Missing positional argument",
    'a.log_user_login("ada", email="a@b.c")': "Unexpected keyword",
    'a.log_mission("ada", "CV", "m1")': "has no attribute",
}


@pytest.mark.slow
def test_a_wrong_name_or_argument_of_a_publish_method_is_a_type_error(tmp_path: Path) -> None:
    head = [
        "from jobquest.activity import Activity",
        "from jobquest.producer import Producer",
        "def calls(p: Producer, a: Activity) -> None:",
    ]
    snippet = tmp_path / "snippet.py"
    snippet.write_text("\n".join([*head, *(f"    {call}" for call in CALLS)]))
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", root / "pyproject.toml", snippet],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=150,
    )
    said: dict[int, str] = {}
    for line in done.stdout.splitlines():
        if found := re.match(r".*snippet\.py:(\d+): error: (.*)", line):
            said.setdefault(int(found[1]), found[2])
    answers = {call: said.get(number, "") for number, call in enumerate(CALLS, len(head) + 1)}
    for call, word in CALLS.items():
        assert word in answers[call] if word else not answers[call], (call, done.stdout)


def test_publishing_and_processing_say_so_in_these_words(
    runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    runtime.producer.publish("user.login", "ada", {})
    runtime.consumer.step()
    assert "Published event user.login to topic system-events for user ada" in caplog.messages
    assert "Processing event: user.login for user: ada" in caplog.messages


def test_failing_says_so_in_these_words(
    settings: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    runtime = Runtime(load(settings))

    def handler(_event: object) -> None:
        raise ValueError("no luck")

    runtime.consumer.register_event_handler("user.login", handler)
    runtime.producer.publish("user.login", "ada", {})
    runtime.consumer.step()
    assert "Failed to process event: no luck" in caplog.messages
    runtime.consumer.close()
    runtime.log.close()
    with pytest.raises(LogUnavailable):
        runtime.producer.publish("user.login", "ada", {})
    assert "Failed to publish event: The embedded log is closed." in caplog.messages
    runtime.stop()


@pytest.mark.parametrize("data", [{"a": object()}, {"a": {1, 2}}, {1: 2}, [], None, "text"])
def test_python_values_that_are_no_json_are_refused(runtime: Runtime, data: Any) -> None:
    with pytest.raises(InvalidEvent):
        runtime.producer.publish("user.login", "ada", data)


def test_a_read_side_that_is_away_stops_no_publishing(settings: dict[str, str]) -> None:
    """A duplicate is dropped by the consumer all the same."""
    runtime = Runtime(
        load({**settings, "DATABASE_URL": "postgresql+psycopg://nobody@127.0.0.1:1/x"})
    )
    assert runtime.producer.publish("user.login", "ada", {}, id="mine").result == "accepted"
    runtime.close_log()
