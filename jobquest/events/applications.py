"""The way of a job application. The one place that says so.

A status is any text: one that is not listed here is kept as it was sent, and shown after these.
"""

from __future__ import annotations

from collections.abc import Iterable

FIRST_STATUS = "applied"  # of an application that says none
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
    """Every known status in its order, then those others, in the order in which they come."""
    return list(dict.fromkeys((*STATUSES, *statuses)))
