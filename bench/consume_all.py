"""Runs the consumer as in a process of the service, until it has caught up. Run by the measures:

    python -m bench.consume_all FOLDER EVENTS [BROKER]

Log lines go to a file, and one event type has a handler. The read side stays in the folder.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import uuid

from jobquest.collector import collect_seldom
from jobquest.config import load
from jobquest.events import Event
from jobquest.log_lines import write_behind
from jobquest.runtime import Runtime
from jobquest.server import LOG_FORMAT, OneLine

WAIT_SECONDS = 0.5


def main(folder: str, events: int, broker: str = "") -> None:
    _log_to(f"{folder}/consumer.log")
    collect_seldom()  # as the server does
    settings = {"JOBQUEST_DATA_DIR": folder, "JOBQUEST_CONSUMER_AUTOSTART": "false"}
    if broker:  # a group that has committed offsets would first have its events rebuilt
        settings |= {"KAFKA_BROKER": broker, "KAFKA_GROUP_ID": f"bench-{uuid.uuid4()}"}
    runtime = Runtime(load(settings))
    handled: list[str] = []

    def handler(event: Event) -> None:
        handled.append(event.id)

    runtime.consumer.register_event_handler("mission.completed", handler)
    done, began = 0, 0.0
    while done < events:
        now = time.perf_counter()
        count = runtime.consumer.step(WAIT_SECONDS)
        began = began or (now if count else 0.0)  # the time to join the group does not count
        done += count
    seconds = time.perf_counter() - began
    runtime.consumer.close()
    runtime.stop()
    print(json.dumps({"events": done, "seconds": seconds, "handled": len(set(handled))}))


def _log_to(path: str) -> None:
    """Log as the server does, but into a file."""
    handler = logging.FileHandler(path, "w")
    handler.setFormatter(OneLine(LOG_FORMAT))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    write_behind(logging.getLogger(), handler)
    logging.getLogger("kafka").setLevel(logging.WARNING)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
