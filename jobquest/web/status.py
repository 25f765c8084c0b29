"""The consumer's state and switch, and the topics: `/api/kafka/status`, `/api/kafka/topics`."""

from __future__ import annotations

from flask import Blueprint, Response, abort, request

from jobquest.access.caller import MANAGE, OPERATE, READ
from jobquest.audit import TOPIC as AUDIT
from jobquest.browse import Wanted
from jobquest.errors import InvalidEvent
from jobquest.read.queries import MAX_LIMIT
from jobquest.report import LOG_TOPICS
from jobquest.web.answers import json_object, runtime, success, time_parameter, whole_parameter
from jobquest.web.audited import audited, noted
from jobquest.web.current import may
from jobquest.web.needs import needs
from jobquest.web.personal import is_asked

status = Blueprint("status", __name__, url_prefix="/api/kafka")

DEFAULT_RECORDS = 50
MAX_PARTITION = 2**31 - 1
MAX_OFFSET = 2**63 - 1


@status.get("/status")
@needs(READ)
def show() -> tuple[Response, int]:
    """The service's status, and the epoch of the database that it is about."""
    return success({**runtime().report.status(), "epoch": runtime().feed.epoch})


@status.post("/status")
@needs(OPERATE)
@audited("start", "stop", what="consumer")
def switch() -> tuple[Response, int]:
    """Start or stop the consumer of the whole service; answers when that is done."""
    action = json_object().get("action")
    if action in ("start", "stop"):
        noted(action)
    if action == "start":
        return success(runtime().start_consumer(), "The consumer is running")
    if action == "stop":
        return success(runtime().stop_consumer(), "The consumer has stopped")
    raise InvalidEvent("No such action.", {"action": ["Must be start or stop."]})


@status.get("/topics")
@needs(READ)
def topics() -> tuple[Response, int]:
    """Partitions, offsets and lag of every topic. The answer is small, because the topics are
    fixed: a thousand partitions of each are 1 MB."""
    return success({"topics": runtime().report.topics(shown_topics())})


@status.get("/topics/<topic>/records")
@needs(READ)
def records(topic: str) -> tuple[Response, int]:
    """Records of one partition from an offset or a time; without either, the latest ones."""
    found = runtime().report.records(topic, *wanted_records()) if is_shown(topic) else None
    return success(found or abort(404, "There is no such partition."))


def shown_topics() -> tuple[str, ...]:
    """Topics that are listed besides those of events."""
    return (AUDIT,) if may(MANAGE) else ()


def is_shown(topic: str) -> bool:
    """Whether the sender may know of this topic."""
    return topic in LOG_TOPICS and (topic != AUDIT or may(MANAGE))


def wanted_records() -> tuple[int, Wanted]:
    """The partition and the records that the query string asks for. Raises InvalidEvent."""
    number = whole_parameter("partition", 0, 0, MAX_PARTITION) or 0
    return number, Wanted(
        offset=whole_parameter("offset", None, 0, MAX_OFFSET),
        moment_ms=time_parameter("timestamp"),
        limit=whole_parameter("limit", DEFAULT_RECORDS, 1, MAX_LIMIT) or DEFAULT_RECORDS,
        text=request.args.get("q", ""),
        in_personal=is_asked(),
    )
