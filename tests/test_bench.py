"""The bench's own arithmetic: what it reads from wrk, how it compares, what it writes."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing, nullcontext
from pathlib import Path

import pytest

from bench import http_load, workload
from bench.consuming import check
from bench.goals import GOALS
from bench.plan import MeasureFailed, interleaved
from bench.posting import check_kept
from bench.report import Goal, Results, Series, write_section
from bench.watchers import Arrivals
from jobquest.events import TOPICS, from_record, from_request

OURS, THEIRS = Series("single", "ours", "events/s"), Series("single", "theirs", "events/s")
FIGURES = {"requests": 300, "us": 2_000_000, "p50_us": 1_500, "p99_us": 9_000}


def told(**more: int) -> str:
    figures = json.dumps(FIGURES | {"refused": 0, "failed": 0} | more)
    return f"Running 2s test @ http://127.0.0.1:1\n  1 threads\n\nFIGURES {figures}\n"


def measured(ours: list[float], theirs: list[float]) -> Results:
    results = Results()
    for mine, yours in zip(ours, theirs, strict=True):
        results.note("single", "ours", **{"events/s": mine})
        results.note("single", "theirs", **{"events/s": yours})
    return results


def test_what_wrk_tells_is_read_in_events_and_milliseconds() -> None:
    run = http_load.figures(told(), events=100)
    assert (run.answered, run.seconds, run.p50_ms, run.p99_ms) == (30_000, 2.0, 1.5, 9.0)
    assert run.events_per_second == 15_000


@pytest.mark.parametrize("wrong", [{"refused": 1}, {"failed": 1}, {"requests": 0}])
def test_a_run_with_requests_that_fail_measures_nothing(wrong: dict[str, int]) -> None:
    with pytest.raises(MeasureFailed):
        http_load.figures(told(**wrong), events=1)


def test_a_wrk_that_does_not_start_says_why() -> None:
    with pytest.raises(MeasureFailed, match="unable to connect"):
        http_load.figures("unable to connect to 127.0.0.1:1 Connection refused\n", events=1)


@pytest.mark.parametrize(
    ("kept", "is_enough"), [(99, False), (100, True), (106, True), (107, False)]
)
def test_every_answered_event_must_be_on_its_topic(kept: int, is_enough: bool) -> None:
    with nullcontext() if is_enough else pytest.raises(MeasureFailed, match=f"but {kept} are"):
        check_kept("ours", 100, kept, broken_off=6)


@pytest.mark.parametrize(("counted", "is_right"), [(3, True), (4, False)])
def test_every_event_must_be_counted_once(tmp_path: Path, counted: int, is_right: bool) -> None:
    with closing(sqlite3.connect(tmp_path / "read.db")) as read_side:
        read_side.execute("CREATE TABLE events AS SELECT 1 UNION SELECT 2 UNION SELECT 3")
        read_side.execute("CREATE TABLE user_stats (event_count, xp)")
        read_side.execute("INSERT INTO user_stats VALUES (?, 60), (0, 10)", (counted,))
        read_side.commit()
    expected = workload.Expected()
    expected.events, expected.xp = 3, 70
    with nullcontext() if is_right else pytest.raises(MeasureFailed):
        check(tmp_path, expected)


def test_the_ratio_is_the_median_of_the_rounds_own() -> None:
    results = measured([10, 300, 20], [10, 100, 40])  # of the medians it would be 0.5
    assert results.value(Goal("", OURS, THEIRS, "times", 1)) == 1.0
    assert results.value(Goal("", OURS, THEIRS, "plus", 1)) == 0
    assert results.value(Goal("", OURS, None, "is", 1)) == 20


@pytest.mark.parametrize(
    ("least", "stretch", "at_most", "verdict"),
    [
        (2.5, None, False, "**missed**"),
        (2.0, 3.0, False, "met"),
        (1.0, 2.0, False, "met, stretch too"),
        (1.9, None, True, "**missed**"),
        (2.0, 1.0, True, "met"),
        (3.0, 2.0, True, "met, stretch too"),
    ],
)
def test_a_goal_is_met_or_said_to_be_missed(
    least: float, stretch: float | None, at_most: bool, verdict: str
) -> None:
    goal = Goal("faster", OURS, THEIRS, "times", least, stretch, at_most)
    results = measured([20], [10])
    assert results.table([goal]).endswith(f"| {verdict} |")
    assert bool(results.missed([goal])) == (verdict == "**missed**")


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    assert Results().missed(GOALS) == []
    assert len(Results().table(GOALS).splitlines()) == 2


def test_a_measure_that_fails_leaves_no_figure_but_a_line() -> None:
    results = measured([20], [10])
    results.note("batch", "ours", **{"events/s": 5})
    results.fail("single", MeasureFailed("It lost events."))
    assert results.failed == ["failed: single: It lost events."]
    assert [series.measure for series in results.rounds] == ["batch"]


def test_every_round_has_everyone_once_and_another_first() -> None:
    assert list(interleaved(["a", "b", "c"], 4)) == [*"abc", *"bca", *"cab", *"abc"]


def test_a_section_is_replaced_and_the_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    for title, text in (("One", "first"), ("Two", "| a |\n| - |"), ("One", "second")):
        write_section(title, text, path)
    assert path.read_text().endswith("\n\n## One\n\nsecond\n\n## Two\n\n| a |\n| - |\n")


def test_what_is_posted_is_valid_and_about_260_bytes_long() -> None:
    for body in workload.single().bodies:
        asked = json.loads(body)
        event = from_request(asked["eventType"], asked["userId"], asked["data"])
        assert 240 <= len(event.to_json()) <= 280
    request = workload.batch()
    assert all(len(json.loads(body)["events"]) == request.events for body in request.bodies)


def test_what_is_filled_in_is_valid_of_every_topic_and_added_up() -> None:
    expected = workload.Expected()
    events = list(expected.counting(workload.mix(500)))
    assert {event.topic for event in events} == set(TOPICS)
    assert [from_record(event.to_json(), event.time_ms).id for event in events] == [
        event.id for event in events
    ]
    assert expected.events == 500
    assert expected.xp > 0


def test_ages_are_told_of_every_event_of_every_frame() -> None:
    arrivals = Arrivals()
    frame = b'{"seq":1,"event":{"id":"bench-%d-1"}},{"event":{"id":"bench-%d-2"}}'
    for late_ms in (10, 20):
        arrivals.note(1_000_000 * (100 + late_ms), frame % (100_000_000, 100_000_000))
    assert arrivals.told() == {"received": 4, "p50_ms": 10.0, "p99_ms": 20.0}
