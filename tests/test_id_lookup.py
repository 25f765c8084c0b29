"""Ids that clients give are looked up in groups: few queries, and everybody's own answer."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import text

from jobquest.errors import IdConflict, ReadSideUnavailable
from jobquest.read.id_lookup import MAX_IDS, IdLookup
from jobquest.runtime import Runtime
from tests.postgres import Postgres
from tests.service import wait_for


class Store:
    """A query over a dict, which counts, and which stops while `open` is cleared."""

    def __init__(self, stored: Mapping[str, bytes]) -> None:
        self.stored = stored
        self.asked: list[list[str]] = []
        self.open = threading.Event()
        self.open.set()
        self.error: BaseException | None = None

    def __call__(self, ids: Sequence[str]) -> dict[str, bytes]:
        self.asked.append(list(ids))
        assert self.open.wait(20)
        if self.error:
            raise self.error
        return {id: self.stored[id] for id in ids if id in self.stored}


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(64) as threads:
        yield threads


def waiting(lookup: IdLookup) -> int:
    return len(lookup._waiting)


def while_one_asks(
    lookup: IdLookup, store: Store, pool: ThreadPoolExecutor, calls: Sequence[Sequence[str]]
) -> list[Future[dict[str, bytes]]]:
    """Lookups of which the first has its query running while all others come, in their order."""
    store.open.clear()
    started = []
    for number, ids in enumerate(calls):
        started.append(pool.submit(lookup.contents, ids))
        wait_for(lambda n=number: len(store.asked) == 1 and waiting(lookup) == n, 5)
    return started


def test_who_asks_alone_asks_once_and_directly() -> None:
    store = Store({"a": b"1"})
    lookup = IdLookup(store)
    assert lookup.contents(["a", "b"]) == {"a": b"1"}
    assert lookup.contents(["b"]) == {}
    assert store.asked == [["a", "b"], ["b"]]


def test_who_comes_during_a_query_joins_the_next_one(pool: ThreadPoolExecutor) -> None:
    store = Store({f"{n}": b"%d" % n for n in range(0, 64, 2)})
    lookup = IdLookup(store)
    came = while_one_asks(lookup, store, pool, [[f"{n}"] for n in range(64)])
    store.open.set()
    assert [one.result(5) for one in came] == [
        {f"{n}": b"%d" % n} if n % 2 == 0 else {} for n in range(64)
    ]
    assert store.asked == [["0"], [f"{n}" for n in range(1, 64)]]


def test_who_comes_sees_what_was_stored_before_it_came(pool: ThreadPoolExecutor) -> None:
    """Otherwise a retry whose event was processed meanwhile would be taken once more."""
    stored: dict[str, bytes] = {}
    running, go_on = threading.Event(), threading.Event()

    def query(ids: Sequence[str]) -> dict[str, bytes]:
        found = dict(stored)  # the query's snapshot
        running.set()
        assert go_on.wait(20)
        return {id: found[id] for id in ids if id in found}

    lookup = IdLookup(query)
    first = pool.submit(lookup.contents, ["a"])
    assert running.wait(5)
    stored["a"] = b"1"
    second = pool.submit(lookup.contents, ["a"])
    wait_for(lambda: waiting(lookup) == 1, 5)
    go_on.set()
    assert first.result(5) == {}
    assert second.result(5) == {"a": b"1"}


def test_a_query_asks_for_a_bounded_number_of_ids(pool: ThreadPoolExecutor) -> None:
    store = Store({})
    lookup = IdLookup(store)
    batch = [f"{n}" for n in range(MAX_IDS)]
    came = while_one_asks(lookup, store, pool, [["a"], ["b"], batch, ["c"], ["d"], batch[:-2]])
    store.open.set()
    assert [one.result(5) for one in came] == [{}] * 6
    assert store.asked == [["a"], ["b"], batch, ["c", "d", *batch[:-2]]]


@pytest.mark.parametrize(
    ("error", "answered"),
    [(ReadSideUnavailable("away"), ReadSideUnavailable), (KeyError("ours"), KeyError)],
)
def test_a_query_that_fails_answers_everyone_and_the_next_is_asked(
    pool: ThreadPoolExecutor, error: Exception, answered: type[Exception]
) -> None:
    store = Store({"a": b"1"})
    lookup = IdLookup(store)
    store.error = error
    came = while_one_asks(lookup, store, pool, [["a"]] * 40)
    store.open.set()
    for one in came:
        with pytest.raises(answered):
            one.result(5)
    assert len(store.asked) == 2
    store.error = None
    assert lookup.contents(["a"]) == {"a": b"1"}


def test_a_thread_that_is_ended_while_it_asks_leaves_the_others_an_answer(
    pool: ThreadPoolExecutor,
) -> None:
    store = Store({"a": b"1"})
    lookup = IdLookup(store)
    asked = store.__call__

    def ends_once(ids: Sequence[str]) -> dict[str, bytes]:
        found = asked(ids)
        if len(store.asked) == 2:
            raise SystemExit
        return found

    lookup._query = ends_once
    came = while_one_asks(lookup, store, pool, [["a"]] * 9)
    store.open.set()
    assert came[0].result(5) == {"a": b"1"}
    ended = [type(one.exception(5)) for one in came[1:]]
    assert ended == [SystemExit] + [ReadSideUnavailable] * 7
    assert lookup.contents(["a"]) == {"a": b"1"}


@pytest.mark.parametrize("is_first", [True, False])
def test_a_thread_that_is_ended_while_it_waits_is_missed_by_nobody(
    pool: ThreadPoolExecutor, is_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a signal's exception ends a wait, for the thread that is to ask next and for another."""
    store = Store({"a": b"1"})
    lookup = IdLookup(store)
    came = while_one_asks(lookup, store, pool, [["a"], ["b"], ["a"], ["a"]])
    ended = lookup._waiting[0 if is_first else 1]
    really_wait = type(ended).wait

    class Ended(BaseException):
        pass

    # What waits is in C: the exception is raised as it comes back, answered or woken to lead.
    def wait(self: Any) -> None:
        really_wait(self)
        if self.ids == ["x"]:
            raise Ended

    monkeypatch.setattr(type(ended), "wait", wait)
    late = pool.submit(lookup.contents, ["x"])
    wait_for(lambda: waiting(lookup) == 4, 5)
    if is_first:
        lookup._waiting.rotate(1)
    store.open.set()
    with pytest.raises(Ended):
        late.result(5)
    assert [one.result(5) for one in came] == [{"a": b"1"}, {}, {"a": b"1"}, {"a": b"1"}]
    assert lookup.contents(["a"]) == {"a": b"1"}


