"""The bench's own arithmetic: what it reads from wrk, how it compares, what it writes."""

from __future__ import annotations

import importlib
import json
import shutil
import socket
import socketserver
import sqlite3
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench import clients, http_load, steady, workload
from bench.__main__ import MEASURES
from bench.clients import Client, Load, Watch, due
from bench.consuming import check
from bench.goals import GOALS
from bench.plan import MeasureFailed, interleaved
from bench.posting import check_kept
from bench.report import Goal, Results, Series, write_section
from bench.watchers import Arrivals
from jobquest.access.tokens import Tokens
from jobquest.config import load
from jobquest.events import CATALOGUE, TOPICS, from_record, from_request
from jobquest.events.requests import Request, read, read_batch
from tests.service import wait_for

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


class Recorder(socketserver.ThreadingTCPServer):
    """A server that keeps what it is sent, and answers each request with `code`, in two pieces."""

    daemon_threads = True

    def __init__(self, code: int = 201) -> None:
        super().__init__(("127.0.0.1", 0), Recording)
        self.code, self.took = code, list[tuple[str, bytes]]()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def load(self, connections: int, watch: Watch | None = None) -> Load:
        """Clients of the bench, connected to it."""
        made = [Client(self.address, split=number == 0) for number in range(connections)]
        return Load(made, clients.Requests(workload.realistic(), "127.0.0.1"), watch)

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", int(self.server_address[1])


class Recording(socketserver.StreamRequestHandler):
    server: Recorder
    disable_nagle_algorithm = True

    def handle(self) -> None:
        with suppress(ConnectionError):  # wrk breaks requests off
            while head := self._head():
                length = head.split("Content-Length: ")[1].split("\r\n")[0]
                self.server.took.append((head, self.rfile.read(int(length))))
                code = f"HTTP/1.1 {self.server.code} Said\r\n"
                self.wfile.write(f"{code}Content-Length: 2\r\n\r\n".encode())
                self.wfile.write(b"{}")

    def _head(self) -> str:
        """The next head, empty once the client has gone."""
        lines: list[bytes] = []
        while (line := self.rfile.readline()) != b"\r\n":
            if not line:
                return ""
            lines.append(line)
        return b"".join(lines).decode()


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    with Recorder() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


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
        check_kept("ours", 100, kept, aborted=6)


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
    ("least", "bucket", "at_most", "verdict"),
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
    least: float, bucket: float | None, at_most: bool, verdict: str
) -> None:
    goal = Goal("faster", OURS, THEIRS, "times", least, bucket, at_most)
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
    assert arrivals.figures() == {"received": 4, "p50_ms": 10.0, "p99_ms": 20.0}


def test_ids_are_spelled_as_uuid4_come_in_no_order_and_once() -> None:
    ids = workload.Ids()
    made = [ids.new() for _ in range(10_000)]
    assert len(set(made)) == 10_000
    assert {uuid.UUID(id).version for id in made} == {4}
    assert made != sorted(made)
    assert not set(made) & {another.new() for another in [workload.Ids()] for _ in range(10_000)}


def test_a_realistic_request_is_taken_at_the_door_and_comes_through_a_proxy() -> None:
    request = workload.realistic()
    texts = request.texts("127.0.0.1:5000")
    found = [read(text.partition("\r\n\r\n")[2].encode()) for text in texts]
    assert all(one.has_id for one in found)
    assert {one.event.type for one in found} == set(CATALOGUE)
    head = dict(line.split(": ", 1) for line in texts[0].split("\r\n\r\n")[0].split("\r\n")[1:])
    tokens = Tokens(load({"JOBQUEST_JWT_SECRET": workload.JWT_SECRET}), lambda credential: None)
    caller = tokens.check(head["Authorization"].removeprefix("Bearer "))
    assert caller.name == found[0].event.user_id
    assert head["X-Forwarded-Proto"] == "https"
    assert head["Origin"] == workload.ORIGIN
    assert {"X-Forwarded-For", "X-Request-Id", "User-Agent", "Accept"} < head.keys()


def test_each_event_of_a_realistic_batch_has_a_place_for_an_id_of_its_own() -> None:
    request = workload.realistic_batch()
    for body in request.bodies:
        found = read_batch(body.encode())
        assert len(found) == request.events == body.count(workload.ID)
        assert all(isinstance(one, Request) and one.has_id for one in found)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("wrk"), reason="no wrk on this machine")
def test_wrk_sends_every_request_with_new_ids(recorder: Recorder) -> None:
    run = http_load.post(recorder.url, workload.realistic(), connections=2, seconds=1)
    assert 0 < run.answered <= len(recorder.took)
    ids = [head.split("X-Request-Id: ")[1].strip() for head, _ in recorder.took]
    ids += [read(body).event.id for _, body in recorder.took]
    assert len(set(ids)) == len(ids)
    assert {uuid.UUID(id).version for id in ids} == {4}


