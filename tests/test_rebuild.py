"""The rebuild: the derived tables come out of the log again as they were, whatever happened."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskCliRunner
from sqlalchemy import Table, delete, select, text, update
from sqlalchemy import event as sqlalchemy_events

from jobquest import create_app
from jobquest.config import load
from jobquest.errors import StateConflict, Unavailable
from jobquest.events import Event, from_request
from jobquest.log import PATIENT_SECONDS, NewRecord, Partition
from jobquest.producer import record_of
from jobquest.read import rebuild as rebuilding
from jobquest.read import tables
from jobquest.read.dead_letters import REDRIVES_HEADER, DeadLetterFilter
from jobquest.read.projection import Change
from jobquest.read.projections import DERIVED, applications, minute_counts
from jobquest.read.rebuild import Rebuilt
from jobquest.read.replay import RebuildFailed
from jobquest.read.statements import Statements, write_rows
from jobquest.read.user_stats import USER_STATS, user_stats
from jobquest.runtime import Runtime
from tests.logs import Embedded
from tests.samples import SAMPLES, TYPES
from tests.service import ROOT, wait_for
from tests.test_consumer import consume, stats, write
from tests.test_retries import ATTEMPTS, Failing, failing, life, publish, retry

OPERATIONAL = (tables.positions, tables.parked, tables.dead_letters, tables.outgoing)
Rows = dict[str, list[dict[str, Any]]]


@pytest.fixture
def settings(settings: dict[str, str]) -> dict[str, str]:
    """Three tries, and waits that no test waits for."""
    return {
        **settings,
        "JOBQUEST_RETRY_MAX_ATTEMPTS": str(ATTEMPTS),
        "JOBQUEST_RETRY_BASE_SECONDS": "30",
    }


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few records at one go, so that a few events make many batches and rounds."""
    monkeypatch.setattr(rebuilding, "BATCH_RECORDS", 3)
    monkeypatch.setattr(rebuilding, "LAST_RECORDS", 3)
    monkeypatch.setattr("jobquest.read.merge.READ_RECORDS", 2)


def rows_of(runtime: Runtime, chosen: tuple[Table, ...] = DERIVED) -> Rows:
    """Every row of these tables, save the numbers of changes."""
    found: Rows = {}
    with runtime.database.reading() as connection:
        for table in chosen:
            key = [table.c.id] if "id" in table.c else table.primary_key.columns
            rows = [
                dict(row) for row in connection.execute(select(table).order_by(*key)).mappings()
            ]
            found[table.name] = [{k: v for k, v in r.items() if k != "seq"} for r in rows]
    return found


def run_sql(runtime: Runtime, *statements: Any) -> None:
    with runtime.database.writing() as connection:
        for statement in statements:
            connection.execute(statement)


def damage(runtime: Runtime) -> None:
    """Make the derived tables wrong, so that a rebuild that does nothing is noticed."""
    run_sql(
        runtime,
        delete(user_stats),
        delete(applications),
        update(minute_counts).values(count=99),
        update(tables.events).values(body="{}", type="wrong"),
    )


def dead_letter_of(runtime: Runtime, event_id: str) -> int:
    [found] = runtime.dead_letters.ids(DeadLetterFilter(event_id=event_id, state="open"), 10)
    return found


def redrive(runtime: Runtime, id: int) -> None:
    """What an operator's redrive does: the record again, then the decision."""
    dead_letter = runtime.dead_letters.get(id)
    assert dead_letter
    value = dead_letter.value if dead_letter.edited is None else dead_letter.edited
    headers = (*dead_letter.headers, (REDRIVES_HEADER, b"1"))
    runtime.log.append([NewRecord(dead_letter.topic, dead_letter.key, value, headers)])[0].result(5)
    runtime.dead_letters.mark_redriven(id)


def die(runtime: Runtime, id: str) -> None:
    """Have a parked event fail to its end."""
    for _ in range(ATTEMPTS - 1):
        retry(runtime, id)
    assert life(runtime, id)["outcome"] == "dead"


