"""The floor of consuming: kafka-python's poll and marshmallow for every event, nothing is stored.
Run as a process:

    python -m bench.floors.poll BROKER EVENTS
"""

from __future__ import annotations

import json
import sys
import time

import orjson
from kafka import KafkaConsumer, TopicPartition
from marshmallow import Schema, fields, validate

from jobquest.events import CATALOGUE, TOPICS
from jobquest.events.fields import UserId

MAX_RECORDS = 2_000


class Envelope(Schema):
    """The members around `data`, checked as a user of marshmallow would."""

    id = fields.String(required=True, validate=validate.Regexp(r"[A-Za-z0-9_.:-]{1,100}\Z"))
    type = fields.String(required=True, validate=validate.OneOf(CATALOGUE))
    userId = UserId(required=True)  # noqa: N815 (the event's own name)
    timestamp = fields.AwareDateTime(required=True, format="iso")
    metadata = fields.Dict(required=True)
    data = fields.Dict(required=True)


ENVELOPE = Envelope()


def main(bootstrap: str, events: int) -> None:
    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        max_poll_records=MAX_RECORDS,
    )
    numbers = {topic: consumer.partitions_for_topic(topic) for topic in TOPICS}
    consumer.assign([TopicPartition(topic, n) for topic in TOPICS for n in numbers[topic]])
    read = 0
    began = time.perf_counter()
    while read < events:
        for records in consumer.poll(500).values():
            for record in records:
                event = ENVELOPE.load(orjson.loads(record.value))
                CATALOGUE[event["type"]].schema.load(event["data"])
            read += len(records)
    print(json.dumps({"events": read, "seconds": time.perf_counter() - began}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
