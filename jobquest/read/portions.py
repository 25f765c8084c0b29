"""Portions of lists: limited in bytes as well as in rows; each knows where the next one begins.

Used by `queries.py` and `life.py`. Rows are read a few at a time, so that rows that do not fit into
an answer never fill the memory.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from typing import Any, NamedTuple

import orjson
from sqlalchemy import ColumnElement, Connection, Select, and_, or_

from jobquest.errors import InvalidEvent
from jobquest.events import exact_json
from jobquest.read.answers import Answer

MAX_BYTES = 1_900_000  # of a list's items as JSON: with the rest of the answer, below 2 MB
LARGE_ROWS, SMALL_ROWS = 25, 500  # read at a time: a large row may have a megabyte
_MAX_WHOLE = 2**63 - 1
_UNKNOWN_PLACE = "Must be the `next` of an answer to the same question."

Row = Mapping[str, Any]


class Portion(list[Answer]):
    """The items of one answer. `next` is the `after` of the next portion; None: there is none."""

    next: str | int | None = None


def fill(
    rows: Iterable[Row],
    make: Callable[[Row], Answer],
    limit: int,
    room: int,
    place: Callable[[Row], str | int],
) -> Portion:
    """Items made from the first rows: at most `limit`, and only as many as fit into `room` bytes of
    JSON, but at least one. `place` names a row, so that the next portion can begin behind it."""
    portion, size, last = Portion(), 0, None
    for row in rows:
        item = make(row) if len(portion) < limit else None
        size += 0 if item is None else len(exact_json.dumps(item)) + 1
        if last is not None and (item is None or size > room):
            portion.next = place(last)
            break
        if item is not None:
            portion.append(item)
            last = row
    return portion


def each(connection: Connection, query: Select[Any], at_a_time: int = LARGE_ROWS) -> Generator[Row]:
    """The rows of a query, a few in memory at a time; close it to stop early."""
    options = {"yield_per": at_a_time}
    with closing(connection.execute(query, execution_options=options)) as result:
        for row in result.mappings():
            yield dict(row)


class Key(NamedTuple):
    """A column that a list is sorted by. `instead` replaces a missing value."""

    column: ColumnElement[Any]
    name: str
    kind: type[int] | type[str]
    falling: bool = False
    instead: int | None = None

    def value(self, row: Row) -> Any:
        """The value that a row is sorted by."""
        return self.instead if row[self.name] is None else row[self.name]

    def is_behind(self, value: Any) -> ColumnElement[bool]:
        """The condition for rows behind a value."""
        behind: ColumnElement[bool] = self.column < value if self.falling else self.column > value
        return behind


class Order:
    """How a list is sorted: by keys that together identify a row. A place in the list can be passed
    to a client and found again, even if the row that was there has gone."""

    def __init__(self, *keys: Key) -> None:
        self._keys = keys

    def sort(self, query: Select[Any], after: str | None) -> Select[Any]:
        """`query` in this order, from behind a place on. Raises InvalidEvent if that is invalid."""
        if after is not None:
            query = query.where(self._behind(self._values(after)))
        return query.order_by(
            *(key.column.desc() if key.falling else key.column for key in self._keys)
        )

    def place(self, row: Row) -> str:
        """A row's place, as text that a client passes back."""
        values = orjson.dumps([key.value(row) for key in self._keys])
        return base64.urlsafe_b64encode(values).decode().rstrip("=")

    def _behind(self, values: Sequence[Any]) -> ColumnElement[bool]:
        pairs = list(zip(self._keys, values, strict=True))
        later = or_(
            *(
                and_(*(same.column == one for same, one in pairs[:n]), key.is_behind(value))
                for n, (key, value) in enumerate(pairs)
            )
        )
        key, value = pairs[0]
        first: ColumnElement[bool] = key.column <= value if key.falling else key.column >= value
        return and_(first, later)  # an index can serve the first condition, but not the OR

    def _values(self, place: str) -> list[Any]:
        try:
            values = orjson.loads(base64.urlsafe_b64decode(place + "=" * (-len(place) % 4)))
        except ValueError:
            values = None
        kinds = [key.kind for key in self._keys]
        if not isinstance(values, list) or [type(value) for value in values] != kinds:
            raise InvalidEvent("A parameter is not valid.", {"after": [_UNKNOWN_PLACE]})
        if any(not _storable(value) for value in values):
            raise InvalidEvent("A parameter is not valid.", {"after": [_UNKNOWN_PLACE]})
        return values


def _storable(value: int | str) -> bool:
    return "\x00" not in value if isinstance(value, str) else abs(value) <= _MAX_WHOLE
