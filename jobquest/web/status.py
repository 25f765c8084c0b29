"""The consumer's state and switch, and the topics: `/api/kafka/status`, `/api/kafka/topics`."""

from __future__ import annotations

from flask import Blueprint, Response

from jobquest.errors import InvalidEvent
from jobquest.web.answers import json_object, runtime, success

status = Blueprint("status", __name__, url_prefix="/api/kafka")


@status.get("/status")
def show() -> tuple[Response, int]:
    """How the service is."""
    return success(runtime().service_status())


@status.post("/status")
def switch() -> tuple[Response, int]:
    """Start or stop the consumer of the whole service; answers when it is so."""
    action = json_object().get("action")
    if action == "start":
        return success(runtime().start_consumer(), "The consumer runs")
    if action == "stop":
        return success(runtime().stop_consumer(), "The consumer has stopped")
    raise InvalidEvent("No such action.", {"action": ["Must be start or stop."]})


@status.get("/topics")
def topics() -> tuple[Response, int]:
    """Partitions, offsets and lag of every topic."""
    return success({"topics": runtime().topics()})
