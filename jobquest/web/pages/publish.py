"""The page that publishes: choose a type, fill in its form, see the check, publish the event, or
make it fail on purpose with the demo handler; the same as curl, Python and TypeScript.

`static/publish.js` sends the event to the API and updates the code.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from flask import Blueprint, render_template, request, url_for

from jobquest.access.caller import OPERATE
from jobquest.demo import FAIL, MARK, MODULE, REFUSE
from jobquest.events import CATALOGUE, TOPICS, EventType
from jobquest.events.requests import DEMO_USER
from jobquest.web.answers import runtime
from jobquest.web.needs import needs
from jobquest.web.pages.event_form import event_form
from jobquest.web.pages.words import visible_lines

page = Blueprint("publish", __name__)

FATES = {
    "": "is processed",
    FAIL: "fails and is retried",
    REFUSE: "becomes a dead letter at once",
}
# A JSON string, or a word that Python writes differently.
_WORDS = re.compile(r'"(?:[^"\\]|\\.)*"|true|false|null')
_IN_PYTHON = {"true": "True", "false": "False", "null": "None"}


class Code(NamedTuple):
    """The event in a language: the code before and after it, and how its JSON is written."""

    word: str
    before: str
    after: str
    written: Callable[[str], str]

    def text(self, address: str, event: dict[str, Any]) -> str:
        document = visible_lines(json.dumps(event, indent=2, ensure_ascii=False))
        return self.before_at(address) + self.written(document) + self.after_at(address)

    def before_at(self, address: str) -> str:
        return self.before.replace("ADDRESS", address)

    def after_at(self, address: str) -> str:
        return self.after.replace("ADDRESS", address)


CODE = {
    "curl": Code(
        "curl",
        "curl -X POST ADDRESS \\\n  -H 'Content-Type: application/json' \\\n  -d '",
        "'",
        lambda document: document.replace("'", "'\\''"),
    ),
    "python": Code(
        "Python",
        """\
import json
from urllib.error import HTTPError
from urllib.request import Request, urlopen

event = """,
        """
request = Request(
    "ADDRESS",
    data=json.dumps(event).encode(),
    headers={"Content-Type": "application/json"},
)
try:
    with urlopen(request, timeout=15) as answer:
        print(json.load(answer)["data"])
except HTTPError as error:
    raise SystemExit(f"{error.code}: {error.read().decode()}")
""",
        lambda document: _WORDS.sub(
            lambda found: _IN_PYTHON.get(found[0], found[0]),
            document,
        ),
    ),
    "typescript": Code(
        "TypeScript",
        """\
type Published = {
  id: string;
  topic: string;
  partition: number | null; // null: the event waits for Kafka
  offset: number | null;
  result: "accepted" | "queued" | "duplicate";
};
type Answer =
  | { status: "success"; data: Published }
  | { status: "error"; message: string; errors?: Record<string, string[]> };

const event = """,
        """;

const response = await fetch("ADDRESS", {
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify(event),
});
const answer = (await response.json()) as Answer;
if (answer.status === "error") {
  const errors = JSON.stringify(answer.errors ?? {});
  throw new Error(`${response.status}: ${answer.message} ${errors}`);
}
console.log(answer.data);
""",
        lambda document: document.replace('"__proto__":', '["__proto__"]:'),
    ),
}


@page.get("/publish")
@needs(OPERATE)
def show() -> tuple[str, int]:
    """The form of the chosen type; without one, the list of types."""
    wanted = request.args.get("type", "")
    row = CATALOGUE.get(wanted)
    more = _form(row) if row else {}
    shown_page = render_template(
        "publish.html",
        wanted=wanted,
        row=row,
        topics={
            topic: [one for one in CATALOGUE.values() if one.topic == topic] for topic in TOPICS
        },
        **more,
    )
    return shown_page, 404 if wanted and not row else 200


def _form(row: EventType) -> dict[str, Any]:
    event = {"eventType": row.name, "data": row.example, "userId": DEMO_USER}
    address = url_for("events.publish", _external=True)
    return {
        "form": event_form(row.name, event, as_request=True),
        "key": DEMO_USER,
        "code": CODE,
        "address": address,
        "event": event,
        "demo": MODULE in runtime().config.handlers,
        "fates": FATES,
        "words": {"mark": MARK, "fates": FATES},
    }
