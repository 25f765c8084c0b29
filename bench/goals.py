"""The goals of every measure, and the names under which the measures store their figures."""

from __future__ import annotations

from bench.contenders import FASTAPI, FLASK, OURS
from bench.report import Goal, Series

BARE = "bare kafka-python"
BY_HAND = "loop by hand"
EMBEDDED, ON_KAFKA = "embedded log", "Kafka"
SENT = f"{OURS}, realistic"
QUIET, STALLED = "200 viewers", "and one stalled"
RATE, P50, P99 = "events/s", "p50 ms", "p99 ms"
SPLIT_P50, SPLIT_P99 = "p50 ms in two segments", "p99 ms in two segments"
STORED_P50, STORED_P99 = "p50 ms until processed", "p99 ms until processed"
SECONDS, SHARE, CPU = "seconds", "delivered %", "fan-out CPU %"


def _single(figure: str, contender: str) -> tuple[Series, Series]:
    return _against("single", figure, contender)


def _against(measure: str, figure: str, contender: str) -> tuple[Series, Series]:
    return Series(measure, OURS, figure), Series(measure, contender, figure)


GOALS = (
    Goal("single POST, c=64, against plain Flask", *_single(RATE, FLASK), "times", 2.2, 3.3),
    Goal("its p99", *_single(P99, FLASK), "times", 0.5, at_most=True),
    Goal("the same against FastAPI + aiokafka", *_single(RATE, FASTAPI), "times", 0.45, 0.7),
    Goal("its p99", *_single(P99, FASTAPI), "times", 1.5, at_most=True),
    Goal(
        "single POST, c=1: p50 against `send().get()`, ms",
        Series("latency", OURS, P50),
        Series("latency", BARE, P50),
        "plus",
        0.5,
        0.3,
        at_most=True,
    ),
    Goal(
        "batch of 100, c=16, against FastAPI + aiokafka",
        Series("batch", OURS, RATE),
        Series("batch", FASTAPI, RATE),
        "times",
        1.0,
        1.3,
    ),
    Goal(
        "realistic single, c=64, against FastAPI + aiokafka",
        *_against("realistic", RATE, FASTAPI),
        "times",
        0.6,
        0.8,
    ),
    Goal("its p99", *_against("realistic", P99, FASTAPI), "times", 1.0, at_most=True),
    Goal(
        "realistic single against plain Flask",
        *_against("realistic", RATE, FLASK),
        "times",
        2.0,
        3.0,
    ),
    Goal(
        "realistic batch of 100, c=16, against FastAPI + aiokafka",
        *_against("realistic-batch", RATE, FASTAPI),
        "times",
        1.0,
        1.3,
    ),
    Goal(
        "highest steady rate from request to read side, against FastAPI + aiokafka and a consumer",
        *_against("end-to-end", RATE, FASTAPI),
        "times",
        0.7,
        0.8,
    ),
    Goal(
        "realistic single, c=1: p50 against `send().get()`, ms",
        Series("latency", SENT, P50),
        Series("latency", BARE, P50),
        "plus",
        0.6,
        0.3,
        at_most=True,
    ),
    *(
        Goal(
            f"200 realistic requests/s, consuming: {figure.split()[0]}, against the peer's",
            *_against("steady", figure, FASTAPI),
            "times",
            1.5,
            1.0,
            at_most=True,
        )
        for figure in (P50, P99)
    ),
    Goal(
        "single POST, c=64, one worker: embedded log against Kafka",
        Series("embedded", EMBEDDED, RATE),
        Series("embedded", ON_KAFKA, RATE),
        "times",
        1.0,
        1.5,
    ),
    Goal(
        "consuming 300k events, against a bare poll with marshmallow",
        Series("consume", OURS, RATE),
        Series("consume", BARE, RATE),
        "times",
        1.0,
        2.0,
    ),
    Goal(
        "consuming 300k events with clients' ids, against a loop by hand",
        *_against("store", RATE, BY_HAND),
        "times",
        0.75,
        0.9,
    ),
    *(
        Goal(
            f"rebuild from one million events, {log}, s",
            Series("rebuild", log, SECONDS),
            None,
            "is",
            25,
            20,
            at_most=True,
        )
        for log in (EMBEDDED, ON_KAFKA)
    ),
    Goal(
        "200 viewers, 1,000 events/s: delivered, %",
        Series("viewers", QUIET, SHARE),
        None,
        "is",
        99,
    ),
    Goal("their p99, ms", Series("viewers", QUIET, P99), None, "is", 100, at_most=True),
    Goal(
        "CPU of the fan-out, % of a core",
        Series("viewers", QUIET, CPU),
        None,
        "is",
        20,
        5,
        at_most=True,
    ),
    Goal(
        "a viewer stalled for 15 s: the others' p99",
        Series("stalled", STALLED, P99),
        Series("stalled", QUIET, P99),
        "times",
        1.5,
        1.1,
        at_most=True,
    ),
)
