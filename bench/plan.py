"""How much is measured, in which order, and how a measure fails. Knows no contender."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


class MeasureFailed(Exception):
    """Something did not work as it should, so the measure has no figure. One line says why."""


@dataclass(frozen=True)
class Plan:
    """The number of rounds, and the seconds of one run over HTTP."""

    rounds: int
    seconds: float


def interleaved(names: Sequence[str], rounds: int) -> Iterator[str]:
    """Each name once per round; each round begins with another name, so that none has an
    advantage."""
    for number in range(rounds):
        first = number % len(names)
        yield from (*names[first:], *names[:first])
