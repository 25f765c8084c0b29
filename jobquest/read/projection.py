"""What a projection consists of: a table, the key of a row, a fold per event type, and its list.

`projections.py` declares them all. A fold is a function of one event: it says what the event adds
to a row and what it sets there, and never sees the row itself. So the same change can be applied
to a row in memory or by the database, and each event is folded once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import msgspec
from sqlalchemy import Float, Integer, Numeric, Table

from jobquest.events import Event

Row = dict[str, Any]
_NUMBERS = (Integer, Float, Numeric)


class Rule:
    """A value for a column that depends on what the row has already; see the classes below."""

    __slots__ = ()  # not a struct itself: `isinstance` takes three times as long with those

    def result(self, old: Any, row: Row) -> Any:
        """What the column has afterwards. `old` is its value in `row`, before any change or after
        that of other columns: both give the same."""
        raise NotImplementedError


class Highest(Rule, msgspec.Struct, frozen=True, gc=False):
    """Replaces a lower value."""

    value: Any

    def result(self, old: Any, row: Row) -> Any:
        return self.value if old is None or self.value > old else old


class Lowest(Rule, msgspec.Struct, frozen=True, gc=False):
    """Replaces a higher value."""

    value: Any

    def result(self, old: Any, row: Row) -> Any:
        return self.value if old is None or self.value < old else old


class IfMissing(Rule, msgspec.Struct, frozen=True, gc=False):
    """Fills a column that has no value."""

    value: Any

    def result(self, old: Any, row: Row) -> Any:
        return self.value if old is None else old


class Latest(Rule, msgspec.Struct, frozen=True, gc=False):
    """Replaces a value from an earlier event; the column `since` has that event's time."""

    value: Any
    time_ms: int
    since: str

    def result(self, old: Any, row: Row) -> Any:
        return self.value if self.time_ms >= (row[self.since] or 0) else old


class Change(msgspec.Struct, frozen=True, gc=False):
    """What one event does to one row: `adds` has the amount that each column grows by, `sets` the
    new value of each other column, plain or by a rule.

    Topics have no order between them, so two changes from different topics must give the same in
    either order. Within a topic, a user's events come in order.
    """

    adds: dict[str, float] = {}
    sets: dict[str, Any] = {}

    def apply_to(self, row: Row) -> None:
        """Change a row in memory."""
        for column, amount in self.adds.items():
            row[column] += amount
        for column, value in self.sets.items():
            row[column] = value.result(row[column], row) if isinstance(value, Rule) else value


def latest(since: str, event: Event, **values: Any) -> dict[str, Any]:
    """For `Change.sets`: values that the latest event decides, and its time in the column
    `since`."""
    time_ms = event.time_ms
    sets: dict[str, Any] = {since: Highest(time_ms)}
    for column, value in values.items():
        sets[column] = Latest(value, time_ms, since)
    return sets


Fold = Callable[[Event], Change]


def adds_one(column: str) -> Fold:
    """A fold that counts events."""
    change = Change(adds={column: 1})
    return lambda event: change


@dataclass(frozen=True, kw_only=True)
class Section:
    """How the user's page shows one row of a list. Members name columns, except `title` (the
    section's), `unnamed` (shown for a row without a name) and the words of `badge` and `times`."""

    title: str
    name: str
    unnamed: str | None = None  # None: the row's key
    badge: tuple[str, str, str] | None = None  # a column, the words if it has a value, and if not
    note: str | None = None
    xp: str | None = None
    text: str | None = None
    percent: str | None = None
    times: Mapping[str, str]  # word → column


@dataclass(frozen=True, kw_only=True)
class UserList:
    """A user's rows as a list: `GET /api/users/<user>/<table>`, and a section of the user's page.

    `newest` is the column with the time that sorts the list. `flags` are more members of each item:
    whether a column has a value. Without a `section`, the template `user.html` has its own for this
    list.
    """

    newest: str
    flags: Mapping[str, str] = field(default_factory=dict)
    section: Section | None = None


@dataclass(frozen=True)
class Projection:
    """`key(event)` is the primary key of the row that `folds[event.type]` changes. A projection
    with a `listed` has `user_id` and one more column as its key."""

    table: Table
    key: Callable[[Event], tuple[Any, ...]]
    folds: Mapping[str, Fold]
    listed: UserList | None = None

    def __post_init__(self) -> None:
        others = [column for column in self.table.columns if not column.primary_key]
        if not (self.of_user or all(isinstance(one.type, _NUMBERS) for one in others)):
            raise ValueError(
                f"The rows of {self.table.name} belong to several users, so every column besides"
                " the key must be a number that grows. Or add user_id to the key."
            )

    @property
    def name(self) -> str:
        """The name of its table."""
        return str(self.table.name)  # SQLAlchemy's own is a str that JSON has no key for

    @property
    def part(self) -> str:
        """Its name in failures, for the circuit breaker."""
        return f"projection {self.name}"

    @property
    def of_user(self) -> bool:
        """Whether each row belongs to one user. Rows of several users may only grow: their folds
        return what they add, and set nothing."""
        return "user_id" in self.table.primary_key.columns

    @cached_property
    def key_names(self) -> tuple[str, ...]:
        """The names of the primary key's columns, which are the table's first."""
        return tuple(self.table.primary_key.columns.keys())

    @cached_property
    def _defaults(self) -> Row:
        return {
            column.name: column.default.arg if column.default is not None else None  # type: ignore[attr-defined]
            for column in self.table.columns
        }

    def new_row(self, key: tuple[Any, ...]) -> Row:
        """The row before its first event."""
        return self._defaults | dict(zip(self.key_names, key, strict=True))

    def effect_of(self, event: Event) -> Effect:
        """What an event of one of its types does to a new row."""
        key = self.key(event)
        change = self.folds[event.type](event)
        before = self.new_row(key)
        after = dict(before)
        change.apply_to(after)
        changed = {name: value for name, value in after.items() if value != before[name]}
        return Effect(
            self,
            key,
            {name: value - before[name] for name, value in changed.items() if name in change.adds},
            {name: value for name, value in changed.items() if name in change.sets},
        )


@dataclass(frozen=True)
class Effect:
    """What an event does to one projection's row: it adds to the columns in `added`, and sets those
    in `given` (unless a later event does)."""

    projection: Projection
    key: tuple[Any, ...]
    added: Mapping[str, float]
    given: Mapping[str, Any]
