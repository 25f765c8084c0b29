"""Several processes that apply batches to one PostgreSQL at the same time."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url, select

from bench.distance import Distance
from jobquest.config import load
from jobquest.errors import PositionMoved, ReadSideUnavailable
from jobquest.events import from_request
from jobquest.log import Origin, Record
from jobquest.read import Applied, Batch, postgres, tables
from jobquest.read.cursor import Cursor
from jobquest.read.effects import EventRow, write_events
from jobquest.read.projections import DERIVED
from jobquest.read.statements import Statements, select_by_key, statements
from jobquest.runtime import Runtime
from tests.postgres import Postgres
from tests.samples import SAMPLES
from tests.service import Service, wait_for

pytestmark = pytest.mark.postgres

TYPES = ("xp.earned", "mission.completed", "job.applied", "notification.sent", "user.login")
MOST_ROUND_TRIPS = 20  # a second, of one process that does everything
BLOCKED_SECONDS = 0.05  # a statement that takes longer waits for the other applier's lock


@pytest.fixture
def two(
    settings: dict[str, str], postgres_server: Postgres, new_postgres: str
) -> Iterator[tuple[Runtime, Runtime]]:
    """Two processes' parts on one database."""
    url = postgres_server.new_database(f"CREATE DATABASE name TEMPLATE {new_postgres}")
    made = [Runtime(load(settings | {"DATABASE_URL": url})) for _ in range(2)]
    yield made[0], made[1]
    for one in made:
        one.consumer.close()
        one.stop()


