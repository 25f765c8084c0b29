"""Measures sockets of many users: each is shown its own events, and operators are shown all.

    python -m bench.sockets              # writes its section of bench/RESULTS.md
    python -m bench.sockets --users 2000 --rounds 1

One web worker on Kafka, which demands credentials. Another process writes 500 events/s to Kafka,
and clients post 50 realistic requests/s; in turn with these sockets and without any. Memory is the
worker's own (RSS); what the kernel needs for the sockets is named apart.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench import contenders, http_load, kafka_rate, workload
from bench.clients import Figures
from bench.goals import P50, P99
from bench.machine import description
from bench.plan import MeasureFailed, interleaved
from bench.report import Goal, Results, Series, write_section
from bench.viewing import cpu_seconds
from tests import kafka_broker
from tests.load import worker_of
from tests.service import ROOT, Service, wait_for

USERS = (2_000, 10_000)
OPERATORS = 20
RATE, POSTS = 500, 50
POSTING_CLIENTS = 8
SECONDS, WARM_SECONDS, DELIVER_SECONDS = 20.0, 4.0, 1.0
WITHOUT = "no sockets"
CPU = "worker CPU %"
SHOWN_P50, SHOWN_P99, ALL_P99 = "own events p50 ms", "own events p99 ms", "operators' p99 ms"
SHARE, MEMORY, KERNEL = "delivered %", "RSS KB each", "kernel KB each"
CONNECT = "CPU ms to connect each"
MEASURE = "sockets"


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure sockets of many users.")
    parser.add_argument("--users", type=int, action="append", help="so many (2,000 and 10,000)")
    parser.add_argument("--rounds", type=int, default=3, help="of each (3)")
    options = parser.parse_args()
    if reason := kafka_broker.why_not():
        sys.exit(f"error: {reason}")
    results, counts = Results(), options.users or USERS
    names = {WITHOUT: 0} | {named(users): users for users in counts}
    with contenders.kafka() as broker, _service(broker, max(counts)) as service:
        _run(service, broker, 0, WARM_SECONDS)
        for name in interleaved(list(names), options.rounds):
            results.note(MEASURE, name, **_run(service, broker, names[name], SECONDS))
    goals = [goal for users in counts for goal in _goals(named(users))]
    text = f"{results.table(goals)}\n\n{results.all_medians()}"
    print(f"\n{text}\n")
    if not options.users:
        command = f"python -m bench.sockets --rounds {options.rounds}"
        write_section("Sockets of many users", f"{description(command)}\n\n{text}")
    missed = results.missed(goals)
    print("\n".join(missed))
    sys.exit(1 if missed else 0)


def named(users: int) -> str:
    return f"{users:,} users"


def _goals(name: str) -> list[Goal]:
    def ours(figure: str) -> Series:
        return Series(MEASURE, name, figure)

    def at_most(text: str, figure: str, least: float) -> Goal:
        return Goal(f"{name}: {text}", ours(figure), None, "is", least, at_most=True)

    return [
        at_most("an event until its user's socket, p99 ms", SHOWN_P99, 200),
        at_most("and until an operator's", ALL_P99, 200),
        at_most("the worker's CPU, % of a core", CPU, 60),
        at_most("its memory for each socket, KB", MEMORY, 40),
        Goal(
            f"{name}: a request's p99, against that without sockets",
            ours(P99),
            Series(MEASURE, WITHOUT, P99),
            "times",
            1.5,
            at_most=True,
        ),
    ]


@contextmanager
def _service(broker: str, users: int) -> Iterator[Service]:
    with contenders.folder() as files:
        service = contenders.ProtectedService(
            files,
            KAFKA_BROKER=broker,
            JOBQUEST_WORKERS="1",
            JOBQUEST_CORS_ORIGINS=workload.ORIGIN,
            JOBQUEST_MAX_SOCKETS=str(users + OPERATORS),
        )
        try:
            service.start()
            wait_for(lambda: service.status()["consumerRunning"], 60, service.tail)
            yield service
        finally:
            service.kill()


def _run(service: Service, broker: str, users: int, seconds: float) -> dict[str, float]:
    worker = worker_of(service)
    before, kernel, cpu = _rss(worker), _kernel_bytes(), cpu_seconds(worker)
    with ExitStack() as started:
        watchers = None
        figures: dict[str, float] = {}
        if users:
            arguments = [service.url, str(OPERATORS), "0", str(users)]
            watchers = started.enter_context(_process("bench.watchers", *arguments))
            sockets = users + OPERATORS
            figures[CONNECT] = 1000 * (cpu_seconds(worker) - cpu) / sockets
            figures[MEMORY] = (_rss(worker) - before) / sockets / 1000
            figures[KERNEL] = (_kernel_bytes() - kernel) / sockets / 2 / 1000  # both ends are here
        writer = started.enter_context(
            _process("bench.kafka_rate", broker, str(RATE), str(users or max(USERS)))
        )
        time.sleep(kafka_rate.WARM_SECONDS)  # what is written until then is not counted
        posted, figures[CPU] = _post(service, worker, seconds)
        sent = _last(writer)
        figures |= {P50: posted.p50_ms, P99: posted.p99_ms}
        if watchers:
            time.sleep(DELIVER_SECONDS)  # what is not received by then is not delivered
            figures |= _shown(_last(watchers), sent)
    return figures


def _post(service: Service, worker: int, seconds: float) -> tuple[Figures, float]:
    """Post for so long. Returns the clients' figures, and the worker's CPU meanwhile."""
    arguments = (service.url, workload.realistic, POSTING_CLIENTS, 1, seconds, POSTS)
    with http_load.clients(*arguments) as clients:
        clients.start()
        cpu, began = cpu_seconds(worker), time.monotonic()
        figures = clients.figures()
        cpu = 100 * (cpu_seconds(worker) - cpu) / (time.monotonic() - began)
    if figures.refused or figures.unsent:
        raise MeasureFailed(f"{figures.refused} requests were refused, {figures.unsent} unsent.")
    return figures, cpu


def _shown(seen: dict[str, Any], sent: int) -> dict[str, float]:
    own = seen["own"]
    shares = own["received"] / sent, seen["received"] / sent / OPERATORS
    shown = {SHOWN_P50: own["p50_ms"], SHOWN_P99: own["p99_ms"], ALL_P99: seen["p99_ms"]}
    return {SHARE: 100 * min(shares), **shown}


@contextmanager
def _process(module: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A module of ours that has said that it is ready."""
    command = [sys.executable, "-m", module, *arguments]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
    try:
        assert process.stdout
        if process.stdout.readline() != "ready\n":
            raise MeasureFailed(f"{module} did not begin.")
        yield process
    finally:
        process.kill()
        process.wait(10)


def _last(process: subprocess.Popen[str]) -> Any:
    """What the process prints when its input ends."""
    return json.loads(process.communicate(timeout=120)[0])


def _rss(pid: int) -> int:
    [kilobytes] = re.findall(r"^VmRSS:\s*(\d+)", _text(f"/proc/{pid}/status"), re.MULTILINE)
    return int(kilobytes) * 1024


def _kernel_bytes() -> int:
    """The kernel's own memory (slabs: sockets, files, epoll) and the sockets' buffers."""
    [slab] = re.findall(r"^Slab:\s*(\d+)", _text("/proc/meminfo"), re.MULTILINE)
    [pages] = re.findall(r"^TCP: .* mem (\d+)", _text("/proc/net/sockstat"), re.MULTILINE)
    return int(slab) * 1024 + int(pages) * 4096


def _text(path: str) -> str:
    return Path(path).read_text()


if __name__ == "__main__":
    main()
