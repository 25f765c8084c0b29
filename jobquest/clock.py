"""The machine's time in the unit that everything here stores and compares: Unix milliseconds.

Every module may use it; it uses none.
"""

from __future__ import annotations

import time


def now_ms() -> int:
    """The current time in Unix milliseconds."""
    return time.time_ns() // 1_000_000
