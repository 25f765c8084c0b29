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
from jobquest.web.pages.sign_in import is_protected
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
    """The event in a language: the code before and after it, the part of it that carries a
    credential, and how its JSON is written."""

    word: str
    before: str
    after: str
    credential: str
    written: Callable[[str], str]

    def text(self, event: dict[str, Any]) -> str:
        document = visible_lines(json.dumps(event, indent=2, ensure_ascii=False))
        return self.before + self.written(document) + self.after

    def at(self, address: str, *, is_protected: bool) -> Code:
        """The code for this service."""
        left_out = "" if is_protected else self.credential
        before, after = (
            text.replace(left_out, "").replace("ADDRESS", address)
            for text in (self.before, self.after)
        )
        return self._replace(before=before, after=after)


CODE = {
    "curl": Code(
        "curl",
        "curl -X POST ADDRESS \\\n  -H 'Content-Type: application/json' \\\n"
        "  -H 'Authorization: Bearer YOUR_KEY' \\\n  -d '",
        "'",
        "  -H 'Authorization: Bearer YOUR_KEY' \\\n",
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
    headers={"Content-Type": "application/json", "Authorization": "Bearer YOUR_KEY"},
)
try:
    with urlopen(request, timeout=15) as answer:
        print(json.load(answer)["data"])
except HTTPError as error:
    raise SystemExit(f"{error.code}: {error.read().decode()}")
""",
        ', "Authorization": "Bearer YOUR_KEY"',
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
  headers: { "Content-Type": "application/json", "Authorization": "Bearer YOUR_KEY" },
  body: JSON.stringify(event),
});
const answer = (await response.json()) as Answer;
if (answer.status === "error") {
  const errors = JSON.stringify(answer.errors ?? {});
  throw new Error(`${response.status}: ${answer.message} ${errors}`);
}
console.log(answer.data);
""",
        ', "Authorization": "Bearer YOUR_KEY"',
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
        "code": {name: one.at(address, is_protected=is_protected()) for name, one in CODE.items()},
        "event": event,
        "demo": MODULE in runtime().config.handlers,
        "fates": FATES,
        "words": {"mark": MARK, "fates": FATES},
    }
