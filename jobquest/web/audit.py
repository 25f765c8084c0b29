"""The audit trail as JSON: `/api/audit`, and all of it as lines, `/api/audit.jsonl`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import orjson
from flask import Blueprint, Response, request

from jobquest.access.caller import MANAGE
from jobquest.events import exact_json
from jobquest.read.queries import MAX_LIMIT
from jobquest.web.answers import after_parameter, runtime, success, whole_parameter
from jobquest.web.needs import needs

audit = Blueprint("audit", __name__, url_prefix="/api")

DEFAULT_LIMIT = 50


@audit.get("/audit")
@needs(MANAGE)
def listed() -> tuple[Response, int]:
    """Who did what, newest first; of one person with `name`."""
    limit = whole_parameter("limit", DEFAULT_LIMIT, 1, MAX_LIMIT) or DEFAULT_LIMIT
    found, following = runtime().audit.latest(person(), after_parameter(), limit)
    return success({"audit": found, "next": following})


@audit.get("/audit.jsonl")
@needs(MANAGE)
def export() -> Response:
    """The same without a limit, an entry a line. If the log fails meanwhile, the answer breaks
    off."""
    entries, wanted = runtime().audit.entries(after_parameter()), person()
    first = [entry for entry in [next(entries, None)] if entry]  # a refusal is still an answer

    def lines() -> Iterator[bytes]:
        for entry, _ in chain(first, entries):
            if wanted in (None, entry["name"]):
                yield exact_json.dumps(entry, orjson.OPT_APPEND_NEWLINE)

    headers = {"Content-Disposition": "attachment; filename=audit.jsonl"}
    return Response(lines(), mimetype="application/jsonl", headers=headers)


def person() -> str | None:
    """Whose entries are wanted; None: everybody's."""
    return request.args.get("name") or None
