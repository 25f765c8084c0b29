"""Rows that have a megabyte each: whatever holds several of them is bounded in bytes."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jobquest.config import load
from jobquest.events import Event
from jobquest.log import Partition
from jobquest.log.sqlite import SqliteLog
from jobquest.read.dead_letters import TOPIC as DEAD_LETTERS
from jobquest.read.dead_letters import DeadLetterFilter
from jobquest.read.merge import in_order
from jobquest.runtime import Runtime
from tests.load import forget_peak, peak_memory_of
from tests.test_portions import append, spelled

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only glibc can be asked to give memory back"
)

COUNT = 60
MEGABYTE = 1_000_000
TOPIC = "user-activities"
ANY = DeadLetterFilter()


@pytest.fixture
def runtime(settings: dict[str, str], database: dict[str, str]) -> Iterator[Runtime]:
    """Retries are due at once."""
    made = Runtime(load({**settings, **database, "JOBQUEST_RETRY_BASE_SECONDS": "0"}))
    yield made
    made.consumer.close()
    made.stop()


@contextmanager
def grows_by_less_than(most: int) -> Iterator[None]:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # else it would fill what was given back before
    memory = forget_peak(os.getpid())
    yield
    growth = peak_memory_of(os.getpid()) - memory
    print(f"{growth:,} B more")
    assert growth < most


@pytest.mark.slow
def test_events_of_a_megabyte_that_wait_are_listed_and_tried_again_within_bounds(
    runtime: Runtime,
) -> None:
    fails = [True]

    def handler(_event: Event) -> None:
        if fails[0]:
            raise ValueError("not yet")

    kind = "notebook.entry.created"
    values = (spelled(kind, f"e{n}", blob="x" * MEGABYTE) for n in range(COUNT))
    for value in values:
        append(runtime.log, TOPIC, [value], b"ada")
    runtime.consumer.register_event_handler(kind, handler)
    with grows_by_less_than(150_000_000):
        while runtime.queries.outcomes()["retrying"] < COUNT:
            runtime.consumer.step()
    with grows_by_less_than(10_000_000):
        assert len(runtime.queries.retries()) == COUNT
        assert runtime.queries.retry("e1")
    fails[0] = False
    with grows_by_less_than(100_000_000):
        while runtime.queries.outcomes()["retrying"]:
            runtime.consumer.step(0.05)
    with grows_by_less_than(10_000_000):
        found = runtime.queries.events(limit=500)["events"]
    assert [item["event"]["id"] for item in found] == [f"e{n}" for n in reversed(range(COUNT))]
    assert all(item["truncated"] for item in found)


@pytest.mark.slow
def test_dead_letters_of_a_megabyte_are_listed_and_relayed_within_bounds(runtime: Runtime) -> None:
    for n in range(COUNT):
        append(runtime.log, TOPIC, [b"%d no event " % n + b"x" * MEGABYTE], b"k" * 300_000)
    consume: Callable[[], int] = runtime.consumer.step
    while runtime.queries.outcomes()["deadLetters"] < COUNT:
        consume()
    with grows_by_less_than(20_000_000):
        found = runtime.queries.dead_letters(ANY, None, 500)["deadLetters"]
    assert len(found) == COUNT
    assert all(dead_letter["truncated"] for dead_letter in found)
    whole = runtime.queries.dead_letter(found[0]["id"])
    assert whole
    assert len(whole["value"]) > MEGABYTE
    with grows_by_less_than(60_000_000):
        while runtime.relay.step():
            pass
    records = [
        record
        for n in range(COUNT)
        for record in runtime.log.read(Partition(DEAD_LETTERS, 0), n, 1)
    ]
    numbers = [int((record.value or b"").split(b" ", 1)[0]) for record in records]
    assert numbers == list(range(COUNT))


def test_a_rebuild_reads_large_records_of_one_partition_while_it_waits_for_another_within_bounds(
    tmp_path: Path,
) -> None:
    """Those of the second partition come later than all of the first."""
    log = SqliteLog(tmp_path / "log.db", ("small", "large"))
    for _ in range(100):
        append(log, "small", [b"small"] * 50, b"ada")
    for _ in range(COUNT):
        append(log, "large", [b"x" * MEGABYTE], b"ada")
    spans = {info.origin: (info.first, info.next) for info in log.describe(("small", "large"))}
    with grows_by_less_than(50_000_000):
        topics = [record.topic for _, record in in_order(log, spans)]
    assert topics == ["small"] * 5_000 + ["large"] * COUNT
    log.close()
