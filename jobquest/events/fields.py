"""The kinds of values that event data is made of, as marshmallow fields, and the table of fields.

A field has one meaning in every type that carries it, so it is declared once. Strict about
types where marshmallow is not: it would take "5" for 5 and true for 1.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from typing import Any

from marshmallow import ValidationError, fields

MAX_TEXT = 500
MAX_LONG_TEXT = 5_000
MAX_COUNT = 1_000_000_000
MAX_TAGS = 100
MAX_TAG_ERRORS = 10
MAX_USER_ID = 128


# Categories of characters that nobody sees: controls, ends of lines and paragraphs; formats
# (zero-width ones, directions), halves of pairs, and what no version of Unicode has assigned.
_CONTROLS = frozenset({"Cc", "Zl", "Zp"})
UNSEEN = _CONTROLS | {"Cf", "Cs", "Cn"}


def unseen_in(text: str, categories: frozenset[str] = UNSEEN) -> str | None:
    """The first character of a text that nobody can see, as U+200B; None if there is none."""
    if text.isascii() and text.isprintable():
        return None
    found = (one for one in text if unicodedata.category(one) in categories)
    return next((f"U+{ord(one):04X}" for one in found), None)


class Text(fields.Field[str]):
    """1 to `longest` characters, not only white space."""

    def __init__(self, longest: int = MAX_TEXT, **options: Any) -> None:
        super().__init__(**options)
        self.longest = longest

    def _deserialize(self, value: Any, attr: Any, data: Any, **options: Any) -> str:
        if wrong := self.wrong_with(value):
            raise ValidationError(wrong)
        text: str = value
        return text

    def wrong_with(self, value: Any) -> str | None:
        """Why a value is no such text; None if it is."""
        if not isinstance(value, str):
            return "Not a string."
        if not value or value.isspace():
            return "Must not be blank."
        return f"Longer than {self.longest} characters." if len(value) > self.longest else None


class UserId(Text):
    """1 to 128 characters, none of them a control character or a line break. The door refuses more
    (`unseen_in`); what stands on a topic is processed."""

    def __init__(self, **options: Any) -> None:
        super().__init__(MAX_USER_ID, **options)

    def _deserialize(self, value: Any, attr: Any, data: Any, **options: Any) -> str:
        text = super()._deserialize(value, attr, data, **options)
        # Zl and Zp (U+2028, U+2029) end a line for many log readers.
        if character := unseen_in(text, _CONTROLS):
            raise ValidationError(f"Must not contain {character}, which can't be seen.")
        return text


class Number(fields.Field[float | Decimal]):
    """A number from 0 to `most`; true is none."""

    def __init__(self, most: float = MAX_COUNT, *, whole: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.most = most
        self.whole = whole

    def _deserialize(self, value: Any, attr: Any, data: Any, **options: Any) -> float | Decimal:
        # A Decimal is a number that is too large (`exact_json.py`), whole or not.
        kinds = (int, Decimal) if self.whole else (int, float, Decimal)
        if isinstance(value, bool) or not isinstance(value, kinds):
            raise ValidationError("Not a whole number." if self.whole else "Not a number.")
        if not 0 <= value <= self.most:
            raise ValidationError(f"Must lie between 0 and {self.most}.")
        return value


class Tags(fields.List[str]):
    """A list of at most 100 texts."""

    def __init__(self, **options: Any) -> None:
        super().__init__(Text(), **options)

    def _deserialize(self, value: Any, attr: Any, data: Any, **options: Any) -> list[Any]:
        if not isinstance(value, list):
            raise ValidationError("Not a valid list.")
        if len(value) > MAX_TAGS:
            raise ValidationError(f"More than {MAX_TAGS} entries.")
        assert isinstance(self.inner, Text)
        wrong = ((at, self.inner.wrong_with(tag)) for at, tag in enumerate(value))
        # The first ones tell enough, and a batch may have a thousand such lists.
        if errors := dict(islice((pair for pair in wrong if pair[1]), MAX_TAG_ERRORS)):
            raise ValidationError({at: [why] for at, why in errors.items()})
        return value


@dataclass(frozen=True, slots=True)
class Kind:
    """How a field's value looks, in one word for documents, and how it is checked."""

    word: str
    make: type[fields.Field[Any]]
    options: tuple[tuple[str, Any], ...] = ()

    def field(self, *, required: bool) -> fields.Field[Any]:
        return self.make(required=required, **dict(self.options))


TEXT = Kind("text", Text)
LONG_TEXT = Kind("long text", Text, (("longest", MAX_LONG_TEXT),))
COUNT = Kind("whole number", Number, (("whole", True),))
NUMBER = Kind("number", Number)
PERCENT = Kind("percent", Number, (("most", 100),))
TAGS = Kind("list of texts", Tags)

# Field → kind, example.
FIELDS: dict[str, tuple[Kind, Any]] = {
    "missionId": (TEXT, "mission_42"),
    "missionName": (TEXT, "Tailor the CV"),
    "missionType": (TEXT, "focus"),
    "duration": (NUMBER, 25),
    "xpEarned": (COUNT, 50),
    "reason": (TEXT, "Interrupted"),
    "jobId": (TEXT, "job_7"),
    "companyName": (TEXT, "Acme"),
    "position": (TEXT, "Back-end developer"),
    "status": (TEXT, "applied"),
    "newStatus": (TEXT, "interview"),
    "previousStatus": (TEXT, "applied"),
    "achievementId": (TEXT, "first_application"),
    "achievementName": (TEXT, "First application"),
    "xpAmount": (COUNT, 100),
    "newLevel": (COUNT, 3),
    "totalXp": (COUNT, 350),
    "source": (TEXT, "referral"),
    "streakDays": (COUNT, 7),
    "challengeId": (TEXT, "challenge_2026_11_24"),
    "challengeTitle": (TEXT, "Three applications"),
    "challengeDescription": (LONG_TEXT, "Apply to three jobs today."),
    "xpReward": (COUNT, 75),
    "resourceId": (TEXT, "course_9"),
    "resourceTitle": (TEXT, "Interviewing well"),
    "resourceType": (TEXT, "course"),
    "progress": (PERCENT, 100),
    "notificationId": (TEXT, "note_1"),
    "notificationType": (TEXT, "achievement"),
    "title": (TEXT, "Well done"),
    "message": (LONG_TEXT, "You unlocked First application."),
    "userEmail": (TEXT, "ada@example.org"),
    "userAgent": (TEXT, "Mozilla/5.0"),
    "ipAddress": (TEXT, "192.0.2.1"),
    "errorMessage": (LONG_TEXT, "The mail provider did not answer."),
    "errorCode": (TEXT, "MAIL_TIMEOUT"),
    "entryId": (TEXT, "entry_3"),
    "tags": (TAGS, ["interview", "notes"]),
    "wordCount": (COUNT, 120),
}

# Personal data: masked wherever a person looks.
PERSONAL_FIELDS = frozenset({"userEmail", "userAgent", "ipAddress"})
