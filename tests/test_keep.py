"""What grows with time is kept for so many days: failed tries, closed dead letters, minutes."""

from __future__ import annotations

import pytest
from sqlalchemy import insert, text, update

from jobquest.clock import now_ms
from jobquest.read import history, tables
from jobquest.read.dead_letters import DeadLetterFilter
from jobquest.read.history import DAY_MS, forget_old
from jobquest.runtime import Runtime
from tests.postgres import Postgres
from tests.service import wait_for
from tests.test_consumer import consume
from tests.test_rebuild import dead_letter_of, die, live_a_life, lose, rows_of, run_sql
from tests.test_rebuild import settings as settings
from tests.test_retries import failing, publish

KEEP = 90
BOUNDED = (tables.attempts, tables.dead_letters, tables.minutes)


def wait_days(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is older now than it is kept."""
    monkeypatch.setattr(history, "now_ms", lambda: now_ms() + (KEEP + 1) * DAY_MS)


def forget(runtime: Runtime) -> int:
    """Forget all that there is to forget; in how many steps."""
    steps = 0
    while forget_old(runtime.database, KEEP):
        steps += 1
    return steps


def test_what_is_younger_stays(runtime: Runtime) -> None:
    live_a_life(runtime)
    before = rows_of(runtime, BOUNDED)
    assert all(before.values())
    assert forget(runtime) == 0
    assert rows_of(runtime, BOUNDED) == before


def test_what_is_older_goes_but_open_dead_letters_stay(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    live_a_life(runtime)
    before = rows_of(runtime, BOUNDED)
    opened = [row for row in before["dead_letters"] if row["state"] == "open"]
    assert 0 < len(opened) < len(before["dead_letters"])
    wait_days(monkeypatch)
    assert forget(runtime) > 0
    assert rows_of(runtime, BOUNDED) == {"attempts": [], "minutes": [], "dead_letters": opened}


def test_a_step_is_small(runtime: Runtime) -> None:
    tries = {"event_id": "e", "error": "e", "error_class": "E", "outcome": "dead", "failed_ms": 1}
    many = [{**tries, "number": number} for number in range(history.FORGOTTEN_ROWS * 2 + 1)]
    with runtime.database.writing() as connection:
        connection.execute(insert(tables.attempts), many)
    assert forget(runtime) == 3


def test_what_is_forgotten_does_not_come_back_through_a_rebuild(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    live_a_life(runtime)
    handler = failing(
        runtime, "eve"
    )  # a repeat came while its event waited, and both were given up
    publish(runtime, "eve0", "eve")
    consume(runtime)
    publish(runtime, "eve0", "eve")
    consume(runtime)
    die(runtime, "eve0")
    runtime.dead_letters.discard(dead_letter_of(runtime, "eve0"), "not ours")
    consume(runtime)
    before, seen = rows_of(runtime), list(handler.seen)
    wait_days(monkeypatch)
    forget(runtime)
    kept = rows_of(runtime, (tables.dead_letters,))
    for _ in range(2):
        made = runtime.rebuild.run()
        assert (made.dead_lettered, made.lost) == (0, 0)
        assert rows_of(runtime) == before
        assert rows_of(runtime, (tables.dead_letters,)) == kept
    again = lose(runtime)
    again.rebuild.run()
    assert rows_of(again) == before
    assert again.dead_letters.ids(DeadLetterFilter(state="discarded"), 10) == []
    assert again.dead_letters.ids(DeadLetterFilter(state="redriven"), 10) == []
    again.rebuild.run()
    assert rows_of(again) == before
    assert handler.seen == seen
    again.stop()


def test_a_running_service_forgets_by_itself(runtime: Runtime) -> None:
    live_a_life(runtime)
    run_sql(
        runtime,
        update(tables.attempts).values(failed_ms=1),
        update(tables.dead_letters).values(died_ms=1),
    )
    runtime.start()
    wait_for(lambda: not rows_of(runtime, (tables.attempts,))["attempts"], 20)

    def states() -> set[str]:
        return {row["state"] for row in rows_of(runtime, (tables.dead_letters,))["dead_letters"]}

    wait_for(lambda: states() == {"open"}, 20)


@pytest.mark.postgres
@pytest.mark.parametrize("database", ["postgres"], indirect=True)
def test_one_process_at_a_time_forgets(
    runtime: Runtime, postgres_server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    live_a_life(runtime)
    wait_days(monkeypatch)
    with runtime.database.writing() as other:
        other.execute(text(f"SELECT pg_advisory_xact_lock({history._FORGET_LOCK})"))
        assert forget_old(runtime.database, KEEP) == 0
    assert forget_old(runtime.database, KEEP) > 0
