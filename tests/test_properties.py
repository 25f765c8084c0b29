"""Any sequence of what can happen, made up by Hypothesis: the embedded log keeps every record once
and in order, and the read side comes to what a plain count of the log says.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from jobquest.config import load
from jobquest.errors import RecordRefused, StateConflict, Unavailable
from jobquest.events import TOPICS, Event, from_request
from jobquest.events.levels import level_for_xp
from jobquest.log import NewRecord, Partition, Record
from jobquest.log.sqlite import MAX_VALUE_BYTES, SqliteLog
from jobquest.producer import record_of
from jobquest.read import tables
from jobquest.read.dead_letters import DeadLetter, DeadLetterFilter
from jobquest.read.rebuild import Rebuilt
from jobquest.runtime import Runtime
from tests.service import ROOT
from tests.test_rebuild import redrive, rows_of

LOG_TOPICS = ["a", "b", "c"]
_SETTINGS = settings(
    deadline=None,
    print_blob=True,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow],
)
_SHRINKS = pytest.mark.timeout(600)  # after a failure, Hypothesis looks for a shorter one


# --- the embedded log ---

_APPENDER = """
import json, pathlib, sys
from jobquest.log import NewRecord
from jobquest.log.sqlite import SqliteLog

for line in sys.stdin:
    path, topics, records = json.loads(line)
    log = SqliteLog(pathlib.Path(path), topics)
    new = [NewRecord(t, k.encode(), v if v is None else v.encode("latin-1")) for t, k, v in records]
    found = [future.result(5) for future in log.append(new)]
    log.close()  # first: closing removes files, in a folder that may go after the answer
    print(json.dumps(found), flush=True)
