"""Measures the service with ten million events stored: consuming more, its pages, its first paint.

    python -m bench.large                      # an hour or less, 20 GB of disk
    python -m bench.large --folder big         # keeps the filled folder, and reuses it next time

The events are appended to an embedded log, and `flask events rebuild` fills the read side from it:
the same rows in the same order as the consumer's, but faster. Its table goes into bench/RESULTS.md.

The goal for the first paint applies to Debian's `chromium-headless-shell`. The whole browser also
draws its windows, here without a graphics card: its figures are in the table too.
"""

from __future__ import annotations

import argparse
import random
import re
import shutil
import sqlite3
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import quote

from bench import contenders
from bench.consuming import NOTHING, check, rebuild_seconds, sums
from bench.contenders import OURS
from bench.fill import fill_file, fill_kafka
from bench.goals import P50, P99, RATE
from bench.machine import description
from bench.plan import MeasureFailed
from bench.report import Goal, Results, Series, readable, write_section
from bench.workload import USERS, Expected, mix
from jobquest.events import format_time
from tests import browser as chromium
from tests import kafka_broker
from tests.service import Service

EVENTS = 10_000_000
MORE_EVENTS = 100_000
ROUNDS = 3
REQUESTS = 1_000
PAINTS = 50
LINKED = re.compile(r'(?:src|href)="(/static/[^"]+)"')
FIRST_PAINT = """() => new Promise((tell) => new PerformanceObserver((list) => {
    const [found] = list.getEntriesByName("first-contentful-paint");
    if (found) tell(found.startTime);
}).observe({ type: "paint", buffered: true }))"""
ROUTES = {
    "/api/events": "/api/events",
    "/api/events?userId=": "/api/events?userId={user}",
    "/api/users/{id}": "/api/users/{user}",
}
LISTS = {  # of events from long ago, or in no order of an index
    "/api/events?to=": "/api/events?to={time}",
    "/api/events?from=&to=&type=": "/api/events?from={time}&to={later}&type=xp.earned",
    "/api/events?topic=": "/api/events?topic=notifications",
    "/api/users": "/api/users",
}
CONSUME, PAGES, DASHBOARD = "consume", "pages", "dashboard"
EMPTY = f"{OURS}, empty database"
ANSWERED, PAINTED, TEXT_PAINTED = "answered", "painted", "text painted"
WHOLE_BROWSER = "dashboard, whole browser"
GOALS = (
    Goal(
        f"consuming {MORE_EVENTS:,} more, events/s",
        Series(CONSUME, OURS, RATE),
        None,
        "is",
        10_000,
        20_000,
    ),
    Goal(
        "the same against an empty database, ids given by the service",
        Series(CONSUME, OURS, RATE),
        Series(CONSUME, EMPTY, RATE),
        "times",
        0.85,
        0.95,
    ),
    *(
        Goal(f"`{route}`: p99, ms", Series(PAGES, route, P99), None, "is", 20, at_most=True)
        for route in ROUTES
    ),
    *(
        Goal(f"`{route}`: p99, ms", Series(PAGES, route, P99), None, "is", 100, at_most=True)
        for route in LISTS
    ),
    Goal(
        "dashboard and all files it links, fetched one by one: p99, ms",
        Series(DASHBOARD, ANSWERED, P99),
        None,
        "is",
        150,
        at_most=True,
    ),
    Goal(
        f"dashboard, first contentful paint in `{chromium.HEADLESS_SHELL}`: p99, ms",
        Series(DASHBOARD, PAINTED, P99),
        None,
        "is",
        150,
        at_most=True,
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure with ten million events stored.")
    parser.add_argument("--events", type=int, default=EVENTS, help=f"stored ({EVENTS:,})")
    parser.add_argument("--folder", type=Path, help="keep the filled log and read side here")
    options = parser.parse_args()
    if reason := kafka_broker.why_not():
        sys.exit(f"error: {reason}")
    if not (headless := shutil.which(chromium.HEADLESS_SHELL)):
        sys.exit(f"error: no {chromium.HEADLESS_SHELL} on this machine")
    if not (whole := chromium.whole_program()):
        sys.exit("error: no whole Chromium on this machine")
    results = Results()
    with _folder(options.folder) as folder:
        stored = _fill(folder, options.events)
        _consume(folder, results)
        _look(folder, {DASHBOARD: headless, WHOLE_BROWSER: whole}, results)
    table = results.table(GOALS)
    print(f"\n{table}\n")
    if options.events == EVENTS:
        figures = f"{table}\n\n{results.all_medians()}"
        text = f"{description('python -m bench.large')}\n{stored}\n\n{figures}"
        write_section("Ten million events stored", text)
    missed = results.missed(GOALS)
    print("\n".join(missed))
    sys.exit(1 if missed else 0)


@contextmanager
def _folder(kept: Path | None) -> Iterator[Path]:
    if kept:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept.absolute()
        return
    with contenders.folder() as temporary:
        yield temporary


def _fill(folder: Path, events: int) -> str:
    """Store the events if the folder is empty; returns a line about what is stored."""
    if not (folder / "read.db").exists():
        print(f"filling the log with {events:,} events", flush=True)
        expected = Expected()
        fill_file(folder / "log.db", expected.counting(mix(events)))
        print("rebuilding the read side from it", flush=True)
        seconds = rebuild_seconds(folder)
        check(folder, expected)
        print(f"rebuilt in {readable(seconds)} s", flush=True)
    megabytes = (folder / "read.db").stat().st_size / 2**20
    return f"The read side has {sums(folder).rows:,} events in {megabytes:,.0f} MB."


def _consume(folder: Path, results: Results) -> None:
    """Consume more events from Kafka, other ones in each round, here and into an empty folder."""
    for number in range(ROUNDS):
        expected = Expected()
        with contenders.kafka() as broker, contenders.folder() as empty:
            fill_kafka(broker, expected.counting(mix(MORE_EVENTS, seed=number)))
            count = str(MORE_EVENTS)
            for name, files in ((OURS, folder), (EMPTY, empty)):
                before = sums(files) if (files / "read.db").exists() else NOTHING
                figures = contenders.figures_of("bench.consume_all", str(files), count, broker)
                check(files, expected, before)
                results.note(CONSUME, name, **{RATE: figures["events"] / figures["seconds"]})


def _look(folder: Path, browsers: dict[str, str], results: Results) -> None:
    first, last = _times(folder)
    times = {"time": _shown(first + (last - first) // 3), "later": _shown((first + last) // 2)}
    lists = {route: path.format(**times) for route, path in LISTS.items()}
    service = Service(folder, JOBQUEST_CONSUMER_AUTOSTART="false")
    try:
        service.start()
        for _ in range(ROUNDS):
            for route, path in {**ROUTES, **lists}.items():
                results.note(PAGES, route, **_cuts(_answers(service.url, path, REQUESTS)))
            results.note(DASHBOARD, ANSWERED, **_cuts(_dashboards(service.url)))
            for measure, program in browsers.items():
                results.note(measure, PAINTED, **_cuts(_paints(service.url, program)))
                # The browser's own share: it does not show a text any sooner.
                alone = _paints(f"{service.url}/healthz", program)
                results.note(measure, TEXT_PAINTED, **_cuts(alone))
    finally:
        service.kill()


def _times(folder: Path) -> tuple[int, int]:
    """The times of the first event and of the last."""
    with closing(sqlite3.connect(folder / "read.db")) as connection:
        ends = "SELECT MIN(minute_ms), MAX(minute_ms) FROM minute_counts"
        first, last = connection.execute(ends).fetchone()
        return first, last


def _shown(time_ms: int) -> str:
    return quote(format_time(time_ms))


def _answers(url: str, path: str, count: int) -> list[float]:
    """How long each of `count` requests took, in ms; each for a random user."""
    connection = HTTPConnection(url.removeprefix("http://"), timeout=60)
    chance = random.Random(1)
    took = []
    for _ in range(count):
        target = path.format(user=f"user_{chance.randrange(USERS)}")
        began = time.perf_counter()
        _get(connection, target)
        took.append((time.perf_counter() - began) * 1000)
    connection.close()
    return took


def _dashboards(url: str) -> list[float]:
    """How long the page took, with everything that it links."""
    took = []
    for _ in range(PAINTS):
        connection = HTTPConnection(url.removeprefix("http://"), timeout=60)
        began = time.perf_counter()
        for linked in LINKED.findall(_get(connection, "/").decode()):
            _get(connection, linked)
        took.append((time.perf_counter() - began) * 1000)
        connection.close()
    return took


def _get(connection: HTTPConnection, path: str) -> bytes:
    connection.request("GET", path)
    answer = connection.getresponse()
    body = answer.read()
    if answer.status != 200:
        raise MeasureFailed(f"{path} was answered {answer.status}: {body[:300]!r}")
    return body


def _paints(url: str, program: str | None) -> list[float]:
    """When a browser first showed some of the page's content, in ms after it requested the page;
    its cache is empty."""
    took = []
    with chromium.launched(program) as browser:
        for _ in range(PAINTS):
            page = browser.new_context().new_page()
            page.goto(url)
            took.append(float(page.evaluate(FIRST_PAINT)))
            page.context.close()
    return took


def _cuts(took: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(took, n=100, method="inclusive")
    return {P50: cuts[49], P99: cuts[98]}


if __name__ == "__main__":
    main()
