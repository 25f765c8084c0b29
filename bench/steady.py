"""Measures at a steady rate, with the consumers running: beside and road. Each contender is started
for each run, so that the other's broker and consumer take nothing of the two cores meanwhile.

Both are asked for the same: an event is processed once it has its row in the table `events` of the
read side's SQLite file, written in one transaction with the statistics and the position. (Ours
also publishes what follows from events; that is part of it.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from bench import contenders, http_load, workload
from bench.clients import Told
from bench.contenders import FASTAPI, OURS, Contender
from bench.goals import P50, P99, RATE, STORED_P50, STORED_P99
from bench.plan import MeasureFailed, Plan, interleaved
from bench.posting import in_two
from bench.report import Results
from tests.service import wait_for

BESIDE_RATE, BESIDE_CLIENTS, BESIDE_ROUNDS = 200, 8, 5
WARM_SECONDS = 4.0
ROAD_CLIENTS, ROAD_ROUNDS, ROAD_SECONDS = 64, 3, 6.0
ROAD_FIRST, ROAD_STEP, ROAD_EXACT = 1_000.0, 1.5, 1.06
MOST_MS = 1_000.0  # from an answer until 99 of 100 events are processed
KEPT_UP = 1.03  # of the planned seconds, until the last answer
MOST_CPU = 0.85  # of a core; above it the load itself would be measured
COUNT_SECONDS = 30.0


def beside(plan: Plan, results: Results) -> None:
    """200 realistic requests a second from 8 clients."""
    for name in interleaved((OURS, FASTAPI), min(plan.rounds, BESIDE_ROUNDS)):
        with _consuming(name) as contender:
            told = sent(contender, BESIDE_RATE, BESIDE_CLIENTS, plan.seconds)
        if told.refused or told.unsent:
            raise MeasureFailed(f"{name} refused {told.refused} and left {told.unsent} waiting.")
        figures = {P50: told.p50_ms, P99: told.p99_ms}
        figures |= {STORED_P50: told.processed_p50_ms, STORED_P99: told.processed_p99_ms}
        results.note("beside", name, **figures)


def road(plan: Plan, results: Results) -> None:
    """The highest steady rate at which events are processed within 1 s of their answers."""
    first = {OURS: ROAD_FIRST, FASTAPI: ROAD_FIRST}
    for name in interleaved((OURS, FASTAPI), min(plan.rounds, ROAD_ROUNDS)):
        with _consuming(name) as contender:
            seconds = min(plan.seconds, ROAD_SECONDS)
            first[name] = highest(partial(_holds, contender, seconds), first[name])
        results.note("road", name, **{RATE: first[name]})


def highest(holds: Callable[[float], bool], first: float) -> float:
    """The highest rate that holds, to 6 %: by steps up or down from the first, then between the
    last two of them. Raises MeasureFailed if none does."""
    low = high = first
    if holds(first):
        while holds(high := low * ROAD_STEP):
            low = high
    else:
        while not holds(low := high / ROAD_STEP):
            if low < 1:
                raise MeasureFailed("No rate holds.")
            high = low
    while high / low > ROAD_EXACT:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _holds(contender: Contender, seconds: float, rate: float) -> bool:
    """Whether all is answered as it comes, and processed within 1 s of that."""
    told = sent(contender, rate, ROAD_CLIENTS, seconds)
    steady = not (told.refused or told.unsent) and told.seconds <= seconds * KEPT_UP
    held = steady and told.processed_p99_ms <= MOST_MS
    print(
        f"     road    {contender.name:<18} {rate:,.0f}/s {'holds' if held else 'fails'}: the last"
        f" answer after {told.seconds:.1f} s, p99 until processed {told.processed_p99_ms:,.0f} ms,"
        f" the clients at {told.cpu:.0%} of a core",
        flush=True,
    )
    return held


@contextmanager
def _consuming(name: str) -> Iterator[Contender]:
    """Ours or the peer with two workers and its consumer, warm, on a broker of its own."""
    with contenders.kafka() as broker:
        started = (
            contenders.ours(consuming=True, KAFKA_BROKER=broker, JOBQUEST_WORKERS="2")
            if name == OURS
            else contenders.fastapi(broker, consuming=True)
        )
        with started as contender:
            sent(contender, BESIDE_RATE, BESIDE_CLIENTS, WARM_SECONDS)
            yield contender


def sent(contender: Contender, rate: float, clients: int, seconds: float) -> Told:
    """Realistic requests at that rate. Raises MeasureFailed if an answered event is not processed
    in the end, or if the clients themselves could not keep up."""
    before = contender.processed()
    with http_load.clients(
        contender.url,
        workload.realistic,
        clients,
        in_two(clients),
        seconds,
        rate,
        contender.read_side,
    ) as started:
        started.begin()
        told = started.told()
    if told.cpu > MOST_CPU:
        raise MeasureFailed(f"At {rate:.0f}/s the clients take {told.cpu:.2f} of a core.")
    wanted = before + told.answered
    wait_for(
        lambda: contender.processed() >= wanted,
        COUNT_SECONDS,
        lambda: (
            f"{contender.name} answered {told.answered}, {before} of before are processed too:"
            f" {wanted} in all, but there are {contender.processed()}."
        ),
    )
    return told
