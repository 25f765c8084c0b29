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

from tests.instances import all_read, is_quiet, new_instances
from tests.load import Load
from tests.postgres import Postgres
from tests.service import wait_for

pytestmark = [pytest.mark.kafka, pytest.mark.postgres, pytest.mark.timeout(300)]

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
    wait = threading.Event().wait
    instances = new_instances(
        tmp_path, kafka_as_it_comes, database.new_database(), JOBQUEST_HANDLERS="note_handlers"
    )
    for made in instances:
        (made.folder / "note_handlers.py").write_text(HANDLERS)
        made.python_path.append(str(made.folder))
        made.start()
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
