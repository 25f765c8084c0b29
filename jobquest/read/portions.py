"""Portions of lists: bounded in bytes as well as in rows, and each knows where the next one begins.

Used by `queries.py` and `life.py`. Rows are read a few at a time, so that what does not fit into
an answer never fills the memory.
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

MAX_BYTES = 1_900_000  # of a list's items as JSON: with what stands around them, below 2 MB
LARGE_ROWS, SMALL_ROWS = 25, 500  # read at a time: a large one may have a megabyte
_MAX_WHOLE = 2**63 - 1
_ALIEN = "Must be the `next` of an answer to the same question."

Row = Mapping[str, Any]


class Portion(list[Answer]):
    """Items that one answer holds. `next` is the `after` of the next portion; None: the end."""

    next: str | int | None = None


def fill(
    rows: Iterable[Row],
    make: Callable[[Row], Answer],
    limit: int,
    room: int,
    place: Callable[[Row], str | int],
) -> Portion:
    """Items made of the first rows: at most `limit`, and as many as have room for their JSON, but
    one at least. `place` names a row, for whoever goes on behind it."""
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
    """The rows of a query, a few in memory at a time: whoever has enough closes it."""
    options = {"yield_per": at_a_time}
    with closing(connection.execute(query, execution_options=options)) as result:
        for row in result.mappings():
            yield dict(row)


class Key(NamedTuple):
    """A column that a list is sorted by. `instead` takes the place of a missing value."""

    column: ColumnElement[Any]
    name: str
    kind: type[int] | type[str]
    falling: bool = False
    instead: int | None = None

    def value(self, row: Row) -> Any:
        """What a row is sorted by."""
        return self.instead if row[self.name] is None else row[self.name]

    def is_behind(self, value: Any) -> ColumnElement[bool]:
        """What comes later than a value."""
        behind: ColumnElement[bool] = self.column < value if self.falling else self.column > value
        return behind


class Order:
    """How a list is sorted, by keys that name each row; places in it can be told and found again,
    also when the row that was there is gone."""

    def __init__(self, *keys: Key) -> None:
        self._keys = keys

    def sort(self, query: Select[Any], after: str | None) -> Select[Any]:
        """`query` in this order, from behind a place on. Raises InvalidEvent where it is none."""
        if after is not None:
            query = query.where(self._behind(self._values(after)))
        return query.order_by(
            *(key.column.desc() if key.falling else key.column for key in self._keys)
        )

    def place(self, row: Row) -> str:
        """A row's place, as a client gives it back."""
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
        return and_(first, later)  # an index finds what the first key says, and not an OR

    def _values(self, place: str) -> list[Any]:
        try:
            values = orjson.loads(base64.urlsafe_b64decode(place + "=" * (-len(place) % 4)))
        except ValueError:
            values = None
        kinds = [key.kind for key in self._keys]
        if not isinstance(values, list) or [type(value) for value in values] != kinds:
            raise InvalidEvent("A parameter is not valid.", {"after": [_ALIEN]})
        if any(not _storable(value) for value in values):
            raise InvalidEvent("A parameter is not valid.", {"after": [_ALIEN]})
        return values


def _storable(value: int | str) -> bool:
    return "\x00" not in value if isinstance(value, str) else abs(value) <= _MAX_WHOLE