def xp_event(id: str, user: str, xp: int) -> Event:
    return from_request("xp.earned", user, {"xpAmount": xp, "totalXp": 0}, id=id)


def append(runtime: Runtime, *events: Event) -> None:
    for future in runtime.log.append([record_of(event) for event in events], PATIENT_SECONDS):
        future.result(PATIENT_SECONDS)


def live_a_life(runtime: Runtime) -> Failing:
    """Every type, and everything that can become of a record, save that something still waits."""
    for user in ("u", "v"):
        for name in TYPES:
            runtime.producer.publish(name, user, SAMPLES[name])
    append(runtime, *[xp_event("twice", "u", 60)] * 2, xp_event("twice", "v", 70))
    write(runtime, "achievements", b"\xff\xfe", b"[", b'{"type": "no.such"}')
    consume(runtime)
    append(runtime, xp_event("twice", "u", 60), xp_event("twice", "u", 1))
    consume(runtime)
    handler = failing(runtime, "ada")
    for id in ("redriven", "edited", "discarded", "dead", "again", "late"):
        publish(runtime, id, "ada")
    consume(runtime)
    append(runtime, xp_event("redriven", "ada", 10))  # a repeat that is dropped, since it waits
    consume(runtime)
    for id in ("redriven", "edited", "discarded", "dead", "again"):
        die(runtime, id)
    handler.users.clear()
    retry(runtime, "late")
    runtime.dead_letters.discard(dead_letter_of(runtime, "discarded"), "not ours")
    runtime.dead_letters.edit(
        dead_letter_of(runtime, "edited"), xp_event("edited", "ada", 500).to_json()
    )
    redrive(runtime, dead_letter_of(runtime, "edited"))
    redrive(runtime, dead_letter_of(runtime, "redriven"))
    publish(runtime, "again", "ada")
    consume(runtime)
    assert stats(runtime, "ada")["xp"] == 10 + 500 + 10 + 10
    return handler


def test_a_rebuild_makes_the_same_rows_again(runtime: Runtime, small_batches: None) -> None:
    handler = live_a_life(runtime)
    handler.users = {"bob"}
    for id in ("waits", "behind"):
        publish(runtime, id, "bob")
    consume(runtime)
    before, kept, seen = rows_of(runtime), rows_of(runtime, OPERATIONAL), list(handler.seen)
    epoch = runtime.queries.epoch()
    outcomes = {row["outcome"] for row in before["events"]}
    assert outcomes == {"processed", "retrying", "dead"}
    damage(runtime)
    made = runtime.rebuild.run()
    assert rows_of(runtime) == before
    assert rows_of(runtime, OPERATIONAL) == kept
    assert handler.seen == seen, "no handler runs"
    assert (made.events, made.lost, made.dead_lettered, made.restored) == (
        len(before["events"]),
        0,
        0,
        None,
    )
    assert runtime.queries.epoch() != epoch
    numbers = [change[0] for change in runtime.queries.changes(0, 500)]
    assert runtime.queries.last_seq() >= max(numbers)
    handler.users.clear()
    retry(runtime, "waits")
    publish(runtime, "new", "bob")
    consume(runtime)
    assert stats(runtime, "bob")["xp"] == 30
    before = rows_of(runtime)
    runtime.rebuild.run()
    assert rows_of(runtime) == before


