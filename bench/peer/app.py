"""The peer: what a user would pick instead, FastAPI + aiokafka + pydantic. Run by uvicorn.

It takes the same requests, checks the same, puts the same event on the same topic with acks=all and
says where it stands. It has no outbox, no duplicates, no 207: only what its libraries give.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated, Any

import orjson
from aiokafka import AIOKafkaProducer
from events import TOPICS, AnyRequest
from fastapi import FastAPI, Request
from pydantic import BaseModel, Field


class Published(BaseModel):
    id: str
    topic: str
    partition: int
    offset: int


class Batch(BaseModel):
    events: Annotated[list[AnyRequest], Field(min_length=1, max_length=1000)]


class BatchPublished(BaseModel):
    results: list[Published]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    producer = AIOKafkaProducer(bootstrap_servers=os.environ["BOOTSTRAP"], acks="all")
    await producer.start()
    app.state.producer = producer
    yield
    await producer.stop()


app = FastAPI(lifespan=lifespan)


@app.post("/api/kafka/events", status_code=201)
async def publish(event: AnyRequest, request: Request) -> Published:
    id, topic, value = as_record(event)
    place = await request.app.state.producer.send_and_wait(topic, value, key=event.userId.encode())
    return Published(id=id, topic=topic, partition=place.partition, offset=place.offset)


@app.post("/api/kafka/events/batch", status_code=201)
async def publish_batch(batch: Batch, request: Request) -> BatchPublished:
    producer = request.app.state.producer
    records = [as_record(event) for event in batch.events]
    sent = [
        await producer.send(topic, value, key=event.userId.encode())
        for event, (_, topic, value) in zip(batch.events, records, strict=True)
    ]
    places = await asyncio.gather(*sent)
    results = [
        Published(id=id, topic=topic, partition=place.partition, offset=place.offset)
        for (id, topic, _), place in zip(records, places, strict=True)
    ]
    return BatchPublished(results=results)


def as_record(event: Any) -> tuple[str, str, bytes]:
    """An event's id, topic and value."""
    id = event.id or str(uuid.uuid4())
    value = {
        "id": id,
        "type": event.eventType,
        "userId": event.userId,
        "timestamp": event.timestamp or datetime.now(UTC),
        "metadata": event.metadata,
        "data": event.data.model_dump(exclude_none=True),
    }
    return id, TOPICS[event.eventType.split(".")[0]], orjson.dumps(value)
