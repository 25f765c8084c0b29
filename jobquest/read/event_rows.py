"""Finds the rows of a list of events, newest change first, without reading all the others.

Called by `queries.py`. Each filter has its index, and each statement reads a bounded part of that
index: no wrong guess of a planner makes it scan or sort ten million rows.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Select, literal, or_, select, tuple_, union_all

from jobquest.events import TOPICS
from jobquest.read import listed, tables
from jobquest.read.event_filter import EventFilter
from jobquest.read.numbers import last
from jobquest.read.portions import Row, each

MAX_BUCKETS = 512  # in one statement: each is one of its variables
MAX_VALUES = 100  # types or topics: each is a part of a UNION, of which SQLite allows 500
_BEYOND_ALL = 2**62
_EVENTS = tables.events
_SEQ = _EVENTS.c.seq
_NEWEST_FIRST = select(*listed.event_columns()).order_by(_SEQ.desc())


def event_rows(
    connection: Connection,
    wanted: EventFilter,
    limit: int,
    after: int | None = None,
    since: int | None = None,
) -> Generator[Row]:
    """The first `limit` rows below `after` and above `since`.

    With a `since`, no row above the last change: whoever continues after the newest row that is
    found misses nothing.
    """
    low, beyond = (since or 0) + 1, _BEYOND_ALL if after is None else after
    if since is not None:
        beyond = min(beyond, last(connection) + 1)

    def query(by: str = "") -> Select[Any]:
        within = (low <= _SEQ, beyond > _SEQ)
        return _NEWEST_FIRST.where(*within, *wanted.conditions(by)).limit(limit)

    has_times = wanted.from_ms is not None or wanted.to_ms is not None
    if wanted.users:
        yield from _of_users(connection, query("user_id"), limit, low, beyond)
    elif wanted.is_rare:
        yield from each(connection, query())
    elif 0 < len(wanted.types) <= MAX_VALUES:
        if has_times:
            buckets = _buckets(connection, wanted, low, beyond)
            low = max(low, (buckets[-1] if buckets else 0) * tables.PLACE_BUCKET)
            beyond = min(beyond, (buckets[0] + 1 if buckets else 0) * tables.PLACE_BUCKET)
        yield from each(connection, _of_types(connection, wanted, limit, low, beyond))
    elif (has_times or wanted.topics) and len(wanted.topics) <= MAX_VALUES:
        # The index needs a topic before the time.
        wanted = wanted if wanted.topics else replace(wanted, topics=frozenset(TOPICS))
        buckets = _buckets(connection, wanted, low, beyond)
        yield from _in_buckets(connection, query("topic"), buckets, limit)
    else:
        yield from each(connection, query())


def _of_types(
    connection: Connection, wanted: EventFilter, limit: int, low: int, beyond: int
) -> Select[Any]:
    """The first rows of all these types together: the first of each type, merged."""
    type, rest = _EVENTS.c.type, replace(wanted, types=frozenset()).conditions()
    found = []
    for value in sorted(wanted.types):
        query = select(_SEQ).where(*rest).limit(limit)
        if connection.dialect.name == "sqlite":
            query = query.where(type == value, low <= _SEQ, beyond > _SEQ).order_by(_SEQ.desc())
        else:  # only the index has the order of a pair, so the planner can't choose another plan
            place = tuple_(type, _SEQ)
            query = query.where(
                place >= tuple_(literal(value), literal(low)),
                place < tuple_(literal(value), literal(beyond)),
            ).order_by(type.desc(), _SEQ.desc())
        found.append(query.subquery())
    seqs = union_all(*(select(one.c.seq) for one in found))
    return _NEWEST_FIRST.where(_SEQ.in_(seqs)).limit(limit)


def _buckets(connection: Connection, wanted: EventFilter, low: int, beyond: int) -> Sequence[int]:
    """The buckets of changes that have an event of these topics and times, newest first."""
    newest = min(last(connection), beyond) // tables.PLACE_BUCKET
    oldest = low // tables.PLACE_BUCKET
    numbers = select(literal(newest).label("number")).cte(recursive=True)
    number = numbers.c.number
    numbers = numbers.union_all(select(number - 1).where(number > literal(oldest)))
    here = tables.PLACE_BUCKET_OF.op("=")(numbers.c.number)
    time = _EVENTS.c.time_ms
    found = [
        # Sorted as the index is: otherwise a planner that hopes for an early match scans all rows.
        select(_SEQ)
        .where(here, _EVENTS.c.topic == topic, *wanted.times(time))
        .order_by(time)
        .limit(1)
        .scalar_subquery()
        .is_not(None)
        for topic in sorted(wanted.topics or TOPICS)
    ]
    query = select(numbers.c.number).where(or_(*found)).order_by(numbers.c.number.desc())
    return connection.execute(query).scalars().all()


def _in_buckets(
    connection: Connection, query: Select[Any], buckets: Iterable[int], limit: int
) -> Generator[Row]:
    for bucket in buckets:
        first = bucket * tables.PLACE_BUCKET
        within = (first <= _SEQ, first + tables.PLACE_BUCKET > _SEQ)  # if the primary key is used
        here = query.where(tables.PLACE_BUCKET_OF.in_([bucket]), *within).limit(limit)
        seqs = here.with_only_columns(_SEQ)
        for row in each(connection, _NEWEST_FIRST.where(_SEQ.in_(seqs))):
            limit -= 1
            yield row
        if not limit:
            return


def _of_users(
    connection: Connection, query: Select[Any], limit: int, low: int, beyond: int
) -> Generator[Row]:
    """A user's rows are looked up bucket by bucket, newest first, and in more buckets at once while
    few are found. `beyond` is a client's number: buckets above the last change are skipped."""
    bucket = min(beyond, last(connection)) // tables.SEQ_BUCKET
    count = 1
    while bucket >= low // tables.SEQ_BUCKET and limit:
        some = tables.SEQ_BUCKET_OF.in_(range(bucket, max(-1, bucket - count), -1))
        for row in each(connection, query.where(some).limit(limit)):
            limit -= 1
            yield row
        bucket, count = bucket - count, min(count * 2, MAX_BUCKETS)
