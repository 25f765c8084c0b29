"""Measures over HTTP: single, latency, batch, embedded; and single and batch with realistic
requests. After each run, every answered event must be on its topic.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

from bench import contenders, http_load, workload
from bench.contenders import Contender
from bench.goals import BARE, EMBEDDED, ON_KAFKA, P50, P99, RATE, SENT, SPLIT_P50, SPLIT_P99
from bench.http_load import Run
from bench.plan import MeasureFailed, Plan, interleaved
from bench.report import Results
from bench.workload import Request

WARM_SECONDS = 6.0  # a new broker needs that long to reach its full speed
SETTLED_SECONDS = 0.6  # without a new record: then the requests that wrk aborted are done
SINGLE_CONNECTIONS, BATCH_CONNECTIONS = 64, 16


@dataclass(frozen=True)
class Load:
    """What is posted, and over how many connections; `split` of them send in two segments."""

    request: Callable[[], Request]
    connections: int
    split: int = 0

    def run(self, contender: Contender, ends: Callable[[], int], seconds: float) -> Run:
        """One run. Raises MeasureFailed if a request fails or an answered event is on no topic.

        At its end, wrk aborts one request per connection; its event may be kept without an answer.
        """
        before = ends()
        run = self._posted(contender.url, seconds)
        kept = _settled(ends) - before
        request = self.request()
        check_kept(contender.name, run.all_answered, kept, self.connections * request.events)
        return run

    def _posted(self, url: str, seconds: float) -> Run:
        """Posted by wrk, and at the same time by clients that send in two segments. The times are
        wrk's."""
        if not self.split:
            return http_load.post(url, self.request(), self.connections, seconds)
        by_wrk = self.connections - self.split
        with http_load.clients(url, self.request, self.split, self.split, seconds) as clients:
            clients.start()
            run = http_load.post(url, self.request(), by_wrk, seconds)
            split = clients.figures()
        if split.refused:
            raise MeasureFailed(f"{split.refused} of those in two segments were refused.")
        return replace(run, split=split)


def check_kept(name: str, answered: int, kept: int, aborted: int) -> None:
    """Raise MeasureFailed if fewer events are on the topics than were answered, or more than the
    answered ones and those of the aborted requests together."""
    if not answered <= kept <= answered + aborted:
        raise MeasureFailed(f"{name} answered {answered} events, but {kept} are on the topics.")


def _settled(ends: Callable[[], int]) -> int:
    """The number of records, once it no longer grows."""
    last = -1
    while (now := ends()) != last:
        last = now
        time.sleep(SETTLED_SECONDS)  # between two looks at a number that may still grow
    return now


def single(plan: Plan, results: Results) -> None:
    """One event per request, 64 connections."""
    _on_kafka("single", Load(workload.single, SINGLE_CONNECTIONS), plan, results)


def batch(plan: Plan, results: Results) -> None:
    """A hundred events per request, 16 connections."""
    load = Load(workload.batch, BATCH_CONNECTIONS)
    _on_kafka("batch", load, plan, results, with_floor=False)


def realistic(plan: Plan, results: Results) -> None:
    """Realistic requests with one event each, 64 connections."""
    load = Load(workload.realistic, SINGLE_CONNECTIONS, in_two(SINGLE_CONNECTIONS))
    _on_kafka("realistic", load, plan, results, protected=True)


def realistic_batch(plan: Plan, results: Results) -> None:
    """Realistic requests with a hundred events each, 16 connections."""
    load = Load(workload.realistic_batch, BATCH_CONNECTIONS, in_two(BATCH_CONNECTIONS))
    _on_kafka("realistic-batch", load, plan, results, with_floor=False, protected=True)


def in_two(connections: int) -> int:
    """How many of the connections send a request in two segments: a tenth, at least one."""
    return max(1, round(connections / 10))


def _on_kafka(
    measure: str,
    load: Load,
    plan: Plan,
    results: Results,
    *,
    with_floor: bool = True,
    protected: bool = False,
) -> None:
    with ExitStack() as started:
        broker = started.enter_context(contenders.kafka())
        found = [contenders.ours(protected=protected, KAFKA_BROKER=broker, JOBQUEST_WORKERS="2")]
        found += [contenders.plain_flask(broker, protected=protected)] if with_floor else []
        found += [contenders.fastapi(broker, protected=protected)]
        ends = partial(contenders.ends_on_kafka, broker)
        runs = {
            contender.name: partial(load.run, contender, ends)
            for contender in map(started.enter_context, found)
        }
        _take_turns(measure, runs, plan, results)


def latency(plan: Plan, results: Results) -> None:
    """One event per request, one connection: the bench's own request, and a realistic one with its
    token; for comparison, kafka-python alone."""
    load, realistic_load = Load(workload.single, 1), Load(workload.realistic, 1)
    with (
        contenders.kafka() as broker,
        contenders.ours(KAFKA_BROKER=broker, JOBQUEST_WORKERS="2") as mine,
        contenders.ours(SENT, protected=True, KAFKA_BROKER=broker, JOBQUEST_WORKERS="2") as checked,
    ):
        ends = partial(contenders.ends_on_kafka, broker)
        runs = {
            mine.name: partial(load.run, mine, ends),
            SENT: partial(realistic_load.run, checked, ends),
            BARE: partial(_send_and_get, broker),
        }
        _take_turns("latency", runs, plan, results)


def embedded(plan: Plan, results: Results) -> None:
    """One event per request, 64 connections, one worker: the embedded log and Kafka."""
    load = Load(workload.single, SINGLE_CONNECTIONS)
    with (
        contenders.kafka() as broker,
        contenders.folder() as files,
        contenders.ours(EMBEDDED, JOBQUEST_DATA_DIR=str(files), JOBQUEST_WORKERS="1") as on_file,
        contenders.ours(ON_KAFKA, KAFKA_BROKER=broker, JOBQUEST_WORKERS="1") as on_kafka,
    ):
        ends_in_file = partial(contenders.ends_in_file, files / "log.db")
        runs = {
            EMBEDDED: partial(load.run, on_file, ends_in_file),
            ON_KAFKA: partial(load.run, on_kafka, partial(contenders.ends_on_kafka, broker)),
        }
        _take_turns("embedded", runs, plan, results)


def _send_and_get(broker: str, seconds: float) -> Run:
    return Run(**contenders.figures_of("bench.floors.send_and_get", broker, str(seconds)))


def _take_turns(
    measure: str, runs: Mapping[str, Callable[[float], Run]], plan: Plan, results: Results
) -> None:
    """Warm each up, then run each once per round; each round begins with another one."""
    for warm in runs.values():
        warm(WARM_SECONDS)
    for name in interleaved(list(runs), plan.rounds):
        run = runs[name](plan.seconds)
        figures = {RATE: run.events_per_second, P50: run.p50_ms, P99: run.p99_ms}
        if run.split:
            figures |= {SPLIT_P50: run.split.p50_ms, SPLIT_P99: run.split.p99_ms}
        results.note(measure, name, **figures)