@pytest.mark.parametrize("seed", range(3))
def test_nobody_gets_the_answer_of_another(seed: int, pool: ThreadPoolExecutor) -> None:
    """Threads that ask for ids of each other's, alone and by the batch, of a query that fails now
    and then: each answer is right for its own ids, or an error."""
    stored = {f"{n}": b"%d" % n for n in range(0, 500, 3)}
    chance = random.Random(seed)

    def query(ids: Sequence[str]) -> dict[str, bytes]:
        if chance.random() < 0.1:
            raise ReadSideUnavailable("now and then")
        return {id: stored[id] for id in ids if id in stored}

    lookup = IdLookup(query)

    def work(number: int) -> int:
        own = random.Random(f"{seed} {number}")
        failed = 0
        for _ in range(200):
            ids = [f"{own.randrange(500)}" for _ in range(own.choice((1, 1, 1, 40)))]
            try:
                assert lookup.contents(ids) == {id: stored[id] for id in ids if id in stored}
            except ReadSideUnavailable:
                failed += 1
        return failed

    failed = sum(pool.map(work, range(64)))
    assert 0 < failed < 64 * 200


def at_once(count: int, call: Callable[[int], Any]) -> list[Any]:
    """What `call(n)` answered for each n, all at the same time."""
    gate = threading.Barrier(count)

    def work(number: int) -> Any:
        gate.wait(20)
        return call(number)

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(work, range(count)))


def publish(runtime: Runtime, id: str, days: int = 1) -> str:
    try:
        data = {"streakDays": days}
        return runtime.producer.publish("streak.milestone", "ada", data, id=id).result
    except IdConflict:
        return "conflict"


def test_many_publishes_with_ids_make_few_queries_and_each_its_answer(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A duplicate, a conflict and a new event among all of them, on each database."""
    for n in range(50):
        publish(runtime, f"old-{n}")
    wait_for(lambda: runtime.consumer.step() == 0 and runtime.queries.last_seq() >= 50, 20)
    queries: list[str] = []
    select = runtime.database.select

    def counted(statement: str, parameters: tuple[Any, ...]) -> Sequence[Sequence[Any]]:
        queries.append(statement)
        if len(queries) == 1:
            wait_for(lambda: waiting(runtime.read_side._lookup) == 149, 20)
        return select(statement, parameters)

    monkeypatch.setattr(runtime.database, "select", counted)

    def call(n: int) -> str:
        kind, number = divmod(n, 50)
        return publish(runtime, f"{'new' if kind == 0 else 'old'}-{number}", days=max(kind, 1))

    answers = ["accepted"] * 50 + ["duplicate"] * 50 + ["conflict"] * 50
    assert at_once(150, call) == answers
    assert len(queries) == 2


def test_lookups_keep_a_connection_for_each_way_and_no_transaction(
    runtime: Runtime, request: pytest.FixtureRequest
) -> None:
    for n in range(20):
        publish(runtime, f"{n}")
    kept = runtime.database._kept
    assert kept is not None
    # One for threads; where nothing has to be waited for, one for the main loop.
    ways = 1 + runtime.database.is_file
    assert runtime.database.engine.pool.checkedout() == ways  # type: ignore[attr-defined]
    driver: Any = kept.driver_connection
    if runtime.database.engine.dialect.name == "sqlite":
        assert not driver.in_transaction
        return
    with runtime.database.reading() as connection:
        found = connection.execute(
            text("SELECT state FROM pg_stat_activity WHERE pid = :pid"),
            {"pid": driver.info.backend_pid},
        )
        assert found.scalar() == "idle"


@pytest.mark.postgres
@pytest.mark.parametrize("database", ["postgres"], indirect=True)
def test_a_connection_that_the_server_has_ended_is_replaced_unnoticed(
    runtime: Runtime, postgres_server: Postgres
) -> None:
    publish(runtime, "a")
    wait_for(lambda: runtime.consumer.step() == 0 and runtime.queries.last_seq() >= 1, 20)
    kept = runtime.database._kept
    assert kept is not None
    driver: Any = kept.driver_connection
    with runtime.database.reading() as connection:
        end = text("SELECT pg_terminate_backend(:pid)")
        connection.execute(end, {"pid": driver.info.backend_pid})
    assert publish(runtime, "a") == "duplicate"
    assert runtime.database._kept is not kept
