"""Lists out of a large table: whatever the filter, the same rows as a look at all of them finds,
and an amount of work that does not grow with the table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, event, insert, select, text

from jobquest.events.levels import level_for_xp
from jobquest.read import numbers, tables
from jobquest.read.database import Database
from jobquest.read.event_filter import EventFilter
from jobquest.read.event_rows import event_rows
from jobquest.read.queries import USERS as USERS_BY_XP
from jobquest.read.queries import Queries
from jobquest.read.user_stats import user_stats

EVENTS = 120_000
USERS = 30_000
LIMIT = 50
BEGAN = 1_700_000_000_000
TOPICS = ("mission-events", "achievements", "system-events")
# A look at every event takes 900,000 steps of SQLite's, or 4,200 blocks of PostgreSQL's; these do
# not grow with the table, save by a few for each 20,000 events.
MOST = {"sqlite": 400_000, "postgresql": 2_600}
# All 30,000 take 1,000,000 steps or 30,000 blocks; a level's, of which the first has some 1,300:
MOST_OF_USERS = {"sqlite": 100_000, "postgresql": 2_000}
Row = dict[str, Any]


def stored(seq: int) -> Row:
    """An event's row: times are out of order a little, one topic was only used long ago."""
    old = seq < 30_000 and seq % 100 == 0
    return {
        "seq": seq,
        "id": f"e{seq}",
        "outcome": "dead" if seq % 20_000 == 7 else "processed",
        "topic": "notifications" if old else TOPICS[seq % 3],
        "partition": 0,
        "offset": seq,
        "type": f"type.{seq * 31 % 20}",
        "user_id": f"user_{seq * 7 % USERS}",
        "time_ms": BEGAN + seq * 100 + seq * 7919 % 60_000,
        "received_ms": BEGAN,
        "caused_by": None,
        "body": "{" + " " * 200 + "}",
    }


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """Of all events, in their order: to make one takes as long as to store it."""
    return [stored(seq) for seq in range(1, EVENTS + 1)]


@pytest.fixture(scope="module", params=["sqlite", pytest.param("p", marks=pytest.mark.postgres)])
def large(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, rows: list[Row]
) -> Iterator[Database]:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('large') / 'read.db'}"
    else:
        url = request.getfixturevalue("postgres_server").new_database()
    made = Database(url)
    with made.writing() as connection:
        connection.execute(insert(tables.events), rows)
        users = [
            {"user_id": f"user_{n}", "xp": xp, "level": level_for_xp(xp), "focus_minutes": 0.0}
            for n, xp in ((n, (n * 7919 % 1000) ** 2 // 100) for n in range(USERS))
        ]
        connection.execute(insert(user_stats), users)
        numbers.begin_after(connection, EVENTS)
    if not made.is_file:
        with made.writing() as connection:
            connection.execute(text("ANALYZE"))
    yield made
    made.close()


def among(**given: Any) -> EventFilter:
    return EventFilter(**{k: frozenset(v) if isinstance(v, list) else v for k, v in given.items()})


MIDDLE, END = BEGAN + EVENTS * 50, BEGAN + EVENTS * 100
MINUTE = {"from_ms": MIDDLE, "to_ms": MIDDLE + 60_000}
FILTERS = {
    "a topic": among(topics=["achievements"]),
    "a topic of long ago": among(topics=["notifications"]),
    "a topic without events": among(topics=["user-activities"]),
    "two topics": among(topics=["achievements", "notifications"]),
    "two types": among(types=["type.3", "type.4"]),
    "an old minute": among(**MINUTE),
    "long ago": among(to_ms=BEGAN + 100_000),
    "since a time": among(from_ms=MIDDLE),
    "the future": among(from_ms=END * 2),
    "the past": among(to_ms=BEGAN - 1),
    "a type in an old minute": among(types=["type.3"], **MINUTE),
    "a topic of long ago, later": among(topics=["notifications"], from_ms=MIDDLE),
    "a topic in an old hour": among(topics=["achievements"], to_ms=BEGAN + 3_600_000),
    "the dead of a topic": among(outcomes=["dead"], topics=["achievements"]),
    "the dead of a time": among(outcomes=["dead"], to_ms=MIDDLE),
    "a user's of a topic": among(users=["user_7"], topics=["achievements"]),
    "all but a topic's": among(not_topics=["achievements"]),
}


def fits(row: Row, wanted: EventFilter) -> bool:
    return (
        wanted.matches(row["type"], row["topic"], row["user_id"])
        and (not wanted.outcomes or row["outcome"] in wanted.outcomes)
        and (wanted.from_ms is None or row["time_ms"] >= wanted.from_ms)
        and (wanted.to_ms is None or row["time_ms"] < wanted.to_ms)
    )


@pytest.mark.slow
@pytest.mark.parametrize("wanted", FILTERS.values(), ids=FILTERS.keys())
def test_a_list_has_the_right_rows_for_little_work(
    large: Database, rows: list[Row], wanted: EventFilter
) -> None:
    for after in (None, EVENTS // 3):
        top = EVENTS if after is None else after - 1
        right = (row["seq"] for row in reversed(rows[:top]) if fits(row, wanted))
        expected = [seq for seq, _ in zip(right, range(LIMIT), strict=False)]
        with large.reading() as connection:
            work = Work(connection)
            found = [row["seq"] for row in event_rows(connection, wanted, LIMIT, after)]
            assert work.done() < MOST[connection.dialect.name]
        assert found == expected


@pytest.mark.slow
def test_the_users_with_the_most_xp_are_found_for_little_work(large: Database) -> None:
    seen, after = [], None
    for _ in range(4):
        with large.reading() as connection:
            work = Work(connection)
            query = USERS_BY_XP.sort(select(user_stats), after).limit(LIMIT)
            connection.execute(query)
            assert work.done() < MOST_OF_USERS[connection.dialect.name]
        portion = Queries(large).users(limit=LIMIT, after=after)
        seen += [(-user["xp"], user["userId"]) for user in portion]
        after = portion.next
    assert seen == sorted(seen)
    assert len(set(seen)) == 4 * LIMIT


class Work:
    """Counts what the database does on a connection: SQLite's steps, PostgreSQL's blocks."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._steps = 0
        self._statements: list[tuple[str, Any]] = []
        if connection.dialect.name == "sqlite":
            driver: Any = connection.connection.driver_connection
            driver.set_progress_handler(self._step, 1_000)
        event.listen(connection.engine, "before_cursor_execute", self._note)

    def _step(self) -> int:
        self._steps += 1_000
        return 0

    def _note(self, _c: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        self._statements.append((statement, parameters))

    def done(self) -> int:
        event.remove(self._connection.engine, "before_cursor_execute", self._note)
        if self._connection.dialect.name == "sqlite":
            driver: Any = self._connection.connection.driver_connection
            driver.set_progress_handler(None, 0)
            return self._steps
        return sum(self._blocks(*statement) for statement in self._statements)

    def _blocks(self, statement: str, parameters: Any) -> int:
        explained = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}"
        [plan] = self._connection.exec_driver_sql(explained, parameters).scalar_one()
        return int(plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"])
