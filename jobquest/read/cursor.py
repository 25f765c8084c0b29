"""Where a list of events goes on: the number of a change, and the epoch that it belongs to.

Made by `queries.py` and by clients of the live view. A rebuild gives the changes new numbers, so a
number alone may mean another place then. Cursors of other lists (`portions.py`) are made of values
that a rebuild does not change: names, times, ids.
"""

from __future__ import annotations

from typing import NamedTuple

from jobquest.errors import CursorOutdated

MAX_SEQ = 2**53  # a browser holds no larger number exactly


class Cursor(NamedTuple):
    """The change `seq` of an epoch; None: of the present one, whichever that is."""

    seq: int
    epoch: str | None = None

    def __str__(self) -> str:
        return str(self.seq) if self.epoch is None else f"{self.seq}.{self.epoch}"

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """The cursor that is written like this. Raises ValueError, with a line for its reader."""
        number, dot, epoch = text.partition(".")
        is_whole = number.isascii() and number.isdigit() and len(number) < 20
        if not is_whole or int(number) > MAX_SEQ or (dot and not epoch):
            raise ValueError(
                "Must be the `next` of a list, `seq.epoch` of the live view, or a whole number to"
                f" {MAX_SEQ}."
            )
        return cls(int(number), epoch or None)

    def is_of(self, epoch: str) -> bool:
        """Whether its number has a meaning in this epoch."""
        return self.epoch in (None, epoch)

    def seq_in(self, epoch: str, name: str) -> int:
        """Its number. Raises CursorOutdated (with the parameter `name`) if that is of another."""
        if not self.is_of(epoch):
            raise CursorOutdated(name)
        return self.seq
