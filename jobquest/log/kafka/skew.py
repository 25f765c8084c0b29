"""What Kafka's answer says about this machine's clock.

Kafka refuses a record whose time is too far from its own. Ours get this machine's time when they
are sent, never an event's: so the clock is wrong, and the record is fine once it is right. Knows
the broker's answer only.
"""

from __future__ import annotations

import re

from kafka.errors import InvalidRecordError, InvalidTimestampError

# Of several such records at once, the library tells each as an InvalidRecordError: only the
# broker's text says why.
_TEXT = re.compile(r"Timestamp (-?\d+) of .* within \[(-?\d+), (-?\d+)\]")
_MINUTE_MS = 60_000


def wrong_clock(error: Exception) -> str:
    """The line about the clock; "" if the error is about something else. It does not change from
    one try to the next."""
    if not isinstance(error, InvalidTimestampError | InvalidRecordError):
        return ""
    if found := _TEXT.search(str(error)):
        ours, first, last = map(int, found.groups())
        side, beyond = ("ahead of", ours - last) if ours > last else ("behind", first - ours)
        minutes = max(1, round(beyond / _MINUTE_MS))
        return (
            f"This machine's clock is {side} Kafka's, by {minutes} min more than Kafka accepts:"
            " correct the one that is wrong."
        )
    if isinstance(error, InvalidTimestampError):
        return "Kafka does not accept the time of this machine's clock: correct it."
    return ""
