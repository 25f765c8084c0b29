"""The selector of the producer's thread, beside the standard library's."""

from __future__ import annotations

import selectors
import socket
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobquest.log.kafka.fast_path.selector import LazySelector

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
Pair = tuple[socket.socket, socket.socket]


def connected() -> Pair:
    pair = socket.socketpair()
    for end in pair:
        end.setblocking(False)
    return pair


@pytest.fixture
def pair() -> Iterator[Pair]:
    ends = connected()
    yield ends
    for end in ends:
        end.close()


class Both:
    """The same calls to our selector and to the standard one."""

    def __init__(self) -> None:
        self.ours, self.standard = LazySelector(), selectors.DefaultSelector()

    def call(self, name: str, *args: object) -> None:
        came = []
        for selector in (self.ours, self.standard):
            try:
                came.append((getattr(selector, name)(*args), None))
            except (KeyError, ValueError) as error:
                came.append((None, type(error)))
        assert came[0] == came[1], (name, args)

    def ready(self) -> list[tuple[int, int, object]]:
        found = [
            sorted((key.fd, events, key.data) for key, events in one.select(0))
            for one in (self.ours, self.standard)
        ]
        assert found[0] == found[1]
        return found[0]

    def close(self) -> None:
        self.ours.close()
        self.standard.close()


_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["register", "modify", "unregister", "select", "say", "hear", "reopen"]),
        st.integers(0, 2),
        st.sampled_from([READ, WRITE, READ | WRITE]),
    ),
    max_size=40,
)


@given(_STEPS)
def test_it_tells_what_the_standard_one_tells(steps: list[tuple[str, int, int]]) -> None:
    both, pairs = Both(), [connected() for _ in range(3)]
    for what, which, events in steps:
        ours, theirs = pairs[which]
        if what == "select":
            both.ready()
        elif what == "say":
            theirs.send(b"x")
        elif what == "hear":
            with suppress(BlockingIOError):
                ours.recv(100)
        elif what == "reopen":  # its number goes to another file
            if ours.fileno() in both.ours.get_map():
                both.call("unregister", ours)
            ours.close()
            theirs.close()
            pairs[which] = connected()
        elif what == "unregister":
            both.call(what, ours)
        else:
            both.call(what, ours, events, (what, which))
    both.ready()
    both.close()
    for ends in pairs:
        for end in ends:
            end.close()


def test_a_wait_that_is_wanted_again_costs_no_call(pair: Pair) -> None:
    selector, told = LazySelector(), list[str]()
    for name in ("register", "modify", "unregister"):
        real = getattr(selector._system, name)

        def spy(*args: object, name: str = name, real: object = real) -> object:
            told.append(name)
            return real(*args)  # type: ignore[operator]

        setattr(selector._system, name, spy)
    selector.register(pair[0], READ)
    for _ in range(3):
        selector.select(0)
        selector.unregister(pair[0])
        selector.register(pair[0], READ)
    selector.select(0)
    assert told == ["register"]
    selector.close()


def test_a_file_that_was_closed_and_not_unregistered_can_still_be(pair: Pair) -> None:
    selector = LazySelector()
    selector.register(pair[0], READ)
    pair[0].close()
    assert selector.unregister(pair[0]).fileobj is pair[0]
    assert selector.select(0) == []
    with pytest.raises(KeyError):
        selector.unregister(pair[0])
    selector.close()
