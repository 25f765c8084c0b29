"""Viewers of three instances that are killed or stopped and come back, in any order: each sees
every event exactly once, in the order of `seq`.

For a minute, or as many seconds as the variable VIEWERS_SECONDS says.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import websocket

from tests.instances import all_read, is_quiet, new_instances
from tests.load import Load
from tests.postgres import Postgres
from tests.service import Service, wait_for

SECONDS = float(os.environ.get("VIEWERS_SECONDS") or 60.0)
SOCKET_SECONDS = 30.0  # longer than between two heartbeats
DOWN_SECONDS, UP_SECONDS = 2.0, 3.0  # at most, between a kill and a start, and the next kill
RECONNECT_SECONDS = 0.2

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.postgres,
    pytest.mark.alone,
    pytest.mark.timeout(SECONDS + 240),
]


class Viewer:
    """A client of one instance's live view. It connects again with the last `seq` that it knows,
    and asks the API for what a gap leaves out."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.seen: list[tuple[int, str]] = []  # seq, id
        self.connects = self.gaps = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def since(self) -> int:
        return self.seen[-1][0] if self.seen else 0

    def _run(self) -> None:
        while not self._stop.wait(RECONNECT_SECONDS):
            url = f"{self.service.url.replace('http', 'ws')}/ws/events?since={self.since}"
            try:
                connection = websocket.create_connection(url, timeout=SOCKET_SECONDS)
            except (OSError, websocket.WebSocketException):
                continue
            self.connects += 1
            try:
                while not self._stop.is_set() and (frame := connection.recv()):
                    self._take(json.loads(frame))
            except (OSError, websocket.WebSocketException):
                pass
            finally:
                connection.close()

    def _take(self, frame: dict[str, Any]) -> None:
        if frame["kind"] == "events":
            self.seen += [number_and_id(item) for item in frame["items"]]
        elif frame["kind"] == "gap":
            self.gaps += 1
            left_out = events_after(self.service, self.since)
            self.seen += [one for one in left_out if one[0] <= frame["to"]]


def number_and_id(item: dict[str, Any]) -> tuple[int, str]:
    return item["seq"], item["event"]["id"]


def events_after(service: Service, since: int) -> list[tuple[int, str]]:
    """Every event after this `seq`, oldest first: `seq` and id. Raises ConnectionError."""
    found: list[tuple[int, str]] = []
    after = ""
    while True:
        answer = service.get(f"/api/events?limit=500&since={since}{after}")
        if answer.code != 200:
            raise ConnectionError("The instance does not answer.")
        page = answer.json["data"]
        found += [number_and_id(item) for item in page["events"]]
        if page["next"] is None:
            return found[::-1]
        after = f"&after={page['next']}"


def test_each_viewer_sees_every_event_once_and_in_order_while_instances_end(
    tmp_path: Path, kafka_as_it_comes: str, postgres_server: Postgres
) -> None:
    instances = new_instances(tmp_path, kafka_as_it_comes, postgres_server.new_database())
    viewers = [Viewer(one) for one in instances]
    chance = random.Random(18)
    ends: Counter[str] = Counter()
    try:
        for one in instances:
            one.launch()
        wait_for(lambda: all_read(instances[0]), 60, instances[0].tail)
        for viewer in viewers:
            viewer.start()
        with Load(*instances, clients=8) as load:
            until = time.monotonic() + SECONDS
            while time.monotonic() < until:
                one = chance.choice(instances)
                threading.Event().wait(chance.uniform(0.0, UP_SECONDS))
                chance.choice([one.kill, one.stop])()
                ends[one.folder.name] += 1
                threading.Event().wait(chance.uniform(0.0, DOWN_SECONDS))
                one.start()
        wait_for(lambda: all_read(instances[0]), 60, instances[0].tail)
        wait_for(lambda: is_quiet(instances[0]), 60, instances[0].tail)
        load.check()
        kept = events_after(instances[0], 0)
        for viewer in viewers:
            wait_for(lambda viewer=viewer: len(viewer.seen) >= len(kept), 30)  # type: ignore[misc]
            viewer.stop()
        print(
            f"{len(kept)} events, ends: {dict(ends)},"
            f" connects: {[viewer.connects for viewer in viewers]},"
            f" gaps: {[viewer.gaps for viewer in viewers]}"
        )
        assert load.answered.keys() <= {id for _, id in kept}
        for viewer in viewers:
            assert viewer.seen == kept
    finally:
        for viewer in viewers:
            viewer.stop()
        for one in instances:
            one.kill()