"""


@pytest.fixture(scope="module")
def other_process() -> Iterator[subprocess.Popen[str]]:
    """A process that appends what it is told: it knows nothing of ours."""
    process = subprocess.Popen(
        [sys.executable, "-c", _APPENDER],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield process
    assert process.stdin
    process.stdin.close()
    assert process.wait(10) == 0


_TOPIC = st.sampled_from(LOG_TOPICS)
_KEY = st.sampled_from(["k", "l", "ключ"])
_VALUE = st.one_of(
    st.none(),
    st.binary(max_size=20),
    st.integers(0, 40_000).map(lambda size: b"\x00\xff" * size),
)
_RECORDS = st.lists(st.tuples(_TOPIC, _KEY, _VALUE), min_size=1, max_size=6)


class LogMachine(RuleBasedStateMachine):
    """The model is a list per topic, and how far the subscription is in each."""

    other: subprocess.Popen[str]

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="log-"))
        self.log = self._open()
        self.kept: dict[str, list[tuple[bytes, bytes | None]]] = {t: [] for t in LOG_TOPICS}
        self.stored: dict[str, int] = {}
        self.polled: dict[str, int] = {}
        self.subscription = self._sit()
        self.identities = {info.origin for info in self.log.describe(LOG_TOPICS)}

    def _open(self) -> SqliteLog:
        return SqliteLog(self.folder / "log.db", LOG_TOPICS)

    def _sit(self) -> Any:
        self.polled = dict(self.stored)
        return self.log.subscribe(
            LOG_TOPICS, "group", lambda origins: {o: self.stored.get(o.topic, 0) for o in origins}
        )

    def _kept(self, records: list[tuple[str, str, bytes | None]], found: Any) -> None:
        for (topic, key, value), position in zip(records, found, strict=True):
            assert tuple(position) == (topic, 0, len(self.kept[topic]))
            self.kept[topic].append((key.encode(), value))

    @rule(records=_RECORDS)
    def append(self, records: list[tuple[str, str, bytes | None]]) -> None:
        new = [NewRecord(topic, key.encode(), value) for topic, key, value in records]
        self._kept(records, [future.result(5) for future in self.log.append(new)])

    @rule(records=_RECORDS)
    def another_process_appends(self, records: list[tuple[str, str, bytes | None]]) -> None:
        assert self.other.stdin
        assert self.other.stdout
        told = [(t, k, v if v is None else v.decode("latin-1")) for t, k, v in records]
        self.other.stdin.write(json.dumps([str(self.folder / "log.db"), LOG_TOPICS, told]) + "\n")
        self.other.stdin.flush()
        self._kept(records, json.loads(self.other.stdout.readline()))

    @rule(topic=_TOPIC)
    def append_what_is_refused(self, topic: str) -> None:
        new = [NewRecord(topic, None, None), NewRecord(topic, b"k", bytes(MAX_VALUE_BYTES + 1))]
        for future in self.log.append([*new, NewRecord("no such topic", b"k", b"v")]):
            with pytest.raises(RecordRefused):
                future.result(5)

    @rule(limit=st.integers(1, 10))
    def poll(self, limit: int) -> None:
        records = self.subscription.poll(0.0, limit)
        assert len(records) <= limit
        for record in records:
            at = self.polled.get(record.topic, 0)
            assert record.offset == at, "a gap, or twice"
            assert (record.key, record.value) == self.kept[record.topic][at]
            self.polled[record.topic] = at + 1
        if not records:
            left = {t: len(kept) - self.polled.get(t, 0) for t, kept in self.kept.items()}
            assert not any(left.values()), "it has more"

    @rule()
    def commit(self) -> None:
        self.stored = dict(self.polled)
        self.subscription.commit({Partition(topic, 0): at for topic, at in self.stored.items()})

    @rule()
    def rewind(self) -> None:
        self.subscription.rewind()
        self.polled = dict(self.stored)

    @rule()
    def crash_and_sit_again(self) -> None:
        self.subscription.close()
        self.subscription = self._sit()

    @rule()
    def sit_beside(self) -> None:
        self.subscription.poll(0.0, 1)  # it has the subscription from the first poll on
        self.subscription.rewind()
        self.polled = dict(self.stored)
        beside = self.log.subscribe(LOG_TOPICS, "group", lambda origins: {})
        assert beside.poll(0.0, 10) == []
        assert beside.assignment() == {}
        beside.close()

    @rule()
    def open_again(self) -> None:
        self.log.close()
        self.log = self._open()

    @rule(topic=_TOPIC, offset=st.integers(0, 30), limit=st.integers(1, 10))
    def read(self, topic: str, offset: int, limit: int) -> None:
        found = self.log.read(Partition(topic, 0), offset, limit)
        expected = self.kept[topic][offset : offset + limit]
        assert [(record.key, record.value) for record in found] == expected
        assert [record.offset for record in found] == list(range(offset, offset + len(expected)))

    @rule()
    def describe(self) -> None:
        found = self.log.describe(LOG_TOPICS)
        assert {info.origin for info in found} == self.identities
        ends = {info.origin.topic: (info.first, info.next) for info in found}
        assert ends == {topic: (0, len(kept)) for topic, kept in self.kept.items()}

    def teardown(self) -> None:
        try:
            while any(len(kept) > self.polled.get(t, 0) for t, kept in self.kept.items()):
                self.poll(10)
        finally:
            self.subscription.close()
            self.log.close()
            shutil.rmtree(self.folder)


@pytest.mark.slow
@_SHRINKS
def test_the_embedded_log_is_a_list_per_topic_whatever_happens(
    other_process: subprocess.Popen[str],
) -> None:
    LogMachine.other = other_process
    run_state_machine_as_test(
        LogMachine, settings=settings(_SETTINGS, max_examples=30, stateful_step_count=40)
    )


# --- the read side, with the consumer before it ---

ATTEMPTS = 3
_USER = st.sampled_from(["ada", "bob", "eve"])
_XP_ID = st.sampled_from([f"x{n}" for n in range(4)])
_MISSION_ID = st.sampled_from([f"m{n}" for n in range(2)])
_NTH = st.integers(0, 9)
_IDS = st.sets(st.one_of(_XP_ID, _MISSION_ID), max_size=4)
_MISSION = {"missionId": "m", "missionName": "M", "missionType": "focus"}


class Unlucky(Exception):
    """What the handler raises."""


class ReadSideMachine(RuleBasedStateMachine):
    """Events with few ids, so that repeats and conflicts happen; a handler that fails for some.

    The model is the log itself, read again and counted with a dict: see `_check`. Rules act on
    `runtime`; `test_two_appliers_properties.py` has another one besides it, on PostgreSQL.
    """

    new_read_side: ClassVar[Path]  # to be copied

    def __init__(self) -> None:
        super().__init__()
        logging.disable(logging.CRITICAL)
        self.folder = Path(tempfile.mkdtemp(prefix="read-"))
        self.database = self._new_database()
        self.failing: set[str] = set()
        self.calls: list[tuple[str, bool]] = []  # id, and whether it went well
        self.waited: dict[tuple[str, int], set[str]] = {}  # position → what waited as it was read
        self.outlived = 0  # how many calls there were when one had taken over
        self.silent = False  # whether events counted without what follows from them
        self.zombie: Runtime | None = None  # takes over within a handler of the other's
        self.runtime = self._open(TOPICS)

    def _new_database(self) -> dict[str, str]:
        """The setting of an empty read side."""
        shutil.copy(self.new_read_side, self.folder / self.new_read_side.name)
        return {}

    def _open(self, topics: Sequence[str]) -> Runtime:
        """A process, which reads these topics."""
        made = Runtime(
            load(
                {
                    "JOBQUEST_DATA_DIR": str(self.folder),
                    "JOBQUEST_CONSUMER_AUTOSTART": "false",
                    "JOBQUEST_RETRY_MAX_ATTEMPTS": str(ATTEMPTS),
                    "JOBQUEST_RETRY_BASE_SECONDS": "0",
                    "JOBQUEST_BRAKE_FAILURES": "1000",
                    **self.database,
                }
            )
        )
        made.consumer._topics = topics
        for kind in ("xp.earned", "mission.completed"):
            made.consumer.register_event_handler(kind, self._handle)
        return made

    def _close(self, runtime: Runtime) -> None:
        runtime.consumer.close()
        runtime.stop()

    def _handle(self, event: Event) -> None:
        taking_over, self.zombie = self.zombie, None
        if taking_over:
            subscription, self.runtime.consumer._subscription = (
                self.runtime.consumer._subscription,
                None,
            )
            assert subscription
            subscription.close()  # it was taken for dead
            for _ in range(2):  # what waits is tried from the second on
                self._step(taking_over)
            self.runtime.consumer._subscription = subscription
            self.outlived = len(self.calls)
        self.calls.append((event.id, event.id not in self.failing))
        if event.id in self.failing:
            raise Unlucky(event.id)

    # --- what happens ---

    @rule(id=_XP_ID, user=_USER, xp=st.sampled_from([10, 10, 70, 250]))
    def earn(self, id: str, user: str, xp: int) -> None:
        self._append(from_request("xp.earned", user, {"xpAmount": xp, "totalXp": 0}, id=id))

    @rule(id=_MISSION_ID, user=_USER, xp=st.sampled_from([20, 20, 90]))
    def complete(self, id: str, user: str, xp: int) -> None:
        data = {**_MISSION, "duration": 0.1, "xpEarned": xp}
        self._append(from_request("mission.completed", user, data, id=id))

    @rule(id=_XP_ID, user=_USER)
    def repeat_what_waits(self, id: str, user: str) -> None:
        self.failing |= {id}
        self.earn(id, user, 10)
        self.step()
        self.earn(id, user, 10)

    @rule(user=_USER, value=st.sampled_from([b"", b"\xff", b"{}", None]))
    def poison(self, user: str, value: bytes | None) -> None:
        self._put(NewRecord("achievements", user.encode(), value))

    def _append(self, event: Event) -> None:
        self._put(record_of(event))

    def _put(self, record: NewRecord) -> None:
        self.runtime.log.append([record])[0].result(5)

    @rule()
    def step(self) -> None:
        self._step(self.runtime)

    def _step(self, runtime: Runtime) -> int:
        with self._noting():
            return runtime.consumer.step()

    @contextlib.contextmanager
    def _noting(self) -> Iterator[set[str]]:
        """Note what waited while each record was read; yields the ids, to add others."""
        before, called = self._positions(), len(self.calls)
        waiting = self._parked()
        try:
            yield waiting
        finally:
            waiting |= self._parked() | {id for id, well in self.calls[called:] if not well}
            for topic, following in self._positions().items():
                for offset in range(before.get(topic, 0), following):
                    self.waited[topic, offset] = waiting

    def _positions(self) -> dict[str, int]:
        found = self.runtime.log.describe(TOPICS)
        stored = self.runtime.read_side.positions([info.origin for info in found])
        return {origin.topic: following for origin, following in stored.items()}

    def _parked(self) -> set[str]:
        return {one["id"] for one in self.runtime.queries.retries()}

    @rule()
    def relay(self) -> None:
        self.runtime.relay.step()

    @rule(ids=_IDS)
    def fail_for(self, ids: set[str]) -> None:
        self.failing = set(ids)

    @rule()
    def crash(self) -> None:
        self._close(self.runtime)
        self.runtime = self._open(self.runtime.consumer._topics)

    @rule()
    def crash_before_anything_is_written(self) -> None:
        """Polled, and lost with the process."""
        self.step()
        assert self.runtime.consumer._subscription
        self.runtime.consumer._subscription.poll(0.0, 100)
        self.crash()

    @rule()
    def step_while_the_database_is_locked(self) -> None:
        """Handlers have run when nothing can be written."""
        self._positions()
        with contextlib.closing(sqlite3.connect(self.folder / "read.db")) as other:
            other.execute("BEGIN IMMEDIATE")
            with contextlib.suppress(Unavailable):
                self.runtime.consumer.step()

    @rule(id=_XP_ID, user=_USER, fails=st.booleans())
    def another_consumer_takes_over(self, id: str, user: str, fails: bool) -> None:
        """In the middle of a batch of ours, whose records it reads too."""
        self.earn(id, user, 10)
        self.failing |= {id} if fails else set()
        self.zombie = other = self._open(self.runtime.consumer._topics)
        self._step(self.runtime)
        if self.zombie is None:
            del self.calls[self.outlived :]  # what it still did came to nothing
            self.runtime, other = other, self.runtime
        self.zombie = None
        self._close(other)

    @rule(n=_NTH)
    def try_now(self, n: int) -> None:
        if waiting := sorted(self._parked()):
            with contextlib.suppress(StateConflict):
                self.runtime.read_side.try_now(waiting[n % len(waiting)])

    def _open_dead_letter(self, n: int) -> DeadLetter | None:
        found = self.runtime.dead_letters.ids(DeadLetterFilter(state="open"), 100)
        return self.runtime.dead_letters.get(found[n % len(found)]) if found else None

    @rule(n=_NTH)
    def discard(self, n: int) -> None:
        if dead_letter := self._open_dead_letter(n):
            self.runtime.dead_letters.discard(dead_letter.id, "enough")

    @rule(n=_NTH)
    def redrive(self, n: int) -> None:
        if dead_letter := self._open_dead_letter(n):
            redrive(self.runtime, dead_letter.id)

    @rule(n=_NTH)
    def redrive_and_crash_before_it_is_noted(self, n: int) -> None:
        if dead_letter := self._open_dead_letter(n):
            self._put(
                NewRecord(
                    dead_letter.topic, dead_letter.key, dead_letter.value, dead_letter.headers
                )
            )

    @rule(n=_NTH, user=_USER, id=_XP_ID)
    def edit_and_redrive(self, n: int, user: str, id: str) -> None:
        dead_letter = self._open_dead_letter(n)
        if dead_letter and dead_letter.topic == "achievements":
            edited = from_request("xp.earned", user, {"xpAmount": 40, "totalXp": 0}, id=id)
            self.runtime.dead_letters.edit(dead_letter.id, edited.to_json())
            redrive(self.runtime, dead_letter.id)

    @rule()
    def rebuild(self) -> None:
        before, calls = rows_of(self.runtime), len(self.calls)
        made = self.runtime.rebuild.run()
        if made.restored is None:
            assert rows_of(self.runtime) == before
        self._note_rebuilt(made)
        assert len(self.calls) == calls

    def _note_rebuilt(self, made: Rebuilt) -> None:
        if made.restored is None:
            assert (made.lost, made.dead_lettered) == (0, 0)
        else:  # nothing was read yet: what the log has counts, and is past
            self.silent = True
            self.waited |= {(t, o): set() for t, o in self._log_now()}

    @rule()
    def drain_and_check(self) -> None:
        quiet = 0
        while quiet < 2:  # a step may only get its partitions, or read its positions again
            done = sum(self._step(one) + one.relay.step() for one in self._everyone())
            quiet = 0 if done else quiet + 1
        self._check()

    def _everyone(self) -> list[Runtime]:
        return [self.runtime]

    def teardown(self) -> None:
        try:
            self.failing = set()
            self.drain_and_check()
            before = rows_of(self.runtime)
            for one in self._everyone():
                one.consumer.close()  # the group's offsets say what is done
            self._lose_the_read_side()
            self.crash()
            made = self.runtime.rebuild.run()
            assert made.restored is not None
            assert rows_of(self.runtime) == before, "a lost read side comes out of the log"
            assert self.runtime.consumer.step() == 0
        finally:
            for one in self._everyone():
                self._close(one)
            shutil.rmtree(self.folder)
            logging.disable(logging.NOTSET)

    def _lose_the_read_side(self) -> None:
        tables.metadata.drop_all(self.runtime.database.engine)

    # --- what must hold when everything is read ---

    def _log_now(self) -> dict[tuple[str, int], Record]:
        found = [
            record
            for topic in TOPICS
            for record in self.runtime.log.read(Partition(topic, 0), 0, 10_000)
        ]
        return {(record.topic, record.offset): record for record in found}

    def _check(self) -> None:
        log = self._log_now()
        dead_letters = rows_of(self.runtime, (tables.dead_letters,))["dead_letters"]
        found = rows_of(self.runtime)
        rows = {row["id"]: row for row in found["events"]}
        dead = {(row["topic"], row["offset"]): row for row in dead_letters}
        counted = {
            (row["topic"], row["offset"]): row
            for row in rows.values()
            if row["outcome"] == "processed"
        }
        read = {topic: following for topic, following in self._positions().items() if following}
        assert read == dict(Counter(topic for topic, _ in log))
        assert self._parked() == set()
        assert not counted.keys() & dead.keys()
        assert {row["outcome"] for row in rows.values()} <= {"processed", "dead"}
        for place, record in log.items():
            self._check_record(place, record, rows, counted, dead)
        self._check_statistics(found["user_stats"], [_event(log[place]) for place in counted])
        handled = {p: row["id"] for p, row in counted.items()}
        handled |= {p: r["event_id"] for p, r in dead.items() if r["error_class"] == "Unlucky"}
        self._check_calls(log, handled)

    def _check_record(
        self,
        place: tuple[str, int],
        record: Record,
        rows: dict[str, Any],
        counted: dict[tuple[str, int], Any],
        dead: dict[tuple[str, int], Any],
    ) -> None:
        """It counted, or has a dead letter with a good reason, or repeats what did or waited."""
        event = _event(record)
        if place in counted:
            assert event["id"] == counted[place]["id"]
        elif place in dead:
            dead_letter = dead[place]
            if dead_letter["error_class"] == "Unlucky":
                assert dead_letter["attempts"] == ATTEMPTS
                assert dead_letter["event_id"] == event["id"]
                assert rows[event["id"]]["outcome"] in ("dead", "processed")
            elif dead_letter["error_class"] == "IdConflict":
                assert event["id"] in rows
            else:
                assert (dead_letter["error_class"], event) == ("InvalidEvent", {})
        else:
            row = rows[event["id"]]
            ours = event["id"].startswith("jq:")
            waited = event["id"] in self.waited[place]
            assert row["outcome"] == "processed" or waited, f"{place} is lost"
            if row["outcome"] == "processed" and not waited:
                assert ours or _said(event) == _said(json.loads(row["body"]))

    def _check_statistics(self, stats: list[dict[str, Any]], events: list[dict[str, Any]]) -> None:
        xp: Counter[str] = Counter()
        many: Counter[tuple[str, str]] = Counter()
        for event in events:
            many[event["userId"], event["type"]] += 1
            xp[event["userId"]] += event["data"].get("xpAmount", event["data"].get("xpEarned", 0))
        users = {user for user, _ in many}
        assert {row["user_id"] for row in stats} == users
        for row in stats:
            user = row["user_id"]
            assert row["xp"] == xp[user]
            assert row["level"] == level_for_xp(xp[user])
            assert row["missions_completed"] == many[user, "mission.completed"]
            assert row["event_count"] == sum(n for (of, _), n in many.items() if of == user)
            # One level.up says it all where one event crossed several.
            told = many[user, "level.up"] > 0
            assert told == (row["level"] > 1) or (self.silent and not told)

    def _check_calls(
        self, log: dict[tuple[str, int], Record], resolved: dict[tuple[str, int], str]
    ) -> None:
        """A user's events came to their end in the order of the log, each by its last call."""
        last = {id: n for n, (id, _) in enumerate(self.calls)}
        ends = {id: place for place, id in sorted(resolved.items()) if id in last}
        by_key: dict[tuple[str, str], list[int]] = {}
        for id, place in sorted(ends.items(), key=lambda end: end[1]):
            by_key.setdefault((place[0], _event(log[place])["userId"]), []).append(last[id])
        for calls in by_key.values():
            assert calls == sorted(calls), "one overtook another"


