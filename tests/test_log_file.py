"""The embedded log's file (and the outbox's) on a full disk, locked, or damaged: over HTTP."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from jobquest import create_app
from jobquest.errors import LogDamaged, LogUnavailable
from jobquest.log import NewRecord, Partition
from jobquest.log.sqlite import SqliteLog
from tests.service import wait_for

EVENTS = "/api/kafka/events"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("no mount on this machine")
    if done.returncode:
        pytest.skip(f"a small disk can't be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(autouse=True)
def _made_elsewhere(tmp_path: Path, new_read_side: Path) -> None:
    shutil.copy(new_read_side, tmp_path / "elsewhere.db")


def app_on(folder: Path, tmp_path: Path, **more: str) -> Any:
    """The application with its log in `folder`, and its read side elsewhere."""
    settings = {
        "JOBQUEST_DATA_DIR": str(folder),
        "DATABASE_URL": f"sqlite:///{tmp_path / 'elsewhere.db'}",
        "JOBQUEST_CONSUMER_AUTOSTART": "false",
    }
    return create_app({**settings, **more})


def post(client: FlaskClient, id: str, bytes_more: int = 0) -> TestResponse:
    metadata = {"a": "x" * bytes_more}
    body = {"eventType": "user.login", "data": {}, "id": id, "metadata": metadata}
    return client.post(EVENTS, json=body)


def fill(folder: Path) -> Path:
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 1024)
        except OSError:
            return filler


def integrity(path: Path) -> str:
    with closing(sqlite3.connect(path)) as connection:
        found: str = connection.execute("PRAGMA integrity_check").fetchone()[0]
        return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "taken", "file"),
    [({}, 201, "log.db"), ({"KAFKA_BROKER": "127.0.0.1:1"}, 202, "outbox-0.db")],
    ids=["log", "outbox"],
)
def test_a_full_disk_refuses_whole_events_and_goes_on_when_there_is_room(
    small_disk: Path, tmp_path: Path, settings: dict[str, str], taken: int, file: str
) -> None:
    app = app_on(small_disk, tmp_path, **settings)
    client = app.test_client()
    assert post(client, "first").status_code == taken
    filler = fill(small_disk)
    answered = ["first"]
    for n in range(2_000):
        answer = post(client, f"e{n}", 4_000)
        if answer.status_code != taken:
            break
        answered.append(f"e{n}")
    assert answer.status_code == 503, answer.text
    assert answer.json
    assert "full" in answer.json["message"]
    assert answer.headers["Retry-After"]
    assert post(client, "again", 4_000).status_code == 503
    assert client.get("/healthz").status_code == 200
    filler.unlink()
    assert integrity(small_disk / file) == "ok"
    assert post(client, "after").status_code == taken
    answered.append("after")
    app.extensions["jobquest"].stop()
    with closing(sqlite3.connect(small_disk / file)) as connection:
        rows = connection.execute("SELECT value FROM records WHERE value IS NOT NULL").fetchall()
    kept = [id for [value] in rows for id in answered if f'"id":"{id}"'.encode() in value]
    assert kept == answered
    assert len(rows) == len(answered), "an event that was refused is there"


def damaged(path: Path, tmp_path: Path) -> None:
    """A log with 300 events whose middle is overwritten."""
    app = app_on(path.parent, tmp_path)
    for n in range(300):
        assert post(app.test_client(), f"e{n}").status_code == 201
    app.extensions["jobquest"].stop()
    whole = path.read_bytes()
    assert len(whole) > 10 * 4096
    path.write_bytes(whole[:8192] + b"\xa5" * (len(whole) - 8192))


def no_database(path: Path, _tmp_path: Path) -> None:
    path.write_bytes(b"no database at all" * 1_000)


@pytest.mark.parametrize("spoil", [damaged, no_database])
def test_a_damaged_log_is_named_with_what_to_do_and_the_service_stays_up(
    tmp_path: Path, spoil: Any
) -> None:
    path = tmp_path / "log.db"
    spoil(path, tmp_path)
    app = app_on(tmp_path, tmp_path)
    client = app.test_client()
    for _ in range(2):
        answer = post(client, "one")
        assert answer.status_code == 503, answer.text
        assert answer.json
        line = answer.json["message"]
        assert f"The file {path} is damaged" in line
        assert "Stop the service" in line
        assert ".recover" in line
    ready = client.get("/readyz")
    assert ready.status_code == 503
    assert ready.json
    assert str(path) in ready.json["errors"]["log"][0]
    assert client.get("/healthz").status_code == 200
    assert client.get("/api/kafka/status").status_code == 200
    app.extensions["jobquest"].stop()
    path.rename(tmp_path / "aside.db")
    for left in tmp_path.glob("log.db-*"):
        left.unlink()
    app = app_on(tmp_path, tmp_path)  # as the line says: stopped, moved away, started
    assert post(app.test_client(), "two").status_code == 201
    app.extensions["jobquest"].stop()


def test_damage_that_only_a_write_meets_is_told_by_readiness_until_it_is_gone(
    tmp_path: Path,
) -> None:
    with closing(SqliteLog(tmp_path / "log.db", ["t"])) as log:
        [future] = log.append([NewRecord("t", b"k", b"v")])
        future.result(5)
        writer = log._writer
        assert writer
        # SQLite's own way to say that a file is damaged, met by the writer's connection alone.
        writer._connection.execute("PRAGMA writable_schema=ON")
        writer._connection.execute("UPDATE sqlite_schema SET sql = 'x' WHERE name = 'records'")
        writer._connection.execute("PRAGMA writable_schema=RESET")
        [future] = log.append([NewRecord("t", b"k", b"v")])
        assert isinstance(future.exception(5), LogDamaged)
        for ask in (log.reach, lambda: log.describe(["t"])):
            with pytest.raises(LogDamaged):
                ask()


def test_an_error_of_any_kind_leaves_the_writer_alive(tmp_path: Path) -> None:
    with closing(SqliteLog(tmp_path / "log.db", ["t"])) as log:
        strange = NewRecord("t", b"k", b"v", (("\ud800", b""),))  # no UTF-8
        [future] = log.append([strange])
        assert isinstance(future.exception(5), LogUnavailable)
        [future] = log.append([NewRecord("t", b"k", b"v")])
        assert future.result(5).offset == 0


@pytest.mark.parametrize(
    "damage",
    [
        *(f"headers = {value}" for value in ("x'a5a5'", "5", "''", "'5'", "'{}'", "'null'")),
        *(f"headers = x'{value.hex()}'" for value in (b'[["a","b"],]', b'[["a","\x01"]]')),
        *(f"headers = '{value}'" for value in ('["ab"]', '[["a", 1]]', '[["a"]]', '{"ab": "c"}')),
        "value = 7",
        "value = 'text'",
        "key = 1.5",
        "headers = 5, timestamp_ms = 'soon'",
        "headers = 5, timestamp_ms = 9223372036854775807",
    ],
)
def test_a_record_that_was_overwritten_is_told_as_damaged_and_dies_alone(
    damage: str, tmp_path: Path
) -> None:
    app = app_on(tmp_path, tmp_path)
    client, runtime = app.test_client(), app.extensions["jobquest"]
    for id in ("first", "second"):
        assert post(client, id).status_code == 201
    with closing(sqlite3.connect(tmp_path / "log.db")) as connection, connection:
        connection.execute(f"UPDATE records SET {damage} WHERE offset = 0")
    wait_for(lambda: runtime.consumer.step() == 0 and runtime.queries.last_seq() == 2, 20)
    outcomes = {item["offset"]: item["outcome"] for item in runtime.queries.events()["events"]}
    assert outcomes == {0: "dead", 1: "processed"}
    [dead_letter] = client.get("/api/kafka/dead-letters").json["data"]["deadLetters"]
    assert "can't be read" in dead_letter["error"]
    browsed = client.get("/api/kafka/topics/system-events/records?partition=0&offset=0")
    assert browsed.status_code == 200, browsed.text
    runtime.consumer.close()
    runtime.stop()


@pytest.mark.slow
def test_a_log_that_another_writes_to_for_long_refuses_and_goes_on(tmp_path: Path) -> None:
    app = app_on(tmp_path, tmp_path)
    client = app.test_client()
    assert post(client, "first").status_code == 201
    with closing(sqlite3.connect(tmp_path / "log.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        answer = post(client, "locked")
        assert answer.status_code == 503, answer.text
        assert answer.json
        assert "locked" in answer.json["message"]
        assert answer.headers["Retry-After"]
        other.execute("ROLLBACK")
    assert post(client, "after").status_code == 201
    app.extensions["jobquest"].stop()


def test_large_records_are_read_few_at_a_time(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db", ["t"])
    value = b"x" * 1_000_000
    for future in log.append([NewRecord("t", b"k", value)] * 40):
        future.result(10)
    found = log.read(Partition("t", 0), 0, 3_000)
    assert [record.offset for record in found] == list(range(17))
    log.close()


def test_threads_that_use_a_new_log_at_once_do_not_lock_each_other_out(tmp_path: Path) -> None:
    for number in range(20):
        log = SqliteLog(tmp_path / f"{number}.db", ["t"])
        begin = threading.Barrier(4)

        def use(log: SqliteLog = log, begin: threading.Barrier = begin) -> None:
            begin.wait(5)
            log.describe(["t"])
            log.append([NewRecord("t", b"k", b"v")])[0].result(10)

        with ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(use) for _ in range(4)]:
                done.result(20)
        log.close()
