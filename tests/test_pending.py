"""An answer that is still to come."""

from __future__ import annotations

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from jobquest.log.pending import Pending, wait_for_all, when_all
from tests.service import wait_for


def test_everyone_who_waits_gets_the_answer() -> None:
    pending: Pending[int] = Pending()
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(pending.result, 10) for _ in range(8)]
        assert not pending.done()
        assert pending.resolve(7)
        assert [one.result(10) for one in waiting] == [7] * 8
    assert pending.result(0) == 7
    assert pending.exception(0) is None


def test_the_first_answer_stays() -> None:
    pending: Pending[int] = Pending()
    assert pending.fail(ValueError("first"))
    assert not pending.resolve(7)
    assert not pending.fail(ValueError("second"))
    with pytest.raises(ValueError, match="first"):
        pending.result(0)


def test_one_of_many_that_settle_it_at_once_is_the_first() -> None:
    for _ in range(200):
        pending: Pending[int] = Pending()
        start = threading.Barrier(4)

        def settle(number: int, pending: Pending[int] = pending) -> bool:
            start.wait()  # noqa: B023 (used within this round)
            return pending.resolve(number)

        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(settle, range(4))).count(True) == 1


def test_who_waits_too_long_is_told() -> None:
    pending: Pending[int] = Pending()
    for ask in (pending.result, pending.exception):
        with pytest.raises(TimeoutError):
            ask(0.01)
    assert not wait_for_all([pending], 0.01)
    pending.resolve(1)
    assert wait_for_all([pending, pending], 0.01)


def test_a_callback_is_called_once_whenever_it_is_left(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pending: Pending[int] = Pending()
    seen: list[int] = []
    pending.add_done_callback(lambda _: seen.append(1))
    pending.add_done_callback(lambda _: [][0])
    pending.add_done_callback(lambda settled: seen.append(settled.result(0)))
    threading.Thread(target=pending.resolve, args=(2,)).start()
    wait_for(lambda: len(seen) == 2, 10)
    pending.add_done_callback(lambda _: seen.append(3))
    assert seen == [1, 2, 3]
    assert "IndexError" in caplog.text, "what fails is told, and holds up no other"


def test_who_waits_for_several_is_called_once_when_the_last_is_settled() -> None:
    calls: list[int] = []
    several: list[Pending[int]] = [Pending() for _ in range(4)]
    several[2].resolve(2)
    when_all(several, lambda: calls.append(1))
    for number in (3, 0, 2, 1):
        assert calls == []
        several[number].resolve(number)
    assert calls == [1]
    when_all(several, lambda: calls.append(2))
    assert calls == [1, 2]
    when_all([], lambda: calls.append(3))
    assert calls == [1, 2, 3]


class Watched(Pending[int]):
    __slots__ = ("__weakref__",)


def test_what_waited_for_several_leaves_nothing_to_the_collector() -> None:
    several = [Watched() for _ in range(3)]

    def callback() -> None: ...

    left = [*map(weakref.ref, several), weakref.ref(callback)]
    gc.disable()
    try:
        when_all(several, callback)
        for one in several:
            one.resolve(1)
        del several, one, callback
        assert [reference() for reference in left] == [None] * 4
    finally:
        gc.enable()


def test_several_that_many_threads_settle_call_once() -> None:
    for _ in range(100):
        calls: list[int] = []
        several: list[Pending[int]] = [Pending() for _ in range(40)]
        with ThreadPoolExecutor(4) as pool:
            for one in several[:20]:
                pool.submit(one.resolve, 1)
            when_all(several, lambda calls=calls: calls.append(1))  # type: ignore[misc]
            for one in several[20:]:
                pool.submit(one.resolve, 1)
        assert calls == [1]
