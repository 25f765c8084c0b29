"""Upgrades while processes of an older version work: what waits for whom, and what goes on."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from jobquest import create_app
from jobquest.config import load
from jobquest.errors import ReadSideUnavailable, StateConflict, UpgradeWaits
from jobquest.read import numbers, schema
from jobquest.read.database import Database
from jobquest.read.processes import FORGET_AFTER_MS
from jobquest.read.shared_clock import database_ms
from jobquest.rebuilder import Rebuilder
from jobquest.runtime import Runtime
from tests import filled
from tests.postgres import Postgres
from tests.service import wait_for
from tests.test_consumer import consume, stats
from tests.test_retries import life
from tests.test_schema import DUMPS, kept_rows, load_dump, new_url, said_of_a_rebuild  # noqa: F401 (a fixture)

PRESENT = schema.REVISION
NEXT = f"{int(PRESENT) + 1:04}"
SNAPSHOT = '{"state": "running", "assignment": []'
BEAT = f'{SNAPSHOT}, "revision": "{PRESENT}"}}'.encode()


@pytest.fixture
def old_url(new_url: Callable[[], str]) -> str:  # noqa: F811
    """A database of revision 0009, of each kind."""
    url = new_url()
    load_dump(url, "revision_0009")
    return url


@pytest.fixture
def started(settings: dict[str, str], old_url: str) -> Iterator[Runtime]:
    made = Runtime(load(_settings(settings, old_url)))
    yield made
    made.consumer.close()
    made.stop()


def _settings(settings: dict[str, str], url: str) -> dict[str, str]:
    return {**settings, "DATABASE_URL": url, "JOBQUEST_DATABASE_UPGRADE": "true"}


def beat(url: str, host: str, *, revision: str = "", silent_ms: int = 0) -> None:
    """The heartbeat of a process on another machine."""
    snapshot = SNAPSHOT + (f', "revision": "{revision}"}}' if revision else "}")
    engine = create_engine(url)
    with engine.begin() as connection:
        beaten = database_ms(connection) - silent_ms
        connection.execute(
            text("INSERT INTO processes VALUES (:id, :host, 7, :ms, :snapshot)"),
            {"id": f"{host}:7:place:1", "host": host, "ms": beaten, "snapshot": snapshot},
        )
    engine.dispose()


def leave(url: str) -> None:
    """Every process stops."""
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM processes"))
    engine.dispose()


def test_an_upgrade_waits_while_older_processes_work_says_so_and_takes_over_by_itself(
    old_url: str, started: Runtime
) -> None:
    beat(old_url, "alpha")
    beat(old_url, "beta")
    line = "an older version still works with them: alpha (pid 7), beta (pid 7)"
    status = started.report.status()
    assert status["state"] == "disconnected"
    assert line in status["reason"]
    assert line in str(started.report.readiness(status)["readSide"])
    with pytest.raises(UpgradeWaits, match="waits until they have stopped"):
        started.consumer.step()
    assert not started.log.members(started.config.kafka_group_id)
    xp = {"xpAmount": 5, "totalXp": 0}
    assert started.producer.publish("xp.earned", "ada", xp, id="one").result == "accepted"
    leave(old_url)
    consume(started)
    assert stats(started, "ada")["xp"] == 5
    assert started.producer.publish("xp.earned", "ada", xp, id="one").result == "duplicate"


def test_an_upgrade_does_not_wait_for_a_process_that_has_been_silent_for_a_minute(
    old_url: str, started: Runtime
) -> None:
    beat(old_url, "alpha", silent_ms=FORGET_AFTER_MS - 5_000)
    with pytest.raises(UpgradeWaits):
        started.queries.last_seq()
    leave(old_url)
    beat(old_url, "alpha", silent_ms=FORGET_AFTER_MS + 5_000)
    assert started.queries.last_seq() == 0


@pytest.mark.postgres
def test_the_command_waits_for_older_processes_or_names_them_and_the_start_asks_for_it(
    settings: dict[str, str], postgres_server: Postgres
) -> None:
    url = postgres_server.new_database()
    load_dump(url, "revision_0009")
    beat(url, "alpha")
    app = create_app({**settings, "DATABASE_URL": url})
    runner, database = app.test_cli_runner(), app.extensions["jobquest"].database
    line = r"alpha \(pid 7\). Stop these processes, then run `flask db upgrade`"
    with pytest.raises(ReadSideUnavailable, match=line), database.reading():
        pass
    refused = runner.invoke(args=["db", "upgrade"])
    assert refused.exit_code == 1
    assert refused.output.count("\n") == 1
    assert "alpha (pid 7). The upgrade waits until they have stopped" in refused.output
    stop = threading.Timer(0.3, leave, [url])
    stop.start()
    done = runner.invoke(args=["db", "upgrade", "--wait", "20"])
    stop.join()
    assert done.stderr.count("alpha (pid 7)") == 1
    more = said_of_a_rebuild("0009")
    assert done.stdout == f"Upgraded the tables from revision 0009 to {schema.REVISION}.\n{more}"
    app.extensions["jobquest"].stop()


@pytest.mark.postgres
def test_an_upgrade_names_the_sessions_that_hold_a_table_and_takes_no_number_twice(
    postgres_server: Postgres,
) -> None:
    """A process of the old version has frozen in a transaction, and goes on later."""
    url = postgres_server.new_database()
    load_dump(url, "revision_0009")
    database, engine = Database(url, upgrades=True), create_engine(url)
    with engine.begin() as frozen, ThreadPoolExecutor(1) as pool:
        frozen.execute(text("UPDATE counter SET seq = 500"))
        pid = frozen.scalar(text("SELECT pg_backend_pid()"))
        with pytest.raises(UpgradeWaits, match=rf"sessions {pid} of.*pg_terminate_backend"):
            database.upgrade()
        upgrading = pool.submit(database.upgrade)
        with create_engine(url).connect() as looking:
            waits = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
            wait_for(lambda: looking.scalar(waits), 10)
        frozen.commit()
        upgrading.result(20)
    with database.reading() as connection:
        assert numbers.last(connection) == 500
    database.close()
    engine.dispose()


# --- a database that the version before has filled ---


@pytest.fixture
def filled_url(
    new_url: Callable[[], str],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    """What version 0009 has left, of each kind; its log is in the test's folder."""
    url = new_url()
    load_dump(url, "filled_0009")
    kind = "sqlite" if url.startswith("sqlite") else "postgresql"
    with closing(sqlite3.connect(tmp_path / "log.db")) as log:
        log.executescript((DUMPS / f"filled_0009_{kind}_log.sql").read_text())
    monkeypatch.setattr(filled, "called", [])
    monkeypatch.setattr(filled, "failing", set())
    return url


