"""The plain Flask floor: a view, marshmallow, `send().get()`. Run by gunicorn with 64 threads.

What a competent user would write in an afternoon, with the same check of the same events.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import uuid
from datetime import UTC, datetime
from typing import Any

import jwt
from flask import Flask, Response, abort, g, jsonify, request
from flask.typing import ResponseReturnValue
from kafka import KafkaProducer
from marshmallow import RAISE, Schema, ValidationError, fields, validate

from bench.peer.store import Place, place_of, places_of, read_from
from jobquest.events import CATALOGUE

CONFIRM_SECONDS = 10


class EventSchema(Schema):
    """The members around an event's data; the data has a schema per type."""

    eventType = fields.String(required=True, validate=validate.OneOf(list(CATALOGUE)))
    data = fields.Dict(required=True)
    userId = fields.String(load_default="demo-user", validate=validate.Length(1, 128))
    metadata = fields.Dict(load_default=dict)
    id = fields.String(validate=validate.Regexp(r"^[A-Za-z0-9_.:-]{1,100}$"))
    timestamp = fields.AwareDateTime()


app = Flask(__name__)
schema = EventSchema(unknown=RAISE)
producer = KafkaProducer(bootstrap_servers=os.environ["BOOTSTRAP"], acks="all")


local = threading.local()


@app.before_request
def read_caller() -> None:
    """The caller, from the headers."""
    g.user = None
    if secret := os.environ.get("JWT_SECRET"):
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        try:
            claims = jwt.decode(token, secret, ["HS256"], {"require": ["exp", "sub"]})
        except jwt.PyJWTError:
            abort(401)
        g.user = claims["sub"]
    g.request_id = request.headers.get("X-Request-Id", "")


@app.after_request
def let_read(response: Response) -> Response:
    if request.headers.get("Origin") == os.environ["ORIGIN"]:
        response.headers["Access-Control-Allow-Origin"] = os.environ["ORIGIN"]
        response.headers["Vary"] = "Origin"
    return response


@app.post("/api/kafka/events")
def publish() -> ResponseReturnValue:
    body = request.get_json()
    if g.user not in (None, body.get("userId")):
        abort(403)
    if (id := body.get("id")) and (stored := place_of(store(), id)):
        return jsonify(placed(id, stored)), 200
    id, sent = send(body)
    return jsonify(placed(id, place(sent))), 201


@app.post("/api/kafka/events/batch")
def publish_batch() -> ResponseReturnValue:
    events = request.get_json()["events"]
    stored = places_of(store(), [event["id"] for event in events if event.get("id")])
    sent = iter([send(event) for event in events if event.get("id") not in stored])
    results = []
    for event in events:
        if found := stored.get(event.get("id")):
            results.append(placed(event["id"], found))
        else:
            id, one = next(sent)
            results.append(placed(id, place(one)))
    return jsonify({"results": results}), 201


def store() -> sqlite3.Connection:
    """This thread's connection."""
    if not hasattr(local, "store"):
        local.store = read_from(os.environ["STORE"])
    connection: sqlite3.Connection = local.store
    return connection


@app.errorhandler(ValidationError)
def refuse(error: ValidationError) -> ResponseReturnValue:
    return jsonify({"errors": error.messages}), 400


def send(body: Any) -> tuple[str, Any]:
    """Check one event and send it. Returns its id, and the future of its position."""
    event = schema.load(body)
    row = CATALOGUE[event["eventType"]]
    data = row.schema.load(event["data"])
    id = event.get("id") or str(uuid.uuid4())
    value = {
        "id": id,
        "type": row.name,
        "userId": event["userId"],
        "timestamp": event.get("timestamp", datetime.now(UTC)).isoformat(),
        "metadata": event["metadata"],
        "data": data,
    }
    key = event["userId"].encode()
    return id, producer.send(row.topic, json.dumps(value).encode(), key=key)


def place(sent: Any) -> Place:
    """The position of a record in the log."""
    found = sent.get(CONFIRM_SECONDS)
    return found.topic, found.partition, found.offset


def placed(id: str, where: Place) -> dict[str, Any]:
    topic, partition, offset = where
    return {"id": id, "topic": topic, "partition": partition, "offset": offset}
