"""The kinds of values in event data, a class each, and the table of all fields.

A field has one meaning in every type that carries it, so it is declared once, in `FIELDS`. Kinds
are strict about types, unlike marshmallow's own fields: those take "5" for 5 and true for 1.
Validation, fast decoding, forms, the catalogue and the producer's methods follow from a kind.
"""

from __future__ import annotations

import unicodedata
from decimal import Decimal
from itertools import islice
from typing import Annotated, Any, ClassVar, NamedTuple

from marshmallow import ValidationError, fields
from msgspec import Meta

MAX_TEXT = 500
MAX_LONG_TEXT = 5_000
MAX_COUNT = 1_000_000_000
MAX_TAGS = 100
MAX_TAG_ERRORS = 10
MAX_USER_ID = 128


# Categories of invisible characters: controls, ends of lines and paragraphs; formats
# (zero-width ones, directions), halves of pairs, and what no version of Unicode has assigned.
_CONTROLS = frozenset({"Cc", "Zl", "Zp"})
UNSEEN = _CONTROLS | {"Cf", "Cs", "Cn"}


def unseen_in(text: str, categories: frozenset[str] = UNSEEN) -> str | None:
    """The first invisible character of a text, such as U+200B; None if there is none."""
    if text.isascii() and text.isprintable():
        return None
    found = (one for one in text if unicodedata.category(one) in categories)
    return next((f"U+{ord(one):04X}" for one in found), None)


class Kind(fields.Field[Any]):
    """A kind of value. One class says everything about it: a new kind is a new subclass.

    It is a marshmallow field whose `wrong_with` decides; the attributes describe the same values to
    fast decoding, forms, the catalogue and the producer.
    """

    word: ClassVar[str]  # its name in documents
    limits: ClassVar[str]  # what values must keep to, for the catalogue
    annotation: ClassVar[str]  # the type of an argument of the producer's
    fast: ClassVar[Any]  # a type for msgspec that takes no value which `wrong_with` refuses
    is_nested: ClassVar[bool] = False  # whether values are lists or objects, which events freeze
    control: ClassVar[str]  # the input in forms: text, lines, number, list or json
    hint: ClassVar[str]  # the line below that input
    most: ClassVar[int | None] = None  # of an input for numbers, like `step`
    step: ClassVar[str] = "any"

    @classmethod
    def wrong_with(cls, value: Any) -> str | dict[Any, list[str]] | None:
        """Why a value is not of this kind, by place if it has parts; None if it is."""
        raise NotImplementedError

    def _deserialize(self, value: Any, attr: Any, data: Any, **options: Any) -> Any:
        if wrong := self.wrong_with(value):
            raise ValidationError(wrong)
        return value


class Text(Kind):
    """1 to 500 characters, not only white space."""

    longest = MAX_TEXT
    word = "text"
    limits = f"1 to {longest:,} characters"
    annotation = "str"
    # It takes white space alone: `fast_decode` leaves every text that begins with some.
    fast = Annotated[str, Meta(min_length=1, max_length=longest)]
    control = "text"
    hint = f"text, up to {longest:,} characters"

    @classmethod
    def wrong_with(cls, value: Any) -> str | None:
        if not isinstance(value, str):
            return "Not a string."
        if not value or value.isspace():
            return "Must not be blank."
        return f"Longer than {cls.longest} characters." if len(value) > cls.longest else None


class LongText(Text):
    """1 to 5,000 characters, not only white space."""

    longest = MAX_LONG_TEXT
    word = "long text"
    limits = f"1 to {longest:,} characters"
    fast = Annotated[str, Meta(min_length=1, max_length=longest)]
    control = "lines"
    hint = f"text, up to {longest:,} characters"


class UserId(Text):
    """1 to 128 characters, none of them a control character or a line break. A request with other
    invisible characters is refused (`unseen_in`), a record that has them is processed."""

    longest = MAX_USER_ID
    fast = Annotated[str, Meta(min_length=1, max_length=longest)]
    hint = f"text, up to {longest:,} characters"

    @classmethod
    def wrong_with(cls, value: Any) -> str | None:
        if wrong := super().wrong_with(value):
            return wrong
        # Zl and Zp (U+2028, U+2029) end a line for many log readers.
        character = unseen_in(value, _CONTROLS)
        return f"Must not contain {character}, which can't be seen." if character else None