def test_a_client_that_sends_in_two_segments_sends_head_and_body(recorder: Recorder) -> None:
    text = workload.realistic().texts("127.0.0.1")[0]
    for split, segments in ((False, 1), (True, 2)):
        client = Client(recorder.address, split=split)
        client.send(text.encode())
        assert segments_sent(client.socket) == segments
        client.socket.close()
    wait_for(lambda: len(recorder.took) == 2, 10)
    assert recorder.took[0] == recorder.took[1]


def segments_sent(connection: socket.socket) -> int:
    """How many segments with data: `tcpi_data_segs_out` of Linux's `tcp_info`."""
    return int.from_bytes(
        connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 160)[156:], "little"
    )


def test_requests_are_due_evenly_and_at_high_rates_in_groups() -> None:
    assert list(due(200, 1)) == [number / 200 for number in range(200)]
    grouped = list(due(6_000, 1))
    assert len(grouped) == 6_000
    assert len(set(grouped)) <= 200
    assert all(0 <= number / 6_000 - at < 0.0051 for number, at in enumerate(grouped))


@pytest.mark.parametrize("rate", [100, 600])
def test_a_paced_load_keeps_to_its_rate_and_gets_every_answer(
    recorder: Recorder, rate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "LATE_SECONDS", 60.0)  # of a busy machine
    load = recorder.load(4)
    assert load.at_rate(rate, 0.5) >= 0.49
    assert len(load.took_ms) == len(recorder.took) == rate / 2
    assert (load.refused, load.unsent) == (0, 0)


def test_clients_without_a_rate_send_on_and_count_what_is_refused(recorder: Recorder) -> None:
    recorder.code = 503
    load = recorder.load(3)
    assert load.without_pause(0.2) >= 0.2
    assert load.took_ms == []
    assert load.refused == len(recorder.took) > 3


def test_what_nobody_answers_in_time_is_left_unsent(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "LATE_SECONDS", 0.0)
    load = recorder.load(1)
    load.at_rate(50_000, 0.1)
    assert load.unsent > 0
    assert load.unsent + len(load.took_ms) == 5_000


def test_an_event_is_processed_once_it_has_its_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "WATCHED", 1)
    with closing(sqlite3.connect(tmp_path / "read.db")) as db:
        db.execute("CREATE TABLE events (id TEXT PRIMARY KEY)")
        watch = Watch(str(tmp_path / "read.db"))
        for id in ("a", "b"):
            watch.answered(id, now=10.0)
        db.execute("INSERT INTO events VALUES ('a')")
        watch.look(10.1)
        assert not watch.ages_ms  # not committed yet
        db.commit()
        watch.look(10.5)
        assert watch.ages_ms == [500.0]
    monkeypatch.setattr(clients, "LOST_SECONDS", 0.1)
    with pytest.raises(OSError, match="1 answered events were never processed"):
        watch.finish()


@pytest.mark.parametrize("limit", [90, 1_000, 1_080, 5_555])
def test_the_highest_rate_is_found_to_six_percent(limit: float) -> None:
    asked: list[float] = []

    def holds(rate: float) -> bool:
        asked.append(rate)
        return rate <= limit

    assert limit / 1.06 <= steady.highest(holds, 1_000) <= limit
    assert len(asked) <= 10


def test_where_no_rate_holds_there_is_no_figure() -> None:
    with pytest.raises(MeasureFailed):
        steady.highest(lambda rate: False, 1_000)


def test_every_goal_is_of_a_measure_that_can_be_asked_for() -> None:
    assert {goal.ours.measure for goal in GOALS} == set(MEASURES)
    assert all(goal.theirs.measure == goal.ours.measure for goal in GOALS if goal.theirs)


def test_the_peers_consumer_counts_an_event_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(workload.__file__).parent / "peer"))
    apply: Callable[..., None] = importlib.import_module("consumer").apply
    store: Any = importlib.import_module("store")
    expected = workload.Expected()
    events = list(expected.counting(workload.mix(300)))
    values = [event.to_json() for event in events]
    values[100:100] = [values[0], b"no event", b'{"id": 7}']
    records = [SimpleNamespace(offset=n, value=value) for n, value in enumerate(values)]
    with closing(store.write_to(str(tmp_path / "peer.db"))) as db:
        for part in (records[:150], records[150:], records[140:]):
            apply(db, {("mission-events", 3): part})
        sums = "SELECT COUNT(*), SUM(events), SUM(xp) FROM users"
        assert db.execute(sums).fetchone()[1:] == (expected.events, expected.xp)
        assert db.execute("SELECT next FROM positions").fetchall() == [(len(records),)]
        with closing(store.read_from(str(tmp_path / "peer.db"))) as reading:
            id = events[0].id
            assert store.place_of(reading, id) == ("mission-events", 3, 0)
            assert store.places_of(reading, [id, "other"]) == {id: ("mission-events", 3, 0)}
