"""Stopping, starting and taking over: whoever asks, and whatever hangs."""

from __future__ import annotations

import random
import signal
import socket
import sqlite3
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
import websocket

from jobquest import create_app
from jobquest.server import GRACEFUL_SECONDS
from tests.load import Load, close_code, processed_ids
from tests.service import Service, wait_for

STOP_SECONDS = 5.0


def stop(service: Service) -> float:
    """SIGTERM; how long it took. It must end by itself, with code 0."""
    began = time.monotonic()
    assert service.stop() == 0, service.tail()
    took = time.monotonic() - began
    print(f"stopped after {took:.2f} s")
    assert took < STOP_SECONDS, service.tail()
    return took


def test_sigterm_ends_it_cleanly_with_50_viewers_and_load(service: Service) -> None:
    url = service.url.replace("http", "ws") + "/ws/events"
    viewers = [websocket.create_connection(url, timeout=20) for _ in range(50)]
    with Load(service) as load:
        wait_for(lambda: len(load.answered) > 20, 30, service.tail)
        stop(service)
    for viewer in viewers:
        assert close_code(viewer) == 1001
    service.start()
    service.wait_until_caught_up(60)
    load.check()


def test_sigterm_at_any_moment_loses_nothing(service: Service) -> None:
    chance = random.Random(8)
    with Load(service) as load:
        for _ in range(2 if "KAFKA_BROKER" in service.settings else 4):
            goal = len(load.answered) + 30
            wait_for(lambda goal=goal: len(load.answered) > goal, 60, service.tail)  # type: ignore[misc]
            threading.Event().wait(chance.random() / 3)  # at any moment of whatever it does
            stop(service)
            service.start()
    service.wait_until_caught_up(60)
    load.check()


def test_a_second_sigterm_changes_nothing(service: Service) -> None:
    viewer = websocket.create_connection(service.url.replace("http", "ws") + "/ws/events")
    with Load(service) as load:
        wait_for(lambda: len(load.answered) > 20, 30, service.tail)
        service.signal(signal.SIGTERM)
        service.signal(signal.SIGTERM)
        stop(service)
    assert close_code(viewer) == 1001
    service.start()
    service.wait_until_caught_up(60)
    load.check()


def test_sigterm_while_it_starts_ends_it(stopped_service: Service) -> None:
    service = stopped_service
    service.fresh = True  # its very first start makes its tables
    service.start()
    service.post("user.login", {}, id="kept")
    service.stop()
    for moment in (0.0, 0.1, 0.3, 0.6):
        service.launch()
        threading.Event().wait(moment)  # after it said where it listens
        stop(service)
    service.start()
    wait_for(lambda: service.get("/api/events/kept").code == 200, 30, service.tail)


SLOW_FORK = """
import os, pathlib, time

def wait():
    pathlib.Path(__file__).with_name("forked").touch()
    time.sleep(1.0)

os.register_at_fork(after_in_child=wait)
"""


