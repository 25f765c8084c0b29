"""Starts and stops the contenders: the broker, the service, the floors and the peer.

Each is a separate process on a free port of loopback, ended by its process id.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient, NewTopic

from bench.peer import store
from bench.plan import MeasureFailed
from bench.workload import API_KEY, JWT_SECRET, ORIGIN
from jobquest.access import FILE
from jobquest.access.caller import KEY_SCOPES
from jobquest.access.digests import digest
from jobquest.access.tables import keys
from jobquest.config import load
from jobquest.events import TOPICS
from jobquest.log.sqlite import SqliteLog
from jobquest.runtime import Runtime
from tests.kafka_broker import CACHE, KafkaBroker, free_port
from tests.service import ROOT, Answer, Service, wait_for

OURS, FLASK, FASTAPI = "JobQuest", "plain Flask", "FastAPI + aiokafka"
PARTITIONS = 6
REQUIREMENTS = Path(__file__).parent / "peer" / "requirements.txt"
START_SECONDS = 30.0
MODULE_SECONDS = 300.0  # a module that waits for a lost event would never end


@dataclass(frozen=True)
class Contender:
    """A service that accepts events over HTTP. `read_side` is its SQLite file, whose table `events`
    has a row for each event that its consumer has processed."""

    name: str
    url: str
    read_side: Path

    def processed(self) -> int:
        """How many events its consumer has processed."""
        with closing(sqlite3.connect(self.read_side)) as connection:
            [count] = connection.execute("SELECT COUNT(*) FROM events").fetchone()
        return int(count)


class ProtectedService(Service):
    """The service with credentials: it takes `API_KEY`, which its own requests carry, and tokens
    signed with `JWT_SECRET`."""

    def __init__(self, folder: Path, **settings: str) -> None:
        super().__init__(folder, JOBQUEST_JWT_SECRET=JWT_SECRET, **settings)
        access = Runtime(load({"JOBQUEST_DATA_DIR": str(folder)})).access
        access.keys.create("bench", KEY_SCOPES, None)
        access.close()
        with closing(sqlite3.connect(folder / FILE)) as connection, connection:
            connection.execute(f"UPDATE {keys.name} SET digest = ?", (digest(API_KEY),))

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        with_key = {"Authorization": f"Bearer {API_KEY}", **(headers or {})}
        return super().request(method, path, body, with_key)


@contextmanager
def kafka() -> Iterator[str]:
    """A broker with the eight topics, empty; yields host:port."""
    broker = KafkaBroker().start()
    try:
        with KafkaAdminClient(bootstrap_servers=broker.bootstrap) as admin:
            admin.create_topics([NewTopic(name, PARTITIONS, 1) for name in TOPICS])
        yield broker.bootstrap
    finally:
        broker.remove()


@contextmanager
def folder() -> Iterator[Path]:
    """An empty folder, deleted at the end."""
    files = Path(tempfile.mkdtemp(prefix="bench-"))
    try:
        yield files
    finally:
        shutil.rmtree(files, ignore_errors=True)


@contextmanager
def ours(
    name: str = OURS, *, consuming: bool = False, protected: bool = False, **settings: str
) -> Iterator[Contender]:
    """The service, with its files in a temporary folder. If it is `protected`, it takes nothing
    without the credentials of the realistic requests."""
    settings |= {"JOBQUEST_CORS_ORIGINS": ORIGIN}
    settings |= {"JOBQUEST_CONSUMER_AUTOSTART": "true" if consuming else "false"}
    with folder() as files:
        service = (ProtectedService if protected else Service)(files, **settings)
        try:
            service.start()
            if consuming:
                wait_for(lambda: service.status()["consumerRunning"], START_SECONDS, service.tail)
            yield Contender(name, service.url, files / "read.db")
        finally:
            service.kill()


@contextmanager
def plain_flask(bootstrap: str, *, protected: bool = False) -> Iterator[Contender]:
    """The plain Flask floor, with one worker of 64 threads; it checks tokens if `protected`."""
    server = ["gunicorn", "-w", "1", "-k", "gthread", "--threads", "64", "--no-control-socket"]
    command = [sys.executable, "-m", *server, "--log-level", "warning"]
    command += ["bench.floors.plain_flask:app", "--bind"]
    settings = _settings(bootstrap, protected)
    with _stored() as file, _served(command, "127.0.0.1:{port}", ROOT, settings, file) as url:
        yield Contender(FLASK, url, file)


@contextmanager
def fastapi(
    bootstrap: str, workers: int = 2, *, consuming: bool = False, protected: bool = False
) -> Iterator[Contender]:
    """The peer, in a separate Python environment; its consumer is a second process. It checks
    tokens and keys if it is `protected`."""
    server = ["uvicorn", "app:app", "--workers", str(workers), "--loop", "uvloop"]
    server += ["--http", "httptools", "--no-access-log", "--log-level", "warning", "--port"]
    python, files = _peer_python(), REQUIREMENTS.parent
    settings = _settings(bootstrap, protected)
    with ExitStack() as started:
        file = started.enter_context(_stored())
        serving = _served([python, "-m", *server], "{port}", files, settings, file)
        url = started.enter_context(serving)
        if consuming:
            consumer = [python, "consumer.py"]
            started.enter_context(_running(consumer, files, settings, file))
        yield Contender(FASTAPI, url, file)


def ends_on_kafka(bootstrap: str) -> int:
    """How many records are on the topics: the sum of their end offsets."""
    with KafkaConsumer(bootstrap_servers=bootstrap) as consumer:
        places = [TopicPartition(topic, n) for topic in TOPICS for n in range(PARTITIONS)]
        return sum(consumer.end_offsets(places).values())


def ends_in_file(path: Path) -> int:
    """How many records are in an embedded log."""
    with closing(SqliteLog(path, TOPICS)) as log:
        return sum(info.next for info in log.describe(TOPICS))


def figures_of(module: str, *arguments: str) -> Any:
    """Run a module of ours as a separate process; returns the JSON on its last line."""
    command = [sys.executable, "-m", module, *arguments]
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=MODULE_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise MeasureFailed(f"{module} did not end within {MODULE_SECONDS:.0f} s.") from None
    if done.returncode:
        raise MeasureFailed(f"{module} ended with {done.returncode}: {done.stderr[-2000:].strip()}")
    return json.loads(done.stdout.splitlines()[-1])


def _settings(bootstrap: str, protected: bool) -> dict[str, str]:
    """The settings of the floor and of the peer."""
    settings = {"BOOTSTRAP": bootstrap, "ORIGIN": ORIGIN}
    credentials = {"JWT_SECRET": JWT_SECRET, "KEY_DIGEST": digest(API_KEY)}
    return settings | credentials if protected else settings


@contextmanager
def _stored() -> Iterator[Path]:
    """The file with the peer's tables, empty."""
    with folder() as files:
        store.write_to(str(files / "peer.db")).close()
        yield files / "peer.db"


