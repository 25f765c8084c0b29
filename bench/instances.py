"""Measures instances that share one Kafka and one PostgreSQL, near to the database and far from it.

    python -m bench.instances            # 20 minutes; writes its section of bench/RESULTS.md
    python -m bench.instances --rounds 1 --only far

Each instance is the whole service. The events, with random ids that their clients gave, are on
Kafka before the consumers start. The rate is that between the first tenth of them and the last, by
the positions in the database, which the measure reads without the delay.
"""

from __future__ import annotations

import argparse
import random
import sqlite3
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path

import msgspec
import psycopg
from sqlalchemy import make_url

from bench import contenders
from bench.distance import Distance
from bench.fill import fill_kafka
from bench.goals import RATE
from bench.machine import description
from bench.plan import MeasureFailed, interleaved
from bench.report import Goal, Results, Series, write_section
from bench.workload import mix
from jobquest.config import load
from jobquest.events import Event
from jobquest.runtime import Runtime
from tests import kafka_broker, postgres
from tests.postgres import Postgres
from tests.service import Service, wait_for

EVENTS = 150_000
SECONDS = 300.0
PROCESSES = 3  # of an instance: two workers and the consumer
FIRST, LAST = 0.1, 0.9  # between these shares of the events the rate is measured
STEPPED_EVENTS = 60_000
SQLITE, LOCAL, NEAR = "SQLite", "PostgreSQL on a local socket", "2 ms away"
FAR, FAR_THREE = "50 ms away", "three instances, 50 ms away"
DISTANCES = {NEAR: 0.002, FAR: 0.050, FAR_THREE: 0.050}  # each way
GROUPS = {"near": (SQLITE, LOCAL, NEAR), "far": (FAR, FAR_THREE)}
CONSUME, BATCH = "consume", "a batch"
ROUND_TRIPS, STATEMENTS = "round trips", "statements"
STORED = "an event"


def _against(name: str, other: str) -> tuple[Series, Series]:
    return Series(CONSUME, name, RATE), Series(CONSUME, other, RATE)


