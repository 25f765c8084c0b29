"""The figures and the goals: medians, ratios and the table.

Filled by the measures, written by the command. It starts nothing and measures nothing.
"""

from __future__ import annotations

import re
import statistics
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

RESULTS = Path(__file__).parent / "RESULTS.md"
_HEAD = "# Results\n\nWritten by the commands named below; compare only figures of the same run."


class Series(NamedTuple):
    """One figure of one contender, with a value per round."""

    measure: str
    contender: str
    figure: str


@dataclass(frozen=True)
class Goal:
    """A line of the table: a figure of ours, alone or against another contender's.

    "times" is the quotient of the two, "plus" their difference. `least` must be reached (from
    above, if `at_most`); `stretch` is the ambitious value.
    """

    text: str
    ours: Series
    theirs: Series | None
    relation: Literal["times", "plus", "is"]
    least: float
    stretch: float | None = None
    at_most: bool = False

    def is_met(self, value: float) -> bool:
        return self._reaches(value, self.least)

    def is_stretched(self, value: float) -> bool:
        return self.stretch is not None and self._reaches(value, self.stretch)

    def _reaches(self, value: float, bound: float) -> bool:
        return value <= bound if self.at_most else value >= bound


class Results:
    """The figures of all rounds."""

    def __init__(self) -> None:
        self.rounds: dict[Series, list[float]] = defaultdict(list)
        self.failed: list[str] = []

    def note(self, measure: str, contender: str, **figures: float) -> None:
        """Store and print the figures of one run."""
        for figure, value in figures.items():
            self.rounds[Series(measure, contender, figure)].append(value)
        shown = ", ".join(f"{name} {readable(value)}" for name, value in figures.items())
        count = len(self.rounds[Series(measure, contender, next(iter(figures)))])
        print(f"{measure:>9} {count}: {contender:<18} {shown}", flush=True)

    def fail(self, measure: str, error: Exception) -> None:
        """Drop the figures of a measure that failed."""
        self.failed.append(f"failed: {measure}: {error}")
        print(self.failed[-1], flush=True)
        for series in [series for series in self.rounds if series.measure == measure]:
            del self.rounds[series]

    def value(self, goal: Goal) -> float | None:
        """The median over the rounds of a goal's value; None if it was not measured."""
        ours = self.rounds.get(goal.ours)
        if not ours:
            return None
        if goal.theirs is None:
            return statistics.median(ours)
        pairs = list(zip(ours, self.rounds[goal.theirs], strict=True))
        if goal.relation == "times":
            return statistics.median(our_value / their_value for our_value, their_value in pairs)
        return statistics.median(our_value - their_value for our_value, their_value in pairs)

    def median(self, series: Series | None) -> str:
        """The median of one contender's figure, as text."""
        values = self.rounds.get(series) if series else None
        return readable(statistics.median(values)) if values else "–"

    def missed(self, goals: Collection[Goal]) -> list[str]:
        """One line for each goal that was measured and missed."""
        found = ((goal, self.value(goal)) for goal in goals)
        return [
            f"missed: {goal.text}: {_related(goal, value)}, wanted {_bound(goal, goal.least)}"
            for goal, value in found
            if value is not None and not goal.is_met(value)
        ]

    def table(self, goals: Collection[Goal]) -> str:
        """The goals that were measured, as Markdown."""
        lines = [
            "| measure | ours | theirs | result | at least | stretch | |",
            "| --- | --- | --- | --- | --- | --- | --- |",
        ]
        for goal in goals:
            value = self.value(goal)
            if value is None:
                continue
            verdict = "**missed**"
            if goal.is_met(value):
                verdict = "met, stretch too" if goal.is_stretched(value) else "met"
            stretch = "–" if goal.stretch is None else _bound(goal, goal.stretch)
            cells = [goal.text, self.median(goal.ours), self.median(goal.theirs)]
            cells += [_related(goal, value), _bound(goal, goal.least), stretch, verdict]
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines)

    def all_medians(self) -> str:
        """Every figure of every contender, as Markdown: median, and the range of its rounds."""
        lines = ["| measure | contender | figure | median | range |", "| --- |" + " --- |" * 4]
        for series, values in self.rounds.items():
            span = f"{readable(min(values))} to {readable(max(values))}"
            cells = [*series, readable(statistics.median(values)), span]
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines)


def readable(value: float) -> str:
    """A figure with three significant digits."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def write_section(title: str, text: str, path: Path = RESULTS) -> None:
    """Write a section into the file; it replaces the section with that title."""
    whole = path.read_text() if path.exists() else _HEAD + "\n"
    head, *sections = re.split(r"\n+(?=## )", whole.strip())
    written = f"## {title}\n\n{text.strip()}"
    at = [n for n, section in enumerate(sections) if section.startswith(f"## {title}\n")]
    if at:
        sections[at[0]] = written
    else:
        sections.append(written)
    path.write_text("\n\n".join([head, *sections]) + "\n")


def _related(goal: Goal, value: float) -> str:
    return {"times": f"{value:.2f}×", "plus": f"{value:+.2f}", "is": readable(value)}[goal.relation]


def _bound(goal: Goal, bound: float) -> str:
    number = {"times": f"{bound:g}×", "plus": f"+ {bound:g}", "is": f"{bound:,g}"}[goal.relation]
    return f"≤ {number}" if goal.at_most else number
