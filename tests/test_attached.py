"""What others attach to our tables outlives a rebuild, or is named before it."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from sqlalchemy import DDL, text

from jobquest import create_app
from jobquest.access.caller import READ
from jobquest.config import load
from jobquest.errors import ReadSideUnavailable
from jobquest.read import swap
from jobquest.read.replay import RebuildFailed
from jobquest.runtime import Runtime
from tests.postgres import Postgres
from tests.service import wait_for
from tests.test_consumer import consume
from tests.test_rebuild import run_sql
from tests.test_retries import publish
from tests.test_schema import load_dump

INDEX = "CREATE INDEX own ON minute_counts (count)", "minute_counts: index own", "DROP INDEX own"
ADDED = (
    "ALTER TABLE events ADD COLUMN noted TEXT",
    "events: column noted",
    "ALTER TABLE events DROP COLUMN noted",
)
ATTACHED = {  # what makes it, how it is named, and what drops it
    "sqlite": [
        INDEX,
        (
            "CREATE TRIGGER noted AFTER DELETE ON events BEGIN SELECT 1; END",
            "events: trigger noted",
            "DROP TRIGGER noted",
        ),
        (
            'CREATE TRIGGER noted AFTER DELETE ON "Events" BEGIN SELECT 1; END',
            "Events: trigger noted",
            "DROP TRIGGER noted",
        ),
        ADDED,
    ],
    "postgresql": [
        INDEX,
        ADDED,
        (
            "CREATE VIEW of_ada AS SELECT id, seq FROM events",
            "events: view of_ada",
            "DROP VIEW of_ada",
        ),
        (
            "CREATE MATERIALIZED VIEW days AS SELECT xp FROM daily_xp",
            "daily_xp: materialized view days",
            "DROP MATERIALIZED VIEW days",
        ),
        (
            "CREATE TABLE theirs (day bigint REFERENCES daily_xp)",
            "daily_xp: constraint theirs_day_fkey on table theirs",
            "DROP TABLE theirs",
        ),
        (
            "CREATE TRIGGER noted BEFORE UPDATE ON events FOR EACH ROW"
            " EXECUTE FUNCTION suppress_redundant_updates_trigger()",
            "events: trigger noted on table events",
            "DROP TRIGGER noted ON events",
        ),
        (
            "CREATE PUBLICATION copied FOR TABLE events",
            "events: publication copied",
            "DROP PUBLICATION copied",
        ),
        (
            "CREATE STATISTICS both_columns ON seq, user_id FROM events",
            "events: statistics object both_columns",
            "DROP STATISTICS both_columns",
        ),
        (
            "CREATE POLICY own ON events USING (user_id = current_user)",
            "events: policy own on table events",
            "DROP POLICY own ON events",
        ),
        (
            "CREATE RULE seen AS ON DELETE TO daily_xp DO ALSO NOTIFY seen",
            "daily_xp: rule seen on table daily_xp",
            "DROP RULE seen ON daily_xp",
        ),
        (
            "CREATE FUNCTION short(events) RETURNS text LANGUAGE sql AS 'SELECT $1.id'",
            "events: function short(events)",
            "DROP FUNCTION short",
        ),
        (
            "CREATE FUNCTION first(events[]) RETURNS text LANGUAGE sql AS 'SELECT $1[1].id'",
            "events: function first(events[])",
            "DROP FUNCTION first",
        ),
        (
            "ALTER TABLE daily_xp ADD CONSTRAINT positive CHECK (xp >= 0)",
            "daily_xp: constraint positive on table daily_xp",
            "ALTER TABLE daily_xp DROP CONSTRAINT positive",
        ),
        (
            "ALTER TABLE events ADD CONSTRAINT one_seq UNIQUE (seq, user_id)",
            "events: constraint one_seq on table events",
            "ALTER TABLE events DROP CONSTRAINT one_seq",
        ),
        (
            "CREATE TABLE people (id varchar(200) PRIMARY KEY);"
            " ALTER TABLE events ADD CONSTRAINT known FOREIGN KEY (user_id) REFERENCES people"
            " NOT VALID",
            "events: constraint known on table events",
            "DROP TABLE people CASCADE",
        ),
        (
            "CREATE TABLE base (seq bigint); ALTER TABLE events INHERIT base",
            "events: parent table base",
            "ALTER TABLE events NO INHERIT base",
        ),
        (
            "CREATE SEQUENCE theirs OWNED BY events.seq",
            "events: sequence theirs",
            "DROP SEQUENCE theirs",
        ),
        (
            "CREATE PUBLICATION everything FOR TABLES IN SCHEMA public",
            "publication everything",
            "DROP PUBLICATION everything",
        ),
    ],
}


def test_what_a_rebuild_would_lose_is_named_before_it(runtime: Runtime) -> None:
    publish(runtime, "one")
    consume(runtime)
    done: list[int] = []
    for create, named, drop in ATTACHED[runtime.database.engine.dialect.name]:
        run_sql(runtime, text(create))
        with pytest.raises(RebuildFailed, match=rf"{re.escape(named)}.*\. Drop that, rebuild"):
            runtime.rebuild.run(lambda records, _total: done.append(records))
        assert done == []
        run_sql(runtime, text(drop))
    assert runtime.rebuild.run().events == 1


def test_what_is_attached_meanwhile_is_named_and_not_lost(runtime: Runtime) -> None:
    publish(runtime, "one")
    consume(runtime)
    create, named, drop = INDEX

    def attach(done: int, _total: int) -> None:
        if not done:
            run_sql(runtime, text(create.replace("INDEX", "INDEX IF NOT EXISTS")))

    with pytest.raises(RebuildFailed, match=named):
        runtime.rebuild.run(attach)
    run_sql(runtime, text(drop))
    assert runtime.rebuild.run().events == 1


def test_views_on_sqlite_show_the_new_tables(settings: dict[str, str]) -> None:
    runtime = Runtime(load(settings))
    publish(runtime, "one")
    consume(runtime)
    view = "CREATE VIEW of_ada AS SELECT id FROM events"
    run_sql(runtime, text(view), text("DELETE FROM events"))
    assert runtime.rebuild.run().events == 1
    with runtime.database.reading() as connection:
        assert connection.scalars(text("SELECT id FROM of_ada")).all() == ["one"]
        query = text("SELECT sql FROM sqlite_master WHERE name = 'of_ada'")
        assert connection.scalar(query) == view
    runtime.stop()


def on_postgres(settings: dict[str, str], url: str, *, role: str = "postgres") -> Runtime:
    """The service, as this role."""
    name = quote(role.strip('"'))
    return Runtime(load({**settings, "DATABASE_URL": url.replace("postgres@", f"{name}@")}))


@pytest.fixture
def roles(postgres_server: Postgres) -> list[str]:
    """Three roles on the server, two of which are members of the first; quoted as they must be."""
    made = [f'"{name} {uuid.uuid4().hex[:8]}"' for name in ("Team", "ada", "bob")]
    team, *members = made
    postgres_server.run(f"CREATE ROLE {team}")
    for member in members:
        postgres_server.run(f"CREATE ROLE {member} LOGIN IN ROLE {team}")
    return made


LAYOUT = text(
    "SELECT relname, relkind, nspname, pg_get_userbyid(relowner),"
    " coalesce(relacl, acldefault(CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::\"char\","
    " relowner)), reloptions::text,"
    " relrowsecurity, relforcerowsecurity, obj_description(c.oid),"
    " (SELECT string_agg(attname || attacl::text, ',') FROM pg_attribute"
    " WHERE attrelid = c.oid AND NOT attisdropped),"
    " (SELECT string_agg(col_description(c.oid, attnum), ',') FROM pg_attribute"
    " WHERE attrelid = c.oid)"
    " FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace"
    " WHERE nspname !~ '^(pg_|information_schema)' ORDER BY 1, 2, 3"
)


def layout(runtime: Runtime) -> list[tuple[Any, ...]]:
    with runtime.database.reading() as connection:
        return [tuple(row) for row in connection.execute(LAYOUT)]


@pytest.mark.postgres
def test_what_others_may_do_and_how_a_table_is_stored_outlives_a_rebuild(
    settings: dict[str, str], postgres_server: Postgres, roles: list[str]
) -> None:
    odd = f'"100%s of :{uuid.uuid4().hex[:8]}"'
    postgres_server.run(f"CREATE ROLE {odd}")
    runtime = on_postgres(settings, postgres_server.new_database())
    for statement in (
        f"GRANT SELECT ON events TO {roles[0]} WITH GRANT OPTION",
        f"GRANT SELECT (day_ms), UPDATE (xp) ON daily_xp TO {odd}",
        f"ALTER TABLE daily_xp ADD noted text; GRANT SELECT (noted) ON daily_xp TO {odd};"
        " ALTER TABLE daily_xp DROP noted",
        "GRANT SELECT ON applications TO PUBLIC",
        "REVOKE TRUNCATE ON notifications FROM postgres",
        "ALTER TABLE minute_counts SET (fillfactor = 70, autovacuum_enabled = false)",
        "ALTER TABLE minute_counts SET (autovacuum_vacuum_scale_factor = '0x1p-3')",
        "ALTER TABLE user_stats ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE user_stats FORCE ROW LEVEL SECURITY",
        "COMMENT ON TABLE events IS 'What happened: ''all'' 100 %'",
        "COMMENT ON COLUMN events.seq IS 'Without a gap'",
        f"ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO {odd}, PUBLIC",
        f"ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO {odd}",
    ):
        run_sql(runtime, DDL(statement.replace("%", "%%")))
    before = layout(runtime)
    for _ in range(2):
        runtime.rebuild.run()
        assert layout(runtime) == before
        assert runtime.database.differences() == []
    runtime.stop()


@pytest.mark.postgres
def test_nobody_may_use_the_tables_of_a_rebuild_meanwhile(
    settings: dict[str, str], postgres_server: Postgres
) -> None:
    runtime = on_postgres(settings, postgres_server.new_database())
    run_sql(runtime, text("ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC"))
    publish(runtime, "one")
    consume(runtime)
    rights: list[Any] = []

    def look(_done: int, _total: int) -> None:
        rights.extend(row[4] for row in layout(runtime) if row[0] == "rebuilt_events")

    runtime.rebuild.run(look)
    assert rights
    assert {str(entry).partition("=")[0] for entries in rights for entry in entries} == {"postgres"}
    runtime.stop()


@pytest.mark.postgres
def test_the_owner_stays_whoever_rebuilds(
    settings: dict[str, str], postgres_server: Postgres, roles: list[str]
) -> None:
    team, ada, bob = roles
    url = postgres_server.new_database(f"CREATE DATABASE name OWNER {team}")
    postgres_server.run(f"ALTER ROLE {ada} SET role = {team}")
    first = on_postgres(settings, url, role=ada)
    before = layout(first)
    postgres_server.run(f"ALTER ROLE {ada} RESET role")
    assert {row[3] for row in before} == {team.strip('"')}
    for role in ("postgres", ada, bob):
        runtime = on_postgres(settings, url, role=role)
        publish(runtime, role.strip('"')[:3])
        consume(runtime)
        runtime.rebuild.run()
        assert layout(runtime) == before
        runtime.consumer.close()
        runtime.stop()
    first.stop()


@pytest.mark.postgres
def test_the_tables_stay_in_their_schema(
    settings: dict[str, str], postgres_server: Postgres
) -> None:
    runtime = on_postgres(settings, postgres_server.new_database())
    before = layout(runtime)
    run_sql(runtime, text("CREATE SCHEMA postgres"))  # which the search path has first
    runtime.database.close()
    runtime.rebuild.run()
    assert layout(runtime) == before
    runtime.stop()


@pytest.mark.postgres
def test_what_the_role_may_not_do_is_told_in_one_line(
    settings: dict[str, str], postgres_server: Postgres, roles: list[str]
) -> None:
    team, ada, _bob = roles
    url = postgres_server.new_database(f"CREATE DATABASE name OWNER {team}")
    runtime = on_postgres(settings, url, role=ada)
    publish(runtime, "one")
    consume(runtime)
    run_sql(runtime, text("REVOKE CREATE ON SCHEMA public FROM PUBLIC"))
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        connection.execute(b"ALTER SCHEMA public OWNER TO postgres")
    with pytest.raises(RebuildFailed, match="refuses the rebuild: permission denied for schema"):
        runtime.rebuild.run()
    assert events(runtime) == 1
    runtime.consumer.close()
    runtime.stop()


# --- who uses the tables meanwhile ---


@pytest.fixture
def others(settings: dict[str, str], postgres_server: Postgres) -> Iterator[tuple[Runtime, Any]]:
    """The service, and a session of somebody else."""
    url = postgres_server.new_database()
    runtime = on_postgres(settings, url)
    publish(runtime, "one")
    consume(runtime)
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        yield runtime, connection
    runtime.consumer.close()
    runtime.stop()


@pytest.mark.postgres
def test_who_uses_a_table_for_long_is_named_and_nobody_waits_for_them(
    others: tuple[Runtime, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime, other = others
    monkeypatch.setattr(swap, "_LOCK_MS", (50, 50))
    monkeypatch.setattr(swap, "_PAUSE_SECONDS", 0.1)
    other.execute("SELECT count(*) FROM minute_counts")
    with pytest.raises(RebuildFailed, match=rf"\(pid {other.info.backend_pid}\)\. Let these end"):
        runtime.rebuild.run()
    assert events(runtime) == 1
    publish(runtime, "two")
    consume(runtime)
    other.rollback()
    assert runtime.rebuild.run().events == 2


@pytest.mark.postgres
def test_a_rebuild_waits_for_a_short_query_and_ends_none(others: tuple[Runtime, Any]) -> None:
    """One that reads another table in the same transaction has to wait for the rebuild, which
    waits for the first: none of them may be ended for that."""
    runtime, other = others
    other.execute("SELECT count(*) FROM minute_counts")
    with ThreadPoolExecutor() as pool:
        made = pool.submit(runtime.rebuild.run)
        wait_for(lambda: waits(runtime), 10)
        assert other.execute("SELECT count(*) FROM events").fetchone() == (1,)
        other.rollback()
        assert made.result(20).events == 1


@pytest.mark.postgres
def test_what_an_open_transaction_has_attached_is_not_lost(others: tuple[Runtime, Any]) -> None:
    runtime, other = others
    create, named, _drop = INDEX
    other.execute(create)
    with ThreadPoolExecutor() as pool:
        made = pool.submit(runtime.rebuild.run)
        wait_for(lambda: waits(runtime), 10)
        other.commit()
        with pytest.raises(RebuildFailed, match=named):
            made.result(20)


def events(runtime: Runtime) -> int:
    with runtime.database.reading() as connection:
        count: int = connection.execute(text("SELECT count(*) FROM events")).scalar_one()
        return count


def waits(runtime: Runtime) -> bool:
    """Whether somebody waits for a table."""
    query = text("SELECT count(*) FROM pg_locks WHERE NOT granted AND relation IS NOT NULL")
    with runtime.database.reading() as connection:
        return bool(connection.scalar(query))


def test_the_command_names_it_in_one_line(settings: dict[str, str], made_read_side: None) -> None:
    app = create_app(settings)
    run_sql(app.extensions["jobquest"], text(INDEX[0]))
    told = app.test_cli_runner().invoke(args=["events", "rebuild"])
    assert told.exit_code == 1
    [line] = [line for line in told.output.splitlines() if "attached" in line]
    assert line.startswith("Error: A rebuild replaces its tables, and would lose what is attached")
    app.extensions["jobquest"].stop()


# --- the check, and an upgrade ---


def test_a_check_is_clean_with_credentials_in_the_same_database(runtime: Runtime) -> None:
    runtime.access.keys.create("ci", [READ], None)
    assert runtime.database.differences() == []


def test_a_check_says_in_one_line_that_a_rebuild_was_killed(runtime: Runtime) -> None:
    publish(runtime, "one")
    consume(runtime)
    with runtime.database.reading() as connection:
        connection.execution_options(write=True)
        swap.create_shadows(connection)
    [line] = runtime.database.differences()
    assert line.startswith("A rebuild runs, or was killed: the next one drops what it left (rebuil")
    runtime.rebuild.run()
    assert runtime.database.differences() == []


@pytest.mark.postgres
def test_a_view_in_the_way_of_an_upgrade_is_named(
    settings: dict[str, str], postgres_server: Postgres
) -> None:
    url = postgres_server.new_database()
    load_dump(url, "revision_0009")
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        connection.execute("CREATE VIEW of_theirs AS SELECT * FROM counter")
    runtime = on_postgres({**settings, "JOBQUEST_DATABASE_UPGRADE": "true"}, url)
    with pytest.raises(ReadSideUnavailable, match=r"view of_theirs depends .* Drop or rename"):
        runtime.queries.last_seq()
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        connection.execute("DROP VIEW of_theirs")
    assert runtime.queries.last_seq() == 0
    runtime.stop()
