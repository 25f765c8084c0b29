"""Is the process alive (`/healthz`), can it work (`/readyz`)? For supervisors."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from jobquest.web.answers import failure, runtime, success

health = Blueprint("health", __name__)


@health.get("/healthz")
def healthz() -> tuple[Response, int]:
    """The process lives and answers."""
    return success({"alive": True})


@health.get("/readyz")
def readyz() -> tuple[Response, int]:
    """Log, read side and consumer can work; 503 with what is wrong otherwise."""
    report = runtime().report
    status = report.status()
    wrong = {name: [line] for name, line in report.readiness(status).items() if line}
    if wrong:
        return jsonify(failure("Not ready.", wrong)), 503
    return success({"ready": True, "state": status["state"], "reason": status["reason"]})
