"""Is the process alive (`/healthz`)? Can it work (`/readyz`)? For process managers and probes."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from jobquest.web.answers import failure, runtime, success
from jobquest.web.needs import PUBLIC, needs

health = Blueprint("health", __name__)


@health.get("/healthz")
@needs(PUBLIC)
def healthz() -> tuple[Response, int]:
    """The process is alive and answers."""
    return success({"alive": True})


@health.get("/readyz")
@needs(PUBLIC)
def readyz() -> tuple[Response, int]:
    """Log, read side and consumer can work; otherwise 503 with the problems."""
    report = runtime().report
    status = report.status()
    problems = {name: [line] for name, line in report.readiness(status).items() if line}
    if problems:
        return jsonify(failure("Not ready.", problems)), 503
    return success({"ready": True, "state": status["state"], "reason": status["reason"]})
