"""Publishes that are answered without a thread: which are, and that nothing makes the loop wait."""

from __future__ import annotations

import json
import logging
import signal
import socket
import sqlite3
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import flask
import pytest
from flask import Flask
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.test import create_environ

from jobquest import create_app
from jobquest.access import limits
from jobquest.access.caller import LOCAL
from jobquest.connection import Connection
from jobquest.errors import LogUnavailable
from jobquest.log import Position
from jobquest.log.pending import Pending, wait_for_all
from jobquest.web import publishing
from jobquest.web.entrance import Entrance
from jobquest.web.publishing import AsyncPublisher, Publish
from jobquest.worker import Worker
from tests.identity_provider import SECRET, token
from tests.raw import LOGIN, PLAIN, Talk
from tests.service import Service, wait_for

EVENTS = "/api/kafka/events"
BATCH = f"{EVENTS}/batch"
JSON = "application/json"


@pytest.fixture
def app(settings: dict[str, str], made_read_side: None) -> Iterator[Flask]:
    """The application, whose log and database are ready."""
    made = create_app(settings)
    runtime = made.extensions["jobquest"]
    runtime.producer.publish("user.login", "ada", {}, id="first")
    assert runtime.access.everybody()  # known from now on
    yield made
    runtime.stop()


def entrance_of(app: Flask) -> Entrance:
    found: Entrance = app.extensions["jobquest.entrance"]
    return found


def publisher_of(app: Flask) -> AsyncPublisher:
    return entrance_of(app).publisher


def body(**more: Any) -> bytes:
    return json.dumps({"eventType": "user.login", "data": {}, "userId": "ada", **more}).encode()


def batch(*events: bytes) -> bytes:
    return b'{"events": [%s]}' % b", ".join(events)


def environ(
    path: str = EVENTS,
    method: str = "POST",
    data: bytes = LOGIN,
    content_type: str | None = JSON,
    **headers: str,
) -> dict[str, Any]:
    spelled = {name.replace("_", "-"): value for name, value in headers.items()}
    return create_environ(
        path,
        "http://localhost:5000",
        method=method,
        data=data,
        content_type=content_type,
        headers=spelled,
    )


