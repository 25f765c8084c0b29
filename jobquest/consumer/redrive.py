"""What an operator does with dead letters: redrive, mend, discard. Called by the API and the
command line.

Redriving appends the record to its topic again, under the same event id, so that whatever is done
twice counts once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from jobquest.clock import now_ms
from jobquest.errors import InvalidEvent, LogUnavailable, RecordRefused, StateConflict
from jobquest.events import CATALOGUE, OUR_PREFIX, Event, from_record
from jobquest.log import EventLog, NewRecord
from jobquest.producer import confirmed
from jobquest.read import ReadSide
from jobquest.read.letters import DONE_HEADER, REDRIVES_HEADER, Letter, LetterFilter, Letters

MAX_LETTERS = 500  # of one call
MAX_REDRIVES = 3
LETTERS_PER_SECOND = 100  # what made them die may not stand more
MAX_REASON = 500


@dataclass(slots=True)
class Redriven:
    """Ids of letters that are in the log again, and why others are not."""

    redriven: list[int] = field(default_factory=list)
    refused: list[tuple[int, str]] = field(default_factory=list)


class Redrive:
    """Decides about letters. Any thread may call it."""

    def __init__(self, letters: Letters, read_side: ReadSide, log: EventLog) -> None:
        self._letters = letters
        self._read_side = read_side
        self._log = log
        self._pace = threading.Lock()  # over the next
        self._next = 0.0

    def redrive(self, ids: Sequence[int]) -> Redriven:
        """Append the records of open letters to their topics again.

        Takes as long as the rate demands. Raises ReadSideUnavailable.
        """
        result = Redriven()
        for id in dict.fromkeys(ids):
            try:
                self._redrive(id)
                result.redriven.append(id)
            except (StateConflict, InvalidEvent, RecordRefused, LogUnavailable) as error:
                result.refused.append((id, str(error)))
        return result

    def redrive_matching(self, wanted: LetterFilter) -> Redriven:
        """The same for the letters that match, oldest first, at most 500 a call."""
        return self.redrive(self._letters.ids(wanted, MAX_LETTERS))

    def mend(self, id: int, value: bytes) -> None:
        """Have `value` (an event as JSON) redriven instead of what died.

        Raises StateConflict, and InvalidEvent where it would die again.
        """
        self.check(id, value)
        self._letters.mend(id, value)

    def check(self, id: int, value: bytes) -> None:
        """Whether `mend` would take it: raises what that does, and changes nothing."""
        letter = self._known(id)
        event = from_record(value, now_ms())
        errors = {}
        if CATALOGUE[event.type].topic != letter.topic:
            errors["type"] = [f"Belongs to topic {CATALOGUE[event.type].topic}."]
        if letter.event_id.startswith(f"{OUR_PREFIX}dead:"):  # it has no id of its own yet
            if event.is_ours:
                errors["id"] = [f"Must not begin with {OUR_PREFIX}."]
        elif event.id != letter.event_id:
            errors["id"] = [f"Must stay {letter.event_id}."]
        if errors:
            raise InvalidEvent("The value is not valid.", errors)
        if letter.state != "open":
            raise StateConflict(f"It is {letter.state} already.")

    def discard(self, id: int, reason: str) -> None:
        """Give a letter up. Raises StateConflict, InvalidEvent."""
        if not reason.strip() or len(reason) > MAX_REASON:
            line = f"Must be a text of 1 to {MAX_REASON} characters."
            raise InvalidEvent("Say why it is given up.", {"reason": [line]})
        self._known(id)
        self._letters.discard(id, reason)

    def _redrive(self, id: int) -> None:
        letter = self._known(id)
        if letter.state != "open":
            raise StateConflict(f"It is {letter.state} already.")
        if letter.redrives >= MAX_REDRIVES:
            raise StateConflict(f"It was redriven {letter.redrives} times already: discard it.")
        event = self._readable(letter)
        self._check_known(event)
        self._wait_for_turn()
        [future] = self._log.append([_record(letter, event)])
        confirmed(future)
        self._letters.mark_redriven(id)

    def _known(self, id: int) -> Letter:
        letter = self._letters.get(id)
        if letter is None:
            raise StateConflict(f"There is no letter {id}.")
        return letter

    def _readable(self, letter: Letter) -> Event:
        try:
            value = letter.value if letter.mended is None else letter.mended
            return from_record(value, now_ms())  # its new record's time, and ours
        except InvalidEvent as error:
            raise StateConflict(f"It would die again, so mend it first: {error}") from None

    def _check_known(self, event: Event) -> None:
        stored = self._read_side.contents([event.id], parked=True).get(event.id)
        if stored is None:
            return
        if event.has_content_of(stored):
            raise StateConflict("Its event is taken already, from another record.")
        raise StateConflict("It would die again: another event has its id. Mend it first.")

    def _wait_for_turn(self) -> None:
        with self._pace:
            now = time.monotonic()
            wait, self._next = self._next - now, max(self._next, now) + 1 / LETTERS_PER_SECOND
        if wait > 0:
            threading.Event().wait(wait)


def _record(letter: Letter, event: Event) -> NewRecord:
    ours = (REDRIVES_HEADER, DONE_HEADER)
    headers = tuple(one for one in letter.headers if one[0] not in ours)
    headers = (*headers, (REDRIVES_HEADER, b"%d" % (letter.redrives + 1)))
    if letter.mended is not None:  # another event: every handler is called for it
        return NewRecord(letter.topic, event.user_id.encode(), letter.mended, headers)
    if letter.done:
        headers = (*headers, (DONE_HEADER, letter.done.encode()))
    return NewRecord(letter.topic, letter.key, letter.value, headers)
