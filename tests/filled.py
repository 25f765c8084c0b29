"""A read side with a row of every kind, and its log: filled by the version whose `jobquest` is
imported. `dump_tables.py` runs it with the code of a released version, so it may only use what all
versions have."""

from __future__ import annotations

import json
from pathlib import Path

from jobquest.config import load
from jobquest.errors import NotRetryable
from jobquest.events import Event
from jobquest.read.dead_letters import DeadLetterFilter
from jobquest.runtime import Runtime

LETTERS = ("open", "edited", "redriven", "discarded")
called: list[str] = []  # the events for which the first handler was called
failing = {"ada", "dora"}  # the users for whom the second one fails


def first(event: Event) -> None:
    called.append(event.id)


def second(event: Event) -> None:
    if event.user_id in failing:
        raise NotRetryable("never") if event.user_id == "dora" else ValueError("not now")


def open_runtime(url: str, folder: Path) -> Runtime:
    """A runtime whose events wait for ten minutes between tries, with both handlers."""
    settings = {
        "DATABASE_URL": url,
        "JOBQUEST_DATA_DIR": str(folder),
        "JOBQUEST_DATABASE_UPGRADE": "true",
        "JOBQUEST_CONSUMER_AUTOSTART": "false",
    }
    runtime = Runtime(load(settings))
    for handler in (first, second):
        runtime.consumer.register_event_handler("xp.earned", handler)
    return runtime


def fill(runtime: Runtime) -> None:
    """Ada's events wait, Dora's are dead letters with a decision each, Zoe's are counted; Max's
    new level waits for the log, and one event has not been read."""
    publish(runtime, "zoe", 10, "one", "two", "three")
    publish(runtime, "ada", 10, "waits", "behind")
    publish(runtime, "dora", 10, *LETTERS)
    consume(runtime)
    letter = {id: _letter(runtime, id) for id in LETTERS}
    event = runtime.queries.event("edited")
    assert event
    value = dict(event["event"], data={"xpAmount": 7, "totalXp": 0})
    runtime.redrive.edit(letter["edited"], json.dumps(value).encode())
    runtime.redrive.discard(letter["discarded"], "Not ours")
    failing.discard("dora")
    runtime.redrive.redrive([letter["redriven"]])
    consume(runtime)
    publish(runtime, "max", 150, "level")
    while runtime.consumer.step():  # without the relay
        pass
    runtime.state.want("running")
    runtime.state.beat(b'{"state": "running", "assignment": []}')
    publish(runtime, "zoe", 10, "unread")


def publish(runtime: Runtime, user: str, xp: int, *ids: str) -> None:
    for id in ids:
        runtime.producer.publish("xp.earned", user, {"xpAmount": xp, "totalXp": 0}, id=id)


def consume(runtime: Runtime) -> None:
    while runtime.consumer.step() + runtime.relay.step():
        pass


def _letter(runtime: Runtime, id: str) -> int:
    return runtime.dead_letters.ids(DeadLetterFilter(event_id=id), 1)[0]


def main(url: str, folder: str) -> None:
    """Fill a new database, and the log in the folder."""
    runtime = open_runtime(url, Path(folder))
    fill(runtime)
    runtime.consumer.close()
    runtime.stop()