@pytest.fixture(autouse=True)
def _time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a batch may take longer on a busy machine, where it would be left to a thread."""
    monkeypatch.setattr(publishing, "PROMPT_SECONDS", 10.0)


def received(app: Flask, *args: Any, **more: Any) -> Publish | None:
    return entrance_of(app).receive(environ(*args, **more))


def test_a_plain_publish_needs_no_thread(app: Flask) -> None:
    id = str(uuid.uuid4())
    wanted = received(app, data=body(id=id), Authorization="Bearer x")
    assert wanted is not None
    assert not wanted.is_batch
    [request] = wanted.requests
    assert request.event.id == id
    assert request.has_id


def test_a_plain_batch_needs_no_thread(app: Flask) -> None:
    wanted = received(app, BATCH, data=batch(LOGIN, body(id="a1")))
    assert wanted is not None
    assert wanted.is_batch
    assert [one.has_id for one in wanted.requests] == [False, True]
    assert wanted.requests[1].event.id == "a1"


@pytest.mark.parametrize(
    "data",
    [
        b'{"events": []}',
        batch(LOGIN, b"{}"),
        batch(LOGIN, body(userId="a\tb")),
        batch(LOGIN, LOGIN.replace(b'"data"', b'"data": {}, "data"')),
        batch(LOGIN)[:-1] + b', "events": []}',
        batch(*[LOGIN] * 1_001),
        LOGIN,
    ],
    ids=range(7),
)
def test_a_batch_that_is_not_plain_is_left_to_a_thread(app: Flask, data: bytes) -> None:
    assert received(app, BATCH, data=batch(LOGIN)) is not None
    assert received(app, BATCH, data=data) is None


def test_a_batch_that_takes_long_to_read_is_left_to_a_thread(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = batch(*[body(metadata={"a": "b"})] * 300)
    assert received(app, BATCH, data=data) is not None
    monkeypatch.setattr(publishing, "PROMPT_SECONDS", 0.0)
    assert received(app, BATCH, data=data) is None


def test_more_events_than_fit_at_a_time_are_left_to_threads(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobquest.web.publishing.MAX_UNDER_WAY", 10)
    publisher, runtime = publisher_of(app), app.extensions["jobquest"]

    def read() -> Publish | None:
        return received(app, BATCH, data=batch(*[LOGIN] * 5))

    first, second = read(), read()
    assert first
    assert second
    assert read() is None
    publisher.keep([first])
    assert wait_for_all(first.pending, 10)
    assert read() is None, "it is not answered yet"
    publisher.answer(first)
    third = read()
    assert third
    assert read() is None
    log, runtime.producer._log = runtime.producer._log, NotReady()
    publisher.keep([second, third])
    assert not second.pending
    assert not third.pending
    runtime.producer._log = log
    assert [read() is not None for _ in range(3)] == [True, True, False]


def test_a_large_event_is_left_to_a_thread(app: Flask) -> None:
    assert received(app, data=body(metadata={"a": "b" * 3_800})) is not None
    assert received(app, data=body(metadata={"a": "b" * 4_100})) is None


@pytest.mark.parametrize(
    "odd",
    [
        {"path": f"{EVENTS}?dryRun=true"},
        {"path": "//api/kafka/events"},
        {"path": "/healthz"},
        {"method": "PUT"},
        {"content_type": "text/plain"},
        {"content_type": None},
        {"Host": "elsewhere.example"},
        {"Origin": "https://elsewhere.example"},
        {"Content_Encoding": "gzip"},
        {"data": b""},
        {"data": b"{}"},
        {"data": body(userId="a\tb")},
        {"data": body(id="")},
        {"data": LOGIN.replace(b"{}", b'{"a": NaN}')},
    ],
    ids=str,
)
def test_what_is_not_plain_is_left_to_a_thread(app: Flask, odd: dict[str, Any]) -> None:
    assert received(app) is not None
    assert received(app, **odd) is None


def listen(app: Flask) -> None:
    def hear(*_: Any, **__: Any) -> None: ...

    app.extensions["kept"] = hear  # signals hold their receivers weakly
    flask.request_started.connect(hear, app)


class Own(Flask):
    """A class of somebody's own."""


SAYS: dict[str, Callable[[Flask], object]] = {
    "guard": lambda app: app.extensions["jobquest.entrance"].guards.append(lambda _: None),
    "before": lambda app: app.before_request(lambda: None),
    "after": lambda app: app.after_request(lambda answer: answer),
    "teardown": lambda app: app.teardown_request(lambda _: None),
    "error": lambda app: app.register_error_handler(400, lambda error: error),
    "signal": listen,
    "view": lambda app: app.view_functions.update({"events.publish": lambda: ""}),
    "middleware": lambda app: setattr(app, "wsgi_app", ProxyFix(app.wsgi_app)),
    "method": lambda app: setattr(app, "full_dispatch_request", app.full_dispatch_request),
    "class": lambda app: setattr(app, "__class__", Own),
}


@pytest.mark.parametrize("who", SAYS)
def test_where_somebody_else_has_a_say_a_thread_answers(app: Flask, who: str) -> None:
    assert received(app) is not None
    SAYS[who](app)
    assert received(app) is None


def test_an_event_is_given_to_the_log_and_answered_once_it_is_there(app: Flask) -> None:
    publisher, asked = publisher_of(app), environ(data=body(id="a1"))
    publish = entrance_of(app).receive(asked)
    assert publish
    publisher.keep([publish])
    assert publish.pending
    assert wait_for_all(publish.pending, 10)
    answer = publisher.answer(publish)
    told: list[Any] = []
    sent = b"".join(entrance_of(app).send(answer, asked, lambda *args: told.append(args)))
    assert told[0][0] == "201 Created"
    assert json.loads(sent)["data"]["result"] == "accepted"


