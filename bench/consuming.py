"""Measures of the read side: consume and rebuild. After each run, all events must count once."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from bench import contenders
from bench.contenders import OURS
from bench.fill import commit_ends, fill_file, fill_kafka
from bench.goals import BARE, BY_HAND, EMBEDDED, ON_KAFKA, RATE, SECONDS
from bench.plan import MeasureFailed, Plan, interleaved
from bench.report import Results
from bench.workload import Expected, mix, with_client_ids
from tests.service import ROOT

CONSUMED_EVENTS = 300_000
REBUILT_EVENTS = 1_000_000
CONSUME_ROUNDS = 5
REBUILD_ROUNDS = 3  # each takes a minute


def consume(plan: Plan, results: Results) -> None:
    """300,000 events that are already on Kafka: the service's consumer, and a bare poll."""
    expected = Expected()
    with contenders.kafka() as broker:
        fill_kafka(broker, expected.counting(mix(CONSUMED_EVENTS)))
        count = str(CONSUMED_EVENTS)
        for name in interleaved((OURS, BARE), min(plan.rounds, CONSUME_ROUNDS)):
            if name == BARE:
                figures = contenders.figures_of("bench.floors.poll", broker, count)
            else:
                with contenders.folder() as files:
                    figures = contenders.figures_of("bench.consume_all", str(files), count, broker)
                    check(files, expected)
            results.note("consume", name, **{RATE: figures["events"] / figures["seconds"]})


def store(plan: Plan, results: Results) -> None:
    """300,000 events with clients' ids: the service's consumer, and a loop by hand."""
    expected = Expected()
    with contenders.kafka() as broker:
        fill_kafka(broker, with_client_ids(expected.counting(mix(CONSUMED_EVENTS))))
        count = str(CONSUMED_EVENTS)
        for name in interleaved((OURS, BY_HAND), min(plan.rounds, CONSUME_ROUNDS)):
            with contenders.folder() as files:
                if name == BY_HAND:
                    file = str(files / "by_hand.db")
                    figures = contenders.figures_of("bench.floors.by_hand", broker, count, file)
                else:
                    figures = contenders.figures_of("bench.consume_all", str(files), count, broker)
                    check(files, expected)
            results.note("store", name, **{RATE: figures["events"] / figures["seconds"]})


def rebuild(plan: Plan, results: Results) -> None:
    """A lost read side, rebuilt from a million events, on either log."""
    with contenders.kafka() as broker, contenders.folder() as files:
        expected = {EMBEDDED: Expected(), ON_KAFKA: Expected()}
        fill_file(files / "log.db", expected[EMBEDDED].counting(mix(REBUILT_EVENTS)))
        fill_kafka(broker, expected[ON_KAFKA].counting(mix(REBUILT_EVENTS)))
        commit_ends(broker, contenders.PARTITIONS)
        for name in interleaved((EMBEDDED, ON_KAFKA), min(plan.rounds, REBUILD_ROUNDS)):
            seconds = rebuild_seconds(files, broker if name == ON_KAFKA else "")
            check(files, expected[name])
            for file in files.glob("read.db*"):
                file.unlink()
            results.note("rebuild", name, **{SECONDS: seconds})


class Sums(NamedTuple):
    """A read side's totals: rows of events, and the events and XP of all users."""

    rows: int
    events: int
    xp: int


NOTHING = Sums(0, 0, 0)


def sums(folder: Path) -> Sums:
    """The totals of the read side in `folder`."""
    with closing(sqlite3.connect(folder / "read.db")) as connection:
        [rows] = connection.execute("SELECT COUNT(*) FROM events").fetchone()
        of_users = "SELECT SUM(event_count), SUM(xp) FROM user_stats"
        return Sums(rows, *connection.execute(of_users).fetchone())


def check(folder: Path, expected: Expected, before: Sums = NOTHING) -> None:
    """Raise MeasureFailed if the read side in `folder` did not grow as expected."""
    wanted = Sums(
        before.rows + expected.events, before.events + expected.events, before.xp + expected.xp
    )
    if (found := sums(folder)) != wanted:
        raise MeasureFailed(f"The read side has {found} instead of {wanted}.")


def rebuild_seconds(folder: Path, broker: str = "") -> float:
    """How long `flask events rebuild` takes."""
    settings = {"JOBQUEST_DATA_DIR": str(folder), "PYTHONPATH": str(ROOT)}
    if broker:
        settings["KAFKA_BROKER"] = broker
    command = [sys.executable, "-m", "flask", "--app", "app", "events", "rebuild"]
    began = time.perf_counter()
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **settings}, capture_output=True, text=True
    )
    if done.returncode:
        raise MeasureFailed(f"The rebuild ended with {done.returncode}: {done.stderr.strip()}")
    return time.perf_counter() - began
