"""How every page shows values, counts, times and links: personal data masked, control characters
visible.

Used by the pages and, as filters, by their templates. `static/common.js` does the same for live
updates; a test compares the two.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any
from urllib.parse import quote, urlencode

from flask import request

from jobquest.events import exact_json
from jobquest.events.personal import NOT_JSON
from jobquest.web import personal
from jobquest.web.paths import SLASH

MAX_SUMMARY = 160
MAX_DOCUMENT = 500_000  # characters of an event as JSON, alone on its page
MAX_LISTED_DOCUMENT = 20_000  # and in a list
TOO_LARGE = "Too large to list; see the event's page."
PAGE_BYTES = 500_000  # of a list's items as JSON: as a page they take several times as much

# Invisible characters, which could reorder or split the text around them, and halves of characters,
# which UTF-8 can't encode.
_UNSEEN = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ud800-\udfff\ufeff]"
)
_one = json.JSONEncoder(ensure_ascii=False).encode
_UNITS = ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "min"), (60, "min", 1, "s"))
_UNQUOTED = "!'()*~"  # what a browser's encodeURIComponent does not change


def shown(value: Any) -> Any:
    """`value` as the reader sees it, with personal data masked; numbers are written as a browser
    writes them."""
    return _written(personal.shown(value))


def _written(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _written(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_written(member) for member in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def shown_text(text: str) -> str:
    """JSON text unchanged, or with personal data masked if it contains any. Text that names a
    personal field and is not JSON is masked as a whole."""
    if (as_it_is := personal.raw(text)) is not None:
        return visible_lines(as_it_is)
    try:
        return json_text(exact_json.loads(text))
    except ValueError:
        return NOT_JSON


def shown_value(holder: Mapping[str, Any]) -> str:
    """The raw value of a record or a dead letter, which may be base64, masked in the same way."""
    if holder["encoding"] == "text":
        return shown_text(holder["value"])
    found: str = shown({"value": holder["value"], "encoding": holder["encoding"]})["value"]
    return found


def json_text(value: Any, longest: int = MAX_DOCUMENT) -> str:
    """`value` as a readable JSON document: masked, indented, invisible characters escaped. A
    document that is too long is cut and says so: indented, some are twenty times as long."""
    parts, length = [], 0
    for part in _spelled(shown(value), "\n"):
        parts.append(part[: longest - length])
        length += len(part)
        if length > longest:
            parts.append(f"\n… cut after {number(longest)} characters")
            break
    return visible_lines("".join(parts))


def _spelled(value: Any, line: str | None) -> Iterator[str]:
    """JSON in small parts, its numbers exact. `line` is a line break with the indentation of
    `value`; None: everything in one line."""
    if not value or not isinstance(value, dict | list):
        yield str(value) if isinstance(value, Decimal) else _one(value)
        return
    is_object = isinstance(value, dict)
    inner = None if line is None else line + "  "
    before = ("{" if is_object else "[") + (inner or "")
    for one in value:
        yield before
        if is_object:
            yield _one(one) + (":" if inner is None else ": ")
        yield from _spelled(value[one] if is_object else one, inner)
        before = "," + (inner or "")
    yield (line or "") + ("}" if is_object else "]")


def summary(data: dict[str, Any]) -> str:
    """An event's data in one line; `data` is masked already."""
    pairs = [
        f"{name}: {value[:MAX_SUMMARY] if isinstance(value, str) else _compact(value)}"
        for name, value in data.items()
    ]
    text = visible(" · ".join(pairs) or "no data")
    return text if len(text) <= MAX_SUMMARY else text[: MAX_SUMMARY - 1] + "…"


def summary_of(item: Mapping[str, Any], data: dict[str, Any]) -> str:
    """The same for an event of the API's list, whose data may be left out."""
    return TOO_LARGE if item.get("truncated") else summary(data)


def event_row(item: dict[str, Any]) -> dict[str, Any]:
    """What `_event_row.html` shows of an event of the API's list."""
    event = shown(item["event"])
    timestamp = event["timestamp"]
    return {
        "id": event["id"],
        "seq": item["seq"],
        "href": event_url(event["id"]),
        "user_href": user_url(event["userId"]) if event["userId"] else None,
        "outcome": item["outcome"],
        "timestamp": timestamp,
        "time": timestamp[11:-1] if timestamp else "unknown",
        "date": timestamp[:10] if timestamp else "",
        "type": visible(event["type"] or "unreadable"),
        "user": visible(event["userId"] or "unknown"),
        "topic": visible(item["topic"]),
        "place": f"partition {item['partition']}, offset {item['offset']}",
        "summary": summary_of(item, event["data"]),
        "document": json_text(item["event"], MAX_LISTED_DOCUMENT),
    }


def _compact(value: Any) -> str:
    return "".join(_spelled(value, None))


def visible(text: Any) -> str:
    """A text in one line, with invisible characters escaped."""
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", str(text))


def visible_lines(text: str) -> str:
    """The same, but line breaks stay."""
    return "\n".join(map(visible, text.split("\n")))


def without(line: str, name: str) -> str:
    """An error's line without its class: `KeyError: 'salary'` → `'salary'`."""
    return "" if line == name else line.removeprefix(f"{name}: ")


def number(value: float) -> str:
    """12,345; 0.25."""
    return f"{value:,}"


def many(count: int, noun: str) -> str:
    """1 event; 2 events."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def span(seconds: float) -> str:
    """A length of time in its two largest units."""
    for size, unit, part, part_unit in _UNITS:
        if seconds >= size:
            whole = int(seconds)
            return f"{whole // size} {unit} {whole % size // part} {part_unit}"
    return f"{seconds:.1f} s"


def here(**changes: Any) -> str:
    """This view's address with changes in its query; None removes a parameter."""
    values: dict[str, Any] = {**request.args.to_dict(flat=False), **changes}
    query = urlencode({name: value for name, value in values.items() if value is not None}, True)
    path = quote(request.script_root + request.path).replace(quote(SLASH), "%2F")
    return path + (f"?{query}" if query else "")


def event_url(id: str) -> str:
    """The page of an event."""
    return _url("events", id)


def user_url(id: str) -> str:
    """The page of a user."""
    return _url("users", id)


def _url(kind: str, id: str) -> str:
    """A path, or a query if a path can't carry the id: browsers fold dots, servers fold slashes."""
    text = quote(id, safe=_UNQUOTED)
    folded = id in (".", "..") or "/" in id or "\\" in id
    return f"{request.script_root}/{kind}{'?id=' if folded else '/'}{text}"


FILTERS: dict[str, Callable[..., Any]] = {
    "event_url": event_url,
    "json_text": json_text,
    "many": many,
    "number": number,
    "shown": shown,
    "shown_text": shown_text,
    "shown_value": shown_value,
    "span": span,
    "summary": summary,
    "user_url": user_url,
    "visible": visible,
    "visible_lines": visible_lines,
    "without": without,
}
