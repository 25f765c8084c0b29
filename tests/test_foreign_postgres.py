"""A PostgreSQL as others set it up: other encodings, other defaults of roles and databases, other
schemas. And whose fault its errors are."""

from __future__ import annotations

import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from jobquest import create_app
from jobquest.config import load
from jobquest.errors import ReadSideUnavailable
from jobquest.read import database as databases
from jobquest.read import tables
from jobquest.read.database import Database
from jobquest.runtime import Runtime
from tests.postgres import Postgres, why_not
from tests.service import ROOT, wait_for
from tests.test_consumer import consume, stats

ENCODINGS = {"SQL_ASCII": (), "LATIN1": ("-E", "LATIN1")}
FOREIGN = {
    "client_encoding": "LATIN1",
    "default_transaction_isolation": "serializable",
    "default_transaction_read_only": "on",
    "default_transaction_deferrable": "on",
    "statement_timeout": "200ms",
    "lock_timeout": "100ms",
    "idle_in_transaction_session_timeout": "200ms",
    "idle_session_timeout": "200ms",
    "standard_conforming_strings": "off",
    "extra_float_digits": "-10",
    "datestyle": "German",
    "intervalstyle": "sql_standard",
    "bytea_output": "escape",
}


@pytest.fixture(scope="module", params=ENCODINGS)
def encoded(request: pytest.FixtureRequest) -> Iterator[tuple[str, Postgres]]:
    """A server that `initdb` has made under LC_ALL=C, without our asking for UTF8."""
    if reason := why_not():
        pytest.skip(reason)  # what this machine lacks: the tests need a real PostgreSQL
    server = Postgres(ENCODINGS[request.param]).start()
    yield request.param, server
    server.stop()


