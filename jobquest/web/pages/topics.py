"""The pages of topics: how far each partition is read and by which process, and the records of one.

`static/topics.js` updates the numbers of the first page; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from flask import Blueprint, abort, render_template, request, url_for

from jobquest.access.caller import READ
from jobquest.browse import MAX_SCANNED, MAX_SECONDS
from jobquest.clock import now_ms
from jobquest.errors import InvalidEvent, TopicUnavailable, Unavailable
from jobquest.events import format_time
from jobquest.read.dead_letters import TOPIC as DEAD_LETTERS
from jobquest.web.answers import runtime, time_value
from jobquest.web.needs import needs
from jobquest.web.pages.now import status_now
from jobquest.web.pages.words import (
    MAX_LISTED_DOCUMENT,
    PAGE_BYTES,
    json_text,
    number,
    shown,
    shown_text,
    shown_value,
    summary,
)
from jobquest.web.status import DEFAULT_RECORDS, is_shown, shown_topics, wanted_records

page = Blueprint("topics", __name__)

PARAMETERS = ("partition", "offset", "timestamp", "q", "limit")
LIMITS = (10, 50, 100, 500)

# Why the list ends.
STOPPED = {
    "end": "end of partition",
    "limit": "limit reached",
    "size": "size limit reached",
    "scanned": f"limit of {number(MAX_SCANNED)} searched records reached",
    "time": f"limit of {MAX_SECONDS:.0f} seconds reached",
}


@page.get("/topics")
@needs(READ)
def show() -> tuple[str, int]:
    """Every topic with its partitions, and the processes; 503 if the topics can't be read."""
    service = runtime()
    topics, problem = [], None
    status = status_now()
    try:
        topics = service.report.topics(shown_topics())
    except Unavailable as error:
        problem = str(error)
    shown_page = render_template(
        "topics.html",
        topics=topics,
        status=status,
        readers=_names(status["processes"]),
        problem=problem,
        dead_letters=DEAD_LETTERS,
        now=format_time(now_ms()),
    )
    return shown_page, 503 if problem else 200


def _names(processes: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The name of each process by its id. Processes of several hosts may have the same pid."""
    has_several_hosts = len({process["host"] for process in processes}) > 1
    return {
        one["id"]: f"{one['host']}, pid {one['pid']}" if has_several_hosts else f"pid {one['pid']}"
        for one in processes
    }


@page.get("/topics/<topic>")
@needs(READ)
def records(topic: str) -> tuple[str, int]:
    """Records of one partition, raw and decoded; which offsets were read, and why it stopped."""
    if not is_shown(topic):
        abort(404, "There is no such topic.")
    service, look, errors, limit, problem = runtime(), None, {}, DEFAULT_RECORDS, None
    partitions = [info.origin.number for info in service.log.describe([topic])]
    try:
        partition, wanted = wanted_records()
        limit = wanted.limit
        if wanted.offset is not None and wanted.moment_ms is not None:
            line = "Give an offset or a time, not both."
            raise InvalidEvent("A parameter is not valid.", {"timestamp": [line]})
        found = service.report.records(topic, partition, replace(wanted, room=PAGE_BYTES))
        look = _look(found or abort(404, "There is no such partition."), limit, wanted.text)
    except InvalidEvent as error:
        errors = error.errors
    except TopicUnavailable as error:
        problem = str(error)
    asked: dict[str, Any] = {name: request.args.get(name) or None for name in PARAMETERS}
    shown_page = render_template(
        "topic.html",
        topic=topic,
        partitions=partitions,
        look=look,
        errors=errors,
        problem=problem,
        moment=time_value("timestamp"),
        limit=limit,
        limits=sorted({*LIMITS, limit}),
        json=url_for("status.records", topic=topic, **asked),
    )
    return shown_page, 400 if errors else 200


def _look(found: dict[str, Any], limit: int, text: str) -> dict[str, Any]:
    """What `browse` found, as the page shows it."""
    first, last = found["scanned"]["from"], found["scanned"]["to"] - 1
    # A search goes further back, because it needs more records to find some.
    earlier = max(found["first"], first - (MAX_SCANNED if text else limit))
    return {
        **found,
        "records": [_record(record) for record in found["records"]],
        "scanned": _scanned(found, last),
        "going_on": found["stopped"] != "end",
        "earlier": earlier if earlier < first else None,
    }


def _scanned(found: dict[str, Any], last: int) -> str:
    count, first = found["scanned"]["records"], found["scanned"]["from"]
    if not count:
        if found["stopped"] == "time":
            return f"The log returned no record from offset {number(first)} in time."
        if found["first"] == found["end"]:
            return "The partition is empty."
        return f"No record at offset {number(first)} or later (end of partition)"
    offsets = f"Offset {number(first)}" if count == 1 else f"Offsets {number(first)}–{number(last)}"
    return f"{offsets} ({STOPPED[found['stopped']]})"


def _record(record: dict[str, Any]) -> dict[str, Any]:
    event = shown(record["event"])
    return {
        **record,
        "key": None if record["key"] is None else shown_text(record["key"]),
        "value": None if record["value"] is None else shown_value(record),
        "headers": [_header(**header) for header in record["headers"]],
        "event": event,
        "document": event and json_text(event, MAX_LISTED_DOCUMENT),
        "summary": summary(event["data"]) if event else None,
    }


def _header(name: str, value: str | None) -> tuple[str, str]:
    return name, shown_text(shown({"name": name, "value": value or ""})["value"])
