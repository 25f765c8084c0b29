"""Fixtures for every test; see `service.py` for the service as a process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from playwright.sync_api import Browser, Playwright, sync_playwright

from jobquest import create_app
from jobquest.config import load
from jobquest.runtime import Runtime
from tests import browser as chromium
from tests import kafka_broker as kafka
from tests import postgres
from tests.logs import delete_topics
from tests.service import Service, wait_for

_MUST_RUN = ("kafka", "browser", "postgres", "nginx")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """With CI=true a skipped test of Kafka, the browser, PostgreSQL or nginx fails: it proves
    nothing."""
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


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database(request: pytest.FixtureRequest) -> dict[str, str]:
    """The setting of an empty read side, on each database."""
    if request.param == "sqlite":
        return {}
    server: postgres.Postgres = request.getfixturevalue("postgres_server")
    return {"DATABASE_URL": server.new_database()}


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[postgres.Postgres]:
    """One real PostgreSQL for the whole session."""
    if reason := postgres.why_not():
        pytest.skip(reason)
    server = postgres.Postgres().start()
    yield server
    server.stop()


@pytest.fixture
def runtime(settings: dict[str, str], database: dict[str, str]) -> Iterator[Runtime]:
    """The parts without a server, on each database; tests step the consumer by hand."""
    made = Runtime(load(settings | database))
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
    """One real broker for the whole session. As in `docker-compose.kafka.yml` a new group does not
    wait 3 s for more members: with some two hundred groups that would be ten minutes. Where groups
    are the subject, tests take `kafka_as_it_comes`."""
    if reason := kafka.why_not():
        pytest.skip(reason)
    broker = kafka.KafkaBroker(**{"group.initial.rebalance.delay.ms": "0"}).start()
    yield broker
    broker.remove()


@pytest.fixture(scope="session")
def default_broker() -> Iterator[kafka.KafkaBroker]:
    """One real broker on Kafka's own settings."""
    if reason := kafka.why_not():
        pytest.skip(reason)
    broker = kafka.KafkaBroker().start()
    yield broker
    broker.remove()


@pytest.fixture
def kafka_as_it_comes(default_broker: kafka.KafkaBroker) -> str:
    """The broker on Kafka's own settings without any topic: host:port."""
    delete_topics(default_broker.bootstrap)
    return default_broker.bootstrap


@pytest.fixture
def empty_kafka(kafka_broker: kafka.KafkaBroker) -> str:
    """The session's broker without any topic: host:port."""
    delete_topics(kafka_broker.bootstrap)
    return kafka_broker.bootstrap


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def stopped_service(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Service]:
    """The service, not yet started, on each log."""
    settings = {}
    if request.param == "kafka":
        settings["KAFKA_BROKER"] = request.getfixturevalue("empty_kafka")
    made = Service(tmp_path, **settings)
    yield made
    made.kill()


@pytest.fixture
def service(stopped_service: Service) -> Service:
    """The service, running on each log."""
    stopped_service.start()
    config = load(stopped_service.settings)
    processes = config.worker_count + config.has_consumer_process

    def all_consume() -> bool:
        status = stopped_service.status()
        return status["consumerRunning"] and len(status["processes"]) == processes

    wait_for(all_consume, 30, stopped_service.tail)
    return stopped_service


@pytest.fixture(scope="session")
def playwright() -> Iterator[Playwright]:
    """What drives browsers, once for the session."""
    if reason := chromium.why_not():
        pytest.skip(reason)
    with sync_playwright() as opened:
        yield opened


@pytest.fixture
def browser(playwright: Playwright) -> Iterator[Browser]:
    """A headless browser of this test's own. A page or context may hang when it is closed, a whole
    browser is killed by Playwright after 30 s: so tests leave the closing to this."""
    opened = chromium.launch(playwright)
    yield opened
    opened.close()