class Steps:
    """Lets two threads run one statement at a time, in the order that chance decides. A thread
    whose statement waits for a lock does not keep the other from its turn."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._turns = [threading.Semaphore(0), threading.Semaphore(0)]
        self._arrived = [threading.Event(), threading.Event()]
        self._number = threading.local()

    def before_statement(self) -> None:
        number = getattr(self._number, "value", None)
        if number is not None:
            self._arrived[number].set()
            self._turns[number].acquire()

    @contextmanager
    def as_thread(self, number: int) -> Iterator[None]:
        self._number.value = number
        try:
            self.before_statement()
            yield
        finally:
            self._number.value = None

    def drive(self, running: Sequence[Future[Any]]) -> None:
        while not all(one.done() for one in running):
            number = self._chance.randrange(2)
            if not running[number].done() and self._arrived[number].is_set():
                self._arrived[number].clear()
                self._turns[number].release()
                for _ in range(int(BLOCKED_SECONDS / 0.002)):
                    if running[number].done() or self._arrived[number].wait(0.002):
                        break


def batch(number: int, count: int, first: int, user: str = "user") -> Batch:
    """Events of four users, whom both appliers share if they give the same name."""
    applied = []
    for n in range(first, first + count):
        kind = TYPES[(n + number) % len(TYPES)]
        event = from_request(kind, f"{user}-{n % 4}", SAMPLES[kind], id=f"{number}-{n}")
        record = Record(event.topic, number, n, b"k", event.to_json(), (), event.time_ms)
        applied.append(Applied(event, record))
    origin = Origin("all", number, "one-life")
    return Batch(applied, moves={origin: (first or None, first + count)})


def rows_of(runtime: Runtime) -> dict[str, set[tuple[Any, ...]]]:
    """The derived rows, without the numbers of changes."""
    found = {}
    with runtime.database.reading() as connection:
        for table in DERIVED:
            columns = [column for column in table.columns if column is not tables.events.c.seq]
            found[table.name] = {tuple(row) for row in connection.execute(select(*columns))}
    return found


@pytest.mark.parametrize("seed", range(8))
def test_two_appliers_in_any_order_of_statements_come_to_the_rows_of_one(
    two: tuple[Runtime, Runtime],
    runtime: Runtime,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
) -> None:
    """They share users, minutes and days. A lost update would make a count too small."""
    steps, run = Steps(seed), Statements.run

    def stepped(self: Statements, statement: str, parameters: tuple[Any, ...] = ()) -> Any:
        steps.before_statement()
        return run(self, statement, parameters)

    monkeypatch.setattr(Statements, "run", stepped)
    monkeypatch.setattr("psycopg.Pipeline.is_supported", lambda: False)  # statement by statement
    batches = [[batch(number, 10, first) for first in (0, 10, 20)] for number in (0, 1)]

    def apply_all(number: int) -> None:
        with steps.as_thread(number):
            for one in batches[number]:
                two[number].read_side.apply(one)

    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(apply_all, number) for number in (0, 1)]
        steps.drive(running)
    for one in running:
        one.result()
    for one_batch in (*batches[0], *batches[1]):
        runtime.read_side.apply(one_batch)
    assert rows_of(two[0]) == rows_of(runtime)


@pytest.mark.slow
def test_a_batch_takes_three_round_trips(
    settings: dict[str, str], postgres_server: Postgres, new_postgres: str
) -> None:
    """Far from the database they decide how many events an instance processes."""
    url = postgres_server.new_database(f"CREATE DATABASE name TEMPLATE {new_postgres}")
    port = make_url(url).port
    assert port
    with Distance(port, 0.0) as distance:
        behind = make_url(url).set(port=distance.port).render_as_string()
        runtime = Runtime(load(settings | {"DATABASE_URL": behind}))
        taken = []
        for _ in range(12):  # the driver prepares a statement when it comes for the sixth time
            for _n in range(20):
                runtime.producer.publish("user.login", "ada", {})
            began = distance.needed()
            assert runtime.consumer.step() == 20
            taken.append(distance.needed()["round_trips"] - began["round_trips"])
        runtime.consumer.close()
        runtime.stop()
    # The proxy takes two for one if what follows an answer arrives together with what came before.
    assert min(taken) <= 3
    assert sorted(taken)[len(taken) // 2] <= 5  # others: what the driver prepares, and each second


def test_the_ids_of_a_batch_are_looked_up_by_their_index_also_in_a_small_table(
    two: tuple[Runtime, Runtime],
) -> None:
    """PostgreSQL expects that a scan is cheaper, until there are about 100,000 events. It took ten
    times as long, in every batch."""
    rows = [
        EventRow(f"{n}", "processed", "xp-events", 0, n, "xp.earned", "ada", n, n, None, "x" * 600)
        for n in range(20_000)
    ]
    with two[0].database.writing() as connection, statements(connection) as run:
        write_events(run, rows)
    keys = [(f"{n}",) for n in range(3_000)]
    query, values = select_by_key(
        "postgresql", tables.events, keys, ("id",), ("id", "body"), "outcome = 'processed'"
    )
    with two[0].database.asking() as connection, statements(connection) as run:
        plan = "\n".join(row[0] for row in run.run(f"EXPLAIN {query}", values).fetchall())
        assert len(run.run(query, values).fetchall()) == len(keys)
    assert "Index Scan using events_id_key on events" in plan, plan


@pytest.mark.slow
def test_an_instance_that_waits_for_events_seldom_asks_its_database(
    postgres_server: Postgres, new_postgres: str, tmp_path: Path
) -> None:
    """Several instances share one; and far away, what waits for many answers comes late."""
    url = make_url(postgres_server.new_database(f"CREATE DATABASE name TEMPLATE {new_postgres}"))
    assert url.port
    with Distance(url.port, 0.0) as distance:
        behind = url.set(port=distance.port).render_as_string()
        service = Service(tmp_path, DATABASE_URL=behind).start()
        try:
            wait_for(lambda: service.status()["state"] == "idle", 30)
            began, before = time.monotonic(), distance.needed()["round_trips"]
            time.sleep(5)  # the span itself: round trips of an idle process are counted in it
            asked = (distance.needed()["round_trips"] - before) / (time.monotonic() - began)
        finally:
            service.kill()
    assert asked < MOST_ROUND_TRIPS


def test_of_two_that_read_the_same_partition_one_is_refused(two: tuple[Runtime, Runtime]) -> None:
    barrier = threading.Barrier(2)

    def apply(one: Runtime) -> bool:
        barrier.wait(10)
        try:
            one.read_side.apply(batch(0, 500, 0))
        except PositionMoved:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(apply, two)) == [False, True]
    assert two[0].queries.user("user-0")["eventCount"] == 125  # type: ignore[index]


def test_an_event_that_two_apply_at_the_same_time_counts_once(
    two: tuple[Runtime, Runtime],
) -> None:
    """It is on two partitions: positions keep nobody from applying it twice."""
    event = from_request("xp.earned", "ada", SAMPLES["xp.earned"], id="twice")
    slow, fast = (
        Batch(
            [Applied(event, Record(event.topic, n, 0, b"k", event.to_json(), (), event.time_ms))],
            moves={Origin(event.topic, n, "one-life"): (None, 1)},
        )
        for n in (0, 1)
    )
    holds, may_end = threading.Event(), threading.Event()
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(_apply_slowly, two[0], slow, holds, may_end)
        assert holds.wait(10)
        second = pool.submit(two[1].read_side.apply, fast)
        assert wait([second], BLOCKED_SECONDS).not_done
        may_end.set()
        running.result(30)
        with pytest.raises(PositionMoved):
            second.result(30)
    user = two[0].queries.user("ada")
    assert user
    assert (user["eventCount"], user["xp"]) == (1, SAMPLES["xp.earned"]["xpAmount"])


def test_an_applier_that_freezes_in_its_transaction_does_not_stop_the_other_for_long(
    settings: dict[str, str],
    postgres_server: Postgres,
    new_postgres: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its locks are on rows that all appliers change: the server ends its session."""
    assert 0 < int(postgres._SETTINGS["idle_in_transaction_session_timeout"]) <= 10_000
    monkeypatch.setitem(postgres._SETTINGS, "idle_in_transaction_session_timeout", "1000")
    url = postgres_server.new_database(f"CREATE DATABASE name TEMPLATE {new_postgres}")
    frozen, other = (Runtime(load(settings | {"DATABASE_URL": url})) for _ in range(2))
    holds, may_end = threading.Event(), threading.Event()
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(_apply_slowly, frozen, batch(0, 3, 0), holds, may_end)
        assert holds.wait(10)
        second = pool.submit(other.read_side.apply, batch(1, 3, 0))
        try:
            second.result(10)
        finally:
            may_end.set()
        with pytest.raises(ReadSideUnavailable):
            running.result(10)
    frozen.read_side.apply(batch(0, 3, 0))  # it goes on, and nothing counts twice
    assert sum(one["eventCount"] for one in other.queries.users("", 10)) == 6
    for one in (frozen, other):
        one.stop()


def test_a_number_is_read_when_no_lower_one_can_appear(two: tuple[Runtime, Runtime]) -> None:
    """One applier hangs after it has taken its numbers; the other commits higher ones."""
    slow, fast = two
    holds, may_end = threading.Event(), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(_apply_slowly, slow, batch(0, 3, 0), holds, may_end)
        assert holds.wait(10)
        fast.read_side.apply(batch(1, 3, 0, "another-user"))
        assert fast.queries.last_seq() == 0
        assert fast.queries.events(since=Cursor(0))["events"] == []
        may_end.set()
        running.result(30)
    wait_for(lambda: fast.queries.last_seq() == 6, 10)
    assert len(fast.queries.changes(0, 100, 7)) == 6


def _apply_slowly(
    slow: Runtime, slow_batch: Batch, holds: threading.Event, may_end: threading.Event
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        flush = Statements.flush

        def hang(self: Statements) -> None:
            flush(self)
            if threading.current_thread() is mine and not holds.is_set():
                holds.set()
                assert may_end.wait(30)

        mine = threading.current_thread()
        patch.setattr(Statements, "flush", hang)
        slow.read_side.apply(slow_batch)