@pytest.fixture
def continued(filled_url: str, tmp_path: Path) -> Iterator[Runtime]:
    made = filled.open_runtime(filled_url, tmp_path)
    yield made
    made.consumer.close()
    made.stop()


def test_what_the_version_before_has_left_is_kept_and_continued_and_nothing_counts_twice(
    filled_url: str, continued: Runtime
) -> None:
    before = kept_rows(filled_url)
    assert all(before.values())
    assert continued.database.upgrade() == ("0009", schema.REVISION)
    after = kept_rows(filled_url)
    assert after == before
    assert continued.state.wanted() == ("running", 1)

    consume(continued)
    assert life(continued, "waits")["outcome"] == "processed"
    assert sorted(filled.called) == ["behind", "unread"], "for `waits` it has succeeded before"
    letters = {row["event_id"]: row["id"] for row in before["dead_letters"]}
    done = continued.redrive.redrive(list(letters.values()))
    assert sorted(done.redriven) == sorted([letters["open"], letters["edited"]])
    assert dict(done.refused) == {
        letters["redriven"]: "It is already redriven.",
        letters["discarded"]: "It is already discarded.",
    }
    consume(continued)
    expected = {"zoe": 40, "ada": 20, "dora": 27, "max": 150}
    assert xp_of(continued) == expected
    for id in ("one", "waits", "open", "unread"):
        user = life(continued, id)["event"]["userId"]
        data = {"xpAmount": 10, "totalXp": 0}
        assert continued.producer.publish("xp.earned", user, data, id=id).result == "duplicate"
    consume(continued)
    assert xp_of(continued) == expected
    made = continued.rebuild.run()
    assert made.lost == 0
    assert xp_of(continued) == expected


def xp_of(runtime: Runtime) -> dict[str, int]:
    return {user: stats(runtime, user)["xp"] for user in ("zoe", "ada", "dora", "max")}


# --- a version after this one ---


