"""Three instances on one Kafka and one PostgreSQL, as on three machines: one is killed, one is
frozen, the database crashes."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.load import Load
from tests.postgres import Postgres
from tests.service import Service, wait_for

pytestmark = [pytest.mark.kafka, pytest.mark.postgres, pytest.mark.timeout(300)]

PARTITIONS = 6
HANDLERS = """
def note(event):
    with open("handled", "a") as ledger:
        ledger.write(event.id + "\\n")

def register(consumer):
    consumer.register_event_handler("xp.earned", note)
"""


@pytest.fixture
def database() -> Iterator[Postgres]:
    """A server of this test's own, since it crashes it."""
    server = Postgres().start()
    yield server
    server.stop()


def test_with_one_killed_one_frozen_and_the_database_crashed_everything_counts_once(
    tmp_path: Path, kafka_as_it_comes: str, database: Postgres
) -> None:
    url, instances = database.new_database(), []
    wait = threading.Event().wait
    for name in ("one", "two", "three"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "note_handlers.py").write_text(HANDLERS)
        made = Service(
            folder,
            KAFKA_BROKER=kafka_as_it_comes,
            KAFKA_PARTITIONS=str(PARTITIONS),
            DATABASE_URL=url,
            JOBQUEST_WORKERS="1",
            JOBQUEST_HANDLERS="note_handlers",
        )
        made.python_path.append(str(folder))
        instances.append(made.start())
    one, killed, frozen = instances
    try:
        wait_for(lambda: all_read(one, 3), 60, one.tail)
        with Load(one, killed, frozen) as load:
            wait(2.0)
            killed.kill()
            os.killpg(frozen.pid, signal.SIGSTOP)
            wait(3.0)
            database.kill()
            wait(2.0)
            database.start()
            wait_for(lambda: all_read(one, 1), 60, one.tail)
            os.killpg(frozen.pid, signal.SIGCONT)
            killed.start()
            wait_for(lambda: all_read(one, 3), 60, one.tail)
            wait(2.0)
        wait_for(lambda: is_quiet(one), 60, one.tail)
        load.check()
        assert len(load.answered) > 100
        handled = Counter(
            id for instance in instances for id in (instance.folder / "handled").read_text().split()
        )
        assert load.answered.keys() <= handled.keys(), "at least once for each"
    finally:
        os.killpg(frozen.pid, signal.SIGCONT)
        for instance in instances:
            instance.kill()


def all_read(service: Service, processes: int) -> bool:
    """Whether so many processes read, and together every partition of the events' topics."""
    found = [len(one["assignment"]) for one in service.status()["processes"]]
    return len([one for one in found if one]) == processes and sum(found) == 8 * PARTITIONS


def is_quiet(service: Service) -> bool:
    status = service.status()
    waiting = status["retrying"] + status["outbox"]["events"] + status["followUpsWaiting"]
    return waiting == 0 and status["lag"]["messages"] == 0
