"""The peer: a usual alternative, FastAPI + aiokafka + pydantic. Run by uvicorn.

It accepts the same requests, checks them in the same way, appends the same event to the same topic
with acks=all, and answers with its position. An id that its consumer has stored is a duplicate,
answered with 200. It has no outbox, no 409, no 207: only what its libraries offer.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated, Any, NamedTuple

import jwt
import orjson
from aiokafka import AIOKafkaProducer
from events import AnyRequest
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from pydantic import BaseModel, Field
from store import place_of, places_of, read_from
from topics import TOPICS

SECRET, KEY_DIGEST = os.environ.get("JWT_SECRET"), os.environ.get("KEY_DIGEST")  # both or neither


class Published(BaseModel):
    id: str
    topic: str
    partition: int
    offset: int


class Batch(BaseModel):
    events: Annotated[list[AnyRequest], Field(min_length=1, max_length=1000)]


class BatchPublished(BaseModel):
    results: list[Published]


class Caller(NamedTuple):
    """The caller, from the headers. `user` is a token's subject; None for a server with its key."""

    user: str | None
    request_id: str
    origin: str


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    producer = AIOKafkaProducer(bootstrap_servers=os.environ["BOOTSTRAP"], acks="all")
    await producer.start()
    app.state.producer = producer
    app.state.store = read_from(os.environ["STORE"])
    yield
    await producer.stop()
    app.state.store.close()


app = FastAPI(lifespan=lifespan)
app.add_middleware(
    CORSMiddleware,
    allow_origins=[os.environ["ORIGIN"]],
    allow_methods=["GET", "POST"],
    allow_headers=["*"],
)


@app.post("/api/kafka/events", status_code=201)
async def publish(event: AnyRequest, request: Request, response: Response) -> Published:
    state = request.app.state
    who = request.state.caller = caller(request)
    if who.user not in (None, event.userId):
        raise HTTPException(403)
    # A lookup by index in a local file takes microseconds, less than starting a thread for it.
    if event.id and (stored := place_of(state.store, event.id)):
        response.status_code = 200
        return published(event.id, *stored)
    id, topic, value = as_record(event)
    place = await state.producer.send_and_wait(topic, value, key=event.userId.encode())
    return published(id, topic, place.partition, place.offset)


@app.post("/api/kafka/events/batch", status_code=201)
async def publish_batch(batch: Batch, request: Request) -> BatchPublished:
    state = request.app.state
    who = request.state.caller = caller(request)
    if who.user and any(event.userId != who.user for event in batch.events):
        raise HTTPException(403)
    stored = places_of(state.store, [event.id for event in batch.events if event.id])
    new = [event for event in batch.events if event.id not in stored]
    records = [as_record(event) for event in new]
    sent = [
        await state.producer.send(topic, value, key=event.userId.encode())
        for event, (_, topic, value) in zip(new, records, strict=True)
    ]
    places = await asyncio.gather(*sent)
    made = (
        published(id, topic, place.partition, place.offset)
        for (id, topic, _), place in zip(records, places, strict=True)
    )
    results = [
        published(event.id, *stored[event.id]) if event.id in stored else next(made)
        for event in batch.events
    ]
    return BatchPublished(results=results)


def caller(request: Request) -> Caller:
    headers = request.headers
    user = user_of(headers.get("authorization", "").removeprefix("Bearer ")) if SECRET else None
    return Caller(user, headers.get("x-request-id", ""), headers.get("origin", ""))


def user_of(credential: str) -> str | None:
    if hashlib.sha256(credential.encode()).hexdigest() == KEY_DIGEST:
        return None
    try:
        return jwt.decode(credential, SECRET, ["HS256"], {"require": ["exp", "sub"]})["sub"]
    except jwt.PyJWTError as error:
        raise HTTPException(401, headers={"WWW-Authenticate": "Bearer"}) from error


def published(id: str, topic: str, partition: int, offset: int) -> Published:
    return Published(id=id, topic=topic, partition=partition, offset=offset)


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