def test_an_id_that_is_processed_is_left_to_a_thread_and_harms_no_other(app: Flask) -> None:
    runtime = app.extensions["jobquest"]
    runtime.producer.publish("user.login", "ada", {}, id="known")
    wait_for(lambda: runtime.consumer.step(0.1) == 0, 10)
    runtime.consumer.close()
    wanted = [received(app, data=body(id=id)) for id in ("n1", "known", "n2")]
    wanted.append(received(app, BATCH, data=batch(body(id="n3"), body(id="known"))))
    wanted.append(received(app, BATCH, data=batch(body(id="n4"), body(id="n5"))))
    before = sum(info.next for info in runtime.log.describe(["system-events"]))
    several = [one for one in wanted if one]
    publisher_of(app).keep(several)
    assert [len(publish.pending) for publish in several] == [1, 0, 1, 0, 2]
    assert wait_for_all([one for publish in several for one in publish.pending], 10)
    after = sum(info.next for info in runtime.log.describe(["system-events"]))
    assert after - before == 4, "nothing of a batch may be there before a thread publishes it"


def test_what_is_left_to_a_thread_counts_once(
    settings: dict[str, str], made_read_side: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "_now", lambda: 10**15)
    app = create_app(
        {**settings, "JOBQUEST_JWT_SECRET": SECRET, "JOBQUEST_USER_EVENTS_PER_SECOND": "1"}
    )
    runtime, mine = app.extensions["jobquest"], f"Bearer {token(sub='ada')}"
    runtime.producer.publish("user.login", "ada", {}, id="known")
    wait_for(lambda: runtime.consumer.step(0.1) == 0, 10)
    runtime.consumer.close()
    assert runtime.access.everybody() is None
    runtime.access.bearer(mine.removeprefix("Bearer "))
    publish = received(app, data=body(id="known"), Authorization=mine)
    assert publish
    publisher_of(app).keep([publish])
    assert not publish.pending
    post = partial(app.test_client().post, EVENTS, headers={"Authorization": mine})
    answers = [post(data=body(id="known"), content_type=JSON) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 429]
    runtime.stop()


def test_what_the_log_refuses_is_told_as_a_thread_tells_it(app: Flask) -> None:
    publish = received(app)
    assert publish
    lost: Pending[Position] = Pending()
    lost.fail(LogUnavailable("The log is away."))
    publish.pending = [lost]
    answer = publisher_of(app).answer(publish)
    assert (answer.code, answer.headers["Retry-After"]) == (503, "2")
    assert answer.document == {"status": "error", "message": "The log is away."}


def test_what_goes_wrong_with_one_publish_is_its_own_answer(app: Flask) -> None:
    publish = received(app)
    assert publish
    lost: Pending[Position] = Pending()
    lost.fail(ZeroDivisionError())
    publish.pending = [lost]
    assert publisher_of(app).answer(publish).code == 500


def test_a_batch_is_answered_event_by_event(app: Flask) -> None:
    publisher = publisher_of(app)
    publish = received(app, BATCH, data=batch(body(id="b1"), body(id="b2")))
    assert publish
    kept: Pending[Position] = Pending()
    lost: Pending[Position] = Pending()
    kept.resolve(Position("user-activities", 3, 7))
    lost.fail(LogUnavailable("The log is away."))
    publish.pending = [kept, lost]
    answer = publisher.answer(publish)
    assert answer.code == 207
    assert answer.document
    results = answer.document["data"]["results"]
    assert [(one["id"], one["result"]) for one in results] == [("b1", "accepted"), ("b2", "retry")]
    publisher.log_published()
    assert not publisher.unlogged


def without_clients() -> Worker:
    """A worker whose loop does not run."""
    worker = Worker.__new__(Worker)
    worker.log = logging.getLogger("test")
    worker._conns, worker._lingering, worker._stalled = {}, {}, {}
    worker._arriving = worker._unsent = 0
    worker._idle_seconds = 5
    return worker