@pytest.mark.postgres
def test_a_server_of_another_encoding_is_refused_in_one_line_that_says_what_to_do(
    encoded: tuple[str, Postgres], settings: dict[str, str], tmp_path: Path
) -> None:
    encoding, server = encoded
    settings = {**settings, "DATABASE_URL": server.new_database()}
    started = subprocess.run(
        [sys.executable, str(ROOT / "app.py")],
        cwd=tmp_path,
        env={**settings, "PORT": "0", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert started.returncode == 2
    [line] = started.stderr.splitlines()
    assert line.startswith(f"error: The database has the encoding {encoding}")
    app = create_app(settings)
    client, told = app.test_client(), line.removeprefix("error: ")
    assert client.get("/readyz").json["errors"]["readSide"] == [told]  # type: ignore[index]
    for path in ("/api/kafka/status", "/api/events"):  # whether there are credentials, nobody knows
        refused = client.get(path)
        assert refused.status_code == 503
        assert told in refused.json["message"]  # type: ignore[index]
    upgraded = app.test_cli_runner().invoke(args=["db", "upgrade"])
    assert (upgraded.exit_code != 0, told in upgraded.output) == (True, True)
    app.extensions["jobquest"].stop()

    [advice] = re.findall("CREATE DATABASE .* template0", line)
    runtime = Runtime(load({**settings, "DATABASE_URL": server.new_database(advice)}))
    runtime.producer.publish("xp.earned", "Zoë 🦉", {"xpAmount": 5, "totalXp": 0})
    consume(runtime)
    assert stats(runtime, "Zoë 🦉")["xp"] == 5
    runtime.consumer.close()
    runtime.stop()


@pytest.fixture
def foreign(postgres_server: Postgres, settings: dict[str, str]) -> Iterator[Runtime]:
    """A database whose administrator has other habits, its tables in a schema of the role's."""
    url = postgres_server.new_database()
    database, role = url.rpartition("/")[2], f"role_{url[-12:]}"
    postgres_server.run(f"CREATE ROLE {role} LOGIN")
    postgres_server.run(f"ALTER DATABASE {database} OWNER TO {role}")
    for name, value in FOREIGN.items():
        postgres_server.run(f"ALTER DATABASE {database} SET {name} = '{value}'")
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        connection.execute("SET TRANSACTION READ WRITE")
        connection.execute(f'CREATE SCHEMA "its own" AUTHORIZATION {role}'.encode())
    postgres_server.run(f"ALTER ROLE {role} SET search_path = 'its own', 'public'")
    runtime = Runtime(load({**settings, "DATABASE_URL": url.replace("postgres@", f"{role}@")}))
    yield runtime
    runtime.consumer.close()
    runtime.stop()


@pytest.mark.postgres
def test_what_an_administrator_sets_for_people_changes_nothing_for_us(foreign: Runtime) -> None:
    with foreign.database.writing() as connection:
        for name in FOREIGN:
            shown = connection.execute(text(f"SHOW {name}")).scalar()
            assert name == "bytea_output" or shown != FOREIGN[name], name
        connection.execute(text("SELECT pg_sleep(0.5)"))
        assert connection.execute(text("SHOW transaction_isolation")).scalar() == "read committed"
    foreign.producer.publish("xp.earned", r"O\'Neil Zoë 🦉", {"xpAmount": 5, "totalXp": 0}, id="a")
    data = {"missionId": "m", "missionName": "M", "missionType": "t", "xpEarned": 1}
    foreign.producer.publish("mission.completed", "ada", {**data, "duration": 0.1 + 0.2})
    consume(foreign)
    for _ in range(2):
        assert stats(foreign, r"O\'Neil Zoë 🦉")["xp"] == 5
        assert stats(foreign, "ada")["focusMinutes"] == 0.1 + 0.2
        assert foreign.queries.event("a")["event"]["userId"] == r"O\'Neil Zoë 🦉"  # type: ignore[index]
        [found] = foreign.queries.users("'Neil Zoë 🦉")
        assert found["xp"] == 5
        assert foreign.rebuild.run().lost == 0
    with foreign.database.reading() as connection:
        schemas = connection.execute(text("SELECT DISTINCT schemaname FROM pg_stat_user_tables"))
        assert schemas.scalars().all() == ["its own"]


OURS = {
    "no such column": "SELECT nothing FROM epoch",
    "no such table": "SELECT 1 FROM nowhere",
    "wrong syntax": "SELEC 1",
    "a value of another kind": "INSERT INTO epoch (id, name) VALUES (2, NULL)",
}
OURS_ON_POSTGRES = {
    "an index row that is too large": (
        "CREATE TEMPORARY TABLE indexed (key bytea PRIMARY KEY); INSERT INTO indexed"
        " SELECT string_agg(sha512(n::text::bytea), '') FROM generate_series(1, 70) n"
    ),
    "a division by zero": "SELECT 1 / 0",
    "no right": "SET ROLE pg_monitor; SELECT * FROM epoch",
}
AWAY = {
    "canceled": "SET LOCAL statement_timeout = 1; SELECT pg_sleep(1)",
    "deadlock": "DO $$ BEGIN RAISE SQLSTATE '40P01'; END $$",
    "disk full": "DO $$ BEGIN RAISE SQLSTATE '53100'; END $$",
    "a file cannot be read": "DO $$ BEGIN RAISE SQLSTATE '58030'; END $$",
    "a standby": "SET TRANSACTION READ ONLY; UPDATE epoch SET name = 'e'",
    "terminated": "SELECT pg_terminate_backend(pg_backend_pid())",
}


@pytest.mark.parametrize("statement", OURS.values(), ids=OURS.keys())
def test_a_fault_of_ours_is_no_database_away(runtime: Runtime, statement: str) -> None:
    with pytest.raises(DBAPIError), runtime.database.writing() as connection:
        connection.execute(text(statement))
    with pytest.raises(runtime.database.engine.dialect.loaded_dbapi.Error):
        runtime.database.select(statement, ())
    assert runtime.queries.last_seq() == 0


@pytest.mark.postgres
@pytest.mark.parametrize("statement", OURS_ON_POSTGRES.values(), ids=OURS_ON_POSTGRES.keys())
def test_on_postgresql_a_fault_of_ours_is_no_database_away(
    shared: Database, statement: str
) -> None:
    with pytest.raises(DBAPIError), shared.writing() as connection:
        connection.exec_driver_sql(statement)


@pytest.mark.postgres
@pytest.mark.parametrize("statement", AWAY.values(), ids=AWAY.keys())
def test_on_postgresql_what_passes_by_itself_is_the_database_away(
    shared: Database, statement: str
) -> None:
    with pytest.raises(ReadSideUnavailable), shared.writing() as connection:
        connection.exec_driver_sql(statement)


@pytest.fixture(scope="module")
def shared(postgres_server: Postgres) -> Iterator[Database]:
    made = Database(postgres_server.new_database())
    with made.reading():
        pass
    yield made
    made.close()


@pytest.mark.postgres
def test_a_connection_that_was_lost_while_it_was_idle_fails_nobody(
    shared: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = text(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid != pg_backend_pid()"
    )
    monkeypatch.setattr(databases, "_PING_AFTER_SECONDS", 0.0)
    with shared.reading(), shared.reading() as last:  # two connections
        last.exec_driver_sql("SELECT 1")
    with shared.reading() as mine:
        [ended] = mine.execute(others).scalars()
        assert ended
    with shared.reading() as one, shared.reading() as another:
        one.exec_driver_sql("SELECT 1")
        another.exec_driver_sql("SELECT 1")


@pytest.mark.postgres
def test_a_database_that_does_not_exist_yet_is_one_that_is_away(postgres_server: Postgres) -> None:
    database = Database(postgres_server.new_database() + "_not_yet")
    database.refuse_unusable()
    with pytest.raises(ReadSideUnavailable, match="does not exist"), database.reading():
        pass
    with pytest.raises(ReadSideUnavailable, match="does not exist"):
        database.select("SELECT 1", ())


def take_all(url: str, taken: ExitStack) -> str:
    """Open connections until the server refuses one; returns why it does."""
    while True:
        try:
            taken.enter_context(psycopg.connect(url.replace("+psycopg", "")))
        except psycopg.OperationalError as refused:
            return str(refused)


@pytest.mark.postgres
def test_a_server_without_a_connection_left_is_told_with_what_to_do() -> None:
    """For the administrator and others: some connections are kept for the administrator."""
    if reason := why_not():
        pytest.skip(reason)  # what this machine lacks: the tests need a real PostgreSQL
    server = Postgres().start()
    try:
        url = server.new_database()
        server.run("CREATE ROLE somebody LOGIN")
        server.run("ALTER SYSTEM SET max_connections = 6")
        server.kill()
        server.start()
        with ExitStack() as taken:
            for role, cause in (("somebody", "connection slots"), ("postgres", "too many clients")):
                there = url.replace("postgres@", f"{role}@")
                assert cause in take_all(there, taken)
                database = Database(there)
                with pytest.raises(ReadSideUnavailable, match=cause) as told, database.reading():
                    pass
                assert "Lower JOBQUEST_DATABASE_POOL, or raise PostgreSQL's max" in str(told.value)
                database.close()
    finally:
        server.stop()


def test_a_pool_without_a_connection_left_is_told_with_its_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(f"sqlite:///{tmp_path / 'read.db'}")

    def wait_in_vain() -> None:
        raise PoolTimeout

    monkeypatch.setattr(database.engine, "connect", wait_in_vain)
    with pytest.raises(ReadSideUnavailable, match="raise JOBQUEST_DATABASE_POOL"):
        database.select("SELECT 1", ())
    database.close()


def test_a_missing_table_stops_no_publisher_and_is_told(settings: dict[str, str]) -> None:
    app = create_app(settings)
    client, runtime = app.test_client(), app.extensions["jobquest"]
    with runtime.database.writing() as connection:
        connection.execute(text("ALTER TABLE events RENAME TO gone"))
        connection.execute(text("ALTER TABLE epoch RENAME COLUMN name TO word"))
        connection.execute(text("ALTER TABLE dead_letters RENAME TO no_dead_letters"))
    body = {"eventType": "user.login", "data": {}, "id": "mine"}
    assert client.post("/api/kafka/events", json=body).status_code == 201
    status: Any = client.get("/api/kafka/status").json
    assert (status["data"]["state"], status["data"]["consumerRunning"]) == ("crashed", False)
    assert "dead_letters" in status["data"]["reason"]
    ready: Any = client.get("/readyz")
    assert ready.status_code == 503
    assert "dead_letters" in ready.json["errors"]["readSide"][0]
    runtime.stop()


@pytest.mark.parametrize("name", [table.name for table in tables.metadata.sorted_tables])
def test_whichever_table_is_missing_is_named(runtime: Runtime, name: str) -> None:
    runtime.queries.check_tables()
    with runtime.database.writing() as connection:
        connection.execute(text(f"ALTER TABLE {name} RENAME TO gone"))
    line = runtime.report.readiness(runtime.report.status())["readSide"]
    assert line
    assert re.search(rf"\b{name}\b", line)


@pytest.mark.postgres
def test_a_table_that_may_not_be_read_is_named(
    postgres_server: Postgres, settings: dict[str, str]
) -> None:
    url = postgres_server.new_database()
    name, role = url.rpartition("/")[2], f"role_{uuid.uuid4().hex[:8]}"
    postgres_server.run(f"CREATE ROLE {role} LOGIN")
    postgres_server.run(f"ALTER DATABASE {name} OWNER TO {role}")
    app = create_app(settings | {"DATABASE_URL": url.replace("postgres@", f"{role}@")})
    client, runtime = app.test_client(), app.extensions["jobquest"]
    assert client.get("/readyz").status_code == 200
    with runtime.database.writing() as connection:
        connection.execute(text(f"REVOKE SELECT ON daily_xp FROM {role}"))
    ready: Any = client.get("/readyz")
    assert ready.status_code == 503
    assert "permission denied for table daily_xp" in ready.json["errors"]["readSide"][0]
    runtime.stop()


def test_a_database_that_was_created_again_gets_its_tables_again(
    postgres_server: Postgres, settings: dict[str, str]
) -> None:
    url = postgres_server.new_database()
    name = url.rpartition("/")[2]
    app = create_app(settings | {"DATABASE_URL": url})
    client, runtime = app.test_client(), app.extensions["jobquest"]
    assert client.get("/readyz").status_code == 200
    postgres_server.run(f"DROP DATABASE {name} WITH (FORCE)")
    assert client.get("/readyz").status_code == 503
    postgres_server.run(f"CREATE DATABASE {name}")
    wait_for(lambda: client.get("/readyz").status_code == 200, 10)
    status: Any = client.get("/api/kafka/status").json
    assert status["data"]["state"] == "stopped"
    runtime.stop()


def test_a_role_that_may_not_make_the_tables_is_told_what_it_needs(
    postgres_server: Postgres, settings: dict[str, str]
) -> None:
    url = postgres_server.new_database()
    role = f"role_{uuid.uuid4().hex[:8]}"
    postgres_server.run(f"CREATE ROLE {role} LOGIN")
    app = create_app(settings | {"DATABASE_URL": url.replace("postgres@", f"{role}@")})
    answer: Any = app.test_client().get("/readyz")
    assert answer.status_code == 503
    [line] = answer.json["errors"]["readSide"]
    assert f"GRANT CREATE ON SCHEMA public TO {role}." in line
    upgraded = app.test_cli_runner().invoke(args=["db", "upgrade"])
    assert (upgraded.exit_code, len(upgraded.output.splitlines())) == (1, 1)
    app.extensions["jobquest"].stop()
