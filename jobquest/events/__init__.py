"""Events: the frozen Event, the catalogue of types, and how events are read.

`from_request` checks values strictly (for the producer), `requests.py` does the same for bodies
(for the API). `from_record` reads a record's value and tolerates what a newer producer adds. These
modules know neither logs nor databases nor HTTP.
"""

from __future__ import annotations

from collections.abc import Sequence

from jobquest.events import fast_decode, validation
from jobquest.events.catalogue import CATALOGUE, TOPICS, EventType
from jobquest.events.event import LAST_MS, OUR_PREFIX, Event, format_time, new_id, parse_time
from jobquest.events.fields import PERSONAL_FIELDS
from jobquest.events.validation import from_request, judged_from, wrong_with_user_id

__all__ = [
    "CATALOGUE",
    "OUR_PREFIX",
    "PERSONAL_FIELDS",
    "TOPICS",
    "Event",
    "EventType",
    "format_time",
    "from_record",
    "from_records",
    "from_request",
    "judged_from",
    "new_id",
    "parse_time",
    "wrong_with_user_id",
]


def from_record(value: bytes | None, latest_ms: int = LAST_MS) -> Event:
    """Read an event from a topic, fast if it is usual and valid. See
    `validation.from_record`."""
    event = fast_decode.from_record(value, latest_ms) if value else None
    return event or validation.from_record(value, latest_ms)


def from_records(values: Sequence[bytes | None], latest_ms: int = LAST_MS) -> list[Event | None]:
    """The same for many records, at half of the cost; None for each that only `from_record` reads,
    or refuses with the reason."""
    return fast_decode.from_records([value or b"" for value in values], latest_ms)