def test_what_goes_wrong_in_giving_ends_no_worker() -> None:
    worker = without_clients()
    ours, theirs = socket.socketpair()
    conn = Connection(ours, "client", "server", 0.0)
    conn.busy = True

    def keep(_: object) -> object:
        raise ZeroDivisionError

    worker._publisher = SimpleNamespace(keep=keep)  # type: ignore[assignment]
    worker._received = [SimpleNamespace(conn=conn, publish=None)]  # type: ignore[list-item]
    worker._keep()
    assert theirs.recv(100).startswith(b"HTTP/1.1 500 ")
    assert not conn.busy
    theirs.close()
    ours.close()


class NotReady:
    """A log that would have to be waited for."""

    is_ready = False

    def append(self, *_: Any) -> Any:
        raise AssertionError("It was given something.")


def test_a_log_that_is_not_ready_is_left_to_a_thread(app: Flask) -> None:
    publish = received(app)
    assert publish
    app.extensions["jobquest"].producer._log = NotReady()
    publisher_of(app).keep([publish])
    assert not publish.pending


def test_a_database_that_does_not_answer_now_is_left_to_a_thread_until_one_has_asked(
    app: Flask,
) -> None:
    runtime = app.extensions["jobquest"]

    def is_kept() -> bool:
        publish = received(app, data=body(id="x1"))
        assert publish
        publisher_of(app).keep([publish])
        return bool(publish.pending)

    assert is_kept()
    kept = runtime.database._impatient
    assert kept.cursor().execute("PRAGMA busy_timeout").fetchone() == (0,)
    kept.driver_connection.close()
    assert not is_kept()
    assert not is_kept()  # to open another one may take a while
    runtime.producer.publish("user.login", "ada", {}, id="x2")
    assert is_kept()


@pytest.mark.postgres
def test_a_database_that_is_a_server_is_left_to_a_thread(
    settings: dict[str, str], postgres_server: Any
) -> None:
    app = create_app({**settings, "DATABASE_URL": postgres_server.new_database()})
    runtime = app.extensions["jobquest"]
    runtime.producer.publish("user.login", "ada", {})
    runtime.queries.last_seq()
    runtime.access.everybody()  # it looks up whether there are credentials; until then, threads do
    publish = received(app, data=body(id="x1"))
    assert publish
    publisher_of(app).keep([publish])
    assert not publish.pending
    assert not publisher_of(app).is_worth_it
    runtime.stop()