@contextmanager
def _served(
    command: Sequence[str], address: str, cwd: Path, settings: Mapping[str, str], file: Path
) -> Iterator[str]:
    """A server on a free port; ended together with its workers."""
    port = free_port()
    command = [*command, address.format(port=port)]
    with _running(command, cwd, settings, file) as last_output:

        def answers() -> bool:
            last_output()
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        wait_for(answers, START_SECONDS, last_output)
        yield f"http://127.0.0.1:{port}"


@contextmanager
def _running(
    command: Sequence[str], cwd: Path, settings: Mapping[str, str], file: Path
) -> Iterator[Callable[[], str]]:
    """A process with its children. The yielded function returns the end of their output, and fails
    if the process has ended."""
    with tempfile.TemporaryFile("ab+") as output:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env={**os.environ, **settings, "STORE": str(file)},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )

        def last_output() -> str:
            size = os.fstat(output.fileno()).st_size
            end = os.pread(output.fileno(), 4_000, max(0, size - 4_000)).decode(errors="replace")
            assert process.poll() is None, f"{command} has ended: {end}"
            return end

        try:
            yield last_output
        finally:
            try:
                last_output()  # fails if the process has ended: then that is why a measure failed
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait(10)


def _peer_python() -> str:
    """The interpreter of the peer's environment; created at first use, one per set of versions."""
    digest = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:12]
    environment = CACHE / f"jobquest-bench-peer-{digest}"
    python = environment / "bin" / "python"
    if not environment.exists():
        print("creating the peer's environment", flush=True)
        CACHE.mkdir(parents=True, exist_ok=True)
        created = Path(tempfile.mkdtemp(dir=CACHE))
        subprocess.run([sys.executable, "-m", "venv", created], check=True)
        install = [str(created / "bin" / "python"), "-m", "pip", "install", "-q", "-r"]
        install.append(str(REQUIREMENTS))
        subprocess.run(install, check=True)
        created.rename(environment)
    return str(python)