def test_large_records_share_a_transaction_only_as_far_as_they_fit(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(runtime, *(xp_event(f"e{n}", "ada", n) for n in range(4)))
    consume(runtime)
    monkeypatch.setattr(rebuilding, "BATCH_BYTES", 200)  # two of them are longer
    steps: list[int] = []
    runtime.rebuild.run(lambda done, _total: steps.append(done))
    assert sorted(set(steps)) == [0, 2, 4]


def test_the_new_tables_have_the_old_ones_indexes(runtime: Runtime) -> None:
    # SQLAlchemy's inspection leaves out what is indexed by an expression.
    query = {
        "sqlite": "SELECT tbl_name, name FROM sqlite_master WHERE type = 'index'",
        "postgresql": "SELECT tablename, indexname FROM pg_indexes WHERE schemaname = 'public'",
    }[runtime.database.engine.dialect.name]

    def indexes() -> list[tuple[str, str]]:
        with runtime.database.reading() as connection:
            return sorted(map(tuple, connection.exec_driver_sql(query)))

    publish(runtime, "one")
    consume(runtime)
    before = indexes()
    for _ in range(2):
        runtime.rebuild.run()
        assert indexes() == before
        assert runtime.database.differences() == []


@pytest.mark.postgres
def test_on_postgresql_nobody_waits_for_an_index(
    settings: dict[str, str], postgres_server: Any
) -> None:
    """From the consumer's lock on, and above all while readers wait, nothing is built."""
    runtime = Runtime(load({**settings, "DATABASE_URL": postgres_server.new_database()}))
    publish(runtime, "one")
    consume(runtime)
    done: list[str] = []

    @sqlalchemy_events.listens_for(runtime.database.engine, "before_cursor_execute")
    def _note(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        done.append(" ".join(statement.split()))

    runtime.rebuild.run()
    [locked] = [n for n, statement in enumerate(done) if "pg_advisory_xact_lock(%" in statement]
    built = [n for n, statement in enumerate(done) if statement.startswith("CREATE INDEX")]
    indexes = sum(len(table.indexes) for table in DERIVED)
    assert (len(built), max(built) < locked) == (indexes, True)
    runtime.consumer.close()
    runtime.stop()


@pytest.mark.postgres
def test_a_sequence_that_kept_the_name_of_a_rebuild_gets_its_own(
    settings: dict[str, str], postgres_server: Any
) -> None:
    """Earlier versions left it on PostgreSQL."""
    runtime = Runtime(load({**settings, "DATABASE_URL": postgres_server.new_database()}))
    run_sql(
        runtime, text("ALTER SEQUENCE daily_xp_day_ms_seq RENAME TO rebuilt_daily_xp_day_ms_seq")
    )
    assert runtime.database.differences()
    runtime.rebuild.run()
    assert runtime.database.differences() == []
    runtime.stop()


def test_a_repeat_counts_after_its_event_died_and_not_while_it_waited(runtime: Runtime) -> None:
    """What came while it waited was dropped; a rebuild that counted it would award what the
    operator has not redriven."""
    handler = failing(runtime, "ada", "bob")
    for user in ("ada", "bob"):
        publish(runtime, user, user)
        consume(runtime)
        append(runtime, xp_event(user, user, 10))
        consume(runtime)
        die(runtime, user)
    handler.users.clear()
    append(runtime, xp_event("bob", "bob", 10))
    consume(runtime)
    before = rows_of(runtime)
    runtime.rebuild.run()
    assert rows_of(runtime) == before
    assert life(runtime, "ada")["outcome"] == "dead"
    assert stats(runtime, "bob")["xp"] == 10


def during(runtime: Runtime, action: Callable[[], object]) -> Rebuilt:
    """Rebuild, and do something when it has folded some."""
    pending = [action]

    def progress(done: int, total: int) -> None:
        if done and pending:
            pending.pop()()

    made = runtime.rebuild.run(progress)
    assert not pending, "it had nothing to do in between"
    return made


def test_what_happens_to_waiting_events_meanwhile_counts(
    runtime: Runtime, small_batches: None
) -> None:
    handler = failing(runtime, "ada", "bob", "eve")
    for user in ("ada", "bob", "eve"):
        for n in range(3):
            publish(runtime, f"{user}{n}", user)
    consume(runtime)

    def meanwhile() -> None:
        die(runtime, "bob0")
        append(runtime, xp_event("eve0", "eve", 10), xp_event("eve9", "eve", 10))
        handler.users -= {"ada"}
        publish(runtime, "ada9", "ada")
        retry(runtime, "ada0")

    during(runtime, meanwhile)
    assert stats(runtime, "ada")["xp"] == 40
    after = rows_of(runtime)
    outcomes = {row["id"]: row["outcome"] for row in after["events"]}
    assert outcomes.pop("bob0") == "dead"
    assert {id for id, outcome in outcomes.items() if outcome == "processed"} == {
        "ada0",
        "ada1",
        "ada2",
        "ada9",
    }
    runtime.rebuild.run()
    assert rows_of(runtime) == after


@pytest.mark.slow
def test_a_rebuild_while_events_flow_in_comes_to_what_a_replay_does(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuilding, "BATCH_RECORDS", 50)
    monkeypatch.setattr(rebuilding, "LAST_RECORDS", 50)
    handler = failing(runtime, "user_3")

    def taken() -> int:
        now = runtime.consumer.snapshot
        return now.processed + now.retried

    def flow() -> None:
        for n in range(0, 2_000, 20):
            append(runtime, *[xp_event(f"n{n + m}", f"user_{m % 7}", 30) for m in range(20)])
            # It runs on while one rebuild works, and not past all of them.
            wait_for(lambda n=n: taken() > n - 100 and n < 500 * (len(rebuilt) + 1), 30)
            if n == 600:
                handler.users.clear()

    rebuilt: list[Rebuilt] = []
    append(runtime, xp_event("first", "user_0", 30))
    runtime.consumer.start()
    flowing = threading.Thread(target=flow)
    flowing.start()
    while flowing.is_alive():
        seen = rebuilt[-1].records if rebuilt else 0
        wait_for(lambda seen=seen: taken() > seen or not flowing.is_alive(), 30)
        rebuilt.append(runtime.rebuild.run())
    flowing.join()
    wait_for(lambda: not any(topic["lag"] for topic in runtime.report.topics()), 20)
    for waiting in runtime.queries.retries():
        if waiting["nextTry"]:
            runtime.read_side.try_now(waiting["id"])
    wait_for(lambda: runtime.queries.retries() == [], 20)
    runtime.consumer.stop()
    consume(runtime)
    assert len({made.records for made in rebuilt}) > 2, "it ran while nothing flowed"
    live = rows_of(runtime)
    runtime.rebuild.run()
    assert rows_of(runtime) == live


def test_a_consumer_waits_from_the_last_look_to_the_swap(runtime: Runtime) -> None:
    """What it applied in between would go down with the old tables."""
    publish(runtime, "first", "ada")
    consume(runtime)
    steps: list[threading.Thread] = []

    def progress(done: int, total: int) -> None:
        if not any(step.is_alive() for step in steps):
            publish(runtime, f"n{len(steps)}", "ada")
            steps.append(threading.Thread(target=runtime.consumer.step))
            steps[-1].start()
            steps[-1].join(0.5)  # it waits for us, where we hold the lock

    runtime.rebuild.run(progress)
    for step in steps:
        step.join(10)
    assert len(steps) > 2
    assert stats(runtime, "ada")["xp"] == 10 * (1 + len(steps))


def test_one_rebuild_at_a_time(runtime: Runtime) -> None:
    publish(runtime, "one")
    consume(runtime)

    def another() -> None:
        with pytest.raises(StateConflict, match="running: wait until it has ended"):
            Runtime(runtime.config).rebuild.run()

    during(runtime, another)
    runtime.rebuild.run()


# --- a read side that is lost ---


def lose(runtime: Runtime) -> Runtime:
    """The read side is gone; the service as it is built then."""
    runtime.consumer.close()
    tables.metadata.drop_all(runtime.database.engine)
    return Runtime(runtime.config)


def test_a_lost_read_side_is_created_again_and_no_handler_runs_for_the_past(
    runtime: Runtime, small_batches: None
) -> None:
    live_a_life(runtime)
    before, dead_letters = rows_of(runtime), rows_of(runtime, (tables.dead_letters,))
    again = lose(runtime)
    handler = failing(again)
    made = again.rebuild.run()
    assert made.restored == len(dead_letters["dead_letters"])
    assert rows_of(again) == before
    assert _without_ids(rows_of(again, (tables.dead_letters,))) == _without_ids(dead_letters)
    assert consume(again) == 0
    assert handler.seen == []
    publish(again, "new", "ada")
    consume(again)
    assert handler.seen == ["new"]
    again.consumer.close()
    again.stop()


def _without_ids(dead_letters: Rows) -> list[dict[str, Any]]:
    found = [{k: v for k, v in row.items() if k != "id"} for row in dead_letters["dead_letters"]]
    return sorted(found, key=lambda row: (row["topic"], row["offset"]))


def test_decisions_stand_however_often_their_records_come(runtime: Runtime) -> None:
    write(runtime, "achievements", b"poison")
    consume(runtime)
    [id] = runtime.dead_letters.ids(DeadLetterFilter(), 10)
    runtime.dead_letters.discard(id, "noise")
    consume(runtime)
    records = runtime.log.read(Partition("dead-letters", 0), 0, 10)
    died, discarded = [NewRecord(r.topic, r.key, r.value, r.headers) for r in records]
    foreign = NewRecord("dead-letters", b"k", b"of somebody else")
    ours = (("__dlq.errors.topic", b"t"), ("jobquest.dlq.action", b"died"))
    garbled = NewRecord("dead-letters", b"k", b"x", (*ours, ("jobquest.dlq.died.ms", b"\xff")))
    for future in runtime.log.append([died, discarded, foreign, garbled, died]):
        future.result(5)
    again = lose(runtime)
    assert again.rebuild.run().restored == 1
    [dead_letter] = rows_of(again, (tables.dead_letters,))["dead_letters"]
    assert (dead_letter["state"], dead_letter["reason"]) == ("discarded", "noise")
    again.stop()


def test_a_consumer_waits_while_a_lost_read_side_is_rebuilt(
    runtime: Runtime, small_batches: None
) -> None:
    for n in range(5):
        publish(runtime, f"n{n}")
    consume(runtime)
    again = lose(runtime)

    def begin() -> None:
        with pytest.raises(Unavailable, match="Another rebuild"):
            again.consumer.step()

    during(again, begin)
    consume(again)
    assert stats(again)["xp"] == 50
    again.consumer.close()
    again.stop()


# --- what goes wrong ---

_KILLED = """
import os, signal, sys
from jobquest.config import load
from jobquest.read import rebuild, swap
from jobquest.runtime import Runtime

rebuild.BATCH_RECORDS = rebuild.LAST_RECORDS = 3
replace, left = swap._replace, int(sys.argv[2])

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def replace_some(*args):
    global left
    left -= 1
    replace(*args) if left else die()

if left:
    swap._replace = replace_some
settings = dict(one.split("=", 1) for one in sys.argv[3:])
Runtime(load(settings)).rebuild.run(lambda done, total: done < int(sys.argv[1]) or die())
"""


@pytest.mark.slow
@pytest.mark.parametrize(("records", "swaps"), [(1, 0), (40, 0), (10_000, 1), (10_000, 5)])
def test_a_rebuild_that_is_killed_leaves_the_old_tables(
    runtime: Runtime,
    settings: dict[str, str],
    database: dict[str, str],
    records: int,
    swaps: int,
) -> None:
    live_a_life(runtime)
    before, epoch = rows_of(runtime), runtime.queries.epoch()
    given = [f"{name}={value}" for name, value in (settings | database).items()]
    ended = subprocess.run(
        [sys.executable, "-c", _KILLED, str(records), str(swaps), *given],
        cwd=ROOT,
        timeout=60,
        capture_output=True,
    )
    assert ended.returncode == -9, ended.stderr.decode()
    assert rows_of(runtime) == before
    assert runtime.queries.epoch() == epoch
    damage(runtime)
    # PostgreSQL notices within moments that the lock's holder is gone.
    wait_for(lambda: _rebuilds(runtime), 10)
    assert rows_of(runtime) == before


def _rebuilds(runtime: Runtime) -> bool:
    try:
        runtime.rebuild.run()
    except StateConflict:
        return False
    return True


def test_a_bug_of_ours_stops_it_and_costs_no_event(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(3):
        publish(runtime, f"n{n}")
    consume(runtime)
    before = rows_of(runtime)

    def fold(event: Event) -> Change:
        return Change(adds={"xp": 1 // (event.id != "n1")})

    monkeypatch.setitem(USER_STATS.folds, "xp.earned", fold)  # type: ignore[arg-type]
    with pytest.raises(RebuildFailed, match=r"n1 \(achievements/0@1\).*ZeroDivisionError"):
        runtime.rebuild.run()
    assert rows_of(runtime) == before
    again = lose(runtime)
    with pytest.raises(RebuildFailed, match=r"ZeroDivisionError.* in the projection user_stats"):
        again.consumer.step()
    monkeypatch.undo()
    consume(again)
    assert life(again, "n1")["outcome"] == "processed"
    assert stats(again)["xp"] == 30
    again.consumer.close()
    again.stop()


def test_a_fault_that_no_event_has_alone_stops_it_too(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(3):
        publish(runtime, f"n{n}")
    consume(runtime)
    before, faults = rows_of(runtime), iter([0])

    def fails_once(event: Event) -> Change:
        return Change(adds={"xp": 1 // (next(faults, 1) if event.id == "n1" else 1)})

    def too_much(event: Event) -> Change:
        return Change(adds={"xp": 2**63})

    for fold in (fails_once, too_much):  # too much is noticed when the rows are written
        monkeypatch.setitem(USER_STATS.folds, "xp.earned", fold)  # type: ignore[arg-type]
        with pytest.raises(RebuildFailed, match="The events can't be counted"):
            runtime.rebuild.run()
        assert rows_of(runtime) == before


def note_writes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tables whose projections' rows are written from now on, one name for each statement."""
    written: list[str] = []

    def write(run: Statements, table: Table, *rows: Any, **options: Any) -> list[Any]:
        written.append(table.name)
        return write_rows(run, table, *rows, **options)

    monkeypatch.setattr("jobquest.read.effects.write_rows", write)
    return written


@pytest.mark.parametrize(
    "bound", ["jobquest.read.replay.MAX_KEPT_ROWS", "jobquest.read.effects.MAX_KEPT_BYTES"]
)
def test_rows_in_memory_are_written_before_they_are_too_many(
    runtime: Runtime, small_batches: None, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    live_a_life(runtime)
    before, written = rows_of(runtime), note_writes(monkeypatch)
    runtime.rebuild.run()
    seldom = written.count("rebuilt_user_stats")
    written.clear()
    damage(runtime)
    monkeypatch.setattr("jobquest.read.effects.WRITE_ROWS", 2)
    monkeypatch.setattr(bound, 5)
    runtime.rebuild.run()
    assert written.count("rebuilt_user_stats") > 3 * seldom
    assert rows_of(runtime) == before


def test_the_text_of_loaded_rows_counts_as_memory(
    runtime: Runtime, small_batches: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(3):
        data = {**SAMPLES["notification.sent"], "notificationId": f"n{n}", "message": "m" * 4000}
        runtime.producer.publish("notification.sent", "u", data)
    for _ in range(3):
        for n in range(3):
            runtime.producer.publish("notification.read", "u", {"notificationId": f"n{n}"})
    consume(runtime)
    monkeypatch.setattr("jobquest.read.effects.MAX_KEPT_BYTES", 11_000)
    written = note_writes(monkeypatch)
    runtime.rebuild.run()
    # Each batch: the first has the long ones, the other three load them.
    assert written.count("rebuilt_notifications") == 4


def test_what_can_not_be_read_and_has_no_dead_letter_gets_one(runtime: Runtime) -> None:
    write(runtime, "achievements", b"poison")
    append(runtime, xp_event("one", "u", 10), xp_event("one", "u", 20))
    consume(runtime)
    before, dead_letters = rows_of(runtime), rows_of(runtime, (tables.dead_letters,))
    run_sql(runtime, delete(tables.dead_letters), delete(tables.outgoing))
    assert runtime.rebuild.run().dead_lettered == 2
    assert rows_of(runtime) == before
    made = rows_of(runtime, (tables.dead_letters,))
    assert _what(made) == _what(dead_letters)
    assert consume(runtime) == 2, "they are on their topic again"
    assert runtime.rebuild.run().dead_lettered == 0


def _what(dead_letters: Rows) -> list[tuple[Any, ...]]:
    rows = dead_letters["dead_letters"]
    return sorted((r["event_id"], r["offset"], r["error"], r["state"]) for r in rows)


def test_events_that_the_log_has_no_more_are_told(
    runtime: Runtime, settings: dict[str, str]
) -> None:
    handler = failing(runtime, "bob")
    write(runtime, "achievements", b"poison")
    for id, user in (("gone", "ada"), ("dead", "bob"), ("waits", "bob")):
        publish(runtime, id, user)
    consume(runtime)
    die(runtime, "dead")
    handler.users.clear()
    log = Embedded(Path(settings["JOBQUEST_DATA_DIR"]) / "log.db", ["achievements"])
    log.make_anew("achievements")
    publish(runtime, "new", "ada")
    consume(runtime)
    before = {row["id"]: row for row in rows_of(runtime)["events"]}
    made = runtime.rebuild.run()
    assert made.lost == 1
    after = {row["id"]: row for row in rows_of(runtime)["events"]}
    assert after == {id: row for id, row in before.items() if id != "gone"}
    assert stats(runtime, "ada")["xp"] == 10
    retry(runtime, "waits")
    assert stats(runtime, "bob")["xp"] == 10


# --- the command, and Kafka ---


@pytest.fixture
def cli(settings: dict[str, str]) -> Iterator[FlaskCliRunner]:
    app = create_app(settings)
    yield app.test_cli_runner()
    app.extensions["jobquest"].stop()


def test_the_command_says_what_it_made(cli: FlaskCliRunner) -> None:
    writer = Runtime(cli.app.extensions["jobquest"].config)
    write(writer, "achievements", b"poison")
    publish(writer, "one")
    consume(writer)
    run_sql(writer, delete(tables.dead_letters), delete(tables.outgoing))
    made = cli.invoke(args=["events", "rebuild"])
    assert made.exit_code == 0, made.output
    assert "1 records could not be counted" in made.output
    assert "2 events from 2 records in " in made.output.splitlines()[-1]
    assert "new" not in made.output
    writer.relay.step()
    again = lose(writer)
    assert again.queries.last_seq() == 0
    again.stop()
    made = cli.invoke(args=["events", "rebuild"])
    assert "The read side was new: 1 dead letters and 0 events that wait" in made.output
    assert "2 events from 2 records in " in made.output.splitlines()[-1]
    writer.stop()


@pytest.mark.kafka
def test_a_rebuild_from_kafka(
    settings: dict[str, str], empty_kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = Runtime(load({**settings, "KAFKA_BROKER": empty_kafka, "KAFKA_PARTITIONS": "3"}))
    handler = failing(runtime, "bob")
    runtime.consumer.start()
    append(runtime, *[from_request(name, user, SAMPLES[name]) for name in TYPES for user in "uvw"])
    append(runtime, *[xp_event(f"n{n}", f"user_{n % 9}", 60) for n in range(300)])
    append(runtime, xp_event("n1", "user_1", 60), xp_event("n1", "user_1", 61))
    append(runtime, xp_event("waits", "bob", 10))
    write(runtime, "achievements", b"poison")
    wait_for(lambda: _is_drained(runtime), 60)
    runtime.consumer.stop()
    before, seen = rows_of(runtime), len(handler.seen)
    monkeypatch.setattr(rebuilding, "SHARED_RECORDS", 0)
    for processes in (1, 2):
        damage(runtime)
        runtime.rebuild.run(processes=processes)
        assert rows_of(runtime) == before
    run_sql(runtime, delete(tables.parked))
    again = lose(runtime)
    assert again.rebuild.run().restored == 2
    found = {row["id"]: row for row in rows_of(again)["events"]}
    assert found.pop("waits")["outcome"] == "retrying", "its topic says so"
    assert found == {row["id"]: row for row in before["events"] if row["id"] != "waits"}
    assert len(handler.seen) == seen
    again.stop()
    runtime.stop()


def _is_drained(runtime: Runtime) -> bool:
    runtime.relay.step()
    return (
        not any(t["lag"] for t in runtime.report.topics())
        and not runtime.queries.outcomes()["followUpsWaiting"]
    )
