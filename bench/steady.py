"""Measures at a steady rate, with the consumers running: steady and end-to-end. Each contender is
started for each run, so that the other's broker and consumer use nothing of the two cores.

Both have the same task: an event is processed once it has its row in the table `events` of the read
side's SQLite file, written in one transaction with the statistics and the position. (Our service
also publishes follow-ups; that is included.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from bench import contenders, http_load, workload
from bench.clients import Figures
from bench.contenders import FASTAPI, OURS, Contender
from bench.goals import P50, P99, RATE, STORED_P50, STORED_P99
from bench.plan import MeasureFailed, Plan, interleaved
from bench.posting import in_two
from bench.report import Results
from tests.service import wait_for

STEADY_RATE, STEADY_CLIENTS, STEADY_ROUNDS = 200, 8, 5
WARM_SECONDS = 4.0
SEARCH_CLIENTS, SEARCH_ROUNDS, SEARCH_SECONDS = 64, 3, 6.0
FIRST_RATE, RATE_STEP, PRECISION = 1_000.0, 1.5, 1.06
MAX_MS = 1_000.0  # from an answer until 99 of 100 events are processed
KEPT_UP = 1.03  # of the planned seconds, until the last answer
MAX_CPU = 0.85  # of a core; above that, the load itself would be measured
COUNT_SECONDS = 30.0


def steady(plan: Plan, results: Results) -> None:
    """200 realistic requests per second from 8 clients."""
    for name in interleaved((OURS, FASTAPI), min(plan.rounds, STEADY_ROUNDS)):
        with _consuming(name) as contender:
            run = sent(contender, STEADY_RATE, STEADY_CLIENTS, plan.seconds)
        if run.refused or run.unsent:
            raise MeasureFailed(f"{name} refused {run.refused} and left {run.unsent} waiting.")
        figures = {P50: run.p50_ms, P99: run.p99_ms}
        figures |= {STORED_P50: run.processed_p50_ms, STORED_P99: run.processed_p99_ms}
        results.note("steady", name, **figures)


def end_to_end(plan: Plan, results: Results) -> None:
    """The highest steady rate at which events are processed within 1 s of their answers."""
    rates = {OURS: FIRST_RATE, FASTAPI: FIRST_RATE}
    for name in interleaved((OURS, FASTAPI), min(plan.rounds, SEARCH_ROUNDS)):
        with _consuming(name) as contender:
            seconds = min(plan.seconds, SEARCH_SECONDS)
            rates[name] = highest(partial(_holds, contender, seconds), rates[name])
        results.note("end-to-end", name, **{RATE: rates[name]})


def highest(holds: Callable[[float], bool], first: float) -> float:
    """The highest rate that holds, to 6 %: first by steps up or down from `first`, then between the
    last two of them. Raises MeasureFailed if no rate holds."""
    low = high = first
    if holds(first):
        while holds(high := low * RATE_STEP):
            low = high
    else:
        while not holds(low := high / RATE_STEP):
            if low < 1:
                raise MeasureFailed("No rate holds.")
            high = low
    while high / low > PRECISION:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _holds(contender: Contender, seconds: float, rate: float) -> bool:
    """Whether every request is answered in time, and processed within 1 s after that."""
    run = sent(contender, rate, SEARCH_CLIENTS, seconds)
    is_steady = not (run.refused or run.unsent) and run.seconds <= seconds * KEPT_UP
    held = is_steady and run.processed_p99_ms <= MAX_MS
    print(
        f"     rate    {contender.name:<18} {rate:,.0f}/s {'holds' if held else 'fails'}: the last"
        f" answer after {run.seconds:.1f} s, p99 until processed {run.processed_p99_ms:,.0f} ms,"
        f" the clients at {run.cpu:.0%} of a core",
        flush=True,
    )
    return held


@contextmanager
def _consuming(name: str) -> Iterator[Contender]:
    """Our service or the peer, with two workers and its consumer, warm, and its own broker."""
    with contenders.kafka() as broker:
        started = (
            contenders.ours(
                consuming=True, protected=True, KAFKA_BROKER=broker, JOBQUEST_WORKERS="2"
            )
            if name == OURS
            else contenders.fastapi(broker, consuming=True, protected=True)
        )
        with started as contender:
            sent(contender, STEADY_RATE, STEADY_CLIENTS, WARM_SECONDS)
            yield contender


def sent(contender: Contender, rate: float, clients: int, seconds: float) -> Figures:
    """Send realistic requests at that rate. Raises MeasureFailed if an answered event is not
    processed in the end, or if the clients themselves could not keep up."""
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
        started.start()
        run = started.figures()
    if run.cpu > MAX_CPU:
        raise MeasureFailed(f"At {rate:.0f}/s the clients use {run.cpu:.2f} of a core.")
    wanted = before + run.answered
    wait_for(
        lambda: contender.processed() >= wanted,
        COUNT_SECONDS,
        lambda: (
            f"{contender.name} answered {run.answered} and had processed {before} before:"
            f" {wanted} in all, but there are {contender.processed()}."
        ),
    )
    return run
