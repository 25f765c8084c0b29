"""Each state of the consumer, provoked: the status says it, and `/readyz` follows."""

from __future__ import annotations

import re
import sqlite3
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import get_args

import orjson
import pytest
from filelock import FileLock
from flask.testing import FlaskClient

from jobquest import create_app
from jobquest.config import load
from jobquest.consumer import STANDBY, State
from jobquest.read.event_filter import EventFilter
from jobquest.read.service_state import ServiceState
from jobquest.report import WORST_FIRST
from jobquest.runtime import LAG_SAMPLE_SECONDS, Runtime
from jobquest.web.pages.live import STATES
from tests.service import Service, wait_for
from tests.test_feed import Screen
from tests.test_http import data_of, error_of, runtime_of
from tests.test_retries import Failing, Hanging

STATUS = "/api/kafka/status"


@pytest.fixture
def settings(settings: dict[str, str]) -> dict[str, str]:
    return {**settings, "JOBQUEST_CONSUMER_AUTOSTART": "true", "JOBQUEST_BRAKE_FAILURES": "3"}


def await_state(client: FlaskClient, state: str, seconds: float = 20) -> dict[str, object]:
    """The status once it says `state`."""

    def said() -> str:
        found: str = data_of(client.get(STATUS))["state"]
        return found

    wait_for(lambda: said() == state, seconds, said)
    status: dict[str, object] = data_of(client.get(STATUS))
    return status


def assert_not_ready(client: FlaskClient, says: str) -> None:
    [line] = error_of(client.get("/readyz"), 503)["errors"]["consumer"]
    assert says in line


def publish(client: FlaskClient, user: str = "ada", kind: str = "user.login") -> None:
    runtime_of(client).producer.publish(kind, user, {})


def test_idle_running_and_stopped(client: FlaskClient) -> None:
    assert await_state(client, "idle")["consumerRunning"] is True
    data_of(client.get("/readyz"))
    publish(client)
    assert await_state(client, "running")["consumerRunning"] is True
    data_of(client.post(STATUS, json={"action": "stop"}))
    assert await_state(client, "stopped")["consumerRunning"] is False
    data_of(client.get("/readyz"))


@pytest.mark.slow
def test_a_stream_of_events_is_no_stream_of_statuses(client: FlaskClient) -> None:
    await_state(client, "idle")
    screen = Screen(runtime_of(client).feed)
    statuses = 0

    def watch() -> None:
        nonlocal statuses
        seen = 0
        while seen < 100:
            message = screen.message()
            statuses += message["kind"] == "status"
            seen += len(message.get("items", ()))

    watching = threading.Thread(target=watch)
    watching.start()
    began = time.monotonic()
    for _ in range(100):
        publish(client)
        threading.Event().wait(0.02)
    watching.join()
    took = time.monotonic() - began
    print(f"{statuses} in {took:.1f} s")
    assert 1 <= statuses <= 3 + took  # each second, and where it began to run


