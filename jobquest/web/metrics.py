"""`/metrics` for Prometheus: the state of the service from its heartbeats, and the counts of the
process that answers, with its id as a label (the status has the same), because another process may
answer the next scrape. Host and pid would not do: those of two containers may be equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from flask import Flask, Response
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from jobquest.access.caller import READ
from jobquest.report import WORST_FIRST
from jobquest.runtime import Runtime
from jobquest.web.needs import needs


def register(app: Flask, runtime: Runtime) -> Callable[[str, str, int], None]:
    """Answer `/metrics`. Returns a function that counts a request by route, method and code."""
    registry = CollectorRegistry()
    this = runtime.state.process_id
    registry.register(_Service(runtime, this))
    requests = Counter(
        "jobquest_http_requests",
        "Requests that this process answered.",
        ("process", "route", "method", "code"),
        registry=registry,
    )

    def count(route: str, method: str, code: int) -> None:
        requests.labels(this, route, method, code).inc()

    @app.get("/metrics")
    @needs(READ)
    def metrics() -> Response:
        return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)

    return count


class _Service(Collector):
    """Reads the service's status at each scrape."""

    def __init__(self, runtime: Runtime, this: str) -> None:
        self._runtime = runtime
        self._this = this

    def collect(self) -> Iterator[Metric]:
        status = self._runtime.report.status()
        state = GaugeMetricFamily(
            "jobquest_consumer_state", "1 for the state that the consumer is in.", labels=["state"]
        )
        for name in WORST_FIRST:
            state.add_metric([name], float(name == status["state"]))
        yield state
        for unit in ("messages", "seconds"):
            if (lag := status["lag"][unit]) is not None:
                yield GaugeMetricFamily(
                    f"jobquest_lag_{unit}", f"How far the consumer is behind, in {unit}.", value=lag
                )
        for name, help, value in (
            ("dead_letters", "Open dead letters.", status.get("deadLetters", 0)),
            ("retrying", "Events that wait for another try.", status.get("retrying", 0)),
            ("outbox_events", "Events that wait for Kafka.", status["outbox"]["events"]),
            ("outbox_seconds", "Since when the oldest waits.", status["outbox"]["seconds"]),
        ):
            yield GaugeMetricFamily(f"jobquest_{name}", help, value=value)
        for name in ("processed", "retried", "dead", "duplicates"):
            records = CounterMetricFamily(
                f"jobquest_records_{name}", f"Records that were {name}.", labels=["process"]
            )
            for process in status["processes"]:
                records.add_metric([process["id"]], process[name])
            yield records
        viewers = GaugeMetricFamily(
            "jobquest_viewers", "Live viewers of this process.", labels=["process"]
        )
        viewers.add_metric([self._this], self._runtime.feed.viewers)
        yield viewers

    def describe(self) -> list[Metric]:
        """Nothing: otherwise registering would call `collect`, and query the database, at start."""
        return []
