"""A process that consumes and relays until nothing is left, and kills itself in the middle.

It ends by SIGKILL, like the power, just before its NUMBER-th statement that writes or ends a
transaction of the read side. Exit code 0: nothing was left before it came to that many.
"""

from __future__ import annotations

import os
import signal
from typing import Any

from sqlalchemy import event

from jobquest.config import load
from jobquest.events import Event
from jobquest.runtime import Runtime


class Countdown:
    """Kills the process at the statement with this number."""

    def __init__(self, number: int) -> None:
        self._left = number

    def count(self, *_: Any) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def statement(self, _c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if not statement.startswith(("SELECT", "PRAGMA")):
            self.count()


def fail_sometimes(happened: Event) -> None:
    """A handler that fails for good for some events."""
    if int(happened.id.rsplit("-", 1)[1]) % 10 == 0:
        raise ValueError("a multiple of ten")


def consume_everything(runtime: Runtime) -> None:
    """Step consumer and relay until nothing is left, what is parked included."""
    runtime.consumer.register_event_handler("xp.earned", fail_sometimes)
    while True:
        busy = runtime.consumer.step(0.05) + runtime.relay.step()
        if not busy and not is_left(runtime):
            break
    runtime.consumer.close()
    runtime.stop()


def is_left(runtime: Runtime) -> bool:
    """Whether something waits: in the log (Kafka gives a dead member's share away only after its
    session), for another try, or to be relayed."""
    found = runtime.queries.outcomes()
    waiting = found["retrying"] + found["followUpsWaiting"]
    return bool(waiting or sum(topic["lag"] for topic in runtime.report.topics()))


def consume_until(settings: dict[str, str], number: int) -> None:
    """Consume with a service's settings until the statement with this number, or to the end."""
    runtime = Runtime(load(settings))
    countdown = Countdown(number)
    event.listen(runtime.database.engine, "before_cursor_execute", countdown.statement)
    event.listen(runtime.database.engine, "commit", countdown.count)
    consume_everything(runtime)