class Number(Kind):
    """A number from 0 to a billion; true is none."""

    types: ClassVar[tuple[type[Any], ...]] = (int, float)
    refusal: ClassVar[str] = "Not a number."
    most = MAX_COUNT
    word = "number"
    limits = f"0 to {most:,}"
    annotation = "float"
    fast = Annotated[int, Meta(ge=0, le=most)] | Annotated[float, Meta(ge=0, le=most)]
    control = "number"
    hint = f"number, 0 to {most:,}"

    @classmethod
    def wrong_with(cls, value: Any) -> str | None:
        # A Decimal is a number that is too large (`exact_json.py`), whole or not.
        types: tuple[Any, ...] = (*cls.types, Decimal)
        if isinstance(value, bool) or not isinstance(value, types):
            return cls.refusal
        return None if 0 <= value <= cls.most else f"Must lie between 0 and {cls.most}."


class Count(Number):
    """A whole number from 0 to a billion."""

    types = (int,)
    refusal = "Not a whole number."
    word = "whole number"
    annotation = "int"
    fast = Annotated[int, Meta(ge=0, le=MAX_COUNT)]
    hint = f"whole number, 0 to {MAX_COUNT:,}"
    step = "1"


class Percent(Number):
    """A number from 0 to 100."""

    most = 100
    word = "percent"
    limits = "0 to 100"
    fast = Annotated[int, Meta(ge=0, le=most)] | Annotated[float, Meta(ge=0, le=most)]
    hint = "percent, 0 to 100"


class Tags(Kind):
    """A list of at most 100 texts."""

    word = "list of texts"
    limits = f"at most {MAX_TAGS} texts, each {Text.limits}"
    annotation = "list[str]"
    fast = Annotated[list[Text.fast], Meta(max_length=MAX_TAGS)]
    is_nested = True
    control = "list"
    hint = f"one text a line, up to {MAX_TAGS}"

    @classmethod
    def wrong_with(cls, value: Any) -> str | dict[Any, list[str]] | None:
        if not isinstance(value, list):
            return "Not a valid list."
        if len(value) > MAX_TAGS:
            return f"More than {MAX_TAGS} entries."
        wrong = ((at, Text.wrong_with(tag)) for at, tag in enumerate(value))
        # A few errors are enough: a batch may have a thousand such lists.
        shown = islice((pair for pair in wrong if pair[1]), MAX_TAG_ERRORS)
        return {at: [why] for at, why in shown if why}


class DataField(NamedTuple):
    """A field of events' data. Personal data is masked wherever a person looks."""

    kind: type[Kind]
    example: Any
    is_personal: bool = False


FIELDS: dict[str, DataField] = {
    "missionId": DataField(Text, "mission_42"),
    "missionName": DataField(Text, "Tailor the CV"),
    "missionType": DataField(Text, "focus"),
    "duration": DataField(Number, 25),
    "xpEarned": DataField(Count, 50),
    "reason": DataField(Text, "Interrupted"),
    "jobId": DataField(Text, "job_7"),
    "companyName": DataField(Text, "Acme"),
    "position": DataField(Text, "Back-end developer"),
    "status": DataField(Text, "applied"),
    "newStatus": DataField(Text, "interview"),
    "previousStatus": DataField(Text, "applied"),
    "achievementId": DataField(Text, "first_application"),
    "achievementName": DataField(Text, "First application"),
    "xpAmount": DataField(Count, 100),
    "newLevel": DataField(Count, 3),
    "totalXp": DataField(Count, 350),
    "source": DataField(Text, "referral"),
    "streakDays": DataField(Count, 7),
    "challengeId": DataField(Text, "challenge_2026_11_24"),
    "challengeTitle": DataField(Text, "Three applications"),
    "challengeDescription": DataField(LongText, "Apply to three jobs today."),
    "xpReward": DataField(Count, 75),
    "resourceId": DataField(Text, "course_9"),
    "resourceTitle": DataField(Text, "Interviewing well"),
    "resourceType": DataField(Text, "course"),
    "progress": DataField(Percent, 100),
    "notificationId": DataField(Text, "note_1"),
    "notificationType": DataField(Text, "achievement"),
    "title": DataField(Text, "Well done"),
    "message": DataField(LongText, "You unlocked First application."),
    "userEmail": DataField(Text, "ada@example.org", is_personal=True),
    "userAgent": DataField(Text, "Mozilla/5.0", is_personal=True),
    "ipAddress": DataField(Text, "192.0.2.1", is_personal=True),
    "errorMessage": DataField(LongText, "The mail provider did not answer."),
    "errorCode": DataField(Text, "MAIL_TIMEOUT"),
    "entryId": DataField(Text, "entry_3"),
    "tags": DataField(Tags, ["interview", "notes"]),
    "wordCount": DataField(Count, 120),
}

PERSONAL_FIELDS = frozenset(name for name, field in FIELDS.items() if field.is_personal)
