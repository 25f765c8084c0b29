"""The operator's decisions about dead letters: redrive, edit, discard. Called by the API and the
command line.

Redriving appends the record to its topic again, under the same event id, so that it counts once
even if it is redriven twice.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from jobquest.clock import now_ms
from jobquest.errors import InvalidEvent, LogUnavailable, RecordRefused, StateConflict
from jobquest.events import CATALOGUE, OUR_PREFIX, Event, from_record
from jobquest.events.personal import masked_fields
from jobquest.log import EventLog, NewRecord
from jobquest.producer import confirmed
from jobquest.read import ReadSide
from jobquest.read.dead_letters import (
    DONE_HEADER,
    REDRIVES_HEADER,
    DeadLetter,
    DeadLetterFilter,
    DeadLetters,
)

MAX_DEAD_LETTERS = 500  # in one call
MAX_REDRIVES = 3
DEAD_LETTERS_PER_SECOND = 100  # the cause of their death may not bear more
MAX_REASON = 500


@dataclass(slots=True)
class Redriven:
    """The ids of dead letters that were appended to the log again, and why others were refused."""

    redriven: list[int] = field(default_factory=list)
    refused: list[tuple[int, str]] = field(default_factory=list)


class Redrive:
    """Carries out decisions about dead letters. Any thread may call it."""

    def __init__(self, dead_letters: DeadLetters, read_side: ReadSide, log: EventLog) -> None:
        self._dead_letters = dead_letters
        self._read_side = read_side
        self._log = log
        self._pace = threading.Lock()  # guards the next one
        self._next = 0.0

    def redrive(self, ids: Sequence[int]) -> Redriven:
        """Append the records of open dead letters to their topics again.

        Waits as long as the rate limit demands. Raises ReadSideUnavailable.
        """
        result = Redriven()
        for id in dict.fromkeys(ids):
            try:
                self._redrive(id)
                result.redriven.append(id)
            except (StateConflict, InvalidEvent, RecordRefused, LogUnavailable) as error:
                result.refused.append((id, str(error)))
        return result

    def redrive_matching(self, wanted: DeadLetterFilter) -> Redriven:
        """Redrive the dead letters that match, oldest first, at most 500 in one call."""
        return self.redrive(self._dead_letters.ids(wanted, MAX_DEAD_LETTERS))

    def edit(self, id: int, value: bytes) -> None:
        """Store `value` (an event as JSON), to be redriven instead of the original value.

        Raises StateConflict, and InvalidEvent if the new value would die again.
        """
        self.check(id, value)
        self._dead_letters.edit(id, value)

    def check(self, id: int, value: bytes) -> None:
        """Raise what `edit` would raise; changes nothing."""
        dead_letter = self._known(id)
        event = from_record(value, now_ms())
        errors = {}
        if CATALOGUE[event.type].topic != dead_letter.topic:
            errors["type"] = [f"Belongs to topic {CATALOGUE[event.type].topic}."]
        if dead_letter.event_id.startswith(f"{OUR_PREFIX}dead:"):  # the event had no id
            if event.is_internal:
                errors["id"] = [f"Must not begin with {OUR_PREFIX}."]
        elif event.id != dead_letter.event_id:
            errors["id"] = [f"Must stay {dead_letter.event_id}."]
        for name in masked_fields(event.data):
            errors[f"data.{name}"] = ["It is masked: send the value itself."]
        if errors:
            raise InvalidEvent("The value is not valid.", errors)
        if dead_letter.state != "open":
            raise StateConflict(f"It is already {dead_letter.state}.")

    def discard(self, id: int, reason: str) -> None:
        """Discard a dead letter. Raises StateConflict, InvalidEvent."""
        if not reason.strip() or len(reason) > MAX_REASON:
            line = f"Must be a text of 1 to {MAX_REASON} characters."
            raise InvalidEvent("Give the reason for discarding it.", {"reason": [line]})
        self._known(id)
        self._dead_letters.discard(id, reason)

    def _redrive(self, id: int) -> None:
        dead_letter = self._known(id)
        if dead_letter.state != "open":
            raise StateConflict(f"It is already {dead_letter.state}.")
        if dead_letter.redrives >= MAX_REDRIVES:
            raise StateConflict(
                f"It has already been redriven {dead_letter.redrives} times: discard it."
            )
        event = self._readable(dead_letter)
        self._check_known(event)
        self._wait_for_turn()
        [future] = self._log.append([_record(dead_letter, event)])
        confirmed(future)
        self._dead_letters.mark_redriven(id)

    def _known(self, id: int) -> DeadLetter:
        dead_letter = self._dead_letters.get(id)
        if dead_letter is None:
            raise StateConflict(f"There is no dead letter {id}.")
        return dead_letter

    def _readable(self, dead_letter: DeadLetter) -> Event:
        try:
            value = dead_letter.value if dead_letter.edited is None else dead_letter.edited
            return from_record(value, now_ms())  # the new record gets the current time
        except InvalidEvent as error:
            raise StateConflict(f"It would die again: edit it first. {error}") from None

    def _check_known(self, event: Event) -> None:
        stored = self._read_side.contents([event.id], parked=True).get(event.id)
        if stored is None:
            return
        if event.has_content_of(stored):
            raise StateConflict("Its event has already been received, from another record.")
        raise StateConflict("It would die again: another event has its id. Edit it first.")

    def _wait_for_turn(self) -> None:
        with self._pace:
            now = time.monotonic()
            wait, self._next = self._next - now, max(self._next, now) + 1 / DEAD_LETTERS_PER_SECOND
        if wait > 0:
            threading.Event().wait(wait)


def _record(dead_letter: DeadLetter, event: Event) -> NewRecord:
    ours = (REDRIVES_HEADER, DONE_HEADER)
    headers = tuple(one for one in dead_letter.headers if one[0] not in ours)
    headers = (*headers, (REDRIVES_HEADER, b"%d" % (dead_letter.redrives + 1)))
    if dead_letter.edited is not None:  # another event: all its handlers are called
        return NewRecord(dead_letter.topic, event.user_id.encode(), dead_letter.edited, headers)
    if dead_letter.done:
        headers = (*headers, (DONE_HEADER, dead_letter.done.encode()))
    return NewRecord(dead_letter.topic, dead_letter.key, dead_letter.value, headers)