@pytest.mark.alone
def test_sigterm_reaches_a_worker_that_has_just_been_forked(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(SLOW_FORK)
    service = Service(tmp_path)
    service.python_path.append(str(tmp_path))
    service.launch()
    wait_for((tmp_path / "forked").exists, 30, service.tail)
    assert stop(service) < GRACEFUL_SECONDS, "the server killed its worker"


HANGS = """
import threading

def register(consumer):
    consumer.register_event_handler("user.login", lambda event: threading.Event().wait())
"""


@pytest.mark.alone
def test_a_handler_that_hangs_does_not_keep_it_from_ending(
    stopped_service: Service, tmp_path: Path
) -> None:
    (tmp_path / "hangs.py").write_text(HANGS)
    service = stopped_service
    service.settings |= {"JOBQUEST_HANDLERS": "hangs"}
    service.python_path.append(str(tmp_path))
    service.start()
    wait_for(lambda: service.status()["consumerRunning"], 30, service.tail)
    viewer = websocket.create_connection(service.url.replace("http", "ws") + "/ws/events")
    assert service.post("user.login", {}, id="hangs").code == 201
    wait_for(lambda: any("Processing event" in line for line in service.output), 20, service.tail)
    assert stop(service) < GRACEFUL_SECONDS  # by itself: then the server kills its worker
    assert close_code(viewer) == 1001
    del service.settings["JOBQUEST_HANDLERS"]
    service.start()
    service.wait_until_caught_up(60)
    assert service.get("/api/events/hangs").json["data"]["outcome"] == "processed"


@pytest.mark.alone
def test_a_locked_database_does_not_keep_it_from_ending(tmp_path: Path) -> None:
    service = Service(tmp_path).start()
    wait_for(lambda: service.status()["consumerRunning"], 30, service.tail)
    with closing(sqlite3.connect(tmp_path / "read.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert service.post("user.login", {}, id="kept").code == 201
        assert stop(service) < GRACEFUL_SECONDS
    service.start()
    wait_for(lambda: service.get("/api/events/kept").code == 200, 30, service.tail)
    service.kill()


@pytest.mark.slow
def test_a_connection_that_says_nothing_does_not_keep_it_from_ending(
    tmp_path: Path,
) -> None:
    service = Service(tmp_path).start()
    host, port = service.url.removeprefix("http://").split(":")
    silent = [socket.create_connection((host, int(port))) for _ in range(3)]
    wait_for(lambda: service.get("/healthz").code == 200, 10)
    assert stop(service) < GRACEFUL_SECONDS  # and not the server's patience
    for connection in silent:
        connection.close()


@pytest.mark.slow
def test_start_and_stop_hammered_never_make_a_second_consumer(
    settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobquest.runtime.CHANGE_SECONDS", 1.0)
    app = create_app(settings)
    runtime = app.extensions["jobquest"]
    runtime.start()
    over = threading.Event()
    most, codes, wrong = 0, Counter[int](), list[object]()

    def count() -> None:
        nonlocal most
        while not over.wait(0.002):
            consumers = [t for t in threading.enumerate() if t.name == "consumer"]
            most = max(most, len(consumers))

    def hammer(number: int) -> None:
        client, action = app.test_client(), ("start", "stop")[number % 2]
        while not over.is_set():
            answer = client.post("/api/kafka/status", json={"action": action})
            codes[answer.status_code] += 1
            data = answer.get_json().get("data") or {}
            working = data.get("state") in ("running", "idle")
            if data.get("consumerRunning") != working:
                wrong.append(answer.get_json())
            if answer.status_code == 200 and working != (action == "start"):
                wrong.append(answer.get_json())

    counting = threading.Thread(target=count)
    counting.start()
    with ThreadPoolExecutor(50) as pool:
        for number in range(50):
            pool.submit(hammer, number)
        threading.Event().wait(5.0)  # of hammering
        try:  # those who stop are answered sooner, so they may have had every say until now
            wait_for(lambda: most and codes[200], 60)
        finally:
            over.set()
    counting.join()
    print(f"{dict(codes)}; at most {most} consumers")
    assert most == 1
    assert codes.keys() <= {200, 504}
    assert codes[200]
    assert not wrong, wrong[:3]
    monkeypatch.undo()
    client = app.test_client()
    assert client.post("/api/kafka/status", json={"action": "start"}).status_code == 200
    event = {"eventType": "user.login", "data": {}, "id": "after"}
    assert client.post("/api/kafka/events", json=event).status_code == 201
    wait_for(lambda: client.get("/api/events/after").status_code == 200, 20)
    runtime.stop()


@pytest.mark.slow
def test_the_second_process_on_a_folder_takes_over_when_the_first_dies(tmp_path: Path) -> None:
    first, second = Service(tmp_path).start(), None
    try:
        wait_for(lambda: first.status()["consumerRunning"], 30, first.tail)
        assert first.post("user.login", {}, id="first").code == 201
        wait_for(lambda: first.get("/api/events/first").code == 200, 20, first.tail)
        second = Service(tmp_path).start()
        with Load(second) as load:
            wait_for(lambda: len(load.answered) > 100, 60, second.tail)
            first.kill()
            began = time.monotonic()
            goal = len(load.answered) + 20  # taken after it died
            wait_for(lambda: len(load.answered) > goal, 30, second.tail)
        wait_for(lambda: load.answered.keys() <= processed_ids(second).keys(), 30, second.tail)
        print(f"taken over within {time.monotonic() - began:.1f} s")
        second.wait_until_caught_up(60)
        load.check()
    finally:
        first.kill()
        if second:
            second.kill()
