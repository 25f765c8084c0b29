"""Publishes that need no thread: begun when they arrive, answered when the log has their events.

Called by the worker's main loop, which must not wait. Most publishes are so; whatever is not plain
is left to a thread, which answers from the beginning and in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from flask import Flask

from jobquest.errors import JobQuestError, LogUnavailable
from jobquest.log.pending import Pending, when_all
from jobquest.producer import Published, log_published
from jobquest.runtime import Runtime
from jobquest.web.entrance import READ, Entrance, Environ
from jobquest.web.errors import answer_to, unexpected
from jobquest.web.publishing import Answer, Plain, plain_answer

Given = Sequence[Pending[Any]]
# Events at a time; beyond them, threads answer, which take turns. The loop would give the log all
# that it has: three hundred clients with batches at once took 550 MB, and for seconds everyone else
# was told that the log is behind.
MAX_UNDER_WAY = 2_000


def _never(*_: Any) -> Any:
    raise AssertionError("Nothing is answered while a request is read.")


class Prompt:
    """Publishes by way of `way_in`, which stands before `app`: the entrance, behind our proxies.
    For one thread."""

    def __init__(self, app: Flask, runtime: Runtime, entrance: Entrance, way_in: Any) -> None:
        self._app = app
        self._runtime = runtime
        self._entrance = entrance
        self._way_in = way_in
        self._under_way = 0  # events that are read and not answered yet
        self.unlogged: list[Published | JobQuestError] = []

    @property
    def is_worth_it(self) -> bool:
        """Whether events with an id need no thread either: clients send one with most of them."""
        return self._runtime.database.is_file

    def read(self, environ: Environ) -> Plain | None:
        """The events of a request that is a plain publish; None if a thread has to answer it."""
        if self._app.wsgi_app is not self._way_in:  # somebody else's layer may wait
            return None
        if self._under_way >= MAX_UNDER_WAY:
            return None
        found: list[Plain | None] = []
        environ[READ] = found.append
        self._way_in(environ, _never)
        [plain] = found
        self._under_way += len(plain.requests) if plain else 0
        return plain

    def give(self, several: Sequence[Plain]) -> list[Given | None]:
        """Give the events of publishes to the log: what is settled once it has each. None if a
        thread has to answer the request: nothing has happened to its events."""
        given: list[Given | None] = [None] * len(several)
        try:
            given = self._runtime.producer.begin_all([plain.requests for plain in several])
            return given
        finally:
            left = (plain for plain, its in zip(several, given, strict=True) if its is None)
            self._under_way -= sum(len(plain.requests) for plain in left)

    def when_settled(self, given: Given, callback: Callable[[], None]) -> None:
        """Have `callback` called once all events of a publish are settled, on any thread."""
        when_all(given, callback)

    def expire(self, given: Given) -> None:
        """Settle what the log does not settle in time."""
        for one in given:
            one.fail(LogUnavailable("The log did not confirm in time."))

    def answer(self, plain: Plain, given: Given) -> Answer:
        """The answer to a publish whose events are settled."""
        producer = self._runtime.producer
        self._under_way -= len(plain.requests)
        try:
            events = [request.event for request in plain.requests]
            came = [producer.finish(event, one) for event, one in zip(events, given, strict=True)]
            self.unlogged += came
            return plain_answer(self._runtime, plain, came)
        except JobQuestError as error:
            return answer_to(error)
        except Exception as error:
            return unexpected(error)

    def log_answered(self) -> None:
        """Log what was published since the last call."""
        came, self.unlogged = self.unlogged, []
        log_published(came)

    def send(self, answer: Answer, environ: Environ, start_response: Any) -> Iterable[bytes]:
        """Answer a request."""
        return self._entrance.send(answer, environ, start_response)
