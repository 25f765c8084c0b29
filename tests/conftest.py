"""Fixtures for every test; see `service.py` for the service as a process."""

from __future__ import annotations

import gc
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from playwright.sync_api import Browser, Playwright, sync_playwright

from jobquest import create_app
from jobquest.access import Access
from jobquest.config import load
from jobquest.read.database import Database
from jobquest.runtime import Runtime
from tests import browser as chromium
from tests import kafka_broker as kafka
from tests import postgres
from tests.logs import emptied
from tests.service import Service, wait_for
from tests.template import ForkedService

_MUST_RUN = ("kafka", "browser", "postgres", "nginx")
_MORE_WORKERS = 2  # than cores: tests wait as much as they compute


# --- the quick ones ---

# Whoever asks for one of these has a process started.
_SLOW_FIXTURES = {
    "alone",
    "alone_on_each_log",
    "browser",
    "default_broker",
    "kafka_broker",
    "nginx",
    "playwright",
    "postgres_server",
    "service",
    "serving",
    "shared_browser",
    "stopped_service",
}
_PROCESS_STARTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as `quick` what starts no process and is not marked `slow`."""
    for item in items:
        asked: list[str] = getattr(item, "fixturenames", [])
        is_slow = item.get_closest_marker("slow") or item.get_closest_marker("alone")
        marked = any(item.get_closest_marker(name) for name in _MUST_RUN)
        if not (is_slow or marked or _SLOW_FIXTURES.intersection(asked)):
            item.add_marker(pytest.mark.quick)


_quick_test: list[str] = []  # the one that runs


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """A quick test that starts a process fails there. Fixtures of the session may end theirs after
    it."""
    _quick_test.extend([item.name] if item.get_closest_marker("quick") else [])
    try:
        return (yield)
    finally:
        _quick_test.clear()


def _see(event: str, _arguments: tuple[object, ...]) -> None:
    if _quick_test and event in _PROCESS_STARTS:
        pytest.fail("A test that starts a process needs the mark `slow`.")


sys.addaudithook(_see)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Collect tests, and then garbage once. What was imported and collected stays out of the
    collector's sight: a look at all of it takes longer than most tests."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


# --- several tests at once: pytest-xdist's workers ---


def pytest_configure(config: pytest.Config) -> None:
    """Leave out the tests that must be alone, unless they are asked for: by `-m`, or a name."""
    if _is_whole(config) and not config.option.markexpr:
        config.option.markexpr = "not alone"


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Workers for `-n auto`, which is in pyproject.toml: none if a test or a file is named. Quick
    tests do not wait."""
    if not _is_whole(config) or config.option.markexpr == "alone":
        return 0
    more = 0 if config.option.markexpr == "quick" else _MORE_WORKERS
    return (os.cpu_count() or 1) + more


def _is_whole(config: pytest.Config) -> bool:
    return config.args_source is pytest.Config.ArgsSource.TESTPATHS


# --- what a test leaves ---

_made: list[Service | Runtime] = []  # by the test that runs, and by its own fixtures


def _note(kind: type[Service | Runtime]) -> None:
    """Know of everything of this kind that is made, by whatever makes it."""
    build = kind.__init__

    def build_and_note(self: Service | Runtime, *arguments: Any, **settings: Any) -> None:
        build(self, *arguments, **settings)
        _made.append(self)

    kind.__init__ = build_and_note


_note(Service)
_note(Runtime)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[object]) -> Iterator[object]:
    """What a fixture makes for several tests, it ends itself."""
    before = len(_made)
    made = yield
    if fixturedef.scope != "function":
        del _made[before:]
    return made


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Iterator[None]:
    """End what a test leaves, however it ended. A consumer that lives on in this process or in a
    service is a member of the group of the tests after it, and takes partitions from them."""
    try:
        return (yield)
    finally:
        with ExitStack() as ending:
            for made in _made:
                ending.callback(_end, made)
            _made.clear()


def _end(made: Service | Runtime) -> None:
    if isinstance(made, Service):
        made.kill()
        return
    made.consumer.halt()
    made.consumer.close()
    if not made._stop.is_set():
        made.stop()


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
    return _settings_of(tmp_path)


def _settings_of(folder: Path) -> dict[str, str]:
    return {"JOBQUEST_DATA_DIR": str(folder), "JOBQUEST_CONSUMER_AUTOSTART": "false"}


def _read_side_of(settings: dict[str, str]) -> Path:
    return Path(load(settings).read_side_url.removeprefix("sqlite:///"))


@pytest.fixture(scope="session")
def new_read_side(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A read side's file with its tables and nothing in them, to be copied: making the tables takes
    longer than most tests."""
    settings = _settings_of(tmp_path_factory.mktemp("new"))
    database = Database(load(settings).read_side_url)
    database.upgrade()
    database.close()
    return _read_side_of(settings)


@pytest.fixture(scope="session")
def new_postgres(postgres_server: postgres.Postgres) -> str:
    """The name of a PostgreSQL database that is the same."""
    url = postgres_server.new_database()
    database = Database(url)
    database.upgrade()
    database.close()
    return url.rpartition("/")[2]


@pytest.fixture
def made_read_side(settings: dict[str, str], new_read_side: Path) -> None:
    """The service of `settings` finds its read side's tables."""
    shutil.copy(new_read_side, _read_side_of(settings))


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database(request: pytest.FixtureRequest) -> dict[str, str]:
    """The setting of an empty read side, on each database."""
    if request.param == "sqlite":
        request.getfixturevalue("made_read_side")
        return {}
    server: postgres.Postgres = request.getfixturevalue("postgres_server")
    template = request.getfixturevalue("new_postgres")
    return {"DATABASE_URL": server.new_database(f"CREATE DATABASE name TEMPLATE {template}")}


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
def app(settings: dict[str, str], made_read_side: None) -> Iterator[Flask]:
    """A whole application."""
    made = create_app(settings)
    yield made
    made.extensions["jobquest"].stop()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """Flask's test client over it."""
    return app.test_client()


@pytest.fixture
def access(app: Flask) -> Access:
    """Its credentials."""
    found: Access = app.extensions["jobquest"].access
    return found


@pytest.fixture(scope="module")
def shared_client(
    tmp_path_factory: pytest.TempPathFactory, new_read_side: Path
) -> Iterator[FlaskClient]:
    """The same, for those tests of a module that do not mind what the others publish: making an
    application takes longer than what most of them do."""
    settings = _settings_of(tmp_path_factory.mktemp("shared"))
    shutil.copy(new_read_side, _read_side_of(settings))
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
    """The broker on Kafka's own settings without any topic or member: host:port."""
    return emptied(default_broker.bootstrap)


@pytest.fixture
def empty_kafka(kafka_broker: kafka.KafkaBroker) -> str:
    """The session's broker without any topic or member: host:port."""
    return emptied(kafka_broker.bootstrap)


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def stopped_service(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Service]:
    """The service, not yet started, on each log."""
    settings = {}
    if request.param == "kafka":
        settings["KAFKA_BROKER"] = request.getfixturevalue("empty_kafka")
    made = ForkedService(tmp_path, **settings)
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


@pytest.fixture(scope="session")
def shared_browser(playwright: Playwright) -> Iterator[chromium.SharedBrowser]:
    """The browser that all tests share, one after the other."""
    shared = chromium.SharedBrowser(playwright)
    yield shared
    shared.close()


@pytest.fixture
def browser(shared_browser: chromium.SharedBrowser) -> Iterator[Browser]:
    """A headless browser without any context. Tests leave it to this to close theirs: that may
    hang."""
    yield shared_browser.get()
    shared_browser.close_contexts()
