"""What went wrong with an event, as words that outlive the exception: they stand in tables, in
headers and on pages."""

from __future__ import annotations

import traceback
from dataclasses import dataclass

from jobquest.errors import InvalidEvent

MAX_ERROR = 5_000
MAX_PATH = 1_000


@dataclass(frozen=True, slots=True)
class Failure:
    """`error` is the line to show, `error_class` its exception's name.

    `path` says where: the fields that are wrong (`data.xpEarned`) or the place in the handler's
    code that raised (`orders.py:12 in send`).
    """

    error: str
    error_class: str
    path: str | None = None

    @staticmethod
    def of(error: BaseException) -> Failure:
        """The failure that an exception tells of."""
        return Failure(_line_of(error), type(error).__name__[:200], _path_of(error))


def _line_of(error: BaseException) -> str:
    try:
        text = str(error) or repr(error)
    except Exception:  # a handler's own exception may fail at this too
        text = f"{type(error).__name__}, which can't be shown"
    # No database takes NUL or half of a surrogate pair.
    return text[:MAX_ERROR].replace("\x00", "").encode("utf-8", "replace").decode()


def _path_of(error: BaseException) -> str | None:
    if isinstance(error, InvalidEvent):
        return ", ".join(error.errors)[:MAX_PATH] or None
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return None
    file = frames[-1].filename.replace("\\", "/").rsplit("/", 1)[-1]
    return f"{file}:{frames[-1].lineno} in {frames[-1].name}"[:MAX_PATH]
