"""How much is measured, in which order, and what ends a measure. Knows no contender."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


class MeasureFailed(Exception):
    """What ran did not do what it should: it has no figure. One line says why."""


@dataclass(frozen=True)
class Plan:
    """So many rounds, and so many seconds for one run over HTTP."""

    rounds: int
    seconds: float


def interleaved(names: Sequence[str], rounds: int) -> Iterator[str]:
    """Each name once a round; each round begins with another, so that no place is the better."""
    for number in range(rounds):
        first = number % len(names)
        yield from (*names[first:], *names[:first])
