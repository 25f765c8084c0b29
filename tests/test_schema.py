"""The read side's tables: migrations and models agree, and older databases are upgraded with
everything that waits in them.

`databases` has what the last version without migrations has made (`layout_5`), and the empty tables
of released revisions (`dump_tables.py`).
"""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count, pairwise
from pathlib import Path
from subprocess import PIPE
from typing import Any

import psycopg
import pytest
from sqlalchemy import (
    Column,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Sequence,
    String,
    Table,
    UniqueConstraint,
    create_engine,
    func,
    select,
    text,
)

from jobquest import create_app
from jobquest.config import load
from jobquest.errors import ReadSideUnavailable
from jobquest.read import schema, tables
from jobquest.read.database import UPGRADE_LOCK, Database
from jobquest.read.schema_check import differences
from jobquest.runtime import Runtime
from tests.postgres import Postgres
from tests.service import ROOT
from tests.test_consumer import consume, stats
from tests.test_rebuild import OPERATIONAL, Rows, rows_of
from tests.test_retries import life, retry

DUMPS = Path(__file__).parent / "databases"
KEPT = (*OPERATIONAL, tables.attempts, tables.minutes, tables.service)


@pytest.fixture
def old_url(new_url: Callable[[], str]) -> str:
    """A database that the version before migrations has left, of each kind."""
    url = new_url()
    load_dump(url)
    return url


def load_dump(url: str, name: str = "layout_5") -> None:
    if url.startswith("sqlite"):
        with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
            connection.executescript((DUMPS / f"{name}_sqlite.sql").read_text())
        connection.close()
        return
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as server:
        server.execute((DUMPS / f"{name}_postgresql.sql").read_bytes())


def said_of_a_rebuild(found: str) -> str:
    """What `flask db upgrade` adds if a migration since revision `found` needs past events."""
    if any(getattr(module, "rebuilds", False) for module in schema._pending(found)):
        return "The service rebuilds the derived tables now, in the background.\n"
    return ""


def kept_rows(url: str) -> Rows:
    """The operational rows, as SQL has them."""
    engine = create_engine(url)
    with engine.connect() as connection:
        found = {
            table.name: [
                dict(row)
                for row in connection.execute(text(f"SELECT * FROM {table.name}")).mappings()
            ]
            for table in KEPT
        }
    engine.dispose()
    return {name: sorted(rows, key=str) for name, rows in found.items()}


def shared(rows: Rows, others: Rows) -> Rows:
    """Of rows, the columns that the others have, too; save what a migration is to set."""
    found = {}
    for table, mine in rows.items():
        names = mine[0].keys() & others[table][0].keys() - {"next_ms"}
        found[table] = sorted(({k: row[k] for k in sorted(names)} for row in mine), key=str)
    return found


@pytest.fixture
def upgraded(settings: dict[str, str], old_url: str) -> Iterator[Runtime]:
    found = Runtime(
        load({**settings, "DATABASE_URL": old_url, "JOBQUEST_DATABASE_UPGRADE": "true"})
    )
    yield found
    found.consumer.close()
    found.stop()


def test_what_waits_and_what_was_decided_outlives_an_upgrade(
    old_url: str, upgraded: Runtime
) -> None:
    before = kept_rows(old_url)
    assert all(before[table.name] for table in KEPT)
    assert upgraded.database.upgrade()[1] == schema.REVISION
    after = kept_rows(old_url)
    assert shared(after, before) == shared(before, after)
    calls: list[str] = []
    upgraded.consumer.register_event_handler("xp.earned", lambda event: calls.append(event.id))
    assert upgraded.queries.user("ada") is None
    retry(upgraded, "waits")
    assert calls == ["waits", "behind"]
    assert stats(upgraded, "ada")["xp"] == 20
    dead_letters = {
        row["event_id"]: row for row in rows_of(upgraded, (tables.dead_letters,))["dead_letters"]
    }
    assert {id: row["state"] for id, row in dead_letters.items()} == {
        "discarded": "discarded",
        "edited": "open",
        "redriven": "redriven",
        "open": "open",
    }
    assert dead_letters["discarded"]["reason"] == "Not ours"
    assert b'"xpAmount": 5' in dead_letters["edited"]["edited"]


def test_an_upgraded_read_side_goes_on_counting(upgraded: Runtime) -> None:
    upgraded.producer.publish("xp.earned", "zoe", {"xpAmount": 5, "totalXp": 0}, id="after")
    consume(upgraded)
    assert life(upgraded, "after")["outcome"] == "processed"
    assert stats(upgraded, "zoe")["xp"] == 15


