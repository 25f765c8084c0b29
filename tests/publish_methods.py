"""Writes `jobquest/publish_methods.py` from the catalogue: `python -m tests.publish_methods`.

A test compares the file with what this writes, so a new event type needs one run of it.
"""

from __future__ import annotations

import re
from pathlib import Path

from jobquest.events.catalogue import CATALOGUE, EventType
from jobquest.events.fields import FIELDS

PLACE = Path(__file__).parent.parent / "jobquest" / "publish_methods.py"
_LINE = 100
_HEAD = '''"""One method of the producer for each event type, with the type's fields as arguments.

Written from the catalogue by `python -m tests.publish_methods`: change the catalogue, not this.
They are source and not made at run time, so that type checkers and editors know them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

if TYPE_CHECKING:
    from jobquest.producer import Published


class Options(TypedDict, total=False):
    """Keywords that every method has besides its fields; see `Producer.publish`."""

    metadata: Mapping[str, Any] | None
    id: str | None
    timestamp: str | datetime | None


class PublishMethods(ABC):
    """One method per event type, each of which calls `publish`."""

    @abstractmethod
    def publish(
        self,
        event_type: str,
        user_id: str,
        data: Mapping[str, Any],
        *,
        metadata: Mapping[str, Any] | None = None,
        id: str | None = None,
        timestamp: str | datetime | None = None,
    ) -> Published:
        """Publish one event."""

    def _publish(self, event_type: str, user_id: str, options: Options, **fields: Any) -> Published:
        data = {name: value for name, value in fields.items() if value is not None}
        return self.publish(event_type, user_id, data, **options)
'''


def text() -> str:
    """The whole file."""
    return "\n".join([_HEAD, "\n".join(_method(one) for one in CATALOGUE.values())])


def _method(event_type: EventType) -> str:
    fields = event_type.fields
    name = "publish_" + event_type.name.replace(".", "_")
    arguments = ["self", "user_id: str", *(_argument(event_type, field) for field in fields)]
    options = "**options: Unpack[Options]"
    values = [f'"{event_type.name}"', "user_id", "options"]
    values += [f"{field}={_snake(field)}" for field in fields]
    lines = [
        *_call(f"    def {name}(", [*arguments, options], ") -> Published:"),
        f'        """{event_type.description} Publishes `{event_type.name}`."""',
        *_call("        return self._publish(", values, ")"),
    ]
    return "\n".join(lines) + "\n"


def _argument(event_type: EventType, field: str) -> str:
    kind = FIELDS[field].kind.annotation
    optional = "" if field in event_type.required else " | None = None"
    return f"{_snake(field)}: {kind}{optional}"


def _call(begin: str, parts: list[str], end: str) -> list[str]:
    """As the formatter writes it: on one line, or the parts on one, or each part on its own."""
    joined = ", ".join(parts)
    if len(begin + joined + end) <= _LINE:
        return [begin + joined + end]
    indent = " " * (len(begin) - len(begin.lstrip()))
    inside = f"{indent}    "
    within = [inside + joined]
    if len(within[0]) > _LINE:
        within = [f"{inside}{part}," for part in parts]
    return [begin, *within, indent + end]


def _snake(name: str) -> str:
    return re.sub("(?<=[a-z])(?=[A-Z])", "_", name).lower()


if __name__ == "__main__":
    PLACE.write_text(text())
