"""The vocabulary: the frozen Event, the catalogue of types, and the ways in which an event comes.

`from_request` is the strict door for values (the producer), `requests.py` the same for bodies (the
API); `from_record` reads what stands on a topic and is tolerant of what a newer producer adds.
Knows neither logs nor databases nor HTTP.
"""

from __future__ import annotations

from jobquest.events import fast_decode, validation
from jobquest.events.catalogue import CATALOGUE, TOPICS, EventType
from jobquest.events.event import LAST_MS, OUR_PREFIX, Event, format_time, new_id, parse_time
from jobquest.events.fields import PERSONAL_FIELDS
from jobquest.events.validation import from_request, judged_from

__all__ = [
    "CATALOGUE",
    "OUR_PREFIX",
    "PERSONAL_FIELDS",
    "TOPICS",
    "Event",
    "EventType",
    "format_time",
    "from_record",
    "from_request",
    "judged_from",
    "new_id",
    "parse_time",
]


def from_record(value: bytes | None, latest_ms: int = LAST_MS) -> Event:
    """Read an event from a topic: quickly if it is a plain good one. See
    `validation.from_record`."""
    event = fast_decode.from_record(value, latest_ms) if value else None
    return event or validation.from_record(value, latest_ms)
