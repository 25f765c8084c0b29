"""Any sequence of what can happen to two processes that apply events to one PostgreSQL at the same
time, made up by Hypothesis: they come to what a replay does, and viewers miss no change.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, ClassVar

import psycopg
import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule, run_state_machine_as_test
from sqlalchemy import select

from jobquest.errors import StateConflict, Unavailable
from jobquest.events import TOPICS, Event
from jobquest.read import tables
from jobquest.read.database import Database
from jobquest.read.queries import Queries
from jobquest.read.replay import RebuildFailed
from jobquest.runtime import Runtime
from tests.postgres import Postgres
from tests.test_properties import _SETTINGS, ATTEMPTS, ReadSideMachine, Unlucky

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

BLOCKED_SECONDS = 0.05  # whoever takes longer waits for a lock of the one that is held
LONG_SECONDS = 30.0
EVERY_CHANGE = 100_000
# Where one can be held, in the order of a batch's transaction: before the first statement that has
# all of these words.
PLACES = (
    ("BEGIN",),
    ("positions", "SET next"),
    ("INSERT INTO parked",),
    ("INSERT INTO events",),
    ("INSERT INTO user_stats", "DO UPDATE"),  # after the row was read
    ("INSERT INTO minute_counts",),
    ("INSERT INTO minutes",),
    ("COMMIT",),
)
_Calls = list[tuple[str, bool]]


class Killed(Unavailable):
    """What the process of a held statement dies of."""


class Thread(threading.local):
    """What the present thread does: its handlers' calls, and at which statement it is held."""

    calls: _Calls | None = None
    hold: Hold | None = None
    pipelined = True


class Hold:
    """Holds a thread at one of `PLACES`, until `let_go`."""

    def __init__(self, place: tuple[str, ...], *, kills: bool) -> None:
        self._place = place
        self._kills = kills
        self._may_go = threading.Event()
        self.reached = threading.Event()  # or the thread has come to its end

    def before(self, statement: object) -> None:
        is_here = all(words in str(statement) for words in self._place)
        if is_here and not self.reached.is_set():
            self.reached.set()
            assert self._may_go.wait(LONG_SECONDS)
            if self._kills:
                raise Killed

    def let_go(self) -> None:
        self._may_go.set()


HERE = Thread()


class TwoAppliersMachine(ReadSideMachine):
    """Rules act on `runtime`; `swap` makes it the other one. Each reads its own topics, but all
    topics have the same users, so that they share rows, which is more than a group of Kafka does.
    A viewer looks after each rule, and while one of the two is held."""

    new_url: ClassVar[Callable[[], str]]

    def __init__(self) -> None:
        super().__init__()
        self.held = 0
        self.runtime.consumer._topics = ["mission-events"]
        self.other = self._open([topic for topic in TOPICS if topic != "mission-events"])
        self._view()

    def _new_database(self) -> dict[str, str]:
        return {"DATABASE_URL": self.new_url()}

    def _everyone(self) -> list[Runtime]:
        return [self.runtime, self.other]

    def _handle(self, event: Event) -> None:
        if HERE.calls is None:
            super()._handle(event)
            return
        HERE.calls.append((event.id, event.id not in self.failing))
        if event.id in self.failing:
            raise Unlucky(event.id)

    def _step(self, runtime: Runtime) -> int:
        self.outlived = len(self.calls)
        count = super()._step(runtime)
        if not count:  # perhaps another one reads its topics now: its calls came to nothing
            del self.calls[self.outlived :]  # but not those of one that took over meanwhile
        return count

    # --- what else happens ---

    step_while_the_database_is_locked = None  # a matter of SQLite

    @rule()
    def swap(self) -> None:
        self.runtime, self.other = self.other, self.runtime

    @rule(topic=st.sampled_from(TOPICS), is_noticed=st.booleans())
    def take_over(self, topic: str, is_noticed: bool) -> None:
        """The one that read the topic before may go on for a while."""
        self._take_over(topic)
        if is_noticed and topic in self.other.consumer._topics:
            self.other.consumer._topics.remove(topic)

    def _take_over(self, topic: str) -> None:
        if topic not in self.runtime.consumer._topics:
            self.runtime.consumer._topics.append(topic)

    @rule(
        users=st.sampled_from([("ada", "ada"), ("ada", "bob")]),
        place=st.sampled_from(PLACES),
        pipelined=st.booleans(),
        kills=st.sampled_from([False, False, True]),
        meanwhile=st.sampled_from(["steps", "steps", "takes over", "rebuilds", "relays"]),
    )
    def hold_one(
        self,
        users: tuple[str, str],
        place: tuple[str, ...],
        pipelined: bool,
        kills: bool,
        meanwhile: str,
    ) -> None:
        """One is held within its step while the other one works; both may have something to do."""
        self.held += 1
        self.earn(f"xh{self.held}", users[0], 10)
        self.complete(f"mh{self.held}", users[1], 20)
        hold = Hold(place, kills=kills)
        with self._noting() as waiting, ThreadPoolExecutor(3) as pool:
            held = pool.submit(self._step_apart, self.runtime, hold, pipelined)
            assert hold.reached.wait(LONG_SECONDS)
            working = pool.submit(self._meanwhile, meanwhile)
            looking = [pool.submit(self.look)] if wait([working], BLOCKED_SECONDS).done else []
            wait(looking, BLOCKED_SECONDS)
            hold.let_go()
            for count, calls in (working.result(LONG_SECONDS), held.result(LONG_SECONDS)):
                waiting |= {id for id, went_well in calls if not went_well}
                self.calls += calls if count else []
            for one in looking:
                one.result(LONG_SECONDS)
        if kills:
            self.crash()

    def _step_apart(
        self, runtime: Runtime, hold: Hold | None = None, pipelined: bool = True
    ) -> tuple[int, _Calls]:
        """A step in a thread of its own. Returns how many events that were, and the calls."""
        calls: _Calls = []
        HERE.calls, HERE.hold, HERE.pipelined = calls, hold, pipelined
        try:
            return runtime.consumer.step(), calls
        except Unavailable:
            return 0, calls
        finally:
            HERE.calls = HERE.hold = None
            if hold:
                hold.reached.set()

    def _meanwhile(self, what: str) -> tuple[int, _Calls]:
        if what == "relays":
            return self.other.relay.step(), []
        if what == "rebuilds":
            # The one that is held may just begin to read, or to rebuild.
            with contextlib.suppress(StateConflict, RebuildFailed):
                self._note_rebuilt(self.other.rebuild.run())
            return 0, []
        if what == "takes over":
            for topic in self.runtime.consumer._topics:
                if topic not in self.other.consumer._topics:
                    self.other.consumer._topics.append(topic)
        return self._step_apart(self.other)

    # --- a viewer ---

    def _view(self) -> None:
        self.viewing = Database(self.database["DATABASE_URL"])
        self.viewer = Queries(self.viewing)
        self.epoch, self.at, self.seen = "", 0, set[int]()

    @invariant()
    def look(self) -> None:
        """As the feed does: what changed after the last look, up to the last change."""
        epoch, last = self.viewer.last_change()
        if epoch != self.epoch:
            self.epoch, self.at, self.seen = epoch, 0, set()
        if last <= self.at:
            return
        found = [change[0] for change in self.viewer.changes(self.at, EVERY_CHANGE, last + 1)]
        if self.viewer.last_change()[0] == epoch:
            self.seen |= set(found)
            self.at = last

    def _check(self) -> None:
        super()._check()
        self.look()
        with self.viewing.reading() as connection:
            numbers = set(connection.execute(select(tables.events.c.seq)).scalars())
        assert numbers <= self.seen, "a viewer has missed a change"

    def _lose_the_read_side(self) -> None:
        self.viewing.close()
        self._close(self.other)
        self.database = self._new_database()
        self.other = self._open(self.other.consumer._topics)
        self._view()

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            self.viewing.close()


