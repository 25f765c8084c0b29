"""What the API and the pages ask of the read side; every answer is made of plain values.

Names of answers are the API's (camelCase); times are RFC 3339. Reads only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from itertools import groupby
from typing import Any

import orjson
from sqlalchemy import Connection, Select, Table, bindparam, false, func, select

from jobquest.clock import now_ms
from jobquest.events import format_time
from jobquest.events.personal import masked_json, may_be_in
from jobquest.read import listed, numbers, tables
from jobquest.read.answers import (
    Answer,
    camel,
    dead_letter_of,
    item_of,
    place_of,
    retry_of,
    user_of,
)
from jobquest.read.cursor import Cursor
from jobquest.read.database import Database, padded
from jobquest.read.dead_letters import DeadLetterFilter
from jobquest.read.event_filter import EventFilter
from jobquest.read.event_rows import event_rows
from jobquest.read.life import life
from jobquest.read.parking import with_heads
from jobquest.read.portions import MAX_BYTES, SMALL_ROWS, Key, Order, Portion, Row, each, fill
from jobquest.read.projections import USER_LISTS, applications, daily_xp, learning, minute_counts
from jobquest.read.user_stats import user_stats

MAX_LIMIT = 500
WINDOWS_MS = {"minute": 60_000, "hour": 3_600_000, "day": 86_400_000}
MAX_WINDOWS = 10_000
MAX_GROUPS = 50
TOP_USERS = 10
EVERY_EVENT = EventFilter()
# seq, type, topic, user, the item's JSON with personal data masked, and as it is
Change = tuple[int, str | None, str, str | None, bytes, bytes]
# The feed asks twenty times a second: built once, and read as tuples, it takes a third of the time.
_CHANGES = (
    select(*listed.event_columns())
    .where(tables.events.c.seq > bindparam("since"), tables.events.c.seq < bindparam("below"))
    .order_by(tables.events.c.seq.desc())
    .limit(bindparam("limit"))
)
_CHANGED = tuple(column.name for column in tables.events.columns)
_LATEST = 2**62  # of what has no time for its next try: it comes last
RETRIES = Order(
    Key(func.coalesce(tables.parked.c.next_ms, _LATEST), "next_ms", int, instead=_LATEST),
    Key(tables.parked.c.appended_ms, "appended_ms", int),
    Key(tables.parked.c.offset, "offset", int),
    Key(tables.parked.c.event_id, "event_id", str),
)
USERS = Order(
    Key(user_stats.c.level, "level", int, falling=True),  # has an index, and rises with XP
    Key(user_stats.c.xp, "xp", int, falling=True),
    Key(user_stats.c.user_id, "user_id", str),
)
_EVERY_TABLE = select(
    *(select(*table.columns).where(false()).exists() for table in tables.metadata.sorted_tables)
)
_EPOCH = select(tables.epoch.c.name)
# The events that the same transaction reads afterwards are of this epoch: on PostgreSQL, naming
# their table locks it against the swap of a rebuild; SQLite reads one state of everything.
_EPOCH_OF_EVENTS = _EPOCH.where(~select(tables.events.c.seq).where(false()).exists())


class Queries:
    """Reads of the read side. All raise ReadSideUnavailable when the database is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def epoch(self) -> str:
        """Names this database's life: `seq` numbers of another epoch mean nothing here."""
        with self._database.asking() as connection:
            return _epoch(connection)

    def events(
        self,
        wanted: EventFilter = EVERY_EVENT,
        *,
        after: Cursor | None = None,
        since: Cursor | None = None,
        limit: int = 50,
        room: int = MAX_BYTES,
    ) -> Answer:
        """Events, newest change first: `events` (items) and `next` for `after`, None at the end.

        `since`: only what changed after this one. `room`: for how many bytes of items. Raises
        CursorOutdated.
        """
        limit = min(limit, MAX_LIMIT)
        with self._database.reading() as connection:
            epoch: str = connection.execute(_EPOCH_OF_EVENTS).scalar_one()
            below = after and after.seq_in(epoch, "after")
            above = since and since.seq_in(epoch, "since")

            def place(row: Row) -> str:
                return str(Cursor(row["seq"], epoch))

            with closing(event_rows(connection, wanted, limit + 1, below, above)) as rows:
                found = fill(rows, lambda row: item_of(row, room), limit, room, place)
        return {"events": found, "next": found.next}

    def changes(self, since: int, limit: int, below: int = _LATEST) -> list[Change]:
        """The last `limit` events that changed after `since` and before `below`, oldest first."""
        bounds = {"since": since, "below": below, "limit": limit}
        with self._database.reading() as connection:
            rows = connection.execute(_CHANGES, bounds).all()
        return [_change(dict(zip(_CHANGED, row, strict=True))) for row in reversed(rows)]

    def last_change(self) -> tuple[str, int]:
        """This database's life and the number of its last change: `epoch` and `last_seq` in one."""
        with self._database.asking() as connection:
            return _epoch(connection), numbers.last(connection)

    def check_tables(self) -> None:
        """Raise what the database says if a table, a column, or the right to read one is missing;
        ReadSideUnavailable if it is away."""
        with self._database.reading() as connection:
            connection.execute(_EVERY_TABLE)

    def last_seq(self) -> int:
        """The number of the last change."""
        with self._database.asking() as connection:
            return numbers.last(connection)

    def event(self, id: str) -> Answer | None:
        """One event's life: its position, when it was received, and its outcome."""
        with self._database.reading() as connection:
            return life(connection, id)

    def places(self, ids: Sequence[str]) -> dict[str, Answer]:
        """The position in the log and the time of each known event."""
        table = tables.events.c
        query = select(table.id, table.topic, table.partition, table.offset, table.time_ms)
        found = {}
        for row in self._rows(query.where(table.id.in_(padded(ids)))):
            id, row["timestamp"] = row.pop("id"), format_time(row.pop("time_ms"))
            found[id] = row
        return found

    def retries(
        self, limit: int = MAX_LIMIT, after: str | None = None, room: int = MAX_BYTES
    ) -> Portion:
        """What is parked: first what has a next try, soonest first, then what waits behind it."""
        return self._portion(with_heads(), RETRIES, retry_of, limit, after, room)

    def retry(self, id: str) -> Answer | None:
        """One parked event."""
        rows = self._rows(with_heads().where(tables.parked.c.event_id == id))
        return retry_of(rows[0]) if rows else None

    def dead_letters(
        self, wanted: DeadLetterFilter, after: int | None, limit: int, room: int = MAX_BYTES
    ) -> Answer:
        """Dead letters, newest first, their values cut to be listed: `deadLetters`, `next` for
        `after`, and `groups`, how many of all that match share an error."""
        groups = self._dead_letter_groups(wanted)
        query = listed.dead_letters().where(*wanted.conditions())
        if after is not None:
            query = query.where(tables.dead_letters.c.id < after)
        query = query.limit(limit + 1)
        room -= len(orjson.dumps(groups))
        with self._database.reading() as connection, closing(each(connection, query)) as rows:
            found = fill(rows, lambda row: dead_letter_of(row, listed.MAX_VALUE), limit, room, _id)
        return {"deadLetters": found, "next": found.next, "groups": groups}

    def _dead_letter_groups(self, wanted: DeadLetterFilter) -> list[Answer]:
        table = tables.dead_letters
        count, newest = func.count().label("count"), func.max(table.c.id).label("newest")
        what = (table.c.error_class, table.c.error, table.c.topic)
        query = select(*what, count, newest).where(*wanted.conditions()).group_by(*what)
        query = query.order_by(count.desc(), newest.desc()).limit(MAX_GROUPS)
        return [camel(row) for row in self._rows(query)]

    def dead_letter(self, id: int) -> Answer | None:
        """One dead letter, whole."""
        rows = self._rows(select(tables.dead_letters).where(tables.dead_letters.c.id == id))
        return dead_letter_of(rows[0]) if rows else None

    def user(self, user_id: str) -> Answer | None:
        """A user's statistics."""
        table = user_stats
        rows = self._rows(select(table).where(table.c.user_id == user_id))
        return user_of(rows[0]) if rows else None

    def users(
        self, q: str = "", limit: int = 50, after: str | None = None, room: int = MAX_BYTES
    ) -> Portion:
        """Users whose id contains `q`, most XP first."""
        table = user_stats
        query = select(table)
        if q:
            query = query.where(table.c.user_id.contains(q, autoescape=True))
        return self._portion(query, USERS, user_of, limit, after, room)

    def user_list(
        self, name: str, user_id: str, limit: int = MAX_LIMIT, after: str | None = None
    ) -> Portion:
        """A user's rows of one of `USER_LISTS`, newest first."""
        table, listed_as = USER_LISTS[name].table, USER_LISTS[name].listed
        assert listed_as

        def item(row: Row) -> Answer:
            flags = {flag: row[column] is not None for flag, column in listed_as.flags.items()}
            return {**camel(row), **flags}

        query = select(table).where(table.c.user_id == user_id)
        order = _newest_first(table, listed_as.newest)
        return self._portion(query, order, item, limit, after, MAX_BYTES)

    def analytics(
        self,
        window: str,
        from_ms: int,
        to_ms: int,
        types: Sequence[str] = (),
        after_ms: int | None = None,
    ) -> Portion:
        """Counts by type and window of event time, oldest first; windows without events are absent.

        `window` is minute, hour or day (UTC). `next` is the last window's start, for `after_ms`.
        """
        table, size = minute_counts, WINDOWS_MS[window]
        start = (table.c.minute_ms - table.c.minute_ms % size).label("start")
        if after_ms is not None:
            from_ms = max(from_ms, after_ms - after_ms % size + size)
        query = (
            select(start, table.c.type, func.sum(table.c.count).label("count"))
            .where(table.c.minute_ms >= from_ms - from_ms % size, table.c.minute_ms < to_ms)
            .group_by(start, table.c.type)
            .order_by(start, table.c.type)
        )
        if types:
            query = query.where(table.c.type.in_(sorted(set(types))))
        with (
            self._database.reading() as connection,
            closing(each(connection, query, SMALL_ROWS)) as rows,
        ):
            windows = (list(rows) for _, rows in groupby(rows, lambda row: row["start"]))
            return fill(map(_window, windows), dict, MAX_WINDOWS, MAX_BYTES, lambda w: w["start"])

    def overview(self, from_ms: int, to_ms: int) -> Answer:
        """Applications by status, XP per day (UTC) between two times of events, the users with the
        most XP, learning by type of resource."""
        jobs, days, learnt = applications, daily_xp, learning
        count = func.count().label("count")
        by_status = select(jobs.c.status, count).group_by(jobs.c.status)
        of_days = select(days).where(days.c.day_ms >= from_ms - from_ms % WINDOWS_MS["day"])
        by_kind = select(
            learnt.c.resource_type,
            func.count(learnt.c.started_ms).label("started"),
            func.count(learnt.c.completed_ms).label("completed"),
        ).group_by(learnt.c.resource_type)
        return {
            "applications": [
                camel(row)
                for row in self._rows(
                    by_status.order_by(count.desc(), jobs.c.status).limit(MAX_GROUPS)
                )
            ],
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

    def minutes(self, count: int, after_ms: int = 0) -> Portion:
        """What the consumer did in each of the last `count` minutes of its clock, oldest first.
        Minutes without any work are absent. `next` is the last one, for `after_ms`."""
        table = tables.minutes
        since = max(after_ms, now_ms() - count * WINDOWS_MS["minute"])
        query = select(table).where(table.c.minute_ms > since).order_by(table.c.minute_ms)
        with (
            self._database.reading() as connection,
            closing(each(connection, query, SMALL_ROWS)) as rows,
        ):
            return fill(rows, camel, MAX_WINDOWS, MAX_BYTES, lambda r: format_time(r["minute_ms"]))

    def outcomes(self) -> dict[str, int]:
        """How many dead letters are open, how many records of our own wait for the log and how many
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

    def _portion(
        self,
        query: Select[Any],
        order: Order,
        make: Callable[[Row], Answer],
        limit: int,
        after: str | None,
        room: int,
    ) -> Portion:
        limit = min(limit, MAX_LIMIT)
        query = order.sort(query, after).limit(limit + 1)
        with (
            self._database.reading() as connection,
            closing(each(connection, query, SMALL_ROWS)) as rows,
        ):
            return fill(rows, make, limit, room, order.place)

    def _rows(self, query: Select[Any]) -> list[dict[str, Any]]:
        with self._database.reading() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]


def _change(row: Row) -> Change:
    if row["body"] is None:
        item = masked = orjson.dumps(item_of(row))
    else:
        body = row["body"].encode()
        item = masked = orjson.dumps({**place_of(row), "event": orjson.Fragment(body)})
        if may_be_in(body):
            event = orjson.Fragment(masked_json(body))
            masked = orjson.dumps({**place_of(row), "event": event})
    return row["seq"], row["type"], row["topic"], row["user_id"], masked, item


def _window(rows: Sequence[Row]) -> Answer:
    """Of one window's rows, one for each type."""
    counts = {row["type"]: int(row["count"]) for row in rows}
    start = format_time(rows[0]["start"])
    return {"start": start, "total": sum(counts.values()), "counts": counts}


def _newest_first(table: Table, column: str) -> Order:
    """Of one user's rows; those without a time come last."""
    _, key = table.primary_key.columns.keys()
    return Order(
        Key(func.coalesce(table.c[column], 0), column, int, falling=True, instead=0),
        Key(table.c[key], key, str),
    )


def _id(row: Row) -> int:
    """A rebuild keeps the ids of dead letters, so they need no epoch."""
    id: int = row["id"]
    return id


def _epoch(connection: Connection) -> str:
    found: str = connection.execute(_EPOCH).scalar_one()
    return found
