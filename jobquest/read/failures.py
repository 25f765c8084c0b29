"""Why an event failed, as text that outlives the exception: tables, headers and pages show it."""

from __future__ import annotations

import site
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.exc import DBAPIError

from jobquest.errors import InvalidEvent, JobQuestError, NotRetryable
from jobquest.events import Event
from jobquest.events.personal import without_personal

MAX_ERROR = 5_000
MAX_PATH = 1_000
MAX_FRAMES = 10
MAX_TRACE = 4_000
MAX_PART = 300
COLUMNS = ("error", "error_class", "path", "part", "trace")
"""The columns of a table that keep a failure, in the order of its members."""


@dataclass(frozen=True, slots=True)
class Failure:
    """`error` is the line to show, `error_class` the exception's name.

    `path` is the place of the failure: the fields that are wrong (`data.xpEarned`) or the line of
    code that raised (`orders.py:12 in send`). `part` names what failed: `handler orders.send`,
    `projection applications`; None if the event itself is wrong. `trace` is the end of the
    traceback, without the frames of libraries.
    """

    error: str
    error_class: str
    path: str | None = None
    part: str | None = None
    trace: str | None = None

    @property
    def text(self) -> str:
        """The exception's message without its class."""
        return self.error.removeprefix(f"{self.error_class}: ")

    @staticmethod
    def of(error: BaseException, part: str | None = None, event: Event | None = None) -> Failure:
        """The failure that an exception describes, without the personal data of `event`."""
        part = part or getattr(error, _PART, None)
        return Failure(
            _storable(without_personal(_line_of(error), event), MAX_ERROR),
            type(_cause_of(error)).__name__[:200],
            _path_of(error),
            part and _storable(part, MAX_PART),
            _trace_of(error),
        )


def read_side_failed(error: Exception) -> str:
    """The line for an error of the read side that is not `ReadSideUnavailable`, such as a missing
    table."""
    return f"The read side failed: {' '.join(Failure.of(error).error.split())}"


_PART = "_jobquest_part"


@contextmanager
def failing_as(part: str) -> Iterator[None]:
    """Add the name of the part that failed to an exception that leaves this block."""
    try:
        yield
    except Exception as error:
        setattr(error, _PART, part)
        raise


def _cause_of(error: BaseException) -> BaseException:
    """The database's own error: SQLAlchemy's text contains the whole statement."""
    return error.orig if isinstance(error, DBAPIError) and error.orig else error


def _line_of(error: BaseException) -> str:
    """An error of our own is a sentence. The text of others may mean nothing alone ('salary')."""
    cause = _cause_of(error)
    name = type(cause).__name__
    try:
        text = str(cause)
    except Exception:  # a handler's own exception may fail here too
        return f"{name}, which can't be shown"
    if cause is not error:
        text = text.partition("\n")[0]  # PostgreSQL's details contain the row
    if isinstance(error, JobQuestError) and text:
        return text
    return f"{name}: {text}" if text else name


def _storable(text: str, longest: int) -> str:
    # No database accepts NUL or half of a surrogate pair.
    return text[:longest].replace("\x00", "").encode("utf-8", "replace").decode()


def _path_of(error: BaseException) -> str | None:
    if isinstance(error, InvalidEvent):
        return ", ".join(error.errors)[:MAX_PATH] or None
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return None
    return _storable(_place(frames[-1]), MAX_PATH)


def _place(frame: traceback.FrameSummary) -> str:
    return f"{_short(frame.filename)}:{frame.lineno} in {frame.name}"


def _short(filename: str) -> str:
    return filename.replace("\\", "/").rsplit("/", 1)[-1]


def _trace_of(error: BaseException) -> str | None:
    """The last frames that are not a library's, innermost last, each with its line of code."""
    if isinstance(error, JobQuestError) and not isinstance(error, NotRetryable):
        # Its message says everything.
        return None
    frames = [one for one in traceback.extract_tb(error.__traceback__) if not _is_library(one)]
    lines = [f"{_place(one)}\n    {one.line}" for one in frames[-MAX_FRAMES:]]
    return _storable("\n".join(lines), MAX_TRACE) or None


def _is_library(frame: traceback.FrameSummary) -> bool:
    return frame.filename.startswith(_LIBRARIES)


def _library_folders() -> tuple[str, ...]:
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    found = {sysconfig.get_path(name) for name in names} | set(site.getsitepackages())
    return tuple(str(Path(folder)) for folder in found)


_LIBRARIES = _library_folders()