GOALS = (
    Goal("three instances against one, 50 ms away", *_against(FAR_THREE, FAR), "times", 2.4, 2.8),
    Goal("one of them, events/s", Series(CONSUME, FAR, RATE), None, "is", 3_000),
    Goal("2 ms away against a local socket", *_against(NEAR, LOCAL), "times", 0.85, 0.95),
    Goal("PostgreSQL against SQLite, local", *_against(LOCAL, SQLITE), "times", 0.6, 0.8),
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure instances that share a database.")
    parser.add_argument("--rounds", type=int, default=3, help="of each kind (3)")
    parser.add_argument("--only", choices=GROUPS, help="only these; writes no file")
    options = parser.parse_args()
    if reason := kafka_broker.why_not() or postgres.why_not():
        sys.exit(f"error: {reason}")
    names = GROUPS[options.only] if options.only else (*GROUPS["near"], *GROUPS["far"])
    results, server = Results(), Postgres(fsync=True).start()
    try:
        with contenders.kafka() as broker:
            fill_kafka(broker, _given_ids(mix(EVENTS)))
            _step(broker, server, results)
            for name in interleaved(names, options.rounds):
                results.note(CONSUME, name, **{RATE: _rate(name, broker, server)})
    finally:
        server.stop()
    text = f"{results.table(GOALS)}\n\n{results.all_medians()}"
    print(f"\n{text}\n")
    if not options.only:
        command = f"python -m bench.instances --rounds {options.rounds}"
        write_section("Several instances", f"{description(command)}\n\n{text}")
    missed = results.missed(GOALS)
    print("\n".join(missed))
    sys.exit(1 if missed else 0)


def _given_ids(events: Iterator[Event]) -> Iterator[Event]:
    chance = random.Random(7)
    for event in events:
        given = uuid.UUID(int=chance.getrandbits(128), version=4)
        yield msgspec.structs.replace(event, id=str(given))


def _step(broker: str, server: Postgres, results: Results) -> None:
    """What a batch of one consumer and what an event needs from the database, without the service's
    other threads."""
    url = make_url(server.new_database())
    with contenders.folder() as files, Distance(url.port or 0, 0.0) as distance:
        behind = url.set(port=distance.port).render_as_string()
        runtime = Runtime(load(_settings(files, broker) | {"DATABASE_URL": behind}))
        runtime.database.upgrade()
        before_all, done = _bytes(server, url.database or ""), 0
        while done < STEPPED_EVENTS:
            before = distance.needed()
            if count := runtime.consumer.step(0.5):
                needed = {name: distance.needed()[name] - before[name] for name in before}
                results.note(
                    BATCH,
                    f"of {count:,}",
                    **{
                        ROUND_TRIPS: needed["round_trips"],
                        STATEMENTS: needed["statements"],
                    },
                )
            done += count
        after_all = _bytes(server, url.database or "")
        grown = {name: (after_all[name] - before_all[name]) / done for name in after_all}
        grown["bytes as JSON"] = sum(len(event.to_json()) for event in mix(done)) / done
        results.note(STORED, f"of {done:,}", **grown)
        runtime.consumer.close()
        runtime.stop()


def _bytes(server: Postgres, database: str) -> dict[str, float]:
    """How large a database's tables with their indexes are, and the write-ahead log so far."""
    log = "pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')"
    [(tables, written)] = server.run(f"SELECT pg_database_size('{database}'), {log}")
    return {"bytes in tables": float(tables), "bytes of write-ahead log": float(written)}


def _rate(name: str, broker: str, server: Postgres) -> float:
    with ExitStack() as used:
        if name == SQLITE:
            files = used.enter_context(contenders.folder())
            settings, read = {}, _in_file(files / "read.db")
            folders = [files]
        else:
            url = make_url(server.new_database())
            settings = {"DATABASE_URL": url.render_as_string()}
            if name == LOCAL:
                there = url.set(host="", query={"host": server.socket_folder})
                settings = {"DATABASE_URL": there.render_as_string()}
            elif name in DISTANCES:
                distance = used.enter_context(Distance(url.port or 0, DISTANCES[name]))
                settings = {"DATABASE_URL": url.set(port=distance.port).render_as_string()}
            read = used.enter_context(_in_postgres(url.render_as_string()))
            count = 3 if name == FAR_THREE else 1
            folders = [used.enter_context(contenders.folder()) for _ in range(count)]
        settings |= {"KAFKA_GROUP_ID": f"group-{uuid.uuid4()}"}
        services = []
        for folder in folders:
            service = Service(folder, **_settings(folder, broker) | settings)
            used.callback(service.kill)
            services.append(service.start())
        listed = partial(_all_are_listed, services)
        wait_for(listed, SECONDS)  # the first process makes the tables, and that takes its time
        services[0].switch("start")  # for all of them
        return _measured(read)


def _all_are_listed(services: list[Service]) -> bool:
    return len(services[0].status()["processes"]) == PROCESSES * len(services)


def _settings(folder: Path, broker: str) -> dict[str, str]:
    return {
        "KAFKA_BROKER": broker,
        "JOBQUEST_DATA_DIR": str(folder),
        "JOBQUEST_CONSUMER_AUTOSTART": "false",
        "JOBQUEST_DATABASE_UPGRADE": "true",
    }


def _measured(processed: Callable[[], int]) -> float:
    began, first = time.monotonic(), None
    while (done := processed()) < EVENTS * LAST:
        if first is None and done >= EVENTS * FIRST:
            first = time.monotonic(), done
        if time.monotonic() - began > SECONDS:
            raise MeasureFailed(f"Only {done:,} events were processed in {SECONDS:.0f} s.")
        time.sleep(0.05)  # between two looks: nothing tells another process that a position moved
    if first is None:
        raise MeasureFailed("The events were processed too fast to be measured.")
    return (done - first[1]) / (time.monotonic() - first[0])


def _in_file(path: Path) -> Callable[[], int]:
    def processed() -> int:
        with closing(sqlite3.connect(path)) as connection:
            [total] = connection.execute("SELECT TOTAL(next) FROM positions").fetchone()
            return int(total)

    return processed


@contextmanager
def _in_postgres(url: str) -> Iterator[Callable[[], int]]:
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:

        def processed() -> int:
            found = connection.execute("SELECT coalesce(sum(next), 0) FROM positions").fetchone()
            return int(found[0]) if found else 0

        yield processed


if __name__ == "__main__":
    main()