@pytest.mark.slow
def test_a_log_that_is_locked_keeps_nobody_waiting_but_who_publishes(tmp_path: Path) -> None:
    service = Service(tmp_path, JOBQUEST_CONSUMER_AUTOSTART="false").start()
    talks = [Talk(service) for _ in range(5)]
    assert talks[0].ask(PLAIN)[0] == 201
    with closing(sqlite3.connect(tmp_path / "log.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for talk in talks:
            talk.say(PLAIN)
        until, slowest = time.monotonic() + 2.0, 0.0
        while time.monotonic() < until:
            began = time.monotonic()
            assert service.get("/healthz").code == 200
            slowest = max(slowest, time.monotonic() - began)
        other.execute("COMMIT")
    assert slowest < 0.5
    assert [talk.answer()[0] for talk in talks] == [201] * 5
    service.kill()


def test_a_publish_that_the_log_never_settles_is_answered_in_time() -> None:
    worker = Worker.__new__(Worker)
    pending: Pending[Position] = Pending()
    publish = Publish([], False, LOCAL, pending=[pending])
    waiting = SimpleNamespace(
        publish=publish,
        busy=True,
        closed=False,
        deadline=100.0,
        framing=SimpleNamespace(head=b""),
    )
    worker._conns = {7: waiting}  # type: ignore[dict-item]
    worker.notify = worker._listen = lambda *_: None  # type: ignore[method-assign]
    worker.alive = True
    worker._tick(99.0)
    assert not pending.done()
    worker._tick(100.0)
    assert isinstance(pending.exception(0), LogUnavailable)


def test_requests_of_one_turn_share_an_append_and_a_lookup(app: Flask) -> None:
    runtime = app.extensions["jobquest"]
    calls: deque[str] = deque()
    append, lookup = runtime.log.append, runtime.read_side.processed_at_once

    def counted(name: str, call: Any) -> Any:
        def run(*args: Any) -> Any:
            calls.append(name)
            return call(*args)

        return run

    runtime.producer._log = SimpleNamespace(is_ready=True, append=counted("append", append))
    runtime.read_side.processed_at_once = counted("lookup", lookup)
    wanted = [received(app, data=body(id=f"s{n}")) for n in range(20)]
    wanted += [received(app, BATCH, data=batch(*[body(id=f"s{n}b")] * 5)) for n in range(5)]
    publisher_of(app).keep([one for one in wanted if one])
    assert list(calls) == ["lookup", "append"]


@pytest.mark.slow
def test_threads_and_the_loop_serve_one_connection_in_its_order(tmp_path: Path) -> None:
    service = Service(tmp_path, JOBQUEST_CONSUMER_AUTOSTART="false").start()
    talk = Talk(service)
    bad, slow = PLAIN.replace(b"user.login", b"user.logins"), b"GET /api/kafka/status HTTP/1.1\r\n"
    slow += b"Host: localhost\r\n\r\n"
    bad = bad.replace(b"Content-Length: %d" % len(LOGIN), b"Content-Length: %d" % (len(LOGIN) + 1))
    for _ in range(50):
        talk.say(PLAIN + bad + PLAIN + slow + PLAIN * 3)
        assert [talk.answer()[0] for _ in range(7)] == [201, 400, 201, 200, 201, 201, 201]
    talk.socket.close()
    service.kill()


@pytest.mark.slow
def test_each_publish_has_its_line_also_at_the_end(tmp_path: Path) -> None:
    service = Service(tmp_path, JOBQUEST_CONSUMER_AUTOSTART="false").start()
    talk = Talk(service)
    assert [talk.ask(PLAIN)[0] for _ in range(20)] == [201] * 20
    wait_for(lambda: sum("Published event" in line for line in service.output) == 20, 2)
    assert [talk.ask(PLAIN)[0] for _ in range(20)] == [201] * 20
    service.stop()
    assert sum("Published event" in line for line in service.output) == 40


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_publish_that_waits_for_the_log_is_answered_and_logged_at_the_end(
    tmp_path: Path, number: signal.Signals
) -> None:
    service = Service(tmp_path, JOBQUEST_CONSUMER_AUTOSTART="false").start()
    talks = [Talk(service) for _ in range(3)]
    assert talks[0].ask(PLAIN)[0] == 201
    with closing(sqlite3.connect(tmp_path / "log.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for talk in talks:
            talk.say(PLAIN)
        time.sleep(0.2)  # they are with the log, which waits
        service.signal(number)
        time.sleep(1.5)  # longer than requests are waited for
        other.execute("COMMIT")
    assert [talk.answer()[0] for talk in talks] == [201] * 3
    wait_for(lambda: sum("Published event" in line for line in service.output) == 4, 5)
    service.kill()


def test_a_thread_that_cannot_begin_costs_its_own_connection() -> None:
    worker = without_clients()
    ours, theirs = socket.socketpair()
    conn = Connection(ours, "client", "server", 0.0)

    def put(_: object) -> None:
        raise RuntimeError("can't start new thread")

    worker._threads = SimpleNamespace(put=put)  # type: ignore[assignment]
    worker._publisher = SimpleNamespace(keep=lambda several: None)  # type: ignore[assignment]
    publish = Publish([], False, LOCAL)
    worker._received = [SimpleNamespace(conn=conn, publish=publish)]  # type: ignore[list-item]
    worker._conns = {conn.fd: conn}
    worker._keep()
    assert theirs.recv(100) == b""
    assert not worker._conns
    theirs.close()