@pytest.fixture
def next_version(tmp_path: Path) -> Iterator[Callable[..., pytest.MonkeyPatch]]:
    """Makes this process a version with one more migration; its `undo` makes it this one again."""

    patch = pytest.MonkeyPatch()

    def become(*, expands: bool, statement: str, rebuilds: bool = False) -> pytest.MonkeyPatch:
        folder = tmp_path / "migrations"
        shutil.copytree(schema._MIGRATIONS, folder)
        (folder / "versions" / f"{NEXT}_next.py").write_text(
            f"from alembic import op\nrevision = {NEXT!r}\n"
            f"down_revision = {schema.REVISION!r}\nexpands = {expands}\nrebuilds = {rebuilds}\n"
            f"def upgrade():\n    op.execute({statement!r})\n"
        )
        patch.setattr(schema, "_MIGRATIONS", folder)
        patch.setattr(schema, "REVISION", NEXT)
        schema._pending.cache_clear()
        return patch

    yield become
    patch.undo()
    schema._pending.cache_clear()


def upgraded(settings: dict[str, str], database: dict[str, str]) -> str | None:
    """The revision before, after a process of the version that this one has become has started."""
    made = Runtime(load({**settings, **database}))
    try:
        return made.database.upgrade()[0]
    finally:
        made.stop()


def test_a_migration_that_expands_runs_beside_older_processes_and_they_may_start_again(
    runtime: Runtime,
    settings: dict[str, str],
    database: dict[str, str],
    next_version: Callable[..., Any],
) -> None:
    xp = {"xpAmount": 5, "totalXp": 0}
    runtime.producer.publish("xp.earned", "ada", xp)
    consume(runtime)
    runtime.state.beat(BEAT)
    patch = next_version(expands=True, statement="ALTER TABLE user_stats ADD mood VARCHAR(9)")
    assert upgraded(settings, database) == PRESENT
    patch.undo()
    runtime.producer.publish("xp.earned", "ada", xp)
    consume(runtime)
    again = Runtime(runtime.config)
    assert stats(again, "ada")["xp"] == 10
    with pytest.raises(StateConflict, match="A newer version has expanded the tables"):
        again.rebuild.run()
    again.stop()


def test_a_migration_that_contracts_waits_for_them_and_they_may_not_start_again(
    runtime: Runtime,
    settings: dict[str, str],
    database: dict[str, str],
    next_version: Callable[..., Any],
) -> None:
    runtime.state.beat(BEAT)
    patch = next_version(expands=False, statement="DROP TABLE minutes")
    with pytest.raises(UpgradeWaits, match=f"have revision {PRESENT}, this version needs {NEXT}"):
        upgraded(settings, database)
    consume(runtime)
    runtime.state.leave()
    assert upgraded(settings, database) == PRESENT
    patch.undo()
    with runtime.database.engine.begin() as connection:
        connection.execute(text("ALTER TABLE epoch RENAME TO epochs"))  # in that version, too
    again = Runtime(runtime.config)
    with pytest.raises(ReadSideUnavailable, match=rf"newer version \(revision {NEXT}"):
        again.queries.last_seq()
    again.stop()


def test_a_migration_that_needs_past_events_has_them_counted_again_in_the_background(
    runtime: Runtime,
    settings: dict[str, str],
    database: dict[str, str],
    next_version: Callable[..., Any],
) -> None:
    runtime.producer.publish("xp.earned", "ada", {"xpAmount": 5, "totalXp": 0})
    consume(runtime)
    assert not runtime.rebuild.is_due()
    next_version(expands=True, statement="DELETE FROM user_stats", rebuilds=True)
    app = create_app({**settings, **database, "JOBQUEST_DATABASE_UPGRADE": "true"})
    said = app.test_cli_runner().invoke(args=["db", "upgrade"]).output
    assert "rebuilds the derived tables now" in said
    following: Runtime = app.extensions["jobquest"]
    assert following.queries.user("ada") is None
    following.start()
    wait_for(lambda: following.queries.user("ada"), 20)
    assert stats(following, "ada")["xp"] == 5
    assert not following.rebuild.is_due()
    following.stop()


@pytest.mark.slow
def test_a_rebuild_in_the_background_ends_with_its_process_and_is_done_by_the_next(
    runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(3):
        runtime.producer.publish("xp.earned", "ada", {"xpAmount": 5, "totalXp": 0}, id=f"{number}")
    consume(runtime)
    with runtime.database.writing() as connection:
        connection.execute(text("UPDATE epoch SET is_outdated = true"))
        connection.execute(text("DELETE FROM user_stats"))
    stop = threading.Event()
    stop.set()
    Rebuilder(runtime.rebuild, stop).look()
    wait_for(lambda: "is tried again: This process stops." in caplog.text, 20)
    assert runtime.rebuild.is_due()
    Rebuilder(runtime.rebuild, threading.Event()).look()
    wait_for(lambda: not runtime.rebuild.is_due(), 20)
    assert stats(runtime, "ada")["xp"] == 15