@pytest.mark.slow
def test_a_status_is_made_for_those_who_watch_and_for_nobody_else(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await_state(client, "idle")
    runtime, made = runtime_of(client), threading.Event()
    make = runtime.report.status

    def noted() -> dict[str, object]:
        made.set()
        return make()

    monkeypatch.setattr(runtime.report, "status", noted)
    assert not made.wait(2.5)  # two beats
    screen = Screen(runtime.feed)
    assert made.wait(2.5)
    screen.socket.close()


@pytest.mark.slow
def test_rates_are_known_to_who_asks_for_the_first_time(client: FlaskClient) -> None:
    runtime_of(client).start()
    threading.Event().wait(LAG_SAMPLE_SECONDS + 2.5)  # for two samples, and a beat between looks
    publish(client)
    assert data_of(client.get(STATUS))["rate"]["taken"] is not None


def test_starting_while_it_has_no_partition_yet(settings: dict[str, str]) -> None:
    folder = Path(settings["JOBQUEST_DATA_DIR"])
    with FileLock(folder / "log.db.job-quest-consumer.consumer"):
        client = create_app(settings).test_client()
        assert await_state(client, "starting")["consumerRunning"] is False
        assert_not_ready(client, "starting: It waits for its partitions.")
    await_state(client, "idle")
    runtime_of(client).stop()


def test_paused_by_the_breaker_with_its_reason(client: FlaskClient) -> None:
    await_state(client, "idle")
    handler = Failing("u0", "u1", "u2")
    runtime_of(client).consumer.register_event_handler("user.login", handler)
    for user in sorted(handler.users):
        publish(client, user)
    status = await_state(client, "paused")
    assert status["consumerRunning"] is False
    assert "3 events in a row failed" in str(status["reason"])
    assert_not_ready(client, "paused: The handlers of 3 events")
    handler.users.clear()
    started = data_of(client.post(STATUS, json={"action": "start"}))
    assert started["consumerRunning"] is True


@pytest.mark.slow
def test_stalled_by_a_handler_that_hangs_with_its_event(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobquest.consumer.watch.STALL_SECONDS", 0.2)
    handler = Hanging()
    runtime_of(client).consumer.register_event_handler("user.login", handler)
    publish(client)
    status = await_state(client, "stalled")
    assert status["consumerRunning"] is False
    assert "(user.login)" in str(status["reason"])
    assert_not_ready(client, "stalled: The handler")
    wait_for(lambda: data_of(client.get(STATUS))["retrying"] == 1, 10)
    handler.let_go.set()
    await_state(client, "idle")
    wait_for(lambda: data_of(client.get(STATUS))["retrying"] == 0, 10)


def test_stalled_by_a_transaction_that_hangs(
    client: FlaskClient, settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    await_state(client, "idle")
    monkeypatch.setattr("jobquest.consumer.watch.STALL_SECONDS", 0.2)
    with sqlite3.connect(Path(settings["JOBQUEST_DATA_DIR"]) / "read.db") as other:
        other.execute("BEGIN IMMEDIATE")
        publish(client)
        consumer = runtime_of(client).consumer
        wait_for(lambda: consumer.snapshot.state == "stalled", 10)
        assert "The transaction of a batch" in str(consumer.snapshot.reason)
        other.rollback()
    await_state(client, "idle")
    assert runtime_of(client).queries.outcomes()["deadLetters"] == 0


def add_silent_process(runtime: Runtime, consumer: str) -> None:
    """A process that gave its last sign of life ten seconds ago; `consumer` is the SQL of what it
    said of itself."""
    with runtime.database.writing() as connection:
        connection.exec_driver_sql(
            "INSERT INTO processes SELECT 'silent', host, pid, heartbeat_ms - 10000,"
            f" {consumer} FROM processes"
        )


def test_stalled_where_a_process_gives_no_sign_of_life(client: FlaskClient) -> None:
    await_state(client, "idle")
    runtime = runtime_of(client)
    add_silent_process(runtime, "json_set(consumer, '$.assignment', json('[\"notifications/1\"]'))")
    status = await_state(client, "stalled")
    assert re.search(r" \(pid \d+\) has sent no heartbeat for 1\d s", str(status["reason"]))


def test_a_silent_process_whose_partitions_others_read_makes_nobody_unready(
    client: FlaskClient,
) -> None:
    await_state(client, "idle")
    runtime = runtime_of(client)
    add_silent_process(runtime, "consumer")
    status = runtime.report.status()
    assert status["state"] == "idle"
    assert client.get("/readyz").status_code == 200
    [silent, alive] = sorted(status["processes"], key=lambda one: one["id"] != "silent")
    assert (silent["takenOver"], silent["assignment"]) == (True, [])
    assert "no heartbeat" in silent["reason"]
    assert (alive["takenOver"], bool(alive["assignment"])) == (False, True)
    readers = {one["process"] for topic in runtime.report.topics() for one in topic["partitions"]}
    assert readers == {alive["id"]}
    runtime.start_consumer()  # does not wait for it


@pytest.mark.slow
def test_crashed_is_told_and_it_starts_again_by_itself(client: FlaskClient) -> None:
    """A row that makes the consumer's own code fail: nothing an event could do."""
    await_state(client, "idle")
    runtime = runtime_of(client)
    handler = Failing("ada")
    runtime.consumer.register_event_handler("user.login", handler)
    publish(client)
    wait_for(lambda: runtime.queries.retries(), 10)
    id = runtime.queries.retries()[0]["id"]
    with runtime.database.writing() as connection:
        connection.exec_driver_sql("UPDATE parked SET attempts = 'many', next_ms = 0")
    status = await_state(client, "crashed")
    assert "TypeError" in str(status["reason"])
    assert_not_ready(client, "crashed: TypeError")
    handler.users.clear()
    with runtime.database.writing() as connection:
        connection.exec_driver_sql("UPDATE parked SET attempts = 1")
    await_state(client, "idle")
    wait_for(
        lambda: runtime.queries.events(EventFilter(outcomes=frozenset({"processed"})))["events"], 10
    )
    assert [item["event"]["id"] for item in runtime.queries.events()["events"]] == [id]


@pytest.mark.slow
def test_disconnected_while_the_database_is_locked_for_long(
    client: FlaskClient, settings: dict[str, str]
) -> None:
    await_state(client, "idle")
    with sqlite3.connect(Path(settings["JOBQUEST_DATA_DIR"]) / "read.db") as other:
        other.execute("BEGIN IMMEDIATE")
        publish(client)
        status = await_state(client, "disconnected")
        assert status["consumerRunning"] is False
        assert "database is locked" in str(status["reason"])
        assert_not_ready(client, "disconnected")
        other.rollback()
    await_state(client, "idle")
    assert runtime_of(client).queries.outcomes()["deadLetters"] == 0
    assert data_of(client.get("/api/users/ada"))["eventCount"] == 1


@pytest.mark.kafka
def test_disconnected_while_kafka_is_away(settings: dict[str, str]) -> None:
    client = create_app({**settings, "KAFKA_BROKER": "127.0.0.1:1"}).test_client()
    assert await_state(client, "disconnected")["consumerRunning"] is False
    assert_not_ready(client, "disconnected: Kafka does not answer")
    runtime_of(client).stop()


@pytest.mark.slow
def test_start_and_stop_from_fifty_threads_leave_one_consumer(client: FlaskClient) -> None:
    runtime = runtime_of(client)
    most, over = [0], threading.Event()

    def count() -> None:
        while not over.wait(0.001):
            most[0] = max(most[0], [t.name for t in threading.enumerate()].count("consumer"))

    def hammer(number: int) -> None:
        for _ in range(40):
            runtime.consumer.start() if number % 2 else runtime.consumer.stop()

    counting = threading.Thread(target=count)
    counting.start()
    threads = [threading.Thread(target=hammer, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    over.set()
    counting.join()
    assert most[0] == 1
    assert data_of(client.post(STATUS, json={"action": "start"}))["consumerRunning"]
    publish(client)
    wait_for(lambda: runtime.consumer.snapshot.processed == 1, 10)


@pytest.mark.slow
def test_of_two_processes_one_consumes_and_the_other_says_so_and_takes_over(
    tmp_path: Path,
) -> None:
    first, second = Service(tmp_path), Service(tmp_path)
    try:
        first.start()
        wait_for(lambda: first.status()["consumerRunning"], 20, first.tail)
        second.start()

        def standing_by() -> list[str]:
            return [p["reason"] for p in second.status()["processes"] if not p["assignment"]]

        wait_for(lambda: standing_by() == [STANDBY], 30, second.tail)
        assert second.status()["state"] in ("idle", "running")
        assert second.status()["reason"] is None
        second.post("user.login", {}, id="before")
        wait_for(lambda: first.get("/api/events/before").code == 200, 10, first.tail)
        first.kill()
        second.post("user.login", {}, id="after")
        wait_for(lambda: second.get("/api/events/after").code == 200, 20, second.tail)
        wait_for(lambda: [len(p["assignment"]) for p in second.status()["processes"]] == [8], 20)
    finally:
        first.kill()
        second.kill()


def test_a_switch_at_the_very_start_is_answered_once_this_process_follows_it(
    client: FlaskClient,
) -> None:
    body = data_of(client.post(STATUS, json={"action": "stop"}))  # the first request starts it
    assert [process["state"] for process in body["processes"]] == ["stopped"]


def test_where_every_process_stands_by_for_another_the_service_does_not_run(
    settings: dict[str, str],
) -> None:
    runtime = Runtime(load(settings))
    how = asdict(runtime.consumer.snapshot) | {"state": "idle"}
    other = ServiceState(runtime.database)
    for partitions, state in (([], "starting"), (["achievements/0"], "idle")):
        other.beat(orjson.dumps({**how, "assignment": partitions}))
        status = runtime.report.status()
        assert (status["state"], status["consumerRunning"]) == (state, state == "idle")


def test_every_state_has_its_rank_and_its_words() -> None:
    """The consumer's type names them; what ranks and shows them must know each."""
    states = set(get_args(State))
    assert set(WORST_FIRST) == states
    assert set(STATES) == states
