"""Measures at a steady rate, with the consumers running: beside and road. Each has a broker
of its own, since a consumer reads all that is there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from bench import contenders, http_load, workload
from bench.clients import Told
from bench.contenders import FASTAPI, OURS, Contender
from bench.goals import P50, P99, STORED_P50, STORED_P99
from bench.plan import MeasureFailed, Plan, interleaved
from bench.posting import in_two
from bench.report import Results

BESIDE_RATE, BESIDE_CLIENTS = 200, 8
WARM_SECONDS = 3.0
MOST_CPU = 0.85  # of a core; a load that takes more is what is measured


def beside(plan: Plan, results: Results) -> None:
    """200 realistic requests a second from 8 clients."""
    with _consuming(OURS) as mine, _consuming(FASTAPI) as peer:
        both = {mine.name: mine, peer.name: peer}
        for contender in both.values():
            sent(contender, BESIDE_RATE, BESIDE_CLIENTS, WARM_SECONDS)
        for name in interleaved(list(both), plan.rounds):
            told = sent(both[name], BESIDE_RATE, BESIDE_CLIENTS, plan.seconds)
            figures = {P50: told.p50_ms, P99: told.p99_ms}
            figures |= {STORED_P50: told.processed_p50_ms, STORED_P99: told.processed_p99_ms}
            results.note("beside", name, **figures)


@contextmanager
def _consuming(name: str) -> Iterator[Contender]:
    """Ours or the peer with two workers and its consumer, on a broker of its own."""
    with contenders.kafka() as broker:
        started = (
            contenders.ours(consuming=True, KAFKA_BROKER=broker, JOBQUEST_WORKERS="2")
            if name == OURS
            else contenders.fastapi(broker, consuming=True)
        )
        with started as contender:
            yield contender


def sent(contender: Contender, rate: float, clients: int, seconds: float) -> Told:
    """Realistic requests at that rate. Raises MeasureFailed if one fails, if an answered event is
    not processed in the end, or if these clients could not keep up themselves."""
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
    if (stored := contender.processed() - before) < told.answered:
        raise MeasureFailed(f"{contender.name} answered {told.answered} and processed {stored}.")
    return told