def is_open(subscription: Any) -> bool:
    try:
        return subscription._connection.total_changes >= 0  # type: ignore[no-any-return]
    except sqlite3.ProgrammingError:
        return False


@pytest.fixture
def two_appliers(
    monkeypatch: pytest.MonkeyPatch, postgres_server: Postgres, new_postgres: str
) -> Iterator[None]:
    """Threads that can be held, and an embedded log that several may read."""
    TwoAppliersMachine.new_url = staticmethod(
        lambda: postgres_server.new_database(f"CREATE DATABASE name TEMPLATE {new_postgres}")
    )
    execute = psycopg.Cursor.execute

    def held(self: Any, statement: object, *arguments: Any, **options: Any) -> Any:
        if HERE.hold:
            HERE.hold.before(statement)
        return execute(self, statement, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr("psycopg.Cursor.execute", held)
        patch.setattr("psycopg.Pipeline.is_supported", lambda: HERE.pipelined)
        patch.setattr("jobquest.log.sqlite.SqliteSubscription._holds_the_lock", is_open)
        patch.setattr("jobquest.read.outgoing.LEFT_AFTER_MS", -1_000)
        yield


class Noting(Hold):
    """Holds nobody; keeps the statements."""

    def __init__(self) -> None:
        super().__init__((), kills=False)
        self.statements: list[str] = []

    def before(self, statement: object) -> None:
        self.statements.append(str(statement))


@pytest.mark.parametrize("database", ["postgres"], indirect=True)
def test_each_place_where_one_can_be_held_is_a_statement_of_a_batch(
    two_appliers: None, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(event: Event) -> None:
        if event.user_id == "bob":
            raise Unlucky

    runtime.consumer.register_event_handler("user.login", fail)
    noting = Noting()
    monkeypatch.setattr(HERE, "hold", noting)
    for user in ("ada", "ada", "bob"):  # the second one moves a position that is stored
        runtime.producer.publish("user.login", user, {})
        assert runtime.consumer.step() == 1
    for place in PLACES:
        assert any(all(words in one for words in place) for one in noting.statements), place


def test_a_redriven_event_is_handled_last_by_one_that_takes_over_in_the_middle(
    two_appliers: None,
) -> None:
    machine = TwoAppliersMachine()
    for topic in TOPICS:
        machine._take_over(topic)
    machine.other.consumer._topics.clear()
    machine.fail_for(ids={"x0"})
    machine.earn(id="x0", user="ada", xp=10)
    machine.drain_and_check()  # it dies
    machine.fail_for(ids=set())
    machine.earn(id="x1", user="ada", xp=10)
    machine.drain_and_check()
    machine.edit_and_redrive(n=0, user="ada", id="x0")
    machine.another_consumer_takes_over(id="x2", user="ada", fails=False)
    assert machine.calls == [*[("x0", False)] * ATTEMPTS, ("x1", True), ("x0", True), ("x2", True)]
    machine.teardown()


def test_two_appliers_come_to_what_a_replay_does_whatever_happens(two_appliers: None) -> None:
    chosen = settings(
        _SETTINGS,
        max_examples=18,
        stateful_step_count=30,
        phases=[Phase.generate],  # timing decides too: a shorter sequence may not fail again
    )
    run_state_machine_as_test(TwoAppliersMachine, settings=chosen)
