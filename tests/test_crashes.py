"""Killed at statements all over: what was written stays, what was not comes again, once."""

from __future__ import annotations

import itertools
import multiprocessing
import random
import shutil
from collections import Counter
from pathlib import Path

import pytest

from jobquest.config import load
from jobquest.read.cursor import Cursor
from jobquest.read.event_filter import EventFilter
from jobquest.runtime import Runtime
from tests.dying_consumer import consume_everything, consume_until

EVENTS = 30
USERS = 3
XP = 17
KILLED = -9
STRIDE = 4  # 1 for every single statement, which takes minutes
# Processes of their own, forked from one without threads that has imported everything once.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["tests.dying_consumer"])
QUICK_RETRIES = {"JOBQUEST_RETRY_MAX_ATTEMPTS": "2", "JOBQUEST_RETRY_BASE_SECONDS": "0"}


def run_dying(settings: dict[str, str], statement: int) -> int:
    """Consume until the statement with this number, or to the end; the exit code."""
    dying = _FORKS.Process(target=consume_until, args=(settings, statement))
    dying.start()
    try:
        dying.join(120)
        assert dying.exitcode in (0, KILLED)
        return dying.exitcode
    finally:
        dying.kill()


def publish(runtime: Runtime) -> None:
    for n in range(EVENTS):
        data = {"xpAmount": XP, "totalXp": 0}
        runtime.producer.publish("xp.earned", f"user-{n % USERS}", data, id=f"e-{n}")


def check(runtime: Runtime) -> None:
    """Each event is processed or a dead letter, once; XP, levels and notices are exact."""
    outcomes: Counter[str] = Counter()
    after = None
    types: Counter[str] = Counter()
    while True:
        page = runtime.queries.events(limit=500, after=after and Cursor.parse(after))
        for item in page["events"]:
            outcomes[item["outcome"]] += 1
            types[item["event"]["type"]] += 1
        after = page["next"]
        if after is None:
            break
    dead = len(range(0, EVENTS, 10))
    assert types["xp.earned"] == EVENTS
    assert outcomes["dead"] == dead == runtime.queries.outcomes()["deadLetters"]
    assert outcomes["retrying"] == 0
    for number in range(USERS):
        counted = [n for n in range(EVENTS) if n % USERS == number and n % 10]
        found = runtime.queries.user(f"user-{number}")
        assert found
        assert found["xp"] == XP * len(counted)
        levels = runtime.queries.events(
            EventFilter(types=frozenset({"level.up"}), users=frozenset({f"user-{number}"}))
        )["events"]
        assert len(levels) == found["level"] - 1
        assert (
            len(runtime.queries.user_list("notifications", f"user-{number}")) == found["level"] - 1
        )
    assert runtime.queries.outcomes()["followUpsWaiting"] == 0


def consumed(settings: dict[str, str]) -> Runtime:
    """The parts, once everything is consumed that a killed process has left."""
    consume_everything(Runtime(load(settings)))
    return Runtime(load(settings))


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a dead process had to relay is otherwise taken over after five seconds."""
    monkeypatch.setattr("jobquest.read.outgoing.LEFT_AFTER_MS", 0)


@pytest.mark.slow
def test_killed_at_any_statement_everything_counts_once(tmp_path: Path) -> None:
    published = tmp_path / "published"
    runtime = Runtime(load(QUICK_RETRIES | {"JOBQUEST_DATA_DIR": str(published)}))
    publish(runtime)
    runtime.stop()
    for statement in itertools.count(random.randint(1, STRIDE), STRIDE):
        folder = tmp_path / str(statement)
        shutil.copytree(published, folder)
        settings = QUICK_RETRIES | {"JOBQUEST_DATA_DIR": str(folder)}
        if run_dying(settings, statement) != KILLED:
            break
        check(consumed(settings))
    assert statement > 60, "there is less to kill than there was"


@pytest.mark.kafka
def test_on_kafka_killed_around_commits_everything_counts_once(
    empty_kafka: str, tmp_path: Path
) -> None:
    settings = QUICK_RETRIES | {"JOBQUEST_DATA_DIR": str(tmp_path), "KAFKA_BROKER": empty_kafka}
    runtime = Runtime(load(settings))
    publish(runtime)
    runtime.stop()
    deaths = [run_dying(settings, statement) for statement in (4, 9, 13, 17)]
    assert deaths.count(KILLED) >= 2
    check(consumed(settings))
