"""How much is measured, and in which order. Given to every measure by the command."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


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