@pytest.mark.postgres
def test_postgresql_is_upgraded_by_a_command_alone_unless_a_setting_says_so(
    settings: dict[str, str], postgres_server: Any
) -> None:
    url = postgres_server.new_database()
    load_dump(url)
    app = create_app({**settings, "DATABASE_URL": url})
    database = app.extensions["jobquest"].database
    with pytest.raises(ReadSideUnavailable, match="run `flask db upgrade`"), database.reading():
        pass
    runner = app.test_cli_runner()
    more = said_of_a_rebuild("0005")
    done = runner.invoke(args=["db", "upgrade"])
    assert done.output == f"Upgraded the tables from revision 0005 to {schema.REVISION}.\n{more}"
    assert runner.invoke(args=["db", "upgrade"]).output == (
        f"The tables already have revision {schema.REVISION}.\n{more}"
    )
    with database.reading():
        pass  # the process that was refused goes on by itself
    app.extensions["jobquest"].stop()


@pytest.mark.slow
def test_processes_that_start_at_once_upgrade_once(old_url: str) -> None:
    program = (
        "import sys; from jobquest.read.database import Database\n"
        "print(flush=True); sys.stdin.read(1)\n"
        "with Database(sys.argv[1], upgrades=True).reading(): pass"
    )
    command = [sys.executable, "-c", program, old_url]
    started = [
        subprocess.Popen(command, cwd=ROOT, stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True)
        for _ in range(3)
    ]
    for one in started:  # to import everything takes longer than to upgrade
        assert one.stdout
        one.stdout.readline()
    for one in started:
        assert one.stdin
        one.stdin.close()
        one.stdin = None  # for `communicate`
    assert [one.communicate(timeout=60)[1] for one in started] == [""] * 3
    assert [one.returncode for one in started] == [0] * 3
    engine = create_engine(old_url)
    with engine.connect() as connection:
        assert schema.revision(connection) == schema.REVISION
    engine.dispose()


def test_a_process_that_starts_waits_for_nobody_if_the_tables_have_its_revision(
    runtime: Runtime,
) -> None:
    starting = Database(runtime.database.engine.url.render_as_string(hide_password=False))

    def found() -> str | None:
        with starting.reading() as other:
            return schema.revision(other)

    with (
        ThreadPoolExecutor() as threads,
        runtime.database.writing() as connection,  # on SQLite it has the write lock
    ):
        if connection.dialect.name == "postgresql":
            connection.execute(select(func.pg_advisory_xact_lock(UPGRADE_LOCK)))
        # A writer is waited for 5 s, an upgrade for as long as it takes.
        assert threads.submit(found).result(timeout=2) == schema.REVISION
    starting.close()


def test_an_upgrade_that_fails_leaves_the_tables_as_they_were(
    old_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = kept_rows(old_url)
    upgrade = schema.upgrade

    def fail(connection: Any, found: str | None) -> None:
        upgrade(connection, found)
        raise OSError("The disk is full")

    monkeypatch.setattr(schema, "upgrade", fail)
    database = Database(old_url, upgrades=True)
    with pytest.raises(ReadSideUnavailable, match="The disk is full"), database.reading():
        pass
    assert kept_rows(old_url) == before
    monkeypatch.undo()
    assert database.upgrade() == ("0005", schema.REVISION)
    database.close()


@pytest.mark.parametrize(
    ("statement", "line"),
    [
        (
            "UPDATE alembic_version SET version_num = '9999'",
            "created by a newer version (revision 9999",
        ),
        (
            "UPDATE alembic_version SET version_num = 'abc'",
            "created by a newer version (revision abc",
        ),
        ("DROP TABLE alembic_version", "created by an old version (layout 1)"),
        ("ALTER TABLE epoch RENAME TO gone", "has lost its table epoch"),
    ],
)
def test_tables_of_another_version_are_left_alone(
    runtime: Runtime, statement: str, line: str
) -> None:
    with runtime.database.writing() as connection:
        connection.execute(text(statement))
    other = Runtime(runtime.config)
    with pytest.raises(ReadSideUnavailable, match=re.escape(line)) as raised:
        other.queries.last_seq()
    assert "flask events rebuild" in str(raised.value)
    with pytest.raises(ReadSideUnavailable):
        other.database.upgrade()
    other.stop()


@pytest.mark.postgres
def test_a_database_of_another_application_is_left_alone(postgres_server: Postgres) -> None:
    database = Database(postgres_server.new_database(), upgrades=True)
    with database.engine.begin() as connection:
        connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32))"))
        connection.execute(text("INSERT INTO alembic_version VALUES ('ae1027a6acf')"))
    with pytest.raises(ReadSideUnavailable, match="another application"), database.reading():
        pass
    with database.engine.begin() as connection:
        [[found]] = connection.execute(text("SELECT version_num FROM alembic_version"))
    assert found == "ae1027a6acf"
    database.close()


def upgraded_differences(url: str, models: MetaData = tables.metadata) -> list[str]:
    """How a database differs from the models after its upgrade, if it needs one."""
    database = Database(url, upgrades=True)
    with database.reading():
        pass
    with database.engine.connect() as connection:
        found = differences(connection, models)
    database.close()
    return found


