"""The exceptions that cross module borders.

Each carries one line for its reader; none knows HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping


class JobQuestError(Exception):
    """Anything this service raises on purpose."""


class SettingsError(JobQuestError):
    """A setting is unknown or unusable: says which, why, and what to do."""


class InvalidEvent(JobQuestError):
    """An event, or the JSON it came as, breaks the rules.

    `errors` maps a field's path (`data.xpEarned`) to what is wrong with it, one line each.
    """

    def __init__(self, message: str, errors: Mapping[str, list[str]] | None = None) -> None:
        super().__init__(message)
        self.errors: dict[str, list[str]] = dict(errors or {})

    def __str__(self) -> str:
        head = super().__str__()
        details = "; ".join(f"{path}: {' '.join(lines)}" for path, lines in self.errors.items())
        return f"{head} ({details})" if details else head


class IdConflict(JobQuestError):
    """An event's id belongs already to a processed event with other content."""


class StateConflict(JobQuestError):
    """What was asked does not fit the state that the thing is in (a dead letter that is
    discarded)."""


class Unavailable(JobQuestError):
    """Infrastructure is away (log, database); the same call may work later. Nothing was decided
    about any event."""


class LogUnavailable(Unavailable):
    """The event log did not confirm the record. It may still have been written."""


class TopicUnavailable(LogUnavailable):
    """The log takes or gives nothing of this one topic; the others go on."""

    def __init__(self, topic: str, message: str) -> None:
        super().__init__(message)
        self.topic = topic


class LogDamaged(LogUnavailable):
    """A file of the log's is damaged: somebody must look. Names the file and what to do."""


class ReadSideUnavailable(Unavailable):
    """The read side's database could not be reached, was locked for too long, or is full."""


class ReadSideUnusable(ReadSideUnavailable):
    """The database can't hold the read side as it was made: somebody must make another."""


class RecordRefused(JobQuestError):
    """The log will never take this record (too large, say): trying again is useless."""


class NotRetryable(JobQuestError):
    """A handler's word that trying again is useless: its event becomes a dead letter at once."""


class PositionMoved(JobQuestError):
    """Another consumer has stored positions for our partitions: ours is out of date."""
