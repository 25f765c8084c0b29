"""Two web workers and a consumer on Kafka: whichever answers, it is one service."""

from __future__ import annotations

import json
import os
import signal
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import websocket

from tests.load import Load, children_of, close_code, consumer_of
from tests.samples import SAMPLES
from tests.service import Answer, Service, wait_for

pytestmark = pytest.mark.kafka

WORKING = {"running", "idle"}


@pytest.fixture
def service(empty_kafka: str, tmp_path: Path) -> Iterator[Service]:
    """Two workers, and a process that reads every partition."""
    made = Service(tmp_path, KAFKA_BROKER=empty_kafka, JOBQUEST_WORKERS="2").start()
    wait_for(lambda: is_whole(made), 40, made.tail)
    yield made
    made.kill()


def workers_of(service: Service) -> list[int]:
    """The processes that take connections."""
    return [pid for pid in children_of(service) if listening_of(service, pid)]


def is_whole(service: Service) -> bool:
    """Whether every process is on the list, and one of them reads partitions."""
    processes = service.status()["processes"]
    reading = {process["pid"] for process in processes if process["assignment"]}
    listed = {process["pid"] for process in processes}
    children = set(children_of(service))
    return listed == children and reading == children - set(workers_of(service)) != set()


def sockets_of(pid: int) -> list[str]:
    """The numbers that the kernel gave to a process's sockets."""
    found = []
    with suppress(FileNotFoundError):  # the process has ended
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed since it was listed
                found.append(os.readlink(link))
    return [name[8:-1] for name in found if name.startswith("socket:[")]


def listening_of(service: Service, pid: int) -> set[str]:
    """Of these, the ones that listen on the service's port."""
    address = f"0100007F:{int(service.url.rsplit(':', 1)[1]):04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    listening = {row[9] for row in rows if row[1] == address and row[3] == "0A"}
    return listening & set(sockets_of(pid))


def viewers_on_both(service: Service, count: int) -> list[websocket.WebSocket]:
    """So many viewers, some on each worker."""
    before = {pid: len(sockets_of(pid)) for pid in workers_of(service)}
    url = service.url.replace("http", "ws") + "/ws/events"
    viewers = [websocket.create_connection(url, timeout=20) for _ in range(count)]
    for pid in before:
        assert len(sockets_of(pid)) > before[pid] + 2, "the other one has every viewer"
    return viewers


def test_each_worker_has_a_socket_of_its_own_and_its_successor_too(service: Service) -> None:
    service.signal(signal.SIGTTOU)  # asks gunicorn for a worker less
    first, second = workers_of(service)
    assert listening_of(service, first).isdisjoint(listening_of(service, second))
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: first not in workers_of(service), 10, service.tail)
    wait_for(lambda: is_whole(service), 60, service.tail)
    [successor] = set(workers_of(service)) - {second}
    assert len(listening_of(service, successor)) == 1
    assert listening_of(service, successor).isdisjoint(listening_of(service, second))


def test_a_second_server_does_not_get_in_beside_the_workers(
    service: Service, tmp_path_factory: pytest.TempPathFactory
) -> None:
    more = {**service.settings, "PORT": service.url.rsplit(":", 1)[1]}
    second = Service(tmp_path_factory.mktemp("second"), **more)
    with pytest.raises(AssertionError):
        second.start()
    [line] = second.output
    assert line.startswith("error: PORT=")
    assert service.get("/healthz").code == 200


def test_connections_are_spread_evenly_and_those_of_a_worker_that_dies_wait_for_the_next(
    service: Service,
) -> None:
    hanging, _ = workers_of(service)
    os.kill(hanging, signal.SIGSTOP)
    codes: list[int] = []
    clients = [
        threading.Thread(target=lambda: codes.append(service.get("/healthz").code))
        for _ in range(60)
    ]
    for client in clients:
        client.start()
    wait_for(lambda: len(codes) >= 12, 10, service.tail)
    assert not threading.Event().wait(1.0)  # the others are not answered
    assert len(codes) <= 48
    os.kill(hanging, signal.SIGKILL)
    for client in clients:
        client.join()
    assert codes == [200] * 60


def test_a_killed_worker_leaves_the_status_and_its_successor_takes_over(service: Service) -> None:
    with Load(service) as load:
        wait_for(lambda: len(load.answered) > 50, 30, service.tail)
        killed, other = workers_of(service)
        os.kill(killed, signal.SIGKILL)

        def listed() -> set[int]:
            answer = service.get("/api/kafka/status")  # code 0: it had reached the one that died
            return (
                {process["pid"] for process in answer.json["data"]["processes"]}
                if answer.json
                else set()
            )

        wait_for(lambda: other in listed() and killed not in listed(), 5, service.tail)
        wait_for(lambda: is_whole(service), 60, service.tail)
    assert load.codes.keys() <= {0, 201}
    assert load.codes[0] <= 8  # what its clients were waiting for
    service.wait_until_caught_up(60)
    load.check()


