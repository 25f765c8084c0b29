"""The form for one event, made from its type's schema: an input per field, filled from an event.

Called by the pages that publish and edit. `_event_form.html` places it, `static/event_form.js`
reads it back: what does not fit its field's input is kept as JSON. Nothing in it is masked.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jobquest.events import CATALOGUE, PERSONAL_FIELDS, parse_time
from jobquest.events.fields import FIELDS, UserId
from jobquest.web.pages.words import visible, visible_lines

_MISSING = object()
_JSON = "JSON; anything else is a text"
_TIME = re.compile(r"[\d-]{10}T[\d:]{8}\.\d{3}Z")  # what a browser's input for it can hold


@dataclass(frozen=True, slots=True)
class Field:
    """One member of the event, in its data or its envelope. `control` says which input it has:
    text, lines, number, list, time, json."""

    inside: str  # "data" or ""
    name: str
    control: str
    value: str
    hint: str
    required: bool = False
    personal: bool = False
    most: int | None = None
    step: str = "any"

    @property
    def label(self) -> str:
        return visible(self.name)

    @property
    def lines(self) -> int:
        """How many lines its input shows."""
        return min(12, max(self.value.count("\n") + 1, 3 if self.control != "json" else 2))


@dataclass(frozen=True, slots=True)
class EventForm:
    """`fields` are the user and the data, `more` the rest of the envelope; `type_member` is the
    name of the member that has the type."""

    type: str
    type_member: str
    fields: tuple[Field, ...]
    more: tuple[Field, ...]


def event_form(event_type: str, event: Mapping[str, Any], *, as_request: bool) -> EventForm:
    """The form for an event of `event_type`, filled from `event`, whose values may be of any kind.

    `as_request`: the API receives it and adds what is missing. Otherwise it is a whole event, as on
    a topic. An unknown type has only the fields of `event`.
    """
    type_member = "eventType" if as_request else "type"
    rest = {name: value for name, value in event.items() if name != type_member}
    stamped = "; empty: {}" if as_request else ""

    def own(name: str, control: str, hint: str, empty: str, optional: bool = as_request) -> Field:
        value = rest.pop(name, _MISSING)
        return _field("", name, control, value, hint + stamped.format(empty), not optional)

    data = rest.pop("data", {})
    user = own("userId", UserId.control, UserId.hint, "demo-user")
    envelope = (
        own("metadata", "json", "a JSON object", "{}", optional=True),
        own("id", "text", "1 to 100 of A-Z a-z 0-9 _ . : -", "a new one"),
        own("timestamp", "time", "when it happened", "now"),
    )
    unknown = tuple(_field("", name, "json", value, _JSON) for name, value in rest.items())
    fields = (user, *_data_fields(event_type, data))
    return EventForm(event_type, type_member, fields, envelope + unknown)


def _data_fields(event_type: str, data: Any) -> list[Field]:
    if not isinstance(data, Mapping):
        return [_field("", "data", "json", data, "a JSON object", True)]
    row = CATALOGUE.get(event_type)
    known, required = (row.fields, row.required) if row else ((), ())
    fields = []
    for name in known:
        kind, value = FIELDS[name].kind, data.get(name, _MISSING)
        limits = {"most": kind.most, "step": kind.step}
        is_required = name in required
        fields.append(_field("data", name, kind.control, value, kind.hint, is_required, **limits))
    hint = f"no field of this type · {_JSON}" if row else _JSON
    unknown = [name for name in data if name not in known]
    return fields + [_field("data", name, "json", data[name], hint) for name in unknown]


def _field(
    inside: str,
    name: str,
    control: str,
    value: Any,
    hint: str,
    required: bool = False,
    **more: Any,
) -> Field:
    """A field with the first input that can hold `value` unchanged."""
    personal = name in PERSONAL_FIELDS
    if value is _MISSING:
        return Field(inside, name, control, "", hint, required, personal, **more)
    for fitting in (control, *_INSTEAD.get(control, ())):
        text = _WRITERS[fitting](value)
        if text is not None:
            return Field(inside, name, fitting, text, hint, required, personal, **more)
    hint = f"{hint} · as JSON"
    return Field(inside, name, "json", _json_text(value), hint, required, personal, **more)


def _line_text(value: Any) -> str | None:
    return value if isinstance(value, str) and visible(value) == value else None


def _lines_text(value: Any) -> str | None:
    return value if isinstance(value, str) and visible_lines(value) == value else None


def _number_text(value: Any) -> str | None:
    fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return json.dumps(value) if fits else None


def _list_text(value: Any) -> str | None:
    fits = isinstance(value, list) and all(_line_text(one) and one.strip() for one in value)
    return "\n".join(value) if fits else None


def _time_text(value: Any) -> str | None:
    if not isinstance(value, str) or not _TIME.fullmatch(value):
        return None
    try:
        parse_time(value)
    except ValueError:
        return None
    return value


def _json_text(value: Any) -> str:
    """`value` as JSON without invisible characters: their escapes are JSON, too."""
    return visible_lines(json.dumps(value, indent=2, ensure_ascii=False))


# Input → its text for a value, None if it can't hold the value unchanged. Then the input to try
# next, before JSON.
_WRITERS: dict[str, Callable[[Any], str | None]] = {
    "text": _line_text,
    "lines": _lines_text,
    "number": _number_text,
    "list": _list_text,
    "time": _time_text,
    "json": _json_text,
}
_INSTEAD = {"text": ("lines",), "time": ("text",)}
