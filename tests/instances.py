"""Three instances on one Kafka and one PostgreSQL, as on three machines; clients that publish to
them through nginx, and a watch over each partition's position."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import defaultdict
from pathlib import Path

import psycopg

from tests.load import Load
from tests.service import Service

PARTITIONS = 6
USERS = 60  # whose keys fall on every partition
NAMES = ("one", "two", "three")
LOOK_SECONDS = 0.02
RETRY_SECONDS = 0.05
ANSWER_SECONDS = 20.0


def new_instances(folder: Path, broker: str, database: str, **settings: str) -> list[Service]:
    """Three services, not yet started, each with a data folder of its own."""
    made = []
    for name in NAMES:
        (folder / name).mkdir()
        made.append(
            Service(
                folder / name,
                KAFKA_BROKER=broker,
                KAFKA_PARTITIONS=str(PARTITIONS),
                DATABASE_URL=database,
                JOBQUEST_WORKERS="1",
                **settings,
            )
        )
    return made


def all_read(service: Service, processes: int = len(NAMES)) -> bool:
    """Whether so many processes read, and together every partition of the events' topics."""
    found = [len(one["assignment"]) for one in service.status()["processes"]]
    return len([one for one in found if one]) == processes and sum(found) == 8 * PARTITIONS


def is_quiet(service: Service) -> bool:
    """Whether nothing is left to process or to deliver."""
    status = service.status()
    waiting = status["retrying"] + status["outbox"]["events"] + status["followUpsWaiting"]
    return bool(waiting == 0 and status["lag"]["messages"] == 0)


class SteadyLoad(Load):
    """Clients that together publish XP at `rate` events a second through `port` of loopback. Each
    keeps a connection, and repeats an event under its id until it is taken. `slowest` is the
    longest time from an event's first try until it was taken, `ends` the last known offset of each
    partition."""

    def __init__(self, service: Service, port: int, rate: int, clients: int = 16) -> None:
        super().__init__(service, clients=clients)
        self.slowest = 0.0
        self.ends: defaultdict[int, int] = defaultdict(lambda: -1)
        self._port = port
        self._pause = clients / rate

    def _run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=ANSWER_SECONDS)
        due = time.monotonic()
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            due = max(due + self._pause, time.monotonic() - 1.0)
            self._publish(connection)
        connection.close()

    def _publish(self, connection: http.client.HTTPConnection) -> None:
        number = next(self._numbers)
        id, user, xp = f"load-{number}", f"user_{number % USERS}", number % 7 + 1
        self.asked[id] = (user, xp)
        data = {"xpAmount": xp, "totalXp": 0}
        body = json.dumps({"eventType": "xp.earned", "data": data, "userId": user, "id": id})
        began = time.monotonic()
        while not self._is_taken(connection, body):
            time.sleep(RETRY_SECONDS)  # a client that waits before it tries again
        self.answered[id] = (user, xp)
        self.slowest = max(self.slowest, time.monotonic() - began)

    def _is_taken(self, connection: http.client.HTTPConnection, body: str) -> bool:
        headers = {"Content-Type": "application/json"}
        try:
            connection.request("POST", "/api/kafka/events", body, headers)
            answer = connection.getresponse()
            code, text = answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            connection.close()
            code, text = 0, b""
        self.codes[code] += 1
        if code == 201:
            found = json.loads(text)["data"]
            self.ends[found["partition"]] = max(self.ends[found["partition"]], found["offset"])
        return code in (200, 201, 202)


class Standstills:
    """Watches the stored position of each of the load's partitions until the block ends: `longest`
    has the most seconds that it did not move although the log had more."""

    def __init__(self, database: str, load: SteadyLoad) -> None:
        self.longest: defaultdict[int, float] = defaultdict(float)
        self._server = database.replace("+psycopg", "")
        self._load = load
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Standstills:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        moved: dict[int, tuple[int, float]] = {}  # partition: its position, since when
        with psycopg.connect(self._server, autocommit=True) as connection:
            while not self._stop.wait(LOOK_SECONDS):
                ends = dict(self._load.ends)  # before the positions
                found = connection.execute(
                    "SELECT partition, next FROM positions WHERE topic = 'achievements'"
                ).fetchall()
                now = time.monotonic()
                for partition, following in found:
                    was, since = moved.get(partition, (following, now))
                    self.longest[partition] = max(self.longest[partition], now - since)
                    if following != was or following > ends.get(partition, -1):
                        since = now
                    moved[partition] = following, since
