"""The read side's storage at its worst: full, locked, damaged, away. Nothing is lost or dead."""

from __future__ import annotations

import os
import random
import shutil
import socket
import sqlite3
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import pytest
from sqlalchemy import text

from jobquest.config import Config, load
from jobquest.errors import ReadSideUnavailable
from jobquest.read.database import Database
from jobquest.runtime import Runtime
from jobquest.server import REQUEST_THREADS
from tests.load import Load, events_of, worker_of
from tests.postgres import Postgres
from tests.service import Service, wait_for

XP = {"xpAmount": 3, "totalXp": 0}


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """The service on the embedded log, consuming."""
    made = Service(tmp_path).start()
    wait_for(lambda: made.status()["consumerRunning"], 30, made.tail)
    yield made
    made.kill()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("no file system can be mounted here: that takes root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


# Holds the consumer until the file is there.
GATE = """
import pathlib, threading

def register(consumer):
    def wait(event):
        while not pathlib.Path({path!r}).exists():
            threading.Event().wait(0.02)

    consumer.register_event_handler("xp.earned", wait)
"""


def fill(folder: Path) -> Path:
    """Write until the disk is full; the file that does it."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):  # no space left
        while file.write(bytes(4096)):
            pass
    assert shutil.disk_usage(folder).free == 0
    return ballast


@pytest.mark.slow
def test_a_full_disk_loses_nothing_and_goes_on_when_there_is_room(
    disk: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "open"
    (tmp_path / "gate.py").write_text(GATE.format(path=str(gate)))
    service = Service(disk, fresh=True, JOBQUEST_HANDLERS="gate")
    service.python_path.append(str(tmp_path))
    service.start()
    try:
        wait_for(lambda: service.status()["consumerRunning"], 30, service.tail)
        worker = worker_of(service)
        answers = {n: service.post("xp.earned", XP, "ada", id=f"n{n}").code for n in range(50)}
        assert set(answers.values()) == {201}
        ballast = fill(disk)
        while len(answers) < 2000 and answers[len(answers) - 1] == 201:
            n = len(answers)
            answers[n] = service.post("xp.earned", XP, "ada", id=f"n{n}").code
        refused = service.post("xp.earned", XP, "ada")
        assert refused.code in (503, 507)
        assert "Retry-After" in refused.headers
        gate.touch()  # now the consumer has much to write

        wait_for(lambda: service.status()["state"] == "disconnected", 20, service.tail)
        status = service.status()
        print(status["reason"])
        assert "full" in status["reason"]
        assert str(disk / "read.db") in status["reason"]
        assert status["deadLetters"] == 0
        ready = service.get("/readyz")
        assert ready.code == 503
        assert "read.db" in str(ready.json["errors"])
        assert service.get("/healthz").code == 200

        ballast.unlink()
        began = time.monotonic()
        wait_for(lambda: service.post("user.login", {}, id="after").code in (200, 201), 20)
        wait_for(lambda: service.get("/api/events/after").code == 200, 30, service.tail)
        print(f"goes on {time.monotonic() - began:.1f} s after there is room")
        service.wait_until_caught_up()
        kept = {event["id"] for event in events_of(service, "xp.earned")}
        taken = {f"n{n}" for n, code in answers.items() if code == 201}
        assert taken <= kept <= {f"n{n}" for n in answers}
        assert service.get("/api/users/ada").json["data"]["xp"] == 3 * len(kept)
        assert service.status()["deadLetters"] == 0
        assert service.get("/readyz").code == 200
        assert worker_of(service) == worker  # no restart
    finally:
        service.kill()


def test_a_locked_database_holds_the_consumer_and_nothing_else(service: Service) -> None:
    path = service.folder / "read.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert service.post("xp.earned", XP, "ada", id="waits").code == 201
        wait_for(lambda: service.status()["state"] == "disconnected", 20, service.tail)
        status = service.status()
        print(status["reason"])
        assert "locked" in status["reason"]
        assert str(path) in status["reason"]
        assert status["deadLetters"] == 0
        assert service.get("/readyz").code == 503
        began = time.monotonic()
        assert service.post("xp.earned", XP, "ada").code == 201  # needs the log alone
        assert service.get("/api/events").code == 200  # only reads
        assert time.monotonic() - began < 2
        other.execute("ROLLBACK")
    wait_for(lambda: service.get("/api/events/waits").code == 200, 20, service.tail)
    service.wait_until_caught_up()
    assert service.get("/api/users/ada").json["data"]["xp"] == 6
    assert service.status()["deadLetters"] == 0


@pytest.mark.slow
def test_many_threads_that_write_at_once_all_get_their_turn(tmp_path: Path) -> None:
    """Six seconds' worth of transactions: nobody waits for longer than all of them together."""
    database = Database(f"sqlite:///{tmp_path / 'read.db'}")

    def write(_number: int) -> None:
        for _ in range(4):
            with database.writing() as connection:
                connection.execute(text("UPDATE service SET generation = generation + 1"))
                threading.Event().wait(0.025)  # a large batch

    with ThreadPoolExecutor(60) as pool:
        list(pool.map(write, range(60)))
    with database.reading() as connection:
        assert connection.execute(text("SELECT generation FROM service")).scalar() == 240
    database.close()


@pytest.mark.postgres
def test_a_process_keeps_to_its_share_of_the_servers_connections(
    postgres_server: Postgres, settings: dict[str, str]
) -> None:
    """As many threads as answer requests; nobody waits for a second connection with one in hand."""
    url = postgres_server.new_database()
    runtime = Runtime(load({**settings, "DATABASE_URL": url, "JOBQUEST_DATABASE_POOL": "8"}))
    runtime.start()
    name = url.rpartition("/")[2]
    clients = "pg_stat_activity WHERE backend_type = 'client backend'"  # the server has its own
    query = f"SELECT count(*) FROM {clients} AND datname = '{name}'"
    seen = []

    def ask(number: int) -> None:
        runtime.producer.publish("user.login", "ada", {}, id=f"n{number % 100}")
        runtime.queries.events(limit=5)
        runtime.queries.overview(0, 2**40)
        runtime.report.status()
        seen.append(postgres_server.run(query)[0][0])

    with ThreadPoolExecutor(REQUEST_THREADS) as pool:
        list(pool.map(ask, range(200)))
    runtime.stop()
    assert max(seen) == 8
    processes = 4 + 1  # web processes of one machine, and the one that consumes
    assert processes * Config().database_pool <= 100 - 3 - 10  # superusers' and a margin


def overwrite_the_middle(path: Path) -> None:
    """Keep the first page, so that it still looks like a database."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(random.Random(1).randbytes(size - 4096))


def overwrite_everything(path: Path) -> None:
    path.write_text("This is no database.\n" * 1000)


@pytest.mark.parametrize("damage", [overwrite_the_middle, overwrite_everything])
def test_a_damaged_file_is_named_with_what_to_do(
    service: Service, damage: Callable[[Path], None]
) -> None:
    for n in range(30):
        assert service.post("xp.earned", XP, "ada", id=f"n{n}").code == 201
    service.wait_until_caught_up()
    service.stop()
    path = service.folder / "read.db"
    damage(path)
    service.start()
    wait_for(lambda: service.status()["state"] == "disconnected", 20, service.tail)
    for line in (
        service.status()["reason"],
        service.get("/readyz").json["errors"]["readSide"][0],
        service.get("/api/events").json["message"],
    ):
        assert str(path) in line
        assert "flask events rebuild" in line
        assert "\n" not in line
    with pytest.raises(urllib.error.HTTPError) as page:
        urllib.request.urlopen(service.url, timeout=20)
    assert page.value.code == 503
    assert b"flask events rebuild" in page.value.read()
    assert service.post("xp.earned", XP, "ada").code == 201  # needs the log alone
    assert service.get("/healthz").code == 200
    service.stop()

    for name in ("read.db", "read.db-wal", "read.db-shm"):
        (service.folder / name).unlink(missing_ok=True)
    service.start()
    service.wait_until_caught_up()
    assert service.get("/api/users/ada").json["data"]["xp"] == 31 * 3


@pytest.mark.slow
def test_a_postgresql_that_answers_nothing_is_noticed_within_seconds() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()  # the kernel takes connections; nobody says a word on them
        port = silent.getsockname()[1]
        database = Database(f"postgresql+psycopg://user:secret@127.0.0.1:{port}/jobs")
        began = time.monotonic()
        with pytest.raises(ReadSideUnavailable) as caught, database.reading():
            pass
        took = time.monotonic() - began
    print(f"noticed after {took:.1f} s: {caught.value}")
    assert took < 8
    assert f"127.0.0.1:{port}/jobs" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.postgres
def test_a_postgresql_that_was_killed_is_found_again(
    postgres_server: Postgres, tmp_path: Path
) -> None:
    service = Service(tmp_path, DATABASE_URL=postgres_server.new_database()).start()
    try:
        wait_for(lambda: service.status()["consumerRunning"], 30, service.tail)
        with Load(service) as load:
            for _ in range(2):
                goal = len(load.answered) + 100
                wait_for(lambda goal=goal: len(load.answered) > goal, 60, service.tail)  # type: ignore[misc]
                postgres_server.kill()
                wait_for(lambda: service.status()["state"] == "disconnected", 20, service.tail)
                print(service.status()["reason"])
                assert service.post("user.login", {}).code == 201  # needs the log alone
                assert service.get("/readyz").code == 503
                postgres_server.start()
                began = time.monotonic()
                wait_for(lambda: service.status()["consumerRunning"], 30, service.tail)
                print(f"goes on {time.monotonic() - began:.1f} s after the server is back")
        service.wait_until_caught_up(60)
        load.check()
        assert service.status()["deadLetters"] == 0
    finally:
        service.kill()
