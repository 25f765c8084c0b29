"""The statuses of job applications, in their usual order.

A status may be any text: pages show other ones after these.
"""

from __future__ import annotations

from collections.abc import Iterable

FIRST_STATUS = "applied"  # of an application without a status
STATUSES = (
    FIRST_STATUS,
    "screening",
    "interview",
    "offer",
    "accepted",
    "rejected",
    "withdrawn",
)


def known_first(statuses: Iterable[str]) -> list[str]:
    """Every known status in its order, then the others in their own."""
    return list(dict.fromkeys((*STATUSES, *statuses)))
