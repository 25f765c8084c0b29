"""The exceptions that cross module boundaries.

Each has a message of one line for its reader; none knows HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping


class JobQuestError(Exception):
    """Any error that this service raises on purpose."""


class SettingsError(JobQuestError):
    """A setting is unknown or unusable. The message says which, why, and what to do."""


class InvalidEvent(JobQuestError):
    """An event, or the JSON in which it arrived, breaks the rules.

    `errors` maps a field's path (`data.xpEarned`) to its problems, one line each.
    """

    def __init__(self, message: str, errors: Mapping[str, list[str]] | None = None) -> None:
        super().__init__(message)
        self.errors: dict[str, list[str]] = dict(errors or {})

    def __str__(self) -> str:
        head = super().__str__()
        details = "; ".join(f"{path}: {' '.join(lines)}" for path, lines in self.errors.items())
        return f"{head} ({details})" if details else head


class CursorOutdated(InvalidEvent):
    """A cursor names a place in a list as it was before a rebuild. `name` is its parameter."""

    def __init__(self, name: str) -> None:
        super().__init__(
            "This place in the list is from before a rebuild.",
            {name: ["Begin again without it: the rebuild has given all changes new numbers."]},
        )


class IdConflict(JobQuestError):
    """An event's id already belongs to a processed event with other content."""


class StateConflict(JobQuestError):
    """The request does not fit the current state of its object (for example, of a discarded dead
    letter)."""


class Unavailable(JobQuestError):
    """Infrastructure (log, database) is away; the same call may succeed later. Nothing was decided
    about any event."""


class LogUnavailable(Unavailable):
    """The event log did not confirm the record. It may still have been written."""


class TopicUnavailable(LogUnavailable):
    """The log can't write or read this one topic; other topics still work."""

    def __init__(self, topic: str, message: str) -> None:
        super().__init__(message)
        self.topic = topic


class LogDamaged(LogUnavailable):
    """A file of the log is damaged, and an operator must act. The message names the file and says
    what to do."""


class ReadSideUnavailable(Unavailable):
    """The read side's database could not be reached, was locked for too long, or is full."""


class UpgradeWaits(ReadSideUnavailable):
    """Processes of an older version are alive, and could not work with the upgraded tables. The
    message names them."""


class ReadSideUnusable(ReadSideUnavailable):
    """The database's own settings make it unusable; an operator must create another one."""


class RecordRefused(JobQuestError):
    """The log will never accept this record (it may be too large): a retry is useless."""


class NotRetryable(JobQuestError):
    """A handler raises it if a retry is useless: its event becomes a dead letter at once."""


class PositionMoved(JobQuestError):
    """Another consumer has stored positions for our partitions: ours are out of date."""


class Unauthenticated(JobQuestError):
    """A request has no valid credential. The message says what is wrong with it."""


class Forbidden(JobQuestError):
    """The caller's credential does not allow this."""


class NotRead(Exception):
    """A request is refused before its body is read, so nothing was done."""


class TooMany(JobQuestError):
    """The caller has reached a limit; the same call may succeed in `retry_after` seconds."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class AccessUnavailable(Unavailable):
    """The credentials can't be looked up now, so nobody can be let in by one."""


class PasswordRefused(JobQuestError):
    """A new password breaks the rules. The message says which."""
