"""What the API and the pages ask of the read side; every answer is made of plain values.

Names of answers are the API's (camelCase); times are RFC 3339. Reads only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
from sqlalchemy import Select, Table, bindparam, func, select

from jobquest.clock import now_ms
from jobquest.events import format_time
from jobquest.read import tables
from jobquest.read.answers import Answer, camel, item_of, letter_of, retry_of, user_of
from jobquest.read.database import Database, padded
from jobquest.read.event_filter import EventFilter
from jobquest.read.letters import LetterFilter
from jobquest.read.life import life
from jobquest.read.parking import with_heads

MAX_LIMIT = 500
WINDOWS_MS = {"minute": 60_000, "hour": 3_600_000, "day": 86_400_000}
MAX_WINDOWS = 10_000
MAX_LISTED_VALUE = 10_000  # characters of a dead letter's value
MAX_GROUPS = 50
MAX_STRETCHES = 512  # looked through by one statement: each is one of its variables
TOP_USERS = 10
EVERY_EVENT = EventFilter()
Change = tuple[int, str | None, str, str | None, bytes]  # seq, type, topic, user, the item's JSON
# The feed asks twenty times a second: built once, and read as tuples, it takes a third of the time.
_CHANGED = ("seq", "type", "topic", "user_id", "partition", "offset", "outcome", "body")
_CHANGES = (
    select(*(tables.events.c[name] for name in _CHANGED))
    .where(tables.events.c.seq > bindparam("since"))
    .order_by(tables.events.c.seq)
    .limit(bindparam("limit"))
)
_LAST_CHANGE = select(tables.counter.c.epoch, tables.counter.c.seq)


class Queries:
    """Reads of the read side. All raise ReadSideUnavailable when the database is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def epoch(self) -> str:
        """Names this database's life: `seq` numbers of another epoch mean nothing here."""
        with self._database.reading() as connection:
            epoch: str = connection.execute(select(tables.counter.c.epoch)).scalar_one()
            return epoch

    def events(
        self,
        wanted: EventFilter = EVERY_EVENT,
        *,
        after: int | None = None,
        since: int | None = None,
        limit: int = 50,
    ) -> Answer:
        """Events, newest change first: `events` (items) and `next` for `after`, None at the end.

        `since`: only what changed after this one.
        """
        table = tables.events
        query = select(table).where(*wanted.conditions())
        if after is not None:
            query = query.where(table.c.seq < after)
        if since is not None:
            query = query.where(table.c.seq > since)
        limit = min(limit, MAX_LIMIT)
        query = query.order_by(table.c.seq.desc())
        if wanted.users:
            rows = self._by_stretches(query, limit + 1, after, since or 0)
        else:
            rows = self._rows(query.limit(limit + 1))
        more = len(rows) > limit
        items = [item_of(row) for row in rows[:limit]]
        return {"events": items, "next": items[-1]["seq"] if more else None}

    def _by_stretches(
        self, query: Select[Any], limit: int, after: int | None, since: int
    ) -> list[dict[str, Any]]:
        """A user's rows are looked up in one stretch of changes after the other, the newest first,
        and in ever more of them at once where there are few. `after` comes from outside: what lies
        above the last change is not looked through."""
        last = self.last_seq()
        stretch = (last if after is None else min(after, last)) // tables.STRETCH
        rows: list[dict[str, Any]] = []
        count = 1
        while stretch >= since // tables.STRETCH and len(rows) < limit:
            some = tables.STRETCH_OF.in_(range(stretch, max(-1, stretch - count), -1))
            rows += self._rows(query.where(some).limit(limit - len(rows)))
            stretch, count = stretch - count, min(count * 2, MAX_STRETCHES)
        return rows

    def changes(self, since: int, limit: int) -> list[Change]:
        """Events changed after `since`, oldest first."""
        with self._database.reading() as connection:
            rows = connection.execute(_CHANGES, {"since": since, "limit": limit}).all()
        return [_change(dict(zip(_CHANGED, row, strict=True))) for row in rows]

    def last_change(self) -> tuple[str, int]:
        """This database's life and the number of its last change: `epoch` and `last_seq` in one."""
        with self._database.reading() as connection:
            epoch, seq = connection.execute(_LAST_CHANGE).one()
            return epoch, seq

    def last_seq(self) -> int:
        """The number of the last change."""
        with self._database.reading() as connection:
            seq: int = connection.execute(select(tables.counter.c.seq)).scalar_one()
            return seq

    def event(self, id: str) -> Answer | None:
        """One event's life: where it stands, when it came, what came of it."""
        with self._database.reading() as connection:
            return life(connection, id)

    def places(self, ids: Sequence[str]) -> dict[str, Answer]:
        """Of those ids that are known: where the event stands in the log, and its time."""
        table = tables.events.c
        query = select(table.id, table.topic, table.partition, table.offset, table.time_ms)
        found = {}
        for row in self._rows(query.where(table.id.in_(padded(ids)))):
            id, row["timestamp"] = row.pop("id"), format_time(row.pop("time_ms"))
            found[id] = row
        return found

    def retries(self, limit: int = MAX_LIMIT) -> list[Answer]:
        """What is parked: first what has a next try, soonest first, then what waits behind it."""
        table = tables.parked
        query = with_heads().order_by(
            table.c.next_ms.is_(None), table.c.next_ms, table.c.appended_ms, table.c.offset
        )
        return [retry_of(row) for row in self._rows(query.limit(min(limit, MAX_LIMIT)))]

    def retry(self, id: str) -> Answer | None:
        """One parked event."""
        rows = self._rows(with_heads().where(tables.parked.c.event_id == id))
        return retry_of(rows[0]) if rows else None

    def letters(self, wanted: LetterFilter, after: int | None, limit: int) -> Answer:
        """Dead letters, newest first, their values cut to be listed: `deadLetters`, `next` for
        `after`, and `groups`, how many of all that match share an error."""
        table = tables.dead_letters
        query = select(table).where(*wanted.conditions()).order_by(table.c.id.desc())
        if after is not None:
            query = query.where(table.c.id < after)
        rows = self._rows(query.limit(limit + 1))
        listed = [letter_of(row, MAX_LISTED_VALUE) for row in rows[:limit]]
        return {
            "deadLetters": listed,
            "next": listed[-1]["id"] if len(rows) > limit else None,
            "groups": self._letter_groups(wanted),
        }

    def _letter_groups(self, wanted: LetterFilter) -> list[Answer]:
        table = tables.dead_letters
        count, newest = func.count().label("count"), func.max(table.c.id).label("newest")
        what = (table.c.error_class, table.c.error, table.c.topic)
        query = select(*what, count, newest).where(*wanted.conditions()).group_by(*what)
        query = query.order_by(count.desc(), newest.desc()).limit(MAX_GROUPS)
        return [camel(row) for row in self._rows(query)]

    def letter(self, id: int) -> Answer | None:
        """One dead letter, whole."""
        rows = self._rows(select(tables.dead_letters).where(tables.dead_letters.c.id == id))
        return letter_of(rows[0]) if rows else None

    def user(self, user_id: str) -> Answer | None:
        """A user's statistics."""
        table = tables.user_stats
        rows = self._rows(select(table).where(table.c.user_id == user_id))
        return user_of(rows[0]) if rows else None

    def users(self, q: str = "", limit: int = 50) -> list[Answer]:
        """Users whose id contains `q`, most XP first."""
        table = tables.user_stats
        query = select(table).where(table.c.user_id.contains(q, autoescape=True))
        query = query.order_by(table.c.xp.desc(), table.c.user_id).limit(min(limit, MAX_LIMIT))
        return [user_of(row) for row in self._rows(query)]

    def applications(self, user_id: str, limit: int = MAX_LIMIT) -> list[Answer]:
        """A user's application pipeline, last moved first."""
        return self._of_user(tables.applications, user_id, "updated_ms", limit)

    def notifications(self, user_id: str, limit: int = MAX_LIMIT) -> list[Answer]:
        """A user's inbox, newest first; `read` says whether it was read."""
        found = self._of_user(tables.notifications, user_id, "sent_ms", limit)
        return [
            {**notification, "read": notification["readAt"] is not None} for notification in found
        ]

    def achievements(self, user_id: str, limit: int = MAX_LIMIT) -> list[Answer]:
        """A user's achievements, newest first."""
        return self._of_user(tables.achievements, user_id, "unlocked_ms", limit)

    def challenges(self, user_id: str, limit: int = MAX_LIMIT) -> list[Answer]:
        """A user's daily challenges, last finished first."""
        return self._of_user(tables.challenges, user_id, "completed_ms", limit)

    def learning(self, user_id: str, limit: int = MAX_LIMIT) -> list[Answer]:
        """A user's learning resources, last finished first."""
        return self._of_user(tables.learning, user_id, "completed_ms", limit)

    def analytics(
        self, window: str, from_ms: int, to_ms: int, types: Sequence[str] = ()
    ) -> list[Answer]:
        """Counts by type and window of event time, oldest first; windows without events are absent.

        `window` is minute, hour or day (UTC).
        """
        table, size = tables.minute_counts, WINDOWS_MS[window]
        start = (table.c.minute_ms - table.c.minute_ms % size).label("start")
        query = (
            select(start, table.c.type, func.sum(table.c.count).label("count"))
            .where(table.c.minute_ms >= from_ms - from_ms % size, table.c.minute_ms < to_ms)
            .group_by(start, table.c.type)
            .order_by(start, table.c.type)
        )
        if types:
            query = query.where(table.c.type.in_(types))
        windows: dict[int, Answer] = {}
        for row in self._rows(query):
            entry = windows.setdefault(
                row["start"], {"start": format_time(row["start"]), "total": 0, "counts": {}}
            )
            entry["counts"][row["type"]] = int(row["count"])
            entry["total"] += int(row["count"])
        return list(windows.values())

    def overview(self, from_ms: int, to_ms: int) -> Answer:
        """Applications by status, XP per day (UTC) between two times of events, the users with the
        most XP, learning by type of resource."""
        jobs, days, learnt = tables.applications, tables.daily_xp, tables.learning
        count = func.count().label("count")
        by_status = select(jobs.c.status, count).group_by(jobs.c.status)
        of_days = select(days).where(days.c.day_ms >= from_ms - from_ms % WINDOWS_MS["day"])
        by_kind = select(
            learnt.c.resource_type,
            func.count(learnt.c.started_ms).label("started"),
            func.count(learnt.c.completed_ms).label("completed"),
        ).group_by(learnt.c.resource_type)
        return {
            "applications": self._rows(
                by_status.order_by(count.desc(), jobs.c.status).limit(MAX_GROUPS)
            ),
            "xpPerDay": [
                {"day": format_time(row["day_ms"]), "xp": row["xp"]}
                for row in self._rows(of_days.where(days.c.day_ms < to_ms).order_by(days.c.day_ms))
            ],
            "topUsers": self.users(limit=TOP_USERS),
            "learning": [
                camel(row)
                for row in self._rows(by_kind.order_by(learnt.c.resource_type).limit(MAX_GROUPS))
            ],
        }

    def minutes(self, count: int) -> list[Answer]:
        """What the consumer did in each of the last `count` minutes of its own clock, oldest first;
        minutes in which nothing was done are absent."""
        table = tables.minutes
        since = now_ms() - count * WINDOWS_MS["minute"]
        query = select(table).where(table.c.minute_ms > since).order_by(table.c.minute_ms)
        return [camel(row) for row in self._rows(query)]

    def outcomes(self) -> dict[str, int]:
        """How many letters are open, how many records of our own wait for the log and how many
        events for another try: what an operator looks for."""
        is_open = tables.dead_letters.c.state == "open"
        with self._database.reading() as connection:
            return {
                name: connection.execute(select(func.count()).select_from(what)).scalar_one()
                for name, what in (
                    ("deadLetters", select(tables.dead_letters.c.id).where(is_open).subquery()),
                    ("followUpsWaiting", tables.outgoing),
                    ("retrying", tables.parked),
                )
            }

    def _of_user(self, table: Table, user_id: str, newest: str, limit: int) -> list[Answer]:
        query = select(table).where(table.c.user_id == user_id)
        query = query.order_by(func.coalesce(table.c[newest], 0).desc()).limit(
            min(limit, MAX_LIMIT)
        )
        return [camel(row) for row in self._rows(query)]

    def _rows(self, query: Select[Any]) -> list[dict[str, Any]]:
        with self._database.reading() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]


def _change(row: dict[str, Any]) -> Change:
    item = orjson.dumps(item_of(row, orjson.Fragment))
    return row["seq"], row["type"], row["topic"], row["user_id"], item
