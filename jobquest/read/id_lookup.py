"""Looks up whether events are processed already: for many threads, with few queries.

Requests that wait at the same time share one query, as their appends share one commit. Called by
the producer through `ReadSide.processed`. This module only waits; the query is passed in.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from jobquest.errors import ReadSideUnavailable
from jobquest.events.requests import MAX_BATCH_EVENTS

MAX_IDS = MAX_BATCH_EVENTS  # in one query

Query = Callable[[Sequence[str]], Mapping[str, bytes]]
"""Ids → the stored JSON of those that are processed."""


class IdLookup:
    """Shares `query` among threads. A caller that finds no query running starts one at once, for
    itself. Callers that arrive during a query join the next one, which one of them runs for all. A
    query starts only after its callers have arrived, so each sees what was committed before its
    call."""

    def __init__(self, query: Query) -> None:
        self._query = query
        self._lock = threading.Lock()
        self._waiting: deque[_Lookup] = deque()
        self._has_leader = False  # a thread runs a query, or has been woken to run the next one

    def contents(self, ids: Sequence[str]) -> dict[str, bytes]:
        """The JSON of those events that are processed, by id. Raises what the query raises."""
        lookup = _Lookup(ids)
        with self._lock:
            self._waiting.append(lookup)
            leads, self._has_leader = not self._has_leader, True
        if not leads:
            self._wait(lookup)
        if not lookup.answered:
            self._lead()
        return lookup.answer()

    def _wait(self, lookup: _Lookup) -> None:
        try:
            lookup.wait()
        except BaseException:  # a signal's: the others must not wait for a leader that has gone
            with self._lock:
                left = lookup in self._waiting
                if left:
                    self._waiting.remove(lookup)
                leader = self._next_leader() if left and lookup.leads else None
            if leader:
                leader.wake()
            raise

    def _lead(self) -> None:
        """Run the query for all waiting lookups, the own one first; choose the next leader."""
        with self._lock:
            group = self._take_group()
        found: Mapping[str, bytes] = {}
        error: BaseException | None = None
        try:
            found = self._query([id for lookup in group for id in lookup.ids])
        except BaseException as raised:
            error = raised
        with self._lock:
            leader = self._next_leader()
        if leader:
            leader.wake()  # first, so that the next query does not wait until these are answered
        for lookup in group:
            lookup.settle(found, error)
        if error and not isinstance(error, Exception):  # a signal's, only for this thread
            raise error

    def _next_leader(self) -> _Lookup | None:
        self._has_leader = bool(self._waiting)
        if not self._waiting:
            return None
        self._waiting[0].leads = True
        return self._waiting[0]

    def _take_group(self) -> list[_Lookup]:
        """The first lookups that together have at most MAX_IDS ids, but at least one lookup."""
        group = [self._waiting.popleft()]
        count = len(group[0].ids)
        while self._waiting and count + len(self._waiting[0].ids) <= MAX_IDS:
            group.append(self._waiting.popleft())
            count += len(group[-1].ids)
        return group


class _Lookup:
    """One caller's ids, and later its answer."""

    __slots__ = ("_error", "_found", "_gate", "answered", "ids", "leads")

    def __init__(self, ids: Sequence[str]) -> None:
        self.ids = ids
        self.answered = False
        self.leads = False  # runs the next query
        self._found: Mapping[str, bytes] = {}
        self._error: BaseException | None = None
        self._gate = threading.Lock()
        self._gate.acquire()

    def wait(self) -> None:
        self._gate.acquire()

    def wake(self) -> None:
        self._gate.release()

    def settle(self, found: Mapping[str, bytes], error: BaseException | None) -> None:
        self._found, self._error, self.answered = found, error, True
        self.wake()

    def answer(self) -> dict[str, bytes]:
        if self._error is None:
            found = self._found
            return {id: found[id] for id in self.ids if id in found} if found else {}
        if isinstance(self._error, ReadSideUnavailable):  # each thread raises its own exception
            raise ReadSideUnavailable(str(self._error)) from self._error
        if isinstance(self._error, Exception):
            raise self._error
        raise ReadSideUnavailable("The thread that queried the database was ended.")
