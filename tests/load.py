"""Clients that put a service under load, and what stays of it: ledgers, processes, memory."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import websocket

from jobquest.events import TOPICS, from_request
from jobquest.log import NewRecord
from jobquest.log.sqlite import SqliteLog
from tests.samples import SAMPLES, TYPES
from tests.service import Service

PAUSE_SECONDS = 0.01  # of each client between two posts: at full speed they take all the CPU
HEAP_BYTES = 64 << 20


class Load:
    """Clients that post numbered XP until the block ends, to each of several instances in turn,
    and the ledger of what they were answered."""

    def __init__(self, *services: Service, clients: int = 4) -> None:
        self.answered: dict[str, tuple[str, int]] = {}
        self.asked: dict[str, tuple[str, int]] = {}
        self.codes: Counter[int] = Counter()
        self._services = services
        self._stop = threading.Event()
        self._numbers = itertools.count()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._stop.wait(PAUSE_SECONDS):
            number = next(self._numbers)
            id, user, xp = f"load-{number}", f"user_{number % 5}", number % 7 + 1
            self.asked[id] = (user, xp)
            data = {"xpAmount": xp, "totalXp": 0}
            service = self._services[number % len(self._services)]
            code = service.post("xp.earned", data, user_id=user, id=id).code
            self.codes[code] += 1
            if code in (200, 201, 202):
                self.answered[id] = (user, xp)

    def check(self) -> None:
        """Everything answered is processed, everything processed is counted exactly once."""
        service = self._services[0]
        kept = processed_ids(service)
        missing = self.answered.keys() - kept.keys()
        assert not missing, sorted(missing)[:10]
        assert kept.keys() <= self.asked.keys()  # an event that was not answered may be kept
        expected: Counter[str] = Counter()
        for id in kept:
            user, xp = self.asked[id]
            expected[user] += xp
        for user, xp in expected.items():
            assert service.get(f"/api/users/{user}").json["data"]["xp"] == xp


class Flood:
    """Appends events of every type to a service's embedded log at a steady rate, as another
    producer would."""

    BATCHES_PER_SECOND = 20

    def __init__(self, service: Service, rate: int) -> None:
        self.sent = 0
        self._log = SqliteLog(service.folder / "log.db", TOPICS)
        self._size = rate // self.BATCHES_PER_SECOND
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            events = [self._event(self.sent + number) for number in range(self._size)]
            for future in self._log.append(events):
                future.result(60)
            self.sent += self._size
            due += 1 / self.BATCHES_PER_SECOND

    def _event(self, number: int) -> NewRecord:
        kind = TYPES[number % len(TYPES)]
        user = f"user_{number % 100}"
        event = from_request(kind, user, SAMPLES[kind], id=f"flood-{number}")
        return NewRecord(event.topic, user.encode(), event.to_json())

    def __enter__(self) -> Flood:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._log.close()


def events_of(service: Service, kind: str) -> list[dict[str, Any]]:
    """Every processed event of a type, over all pages."""
    found: list[dict[str, Any]] = []
    after = ""
    while True:
        page = service.get(f"/api/events?type={kind}&limit=500{after}").json["data"]
        found += [item["event"] for item in page["events"] if item["outcome"] == "processed"]
        if page["next"] is None:
            return found
        after = f"&after={page['next']}"


def processed_ids(service: Service) -> dict[str, str]:
    """Of every XP event that was processed: its user by its id."""
    return {event["id"]: event["userId"] for event in events_of(service, "xp.earned")}


def close_code(viewer: websocket.WebSocket) -> int | None:
    """The code of the close frame that ends what the viewer was sent."""
    while True:
        opcode, payload = viewer.recv_data(control_frame=True)
        if opcode == websocket.ABNF.OPCODE_CLOSE:
            return int.from_bytes(payload[:2], "big")


def children_of(service: Service) -> list[int]:
    """The process ids of the service's processes: the web workers, on Kafka a consumer too."""
    children = Path(f"/proc/{service.pid}/task/{service.pid}/children").read_text().split()
    return [int(pid) for pid in children]


def worker_of(service: Service) -> int:
    """The process id of the service's one web worker; on Kafka there is a consumer too."""
    children = children_of(service)
    [worker] = children if len(children) == 1 else {*children} - {consumer_of(service)}
    return worker


def consumer_of(service: Service) -> int:
    """The process id of the one process that reads partitions."""
    found = [process["pid"] for process in service.status()["processes"] if process["assignment"]]
    [consumer] = found
    return int(consumer)


def start_threads(url: str) -> None:
    """Have the worker start as many threads as handshakes need that overlap by chance: they stay,
    and would otherwise be taken for threads of viewers."""
    host, port = url.removeprefix("http://").split(":")
    head = f"GET /api/status HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n"
    for _ in range(5):
        asking = [socket.create_connection((host, int(port)), timeout=20) for _ in range(64)]
        for one in asking:
            one.sendall(head.encode())
        for one in asking:
            while one.recv(65536):
                pass
            one.close()


def threads_of(pid: int) -> int:
    """How many threads a process has."""
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def heaps_of(pid: int) -> int:
    """How many heaps glibc has made for its threads: 64 MiB each, of which the start is used."""
    ends: dict[int, int] = {}  # where a piece in use begins, by its end
    found = 0
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        span, rights, *_ = line.split()
        begin, end = (int(number, 16) for number in span.split("-"))
        if rights.startswith("---") and ends.get(begin) == end - HEAP_BYTES:
            found += 1
        ends = {end: begin}
    return found


def peak_memory_of(pid: int) -> int:
    """The most memory that a process has held since `forget_peak`, in bytes."""
    [line] = [
        line
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("VmHWM:")
    ]
    return int(line.split()[1]) * 1024


def forget_peak(pid: int) -> int:
    """Have the peak begin at what it holds now; how much that is."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return peak_memory_of(pid)
