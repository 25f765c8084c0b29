"""A long run under random faults. At its end the ledgers must agree, and memory, threads and open
files must not have grown.

    python -m bench.soak --minutes 10 --rate 200

It starts a real Kafka behind a proxy and the service, publishes numbered XP events at a steady
rate, and every few seconds breaks something: the broker is killed, frozen, slow or loses its
connections, the read side is locked, a handler fails, a viewer stops reading. In the first third
the service itself is killed and stopped too. At the end it repairs everything, waits, and compares
the clients' ledger with the service's answers. Every printed figure was measured; exit code 1 if
one is wrong.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import socket
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.kafka_broker import KafkaBroker
from tests.load import events_of
from tests.proxy import Proxy
from tests.service import Service, wait_for

CLIENTS = 8
USERS = 50
SAMPLE_SECONDS = 5.0
GROWTH = 1.15  # allowed for the last third's median over the middle third's
HANDLERS = """
from pathlib import Path

def fail_on_demand(event):
    if Path("fail").exists():
        raise ConnectionError("what this handler calls is away")

def register(consumer):
    consumer.register_event_handler("xp.earned", fail_on_demand)
"""


class Clients:
    """Publish numbered events at a steady rate; keep a ledger of the events and the answers."""

    def __init__(self, service: Service, rate: float) -> None:
        self.sent: dict[str, tuple[str, int]] = {}
        self.accepted: set[str] = set()
        self.codes: Counter[int] = Counter()
        self.slowest = 0.0
        self._service, self._rate = service, rate
        self._numbers = itertools.count()
        self._began = time.monotonic()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            number = next(self._numbers)
            due = self._began + number / self._rate
            if self._stop.wait(max(0.0, due - time.monotonic())):
                return
            id, user, xp = f"soak-{number}", f"user_{number % USERS}", number % 7 + 1
            self.sent[id] = user, xp
            self._publish(id, user, xp)

    def _publish(self, id: str, user: str, xp: int) -> None:
        """Publish as a client should: retry with the same id while the service asks for it."""
        data = {"xpAmount": xp, "totalXp": 0}
        while not self._stop.is_set():
            began = time.monotonic()
            code = self._service.post("xp.earned", data, user_id=user, id=id).code
            self.codes[code] += 1
            if code:
                self.slowest = max(self.slowest, time.monotonic() - began)
            if code in (200, 201, 202):
                self.accepted.add(id)
                return
            self._stop.wait(0.5)


class Faults:
    """Ways to break things; each is repaired when its method returns."""

    def __init__(self, service: Service, broker: KafkaBroker, proxy: Proxy, seed: int) -> None:
        self._service, self._broker, self._proxy = service, broker, proxy
        self._chance = random.Random(seed)
        self._wait = threading.Event().wait
        self.done: Counter[str] = Counter()
        self.gentle = [self.kill_broker, self.freeze_broker, self.slow_broker, self.cut]
        self.gentle += [self.lock_read_side, self.fail_handler, self.sleep_viewer]
        self.rough = [*self.gentle, self.kill_service, self.stop_service]

    def make_one(self, choices: list[Callable[[], None]]) -> None:
        fault = self._chance.choice(choices)
        self.done[fault.__name__] += 1
        print(f"  {time.strftime('%H:%M:%S')} {fault.__name__}", flush=True)
        fault()
        self._wait(self._chance.uniform(2, 8))

    def kill_broker(self) -> None:
        self._broker.kill()
        self._wait(self._chance.uniform(0, 8))
        self._broker.start()

    def freeze_broker(self) -> None:
        self._broker.freeze()
        self._wait(self._chance.uniform(2, 20))
        self._broker.thaw()

    def slow_broker(self) -> None:
        self._proxy.delay(self._chance.uniform(0.1, 3))
        self._wait(self._chance.uniform(2, 10))
        self._proxy.pass_on()

    def cut(self) -> None:
        for _ in range(3):
            self._proxy.cut()
            self._wait(self._chance.uniform(0, 2))

    def lock_read_side(self) -> None:
        connection = sqlite3.connect(self._service.folder / "read.db", timeout=30)
        connection.execute("BEGIN IMMEDIATE")
        self._wait(self._chance.uniform(1, 8))
        connection.rollback()
        connection.close()

    def fail_handler(self) -> None:
        flag = self._service.folder / "fail"
        flag.touch()
        self._wait(self._chance.uniform(0.5, 3))
        flag.unlink()
        self._service.switch("start")  # the circuit breaker may be open

    def sleep_viewer(self) -> None:
        host, port = self._service.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as viewer:
            head = f"GET /ws/events HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\n"
            head += "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            viewer.sendall(f"{head}Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode())
            self._wait(self._chance.uniform(5, 20))

    def kill_service(self) -> None:
        self._service.kill()
        self._service.start()

    def stop_service(self) -> None:
        code = self._service.stop()
        assert code == 0, (code, self._service.tail())
        self._service.start()


class Gauge:
    """Samples the resources of the service's processes: memory in MB, threads, open files."""

    def __init__(self, service: Service) -> None:
        self.samples: list[tuple[float, float, int, int]] = []
        self._service = service
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def medians(self, begin: float, end: float) -> list[float]:
        """The medians of the samples between two monotonic times."""
        chosen = [sample[1:] for sample in self.samples if begin <= sample[0] < end]
        return [statistics.median(column) for column in zip(*chosen, strict=True)]

    def _run(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            try:
                figures = [held(pid) for pid in _family(self._service.pid)]
            except OSError:  # the service is being restarted
                continue
            memory, threads, files = (sum(column) for column in zip(*figures, strict=True))
            self.samples.append((time.monotonic(), memory, int(threads), int(files)))


def _family(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]


def held(pid: int) -> tuple[float, int, int]:
    """A process's resources: memory in MB, threads, open files."""
    lines = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    memory = int(lines["VmRSS"].split()[0]) / 1024
    return memory, int(lines["Threads"]), len(list(Path(f"/proc/{pid}/fd").iterdir()))


def soak(minutes: float, rate: float, seed: int) -> list[str]:
    """Run it. Returns one line for each thing that was wrong."""
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    (folder / "soak_handlers.py").write_text(HANDLERS)
    with Proxy() as proxy:
        broker = KafkaBroker(advertise=proxy.port).start()
        proxy.target = broker.behind
        settings = {"JOBQUEST_HANDLERS": "soak_handlers", "JOBQUEST_RETRY_MAX_ATTEMPTS": "30"}
        service = Service(folder, KAFKA_BROKER=proxy.bootstrap, **settings)
        service.python_path.append(str(folder))
        try:
            service.start()
            wait_for(lambda: service.status()["consumerRunning"], 60, service.tail)
            return _break_and_compare(service, broker, proxy, minutes * 60, rate, seed)
        finally:
            service.kill()
            broker.remove()


def _break_and_compare(
    service: Service, broker: KafkaBroker, proxy: Proxy, seconds: float, rate: float, seed: int
) -> list[str]:
    clients, gauge = Clients(service, rate), Gauge(service)
    faults = Faults(service, broker, proxy, seed)
    began = time.monotonic()
    while (passed := time.monotonic() - began) < seconds:
        faults.make_one(faults.rough if passed < seconds / 3 else faults.gentle)
    ended = time.monotonic()
    clients.stop()
    gauge.stop()
    for at, memory, threads, files in gauge.samples[:: max(1, len(gauge.samples) // 20)]:
        print(f"  after {at - began:3.0f} s: {memory:.0f} MB, {threads} threads, {files} files")
    service.switch("start")

    def is_quiet() -> bool:
        status = service.status()
        waiting = status["retrying"] + status["outbox"]["events"] + status["followUpsWaiting"]
        return waiting == 0 and status["lag"]["messages"] == 0

    wait_for(is_quiet, 300, lambda: json.dumps(service.status()) + service.tail())
    third = (ended - began) / 3
    print(f"faults: {dict(faults.done)}")
    wrong = _compare_ledgers(service, clients)
    return wrong + _compare_figures(
        gauge.medians(began + third, began + 2 * third), gauge.medians(began + 2 * third, ended)
    )


def _compare_ledgers(service: Service, clients: Clients) -> list[str]:
    kept = {event["id"] for event in events_of(service, "xp.earned")}
    dead = {
        dead_letter["eventId"]
        for dead_letter in service.get("/api/kafka/dead-letters?limit=500").json["data"][
            "deadLetters"
        ]
    }
    print(f"answers: {dict(clients.codes)}, the slowest after {clients.slowest:.2f} s")
    print(f"sent {len(clients.sent)}, accepted {len(clients.accepted)}", end=", ")
    print(f"processed {len(kept)}, dead {len(dead)}")
    wrong = [f"{len(lost)} lost"] if (lost := clients.accepted - kept - dead) else []
    if both := kept & dead:
        wrong.append(f"{len(both)} both processed and dead")
    return wrong + compare_xp(service, clients, kept)


def compare_xp(service: Service, clients: Clients, kept: set[str]) -> list[str]:
    """One line for each user whose XP is not the sum of their kept events."""
    wrong: list[str] = []
    expected: Counter[str] = Counter()
    for id in kept:
        user, xp = clients.sent[id]
        expected[user] += xp
    for user, xp in sorted(expected.items()):
        counted = service.get(f"/api/users/{user}").json["data"]["xp"]
        if counted != xp:
            wrong.append(f"{user} has {counted} XP instead of {xp}")
    return wrong


def _compare_figures(middle: list[float], last: list[float]) -> list[str]:
    wrong = []
    for name, before, after in zip(("MB", "threads", "open files"), middle, last, strict=True):
        print(f"{name}: {before:.0f} in the middle third, {after:.0f} in the last (medians)")
        if after > before * GROWTH:
            wrong.append(f"{name} grew from {before:.0f} to {after:.0f}")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description="Publish under random faults, then compare.")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long (10)")
    parser.add_argument("--rate", type=float, default=200.0, help="events per second (200)")
    parser.add_argument("--seed", type=int, default=1, help="of the faults' order (1)")
    options = parser.parse_args()
    wrong = soak(options.minutes, options.rate, options.seed)
    for line in wrong:
        print(f"wrong: {line}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
