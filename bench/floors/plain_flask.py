"""The plain Flask floor: a view, marshmallow, `send().get()`. Run by gunicorn with 64 threads.

What a competent user would write in an afternoon, with the same check of the same events.
"""

from __future__ import annotations

import json
import os
import uuid
from datetime import UTC, datetime
from typing import Any

from flask import Flask, jsonify, request
from flask.typing import ResponseReturnValue
from kafka import KafkaProducer
from marshmallow import RAISE, Schema, ValidationError, fields, validate

from jobquest.events import CATALOGUE

CONFIRM_SECONDS = 10


class EventSchema(Schema):
    """What surrounds an event's data; the data has a schema per type."""

    eventType = fields.String(required=True, validate=validate.OneOf(list(CATALOGUE)))
    data = fields.Dict(required=True)
    userId = fields.String(load_default="demo-user", validate=validate.Length(1, 128))
    metadata = fields.Dict(load_default=dict)
    id = fields.String(validate=validate.Regexp(r"^[A-Za-z0-9_.:-]{1,100}$"))
    timestamp = fields.AwareDateTime()


app = Flask(__name__)
schema = EventSchema(unknown=RAISE)
producer = KafkaProducer(bootstrap_servers=os.environ["BOOTSTRAP"], acks="all")


@app.post("/api/kafka/events")
def publish() -> ResponseReturnValue:
    id, sent = send(request.get_json())
    return jsonify(placed(id, sent)), 201


@app.post("/api/kafka/events/batch")
def publish_batch() -> ResponseReturnValue:
    sent = [send(one) for one in request.get_json()["events"]]
    return jsonify({"results": [placed(*one) for one in sent]}), 201


@app.errorhandler(ValidationError)
def refuse(error: ValidationError) -> ResponseReturnValue:
    return jsonify({"errors": error.messages}), 400


def send(body: Any) -> tuple[str, Any]:
    """Check one event and send it: its id, and the future of its place."""
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


def placed(id: str, sent: Any) -> dict[str, Any]:
    place = sent.get(CONFIRM_SECONDS)
    return {"id": id, "topic": place.topic, "partition": place.partition, "offset": place.offset}
