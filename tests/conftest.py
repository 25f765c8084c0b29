"""Fixtures for every test; see `service.py` for the service as a process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from jobquest import create_app
from jobquest.config import load
from jobquest.runtime import Runtime
from tests import kafka_broker as kafka
from tests.logs import delete_topics

_MUST_RUN = ("kafka", "browser")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """With CI=true a skipped test of Kafka or the browser fails: it proves nothing."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    marked = [name for name in _MUST_RUN if item.get_closest_marker(name)]
    if report.skipped and marked and os.environ.get("CI") == "true":
        report.outcome = "failed"
        report.longrepr = f"A test of {marked[0]} must run under CI, but: {report.longrepr}"


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, str]:
    """Settings of a service whose files go away, and whose consumer nobody starts."""
    return {"JOBQUEST_DATA_DIR": str(tmp_path), "JOBQUEST_CONSUMER_AUTOSTART": "false"}


@pytest.fixture
def runtime(settings: dict[str, str]) -> Iterator[Runtime]:
    """The parts without a server; tests step the consumer by hand."""
    made = Runtime(load(settings))
    yield made
    made.consumer.close()
    made.stop()


@pytest.fixture
def client(settings: dict[str, str]) -> Iterator[FlaskClient]:
    """Flask's test client over a whole application."""
    app = create_app(settings)
    yield app.test_client()
    app.extensions["jobquest"].stop()


@pytest.fixture(scope="session")
def kafka_broker() -> Iterator[kafka.KafkaBroker]:
    """One real broker for the whole session."""
    if reason := kafka.why_not():
        pytest.skip(reason)
    broker = kafka.KafkaBroker().start()
    yield broker
    broker.remove()


@pytest.fixture
def empty_kafka(kafka_broker: kafka.KafkaBroker) -> str:
    """The session's broker without any topic: host:port."""
    delete_topics(kafka_broker.bootstrap)
    return kafka_broker.bootstrap