def _event(record: Record) -> dict[str, Any]:
    """The event of a record, read without our code; nothing where it is none."""
    try:
        found: dict[str, Any] = json.loads(record.value or b"")
    except ValueError:
        return {}
    return found


def _said(event: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in event.items() if name != "timestamp"}


@pytest.fixture
def sent_at_once(monkeypatch: pytest.MonkeyPatch, new_read_side: Path) -> None:
    """What a process that crashed has left for the log is relayed without waiting for it."""
    ReadSideMachine.new_read_side = new_read_side
    monkeypatch.setattr("jobquest.read.outgoing.LEFT_AFTER_MS", -1_000)


@pytest.mark.slow
@_SHRINKS
def test_the_read_side_comes_to_what_a_replay_does_whatever_happens(
    monkeypatch: pytest.MonkeyPatch, sent_at_once: None
) -> None:
    monkeypatch.setattr("jobquest.read.database.BUSY_SECONDS", 0.02)
    run_state_machine_as_test(
        ReadSideMachine, settings=settings(_SETTINGS, max_examples=20, stateful_step_count=30)
    )


def test_nothing_overtakes_what_waited_before_a_restart(sent_at_once: None) -> None:
    """What the machine found: a subscription knows its partitions, and so what waits there, only
    when it has polled for the first time."""
    machine = ReadSideMachine()
    machine.fail_for({"x0"})
    machine.earn("x0", "ada", 10)
    machine.step()
    machine.crash()
    machine.earn("x1", "ada", 10)
    machine.step()
    assert machine.calls == [("x0", False)]
    machine.teardown()


def test_an_outlived_consumer_can_not_write_what_became_of_its_try(sent_at_once: None) -> None:
    """Two consumers try the same waiting event: only the first to write says what came of it."""
    machine = ReadSideMachine()
    machine.repeat_what_waits("x0", "ada")
    machine.another_consumer_takes_over("x1", "bob", fails=False)
    machine.drain_and_check()
    machine.teardown()
