"""What others attach to our tables outlives a rebuild, or is named before it."""

from __future__ import annotations

import re
import uuid

import pytest
from sqlalchemy import text

from jobquest import create_app
from jobquest.config import load
from jobquest.read.replay import RebuildFailed
from jobquest.runtime import Runtime
from tests.postgres import Postgres
from tests.test_consumer import consume
from tests.test_rebuild import run_sql
from tests.test_retries import publish

INDEX = "CREATE INDEX own ON minute_counts (count)", "minute_counts: index own", "DROP INDEX own"
ATTACHED = {  # what makes it, how it is named, and what drops it
    "sqlite": [
        INDEX,
        (
            "CREATE TRIGGER noted AFTER DELETE ON events BEGIN SELECT 1; END",
            "events: trigger noted",
            "DROP TRIGGER noted",
        ),
    ],
    "postgresql": [
        INDEX,
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
            "events: publication of table events in publication copied",
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
    ],
}


def test_what_a_rebuild_would_lose_is_named_before_it(runtime: Runtime) -> None:
    publish(runtime, "one")
    consume(runtime)
    done: list[int] = []
    for create, named, drop in ATTACHED[runtime.database.engine.dialect.name]:
        run_sql(runtime, text(create))
        with pytest.raises(RebuildFailed, match=rf"\({re.escape(named)}\)\. Drop that, rebuild"):
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


@pytest.fixture
def role(postgres_server: Postgres) -> str:
    """Somebody else's role on the server."""
    name = f'"Report {uuid.uuid4().hex[:8]}"'
    postgres_server.run(f"CREATE ROLE {name}")
    return name


@pytest.mark.postgres
def test_what_others_may_do_and_how_a_table_is_stored_outlives_a_rebuild(
    settings: dict[str, str], postgres_server: Postgres, role: str
) -> None:
    runtime = Runtime(load({**settings, "DATABASE_URL": postgres_server.new_database()}))
    query = text(
        "SELECT relname, relacl::text, reloptions::text, nullif(relrowsecurity, false),"
        " (SELECT string_agg(attname || attacl::text, ',')"
        " FROM pg_attribute WHERE attrelid = c.oid) FROM pg_class c WHERE relkind = 'r'"
        " AND relnamespace = 'public'::regnamespace ORDER BY 1"
    )

    def rights() -> list[tuple[str | None, ...]]:
        with runtime.database.reading() as connection:
            return [tuple(row) for row in connection.execute(query)]

    run_sql(
        runtime,
        text(f"GRANT SELECT ON events TO {role} WITH GRANT OPTION"),
        text(f"GRANT SELECT (day_ms), UPDATE (xp) ON daily_xp TO {role}"),
        text("GRANT SELECT ON applications TO PUBLIC"),
        text("ALTER TABLE minute_counts SET (fillfactor = 70, autovacuum_enabled = false)"),
        text("ALTER TABLE user_stats ENABLE ROW LEVEL SECURITY"),
    )
    before = rights()
    assert [name for name, *granted in before if any(granted)] == [
        "applications",
        "daily_xp",
        "events",
        "minute_counts",
        "user_stats",
    ]
    for _ in range(2):
        runtime.rebuild.run()
        assert rights() == before
    runtime.stop()


def test_the_command_names_it_in_one_line(settings: dict[str, str], made_read_side: None) -> None:
    app = create_app(settings)
    run_sql(app.extensions["jobquest"], text(INDEX[0]))
    told = app.test_cli_runner().invoke(args=["events", "rebuild"])
    assert told.exit_code == 1
    [line] = [line for line in told.output.splitlines() if "attached" in line]
    assert line.startswith("Error: A rebuild replaces its tables, and would lose what is attached")
    app.extensions["jobquest"].stop()
