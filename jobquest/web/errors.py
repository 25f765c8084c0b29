"""Every error of every route in the API's one shape, with the code that says who has to act; as a
page if a browser asks for one."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from flask import Flask, Response, jsonify, make_response, render_template, request
from werkzeug.datastructures import MIMEAccept
from werkzeug.exceptions import HTTPException
from werkzeug.http import parse_accept_header

from jobquest.errors import (
    Forbidden,
    IdConflict,
    InvalidEvent,
    JobQuestError,
    NotRead,
    RecordRefused,
    StateConflict,
    TooMany,
    Unauthenticated,
    Unavailable,
)
from jobquest.runtime import StateNotReached
from jobquest.web.answers import RETRY_AFTER_SECONDS, Answer, UnsupportedMediaType, failure

logger = logging.getLogger(__name__)

_CODES: dict[type[JobQuestError], int] = {
    InvalidEvent: 400,
    Unauthenticated: 401,
    Forbidden: 403,
    IdConflict: 409,
    StateConflict: 409,
    RecordRefused: 413,
    TooMany: 429,
    Unavailable: 503,
    StateNotReached: 504,
}
_MESSAGES = {
    404: "There is nothing here.",
    405: "This method is not allowed here.",
}


REFUSAL = "jobquest.refusal"
"""In the environ: why a guard has refused the request, whose path is one that no view has."""


class Refused(NotRead):
    """A request that is read no further; `answer` says why."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.code)
        self.answer = answer


def register(app: Flask) -> None:
    """Put the error handlers on the application."""
    app.register_error_handler(JobQuestError, _ours)
    app.register_error_handler(UnsupportedMediaType, _not_json)
    app.register_error_handler(Refused, _refused_early)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(Exception, _unexpected)


def answer_to(error: JobQuestError) -> Answer:
    """The answer if one of our errors ends a request."""
    code = next((code for kind, code in _CODES.items() if isinstance(error, kind)), 500)
    errors = error.errors if isinstance(error, InvalidEvent) else None
    more: dict[str, Any] = {"data": error.status} if isinstance(error, StateNotReached) else {}
    return Answer(code, failure(error.args[0], errors, **more), _headers(code, error))


def _headers(code: int, error: JobQuestError) -> dict[str, str]:
    if isinstance(error, TooMany):
        return {"Retry-After": str(max(1, math.ceil(error.retry_after)))}
    if code == 401:  # RFC 9110, section 11.6.1
        return {"WWW-Authenticate": "Bearer"}
    return {"Retry-After": str(RETRY_AFTER_SECONDS)} if code == 503 else {}


def unexpected(error: Exception) -> Answer:
    """The answer if our own code fails; the details go to the log."""
    logger.exception("A request failed", exc_info=error)
    return Answer(500, failure("Something failed here; the log says what."))


def _ours(error: JobQuestError) -> Response:
    return _shaped(answer_to(error))


def _refused_early(error: Refused) -> Response:
    return _shaped(error.answer)


def _not_json(_error: Exception) -> Response:
    line = "The body must be JSON: send Content-Type: application/json."
    return _shaped(Answer(415, failure(line)))


def _http(error: HTTPException) -> Response:
    if refusal := request.environ.get(REFUSAL):
        return _shaped(refusal)
    response = error.get_response()  # keeps Allow, Retry-After and the like
    if (error.code or 500) < 400:
        return Response(response.get_data(), response.status_code, list(response.headers.items()))
    described = error.description if error.description != type(error).description else None
    message = described or _MESSAGES.get(error.code or 500) or error.description or error.name
    answer = _shaped(Answer(error.code or 500, failure(message)))
    for name in ("Allow", "Retry-After"):
        if name in response.headers:
            answer.headers[name] = response.headers[name]
    return answer


def _unexpected(error: Exception) -> Response:
    return _shaped(unexpected(error))


def _shaped(answer: Answer) -> Response:
    if _wants_page():
        page = render_template("error.html", code=answer.code, **(answer.document or {}))
        response = make_response(page)
    else:
        response = jsonify(answer.document)
    response.status_code = answer.code
    response.headers.update(answer.headers)
    return response


def _wants_page() -> bool:
    return wants_page(request.environ)


def wants_page(environ: Mapping[str, Any]) -> bool:
    """Whether a browser opens a page: it asks for HTML first, programs accept anything."""
    if environ["PATH_INFO"].startswith(("/api/", "/ws/")):
        return False
    offered = ["application/json", "text/html"]
    accepts = parse_accept_header(environ.get("HTTP_ACCEPT"), MIMEAccept)
    found: str | None = accepts.best_match(offered)
    return found == "text/html"
