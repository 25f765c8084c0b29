"""Which events are selected: one filter for lists of events and for the live feed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, TextClause, or_, text

from jobquest.read import tables

_NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """The values to include and to exclude; an empty set sets no condition. Times are the event's
    own, in Unix milliseconds."""

    types: frozenset[str] = _NOTHING
    topics: frozenset[str] = _NOTHING
    users: frozenset[str] = _NOTHING
    outcomes: frozenset[str] = _NOTHING
    not_types: frozenset[str] = _NOTHING
    not_topics: frozenset[str] = _NOTHING
    not_users: frozenset[str] = _NOTHING
    not_outcomes: frozenset[str] = _NOTHING
    from_ms: int | None = None
    to_ms: int | None = None

    def conditions(self, by: str = "") -> list[ColumnElement[bool] | TextClause]:
        """As SQL. Only the column `by` (and the time, if that is the topic) is written so that an
        index can find it: a planner that guesses would choose the wrong index for the others."""
        table = tables.events.c
        found: list[ColumnElement[bool] | TextClause] = []
        for column, wanted, unwanted in (
            (table.type, self.types, self.not_types),
            (table.topic, self.topics, self.not_topics),
            (table.user_id, self.users, self.not_users),
            (table.outcome, self.outcomes, self.not_outcomes),
        ):
            found += _among(column if column.name == by else column.concat(""), wanted, unwanted)
        if self.is_rare:
            found.append(text("outcome != 'processed'"))  # written exactly as in that index
        return found + self.times(table.time_ms if by == "topic" else table.time_ms + 0)

    @property
    def is_rare(self) -> bool:
        """Whether it selects only events that are not processed, which are few."""
        return "processed" in self.not_outcomes or (
            bool(self.outcomes) and "processed" not in self.outcomes
        )

    def times(self, time: ColumnElement[int]) -> list[ColumnElement[bool]]:
        """The conditions on an event's time, as SQL."""
        found: list[ColumnElement[bool]] = []
        if self.from_ms is not None:
            found.append(time >= self.from_ms)
        if self.to_ms is not None:
            found.append(time < self.to_ms)
        return found

    def matches(self, type: str | None, topic: str, user: str | None) -> bool:
        """Whether a change is shown live. The viewer checks outcomes and times itself: an event
        whose outcome changes must leave a list that shows it."""
        return (
            _passes(type, self.types, self.not_types)
            and _passes(topic, self.topics, self.not_topics)
            and _passes(user, self.users, self.not_users)
        )


def _passes(value: str | None, wanted: frozenset[str], unwanted: frozenset[str]) -> bool:
    return (not wanted or value in wanted) and value not in unwanted


def _among(
    column: Any, wanted: frozenset[str], unwanted: frozenset[str]
) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if wanted:
        found.append(column.in_(sorted(wanted)))
    if unwanted:  # SQL's NOT IN excludes NULL
        found.append(or_(column.is_(None), column.not_in(sorted(unwanted))))
    return found
