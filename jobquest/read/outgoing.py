"""Our own records that wait for the log: follow-ups, dead letters, retries.

The transaction that causes a record stores it in the table `outgoing`, and its row stays until the
log has confirmed it. Follow-ups, which are many, also go to the relay in memory, so that it need
not read them from the database. This module publishes nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from itertools import accumulate, islice

from sqlalchemy import ColumnElement, Connection, func, or_, select

from jobquest.events import TOPICS, Event
from jobquest.log import NewRecord, dump_headers, rescued_headers
from jobquest.read import tables
from jobquest.read.database import Database, padded
from jobquest.read.shared_clock import database_now
from jobquest.read.statements import Values, delete_rows, statements

LEFT_AFTER_MS = 5_000  # follow-ups that are no longer in the memory of a process that lives
LATE_AFTER_MS = 60_000  # whatever their process does
KEPT = 5_000  # follow-ups in memory; what does not fit is read from the database
BYTES = 8 * 1024 * 1024  # of records read from the database at a time

Waiting = list[tuple[str, NewRecord]]
"""Ids in the table, and their records."""


def records_of(events: Sequence[Event]) -> Waiting:
    """The records of follow-ups, each once: two events may cause the same one."""
    return [
        (id, NewRecord(one.topic, one.user_id.encode(), one.to_json(), one.headers()))
        for id, one in {event.id: event for event in events}.items()
    ]


class Outgoing:
    """The table, for the process `process_id`. Only the relay takes and deletes."""

    def __init__(self, database: Database, process_id: str) -> None:
        self._database = database
        self._process_id = process_id
        self._kept: deque[tuple[str, NewRecord]] = deque(maxlen=KEPT)

    def rows(self, records: Waiting, now_ms: int) -> list[Values]:
        """The rows of records, for the transaction that causes them."""
        return [
            (id, self._process_id, now_ms, one.topic, one.key, one.value, dump_headers(one.headers))
            for id, one in records
        ]

    def keep(self, records: Waiting) -> None:
        """Keep follow-ups for the relay, once their rows are committed."""
        self._kept.extend(records)

    def take(self, limit: int, without: Collection[str] = ()) -> Waiting:
        """The oldest follow-ups that were kept; nobody keeps them any longer. Those for the topics
        in `without` stay in the table only."""
        taken = [self._kept.popleft() for _ in range(min(limit, len(self._kept)))]
        return [one for one in taken if one[1].topic not in without]

    def left(self, limit: int, without: Collection[str] = (), *, busy: bool = False) -> Waiting:
        """What else waits, oldest first, without the topics in `without`: dead letters and retries
        of this process, follow-ups that it no longer keeps, and all that processes have left that
        have ended or hang. As many as fit into BYTES, but at least one.

        If this process is `busy` with follow-ups that it kept, their rows are here too: its own
        follow-ups have to wait."""
        table = tables.outgoing
        sizes = [func.coalesce(func.length(table.c[name]), 0) for name in ("key", "value")]
        size = sum(sizes, func.length(table.c.headers)).label("size")
        with self._database.asking() as connection:
            found = connection.execute(
                select(table.c.id, size)
                .where(self._is_left(connection, busy), table.c.topic.not_in(without))
                .order_by(table.c.created_ms)
                .limit(limit)
            ).all()
            fitting = sum(total <= BYTES for total in accumulate(row.size for row in found))
            ids = [row.id for row in islice(found, max(1, fitting))]  # one may be larger
            if not ids:
                return []
            rows = connection.execute(select(table).where(table.c.id.in_(padded(ids))))
            records = {
                row.id: NewRecord(row.topic, row.key, row.value, rescued_headers(row.headers))
                for row in rows
            }
        return [(id, records[id]) for id in ids if id in records]  # another process may be faster

    def _is_left(self, connection: Connection, busy: bool) -> ColumnElement[bool]:
        table, processes = tables.outgoing, tables.processes
        now = database_now(connection)
        alive = select(processes.c.id).where(processes.c.heartbeat_ms > now - LEFT_AFTER_MS)
        is_mine = table.c.process == self._process_id
        is_late = table.c.created_ms < now - LATE_AFTER_MS
        is_lost = ~is_mine & (table.c.process.not_in(alive) | is_late)
        return or_(
            is_mine & table.c.topic.not_in(TOPICS),
            (table.c.created_ms < now - LEFT_AFTER_MS) & (is_lost if busy else is_lost | is_mine),
        )

    def since(self) -> tuple[int | None, int]:
        """Since when the oldest record of any process waits (None: none waits), and now, in Unix
        milliseconds of the database's clock."""
        oldest = select(func.min(tables.outgoing.c.created_ms)).scalar_subquery()
        with self._database.asking() as connection:
            oldest_ms, now = connection.execute(select(oldest, database_now(connection))).one()
            return oldest_ms, now

    def sent(self, ids: Sequence[str]) -> None:
        """Delete records that the log has accepted."""
        with self._database.applying() as connection, statements(connection) as run:
            delete_rows(run, tables.outgoing, ids)
