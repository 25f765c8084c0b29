"""Resident memory of one worker during an hour of load, on either log: how much, and does it grow.

    python -m bench.memory --minutes 60 --rate 100

Both services run at once, under the same load: numbered events from eight clients, viewers who come
and go, and a visitor who opens every page. Its table goes into bench/RESULTS.md.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from bench import contenders
from bench.goals import EMBEDDED, ON_KAFKA
from bench.machine import description
from bench.plan import MeasureFailed
from bench.report import Goal, Results, Series, write_section
from bench.soak import Clients, held
from tests import kafka_broker
from tests.load import worker_of
from tests.service import ROOT, Service, wait_for

MINUTES = 60.0
RATE = 100.0
SAMPLE_SECONDS = 5.0
LINES = 12  # of progress
VIEWERS = "20"
STAY_SECONDS = 30.0
LOOK_SECONDS = 0.5
VISITED = (
    "/",
    "/failures",
    "/users",
    "/users/user_1",
    "/topics",
    "/analytics",
    "/metrics",
    "/api/events?limit=500",
    "/api/users?q=user",
    "/api/analytics?window=minute",
    "/api/kafka/status",
)
MEASURE, MIDDLE, LAST = "memory", "middle third, MB", "last third, MB"
GOALS = tuple(
    goal
    for log in (EMBEDDED, ON_KAFKA)
    for goal in (
        Goal(
            f"resident memory of one worker, {log}, MB",
            Series(MEASURE, log, LAST),
            None,
            "is",
            150,
            100,
            at_most=True,
        ),
        Goal(
            "its last third against its middle third",
            Series(MEASURE, log, LAST),
            Series(MEASURE, log, MIDDLE),
            "times",
            1.03,
            at_most=True,
        ),
    )
)


class Visitors:
    """Viewers who come and go, and meanwhile a visitor who opens every page."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._stop = threading.Event()
        pool = ThreadPoolExecutor()
        self._visits = [pool.submit(self._come_and_go), pool.submit(self._visit)]

    def stop(self) -> None:
        """Stop; raises the error of a visit that failed."""
        self._stop.set()
        for visit in self._visits:
            visit.result()

    def _come_and_go(self) -> None:
        command = [sys.executable, "-m", "bench.watchers", self._service.url, VIEWERS, "0"]
        while not self._stop.is_set():
            process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            self._stop.wait(STAY_SECONDS)
            process.communicate(timeout=60)  # the viewers end with their input
            if process.returncode:
                raise MeasureFailed("The viewers ended by themselves.")

    def _visit(self) -> None:
        while not self._stop.is_set():
            for path in VISITED:
                answer = self._service.get(path)
                if answer.code != 200:
                    raise MeasureFailed(f"{path} was answered {answer.code}: {answer.json}")
                self._stop.wait(LOOK_SECONDS)


def main() -> None:
    parser = argparse.ArgumentParser(description="Resident memory during an hour of load.")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="how long (60)")
    parser.add_argument("--rate", type=float, default=RATE, help="events per second for each (100)")
    options = parser.parse_args()
    if reason := kafka_broker.why_not():
        sys.exit(f"error: {reason}")
    results = Results()
    with ExitStack() as started:
        broker = started.enter_context(contenders.kafka())
        services = {
            EMBEDDED: _started(started),
            ON_KAFKA: _started(started, KAFKA_BROKER=broker),
        }
        _load(services, options.minutes * 60, options.rate, results)
    table = results.table(GOALS)
    print(f"\n{table}\n")
    if options.minutes >= MINUTES:
        command = f"python -m bench.memory --minutes {options.minutes:g} --rate {options.rate:g}"
        write_section("Memory after an hour of load", f"{description(command)}\n\n{table}")
    missed = results.missed(GOALS)
    print("\n".join(missed))
    sys.exit(1 if missed else 0)


def _started(started: ExitStack, **settings: str) -> Service:
    """The service with one worker, consuming; ended together with `started`."""
    files = started.enter_context(contenders.folder())
    service = Service(files, JOBQUEST_WORKERS="1", **settings)
    started.callback(service.kill)
    service.start()
    wait_for(lambda: service.status()["consumerRunning"], 60, service.tail)
    return service


def _load(services: dict[str, Service], seconds: float, rate: float, results: Results) -> None:
    """Load all services, and sample their workers' memory meanwhile."""
    clients = [Clients(service, rate) for service in services.values()]
    visitors = [Visitors(service) for service in services.values()]
    began = time.monotonic()
    samples: dict[str, list[float]] = {name: [] for name in services}
    shown = 0
    while (passed := time.monotonic() - began) < seconds:
        time.sleep(SAMPLE_SECONDS)  # between two samples of a run of a given length
        for name, service in services.items():
            samples[name].append(held(worker_of(service))[0])
        if passed * LINES >= shown * seconds:
            shown += 1
            now = ", ".join(f"{name} {found[-1]:.0f} MB" for name, found in samples.items())
            print(f"after {passed / 60:4.1f} min: {now}", flush=True)
    for load in [*clients, *visitors]:
        load.stop()
    for client in clients:
        print(f"{len(client.accepted)} of {len(client.sent)} accepted: {dict(client.codes)}")
        if len(client.accepted) < 0.9 * rate * seconds:
            raise MeasureFailed("The load was less than the rate demands.")
    for name, found in samples.items():
        third = len(found) // 3
        middle, last = found[third : 2 * third], found[2 * third :]
        figures = {MIDDLE: statistics.median(middle), LAST: statistics.median(last)}
        results.note(MEASURE, name, **figures)


if __name__ == "__main__":
    main()
