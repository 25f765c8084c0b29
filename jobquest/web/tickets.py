"""Tickets for sockets: `POST /api/tickets`. A browser's socket can't send headers."""

from __future__ import annotations

from flask import Blueprint, Response

from jobquest.access.caller import OWN, READ
from jobquest.access.tickets import SECONDS
from jobquest.web.answers import caller, runtime, success
from jobquest.web.audited import unaudited
from jobquest.web.needs import needs

tickets = Blueprint("tickets", __name__, url_prefix="/api/tickets")


@tickets.post("")
@needs(READ, OWN)
@unaudited
def issue() -> tuple[Response, int]:
    """A ticket that stands for the caller, once, for some seconds."""
    ticket = runtime().access.tickets.issue(caller())
    return success({"ticket": ticket, "expiresInSeconds": SECONDS}, code=201)
