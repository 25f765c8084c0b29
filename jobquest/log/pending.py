"""An answer that is pending: `append` returns one for each record.

Like `concurrent.futures.Future`, at a fifth of its cost: a batch waits for a thousand of them. If
one is settled twice (by the log and by the outbox, say), it keeps its first answer.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
_lock = threading.Lock()  # over every pending's members; held for a few steps only


class Pending(Generic[_T]):
    """Settled once, by any thread; any thread may wait, or add a callback."""

    __slots__ = ("_callbacks", "_error", "_gate", "_settled", "_value")

    def __init__(self) -> None:
        self._settled = False
        self._value: _T | None = None
        self._error: BaseException | None = None
        self._callbacks: list[Callable[[Pending[_T]], None]] | None = None
        self._gate: threading.Lock | None = None  # made by the first thread that waits

    def resolve(self, value: _T) -> bool:
        """Settle it with an answer; False if it was settled before."""
        return self._settle(value, None)

    def fail(self, error: BaseException) -> bool:
        """Settle it with an error; False if it was settled before."""
        return self._settle(None, error)

    def done(self) -> bool:
        """Whether it is settled."""
        return self._settled

    def wait(self, timeout: float | None = None) -> bool:
        """Wait at most `timeout` seconds; whether it is settled."""
        if not self._settled:
            gate = self._closed_gate()
            if gate and gate.acquire(timeout=-1 if timeout is None else timeout):
                gate.release()  # for the next thread that waits
        return self._settled

    def _closed_gate(self) -> threading.Lock | None:
        with _lock:
            if self._gate is None and not self._settled:
                self._gate = threading.Lock()
                self._gate.acquire()
            return self._gate

    def result(self, timeout: float | None = None) -> _T:
        """The answer. Raises its error, or TimeoutError after `timeout` seconds."""
        error = self.exception(timeout)
        if error is not None:
            raise error
        return self._value  # type: ignore[return-value]

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Its error, None if it has an answer. Raises TimeoutError after `timeout` seconds."""
        if not self.wait(timeout):
            raise TimeoutError
        return self._error

    def add_done_callback(self, callback: Callable[[Pending[_T]], None]) -> None:
        """Have `callback(self)` called by the thread that settles it; at once if it is settled."""
        with _lock:
            if not self._settled:
                self._callbacks = [*(self._callbacks or ()), callback]
                return
        callback(self)

    def _settle(self, value: _T | None, error: BaseException | None) -> bool:
        with _lock:
            if self._settled:
                return False
            self._value, self._error, self._settled = value, error, True
            callbacks, self._callbacks = self._callbacks, None
        if self._gate:
            self._gate.release()
        for callback in callbacks or ():
            try:
                callback(self)
            except Exception:  # this thread has others to settle
                logger.exception("A callback of an answer failed")
        return True


def when_all(pendings: Iterable[Pending[_T]], callback: Callable[[], None]) -> None:
    """Have `callback()` called by the thread that settles the last of them; at once if all are
    settled."""
    _Rest(iter(pendings), callback).go_on()


class _Rest:
    """Those of several that may not be settled yet. (A closure would refer to itself, so that only
    the garbage collector could free it, whose run stops everything.)"""

    __slots__ = ("_callback", "_pendings")

    def __init__(self, pendings: Iterator[Pending[Any]], callback: Callable[[], None]) -> None:
        self._pendings = pendings
        self._callback = callback

    def go_on(self, _: Pending[Any] | None = None) -> None:
        """Wait for the next one; call back if there is none."""
        for pending in self._pendings:
            if not pending.done():
                pending.add_done_callback(self.go_on)
                return
        self._callback()


def wait_for_all(pendings: Iterable[Pending[_T]], timeout: float) -> bool:
    """Wait at most `timeout` seconds for all of them; whether all are settled."""
    deadline = time.monotonic() + timeout
    return all(pending.wait(max(0.0, deadline - time.monotonic())) for pending in pendings)
