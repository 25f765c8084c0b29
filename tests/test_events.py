"""The vocabulary: what the strict door takes, what the topic tolerates."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from jobquest.errors import InvalidEvent
from jobquest.events import CATALOGUE, TOPICS, Event, format_time, from_record, from_request
from jobquest.events.levels import level_for_xp, xp_for_level
from tests.samples import SAMPLES, TYPES

NOW = datetime(2026, 11, 24, 6, 0, tzinfo=UTC)
NOW_MS = int(NOW.timestamp() * 1000)


def errors_of(*args: Any, **options: Any) -> dict[str, list[str]]:
    with pytest.raises(InvalidEvent) as refused:
        from_request(*args, **options)
    return refused.value.errors


DOCUMENTED = """
mission.started mission.completed mission.failed job.applied job.status.updated
achievement.unlocked level.up xp.earned streak.milestone daily.challenge.completed
daily.challenge.available learning.started learning.completed notification.sent notification.read
user.registered user.login user.logout system.error notebook.entry.created
"""


def test_the_catalogue_has_the_20_documented_types_and_8_topics() -> None:
    assert CATALOGUE.keys() >= set(DOCUMENTED.split())
    assert set(TOPICS) >= {
        "mission-events",
        "job-applications",
        "achievements",
        "daily-challenges",
        "learning-progress",
        "notifications",
        "system-events",
        "user-activities",
    }


@pytest.mark.parametrize("name", TYPES)
def test_a_sample_of_each_type_passes_and_survives_the_topic(name: str) -> None:
    event = from_request(name, "user_1", SAMPLES[name], now=NOW)
    assert from_record(event.to_json(), NOW_MS) == event
    assert event.to_dict()["data"] == SAMPLES[name]


@pytest.mark.parametrize("name", TYPES)
def test_each_required_field_is_required_and_each_optional_one_is_not(name: str) -> None:
    row = CATALOGUE[name]
    for field in row.required:
        data = {k: v for k, v in SAMPLES[name].items() if k != field}
        assert list(errors_of(name, "u", data)) == [f"data.{field}"]
    assert from_request(name, "u", {field: SAMPLES[name][field] for field in row.required})


@pytest.mark.parametrize("name", TYPES)
def test_a_wrong_type_in_any_field_is_refused_by_name(name: str) -> None:
    for field in CATALOGUE[name].fields:
        for wrong in (None, {"a": 1}, True, "" if isinstance(SAMPLES[name][field], str) else "5"):
            data = {**SAMPLES[name], field: wrong}
            assert list(errors_of(name, "u", data)) == [f"data.{field}"], wrong


def test_every_error_is_told_at_once() -> None:
    errors = errors_of(
        "mission.completed",
        "two\nlines",
        {"missionId": " ", "missionName": "x" * 501, "duration": -1, "xpEarned": 1.5, "new": 1},
        metadata=[],
        id="jq:mine",
        timestamp="yesterday",
    )
    assert set(errors) == {
        "userId",
        "metadata",
        "id",
        "timestamp",
        "data.missionId",
        "data.missionName",
        "data.missionType",
        "data.duration",
        "data.xpEarned",
        "data.new",
    }


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("xpEarned", [0, 1_000_000_000], [-1, 1_000_000_001, 1.0, True, "1"]),
        ("duration", [0, 0.5, 1_000_000_000], [-0.1, 1_000_000_001, False, "1"]),
        ("missionName", ["x", "x" * 500, "日本"], ["", "  ", "x" * 501, 1]),
    ],
)
def test_values_keep_to_their_range(field: str, good: list[Any], bad: list[Any]) -> None:
    sample = SAMPLES["mission.completed"]
    for value in good:
        assert from_request("mission.completed", "u", {**sample, field: value})
    for value in bad:
        assert errors_of("mission.completed", "u", {**sample, field: value})


@pytest.mark.parametrize("progress", [-1, 100.1])
def test_progress_is_a_percentage(progress: float) -> None:
    data = {**SAMPLES["learning.completed"], "progress": progress}
    assert list(errors_of("learning.completed", "u", data)) == ["data.progress"]


def test_long_texts_may_be_long() -> None:
    data = {**SAMPLES["notification.sent"], "message": "x" * 5000}
    assert from_request("notification.sent", "u", data)
    assert errors_of("notification.sent", "u", {**data, "message": "x" * 5001})


@pytest.mark.parametrize("user_id", ["", " ", "x" * 129, "a\nb", "a\x1bb", "a\u2028b", "\x7f", 5])
def test_a_user_id_that_could_break_a_log_line_is_refused(user_id: Any) -> None:
    assert list(errors_of("user.login", user_id, {})) == ["userId"]


@pytest.mark.parametrize("user_id", ["u", "x" * 128, "Ada Lovelace", "日本", "a/b?c#d"])
def test_other_user_ids_pass(user_id: str) -> None:
    assert from_request("user.login", user_id, {}).user_id == user_id


@pytest.mark.parametrize("id", ["", "a b", "x" * 101, "jq:x", "ü", "a\n", 7])
def test_ids_outside_the_alphabet_and_ours_are_refused(id: Any) -> None:
    assert list(errors_of("user.login", "u", {}, id=id)) == ["id"]


@pytest.mark.parametrize(
    ("text", "utc"),
    [
        ("2026-11-24T06:00:00Z", "2026-11-24T06:00:00.000Z"),
        ("2026-11-24t07:00:00.123987+01:00", "2026-11-24T06:00:00.123Z"),
        ("2026-11-24T06:04:59z", "2026-11-24T06:04:59.000Z"),
        ("2000-01-01T00:00:00Z", "2000-01-01T00:00:00.000Z"),
    ],
)
def test_times_become_utc_with_milliseconds(text: str, utc: str) -> None:
    event = from_request("user.login", "u", {}, timestamp=text, now=NOW)
    assert format_time(event.timestamp) == utc


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-24",
        "2026-11-24T06:00:00",
        "20261124T060000Z",
        "2026-13-01T00:00:00Z",
        "1999-12-31T23:59:59Z",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00",
        "2026-11-24T06:05:01Z",
        1_700_000_000,
    ],
)
def test_other_times_are_refused(text: Any) -> None:
    assert list(errors_of("user.login", "u", {}, timestamp=text, now=NOW)) == ["timestamp"]


def test_metadata_is_bounded_in_depth_and_size() -> None:
    deep: dict[str, Any] = {}
    for _ in range(15):
        deep = {"a": deep}
    assert from_request("user.login", "u", {}, metadata=deep)
    assert errors_of("user.login", "u", {}, metadata={"a": deep})
    assert from_request("user.login", "u", {}, metadata={"a": "x" * 8000})
    assert errors_of("user.login", "u", {}, metadata={"a": "x" * 8192})


def test_nobody_can_change_an_event() -> None:
    event = from_request(
        "notebook.entry.created", "u", SAMPLES["notebook.entry.created"], metadata={"a": {"b": [1]}}
    )
    with pytest.raises(TypeError):
        event.data["title"] = "other"  # type: ignore[index]
    with pytest.raises(TypeError):
        event.metadata["a"]["b"] = 1
    with pytest.raises(AttributeError):
        event.data["tags"].append("x")
    with pytest.raises(AttributeError):
        event.user_id = "x"  # type: ignore[misc]


def record(**changes: Any) -> bytes:
    event = from_request("user.login", "u", {"userEmail": "a@b.c"}, now=NOW).to_dict()
    members = {**event, **changes}
    return orjson.dumps({k: v for k, v in members.items() if v is not ...})


def test_a_field_of_a_newer_producer_is_kept() -> None:
    event = from_record(record(data={"mood": "good"}, version=2, traceId={"a": [1]}), NOW_MS)
    again = from_record(event.to_json(), NOW_MS)
    assert again.data["mood"] == "good"
    assert (again.extra["version"], again.to_dict()["traceId"]) == (2, {"a": [1]})


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"null",
        b"[]",
        b"\xff\xfe",
        record(type="no.such"),
        record(type=...),
        record(userId=...),
        record(id=...),
        record(id="a b"),
        record(timestamp=...),
        record(data=...),
        record(data={"userEmail": 1}),
        record(timestamp=format_time(NOW + timedelta(minutes=6))),
    ],
)
def test_what_is_no_event_on_the_topic_is_invalid(value: bytes | None) -> None:
    with pytest.raises(InvalidEvent):
        from_record(value, NOW_MS)


def test_ahead_is_measured_from_when_the_log_took_it() -> None:
    """Else a record would be invalid today and valid when it is read again tomorrow."""
    value = record(timestamp=format_time(NOW + timedelta(minutes=4)))
    assert isinstance(from_record(value, NOW_MS), Event)


def test_levels_need_the_xp_that_the_formula_says() -> None:
    assert [xp_for_level(n) for n in range(1, 6)] == [0, 100, 300, 600, 1000]
    for level in (1, 2, 3, 50, 4472, 10**9):
        assert level_for_xp(xp_for_level(level)) == level
        assert level_for_xp(xp_for_level(level + 1) - 1) == level