@pytest.fixture
def new_url(
    tmp_path: Path, database: dict[str, str], request: pytest.FixtureRequest
) -> Callable[[], str]:
    """Makes empty databases, of each kind."""
    numbers = count()

    def new() -> str:
        if database:
            return str(request.getfixturevalue("postgres_server").new_database())
        return f"sqlite:///{tmp_path / f'{next(numbers)}.db'}"

    return new


def test_the_migrations_make_the_tables_that_the_code_has(new_url: Callable[[], str]) -> None:
    assert upgraded_differences(new_url()) == []


def test_a_database_of_a_released_version_gets_the_tables_that_the_code_has(
    new_url: Callable[[], str],
) -> None:
    """So a released migration can't be changed instead of adding one: these have it already."""
    for revision in dumped():
        url = new_url()
        load_dump(url, f"revision_{revision}")
        assert upgraded_differences(url) == [], revision


def test_the_command_names_each_difference_between_tables_and_models(
    settings: dict[str, str], database: dict[str, str]
) -> None:
    app = create_app({**settings, **database})
    runner, runtime = app.test_cli_runner(), app.extensions["jobquest"]
    done = runner.invoke(args=["db", "check"])
    expected = f"The tables are those of the models, revision {schema.REVISION}.\n"
    assert (done.output, done.exit_code) == (expected, 0)
    with runtime.database.engine.begin() as connection:
        connection.execute(text("ALTER TABLE applications ADD salary INTEGER"))
        connection.execute(text("DROP INDEX dead_letters_closed"))
    done = runner.invoke(args=["db", "check"])
    first, second = done.output.splitlines()
    assert done.exit_code == 1
    assert first == ("Column applications.salary: the models have none, the database has INTEGER.")
    assert second.startswith("Index dead_letters_closed: the models have CREATE INDEX")
    assert second.endswith(", the database has none.")
    with runtime.database.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0009'"))
        connection.execute(text("ALTER TABLE epoch RENAME TO counter"))
    done = runner.invoke(args=["db", "check"])
    line = f"The tables have revision 0009, this version needs {schema.REVISION}.\n"
    assert (done.output, done.exit_code) == (line, 1)
    runtime.stop()


# --- what a table's change is ---


def _table(metadata: MetaData, name: str = "applications") -> Table:
    return metadata.tables[name]


def _new_table(metadata: MetaData) -> None:
    Table("badges", metadata, Column("id", Integer, primary_key=True))


def _new_column(metadata: MetaData) -> None:
    _table(metadata).append_column(Column("salary", Integer))


def _type(metadata: MetaData) -> None:
    _table(metadata).c.status.type = String(400)


def _null(metadata: MetaData) -> None:
    _table(metadata).c.status.nullable = False


def _key(metadata: MetaData) -> None:
    _table(metadata).append_constraint(PrimaryKeyConstraint("job_id", "user_id"))


def _index(metadata: MetaData) -> None:
    Index("applications_by_status", _table(metadata).c.status)


def _condition(metadata: MetaData) -> None:
    events = _table(metadata, "events")
    [index] = [one for one in events.indexes if one.name == "events_by_cause"]
    for dialect in ("sqlite", "postgresql"):
        index.dialect_options[dialect]["where"] = text("caused_by != ''")


def _unique(metadata: MetaData) -> None:
    table = _table(metadata)
    table.append_constraint(UniqueConstraint(table.c.status))


def _rowid(metadata: MetaData) -> None:
    _table(metadata).dialect_options["sqlite"]["with_rowid"] = True


@pytest.mark.slow
def test_a_changed_table_without_a_migration_is_noticed(new_url: Callable[[], str]) -> None:
    url = new_url()
    changes = [_new_table, _new_column, _type, _null, _key, _index, _condition, _unique]
    for change in [*changes, _rowid] if url.startswith("sqlite") else changes:
        changed = MetaData()
        for table in tables.metadata.sorted_tables:
            table.to_metadata(changed)
        Sequence("change_seq", metadata=changed)
        change(changed)
        assert upgraded_differences(url, changed), change.__name__


def dumped() -> list[str]:
    """The revisions of which `databases` has the tables as that version has made them."""
    return sorted(file.name[9:13] for file in DUMPS.glob("revision_*_sqlite.sql"))


def test_migrations_follow_each_other_and_are_kept_as_they_were_released() -> None:
    files = sorted(Path(schema.__file__).parent.glob("migrations/versions/[0-9]*.py"))
    assert files[-1].name[:4] == schema.REVISION
    for before, after in pairwise(files):
        assert f'down_revision = "{before.name[:4]}"' in after.read_text()
    recent = [file.name[:4] for file in files[-2:]]
    assert dumped()[-1] in recent, (
        f"Check out the version of revision {recent[0]}, run `python -m tests.dump_tables` there,"
        " and add the files."
    )
