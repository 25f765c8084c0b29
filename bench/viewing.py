"""Measures of the live stream: viewers and stalled, at 1,000 events per second."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

from bench import contenders
from bench.goals import CPU, P50, P99, QUIET, SHARE, STALLED
from bench.plan import MeasureFailed, Plan, interleaved
from bench.report import Results
from bench.workload import BATCH_PATH, USERS, mission
from tests.load import worker_of
from tests.service import ROOT, Service, wait_for

VIEWERS, VIEW_ROUNDS = 200, 4
RATE = 1_000  # events per second
BATCHES_PER_SECOND = 20
VIEW_SECONDS = 10.0
STALLED_RUN_SECONDS = 20.0  # the stalled one reads again after 15
DELIVER_SECONDS = 1.0
WARM_SECONDS = 2.0


class Publisher:
    """Publishes events at a steady rate until it is left; their ids contain the time. Leaving it
    raises the error, if there was one."""

    def __init__(self, url: str) -> None:
        self.sent = 0
        self._connection = HTTPConnection(url.removeprefix("http://"), timeout=30)
        self._stop = threading.Event()

    def __enter__(self) -> Publisher:
        self._done = ThreadPoolExecutor().submit(self._run)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._done.result()
        self._connection.close()

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            self._publish(RATE // BATCHES_PER_SECOND)
            due += 1 / BATCHES_PER_SECOND

    def _publish(self, count: int) -> None:
        numbers = range(self.sent, self.sent + count)
        now = time.time_ns()
        events = [mission(n % USERS) | {"id": f"bench-{now}-{n}"} for n in numbers]
        body = json.dumps({"events": events})
        headers = {"Content-Type": "application/json"}
        self._connection.request("POST", BATCH_PATH, body, headers)
        answer = self._connection.getresponse()
        text = answer.read()
        if answer.status != 201:
            raise MeasureFailed(f"A batch was answered {answer.status}: {text[:300]!r}")
        self.sent += count


@dataclass(frozen=True)
class Seen:
    """What the viewers of one run received, and the service's CPU, in percent of a core."""

    cpu: float
    delivered: float  # percent
    p50_ms: float
    p99_ms: float


def viewers(plan: Plan, results: Results) -> None:
    """200 viewers, and none for comparison: the difference in CPU is the cost of the fan-out."""
    with _service() as service:
        for _ in range(min(plan.rounds, VIEW_ROUNDS)):
            _, alone = _publish(service, VIEW_SECONDS)
            seen = _watched(service, VIEW_SECONDS)
            results.note("viewers", QUIET, **_figures(seen), **{CPU: seen.cpu - alone})


def stalled(plan: Plan, results: Results) -> None:
    """200 viewers, with and without one more that stops reading."""
    with _service() as service:
        for name in interleaved((QUIET, STALLED), min(plan.rounds, VIEW_ROUNDS)):
            seen = _watched(service, STALLED_RUN_SECONDS, stalled=int(name == STALLED))
            results.note("stalled", name, **_figures(seen))


@contextmanager
def _service() -> Iterator[Service]:
    """The service on the embedded log, consuming."""
    with contenders.folder() as files:
        service = Service(files)
        try:
            service.start()
            wait_for(lambda: service.status()["consumerRunning"], 30, service.tail)
            with Publisher(service.url):
                time.sleep(WARM_SECONDS)  # of traffic that is not measured
            yield service
        finally:
            service.kill()


def _watched(service: Service, seconds: float, stalled: int = 0) -> Seen:
    """Publish for a while, with 200 viewers and `stalled` more that stop reading."""
    command = [sys.executable, "-m", "bench.watchers", service.url, str(VIEWERS), str(stalled)]
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout
        if process.stdout.readline() != "ready\n":
            raise MeasureFailed(f"{VIEWERS} viewers did not connect.")
        sent, cpu = _publish(service, seconds)
        time.sleep(DELIVER_SECONDS)  # what is not received by then is not delivered
        figures = json.loads(process.communicate(timeout=60)[0])
    finally:
        process.kill()
    delivered = 100 * figures["received"] / (sent * VIEWERS)
    return Seen(cpu, delivered, figures["p50_ms"], figures["p99_ms"])


def _publish(service: Service, seconds: float) -> tuple[int, float]:
    """Publish at the rate for so long. Returns how many events, and the service's CPU meanwhile."""
    worker = worker_of(service)
    before, began = cpu_seconds(worker), time.monotonic()
    with Publisher(service.url) as publisher:
        time.sleep(seconds)  # the publisher runs in another thread
    passed = time.monotonic() - began
    if publisher.sent < 0.95 * RATE * seconds:
        raise MeasureFailed(f"It accepted only {publisher.sent} events in {seconds:.0f} s.")
    return publisher.sent, 100 * (cpu_seconds(worker) - before) / passed


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _figures(seen: Seen) -> dict[str, float]:
    return {SHARE: seen.delivered, P50: seen.p50_ms, P99: seen.p99_ms}
