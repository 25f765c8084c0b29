"""Many lines of the log written as one record: a batch's lines cost what one line costs.

Called by the consumer and the producer; `server.py` gives each line its prefix.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence


class Lines:
    """A log record's message that is several lines."""

    def __init__(self, lines: Sequence[str]) -> None:
        self.lines = lines

    def __str__(self) -> str:
        return "\n".join(self.lines)


def log_lines(logger: logging.Logger, level: int, lines: Sequence[str]) -> None:
    """Log these lines, in their order; nothing where there are none. They must not change after."""
    if lines:
        logger.log(level, Lines(lines))