def test_a_killed_consumer_is_followed_by_another_and_never_shown_as_running(
    service: Service,
) -> None:
    with Load(service) as load:
        wait_for(lambda: len(load.answered) > 50, 30, service.tail)
        killed = consumer_of(service)
        os.kill(killed, signal.SIGKILL)

        def is_followed() -> bool:
            status = service.status()
            reading = [one["pid"] for one in status["processes"] if one["assignment"]]
            if killed in reading:
                return False  # its last heartbeat
            assert status["consumerRunning"] <= bool(reading), status
            return bool(reading)

        wait_for(is_followed, 60, service.tail)
    assert load.codes.keys() == {201}, "no client notices"
    service.wait_until_caught_up(60)
    load.check()


def test_status_start_and_stop_are_one_truth_whichever_worker_answers(service: Service) -> None:
    def states() -> list[str]:
        answers = [service.status() for _ in range(12)]  # each over a connection of its own
        assert all(len(status["processes"]) == 3 for status in answers)
        return [status["state"] for status in answers]

    for _ in range(2):
        assert service.switch("stop").json["data"]["state"] == "stopped"
        assert set(states()) == {"stopped"}
        assert service.switch("start").json["data"]["state"] in WORKING
        # The group may still hand partitions over, which is no standstill.
        assert set(states()) <= WORKING | {"starting"}


def test_start_and_stop_hammered_on_both_workers_end_where_the_last_one_says(
    service: Service,
) -> None:
    over = threading.Event()
    codes, wrong = Counter[int](), list[Any]()

    def check(action: str, answer: Answer) -> None:
        codes[answer.code] += 1
        data = answer.json["data"]
        running = data["state"] in WORKING
        as_asked = answer.code != 200 or running == (action == "start")
        if data["consumerRunning"] != running or not as_asked or len(data["processes"]) != 3:
            wrong.append((action, answer))

    def hammer(number: int) -> None:
        action = ("start", "stop")[number % 2]
        while not over.is_set():
            check(action, service.switch(action))

    with ThreadPoolExecutor(8) as pool:
        for number in range(8):
            pool.submit(hammer, number)
        threading.Event().wait(3.0)  # of hammering
        over.set()
    print(dict(codes))
    assert codes.keys() <= {200, 504}
    assert codes[200]
    assert not wrong, wrong[:3]
    assert service.switch("stop").code == 200
    taken = [service.post("user.login", {}, user_id=f"u{n}", id=f"e{n}").code for n in range(20)]
    assert taken == [201] * 20
    wait_for(lambda: service.status()["lag"]["messages"] == 20, 10, service.tail)
    assert service.switch("start").code == 200
    service.wait_until_caught_up(60)
    assert sum(process["processed"] for process in service.status()["processes"]) >= 20


def test_sigterm_with_viewers_on_both_workers_and_load(service: Service) -> None:
    viewers = viewers_on_both(service, 50)
    with Load(service) as load:
        wait_for(lambda: len(load.answered) > 50, 30, service.tail)
        began = time.monotonic()
        assert service.stop() == 0, service.tail()
        assert time.monotonic() - began < 5
    assert [close_code(viewer) for viewer in viewers] == [1001] * 50
    service.start()
    service.wait_until_caught_up(60)
    load.check()


def test_viewers_of_both_workers_see_at_once_what_was_processed(service: Service) -> None:
    viewers = viewers_on_both(service, 20)
    arrived: dict[str, list[float]] = {f"e{n}": [] for n in range(12)}

    def watch(viewer: websocket.WebSocket) -> None:
        seen = 0
        while seen < len(arrived):
            for item in json.loads(viewer.recv()).get("items", ()):
                arrived[item["event"]["id"]].append(time.monotonic())
                seen += 1

    threads = [threading.Thread(target=watch, args=[viewer]) for viewer in viewers]
    for thread in threads:
        thread.start()
    for n, id in enumerate(arrived):
        data = SAMPLES["notification.sent"]
        assert service.post("notification.sent", data, user_id=f"u{n}", id=id).code == 201
        wait_for(lambda id=id: len(arrived[id]) == len(viewers), 20, service.tail)  # type: ignore[misc]
    for thread in threads:
        thread.join()
    listeners = [max(times) - min(times) for times in arrived.values()]
    print(f"within {statistics.median(listeners):.3f} s, at most {max(listeners):.3f}")
    assert statistics.median(listeners) < 0.15
