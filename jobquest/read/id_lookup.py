"""Whether events are processed already, asked by many threads at once and of the database rarely.

Requests that wait at the same time share one query, as their appends share one commit. Called by
the producer through `ReadSide.processed`; it knows how to wait, and gets the query from outside.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from jobquest.errors import ReadSideUnavailable
from jobquest.events.requests import MAX_BATCH_EVENTS

MAX_IDS = MAX_BATCH_EVENTS  # of a query

Query = Callable[[Sequence[str]], Mapping[str, bytes]]
"""Ids → the stored JSON of those that are processed."""


class IdLookup:
    """Shares `query` among threads. Whoever comes while nobody asks, asks at once, for itself;
    whoever comes during a query joins the next one, which one of them runs for all. A query begins
    only after its callers came, so each sees what was committed before its call."""

    def __init__(self, query: Query) -> None:
        self._query = query
        self._lock = threading.Lock()
        self._waiting: deque[_Lookup] = deque()
        self._has_leader = False  # a thread runs a query, or is woken to run the next one

    def contents(self, ids: Sequence[str]) -> dict[str, bytes]:
        """Of those ids that are processed: the event as JSON. Raises what the query raises."""
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
        except BaseException:  # a signal's: the others must not wait for a leader that has left
            with self._lock:
                left = lookup in self._waiting
                if left:
                    self._waiting.remove(lookup)
                leader = self._next_leader() if left and lookup.leads else None
            if leader:
                leader.wake()
            raise

    def _lead(self) -> None:
        """Ask for all that wait, the caller's lookup first, and name the next leader."""
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
            leader.wake()  # first, so that the next query does not wait for these answers
        for lookup in group:
            lookup.settle(found, error)
        if error and not isinstance(error, Exception):  # a signal's, for this thread only
            raise error

    def _next_leader(self) -> _Lookup | None:
        self._has_leader = bool(self._waiting)
        if not self._waiting:
            return None
        self._waiting[0].leads = True
        return self._waiting[0]

    def _take_group(self) -> list[_Lookup]:
        """The first lookups that together have at most MAX_IDS, and at least one of them."""
        group = [self._waiting.popleft()]
        count = len(group[0].ids)
        while self._waiting and count + len(self._waiting[0].ids) <= MAX_IDS:
            group.append(self._waiting.popleft())
            count += len(group[-1].ids)
        return group


class _Lookup:
    """One caller's ids, and its answer once there is one."""

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
        if isinstance(self._error, ReadSideUnavailable):  # one of its own for each thread
            raise ReadSideUnavailable(str(self._error)) from self._error
        if isinstance(self._error, Exception):
            raise self._error
        raise ReadSideUnavailable("The thread that asked the database was ended.")
