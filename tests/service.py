"""The whole service as a process, as `python app.py` starts it: for tests that kill it."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any, Protocol

from jobquest.config import load
from jobquest.read.database import Database

ROOT = Path(__file__).parent.parent
READ_SIDE = "read.db"
START_SECONDS = 30.0
HEAD_BYTES = 2_000  # of what it writes, in which its address stands
LOOK_SECONDS = 0.02, 0.1  # between looks at a condition: at first, and when it takes long


class Process(Protocol):
    """What a service needs to know of its process; `subprocess.Popen` knows more."""

    pid: int

    def poll(self) -> int | None: ...
    def wait(self, timeout: float) -> int: ...
    def send_signal(self, number: int) -> None: ...
    def terminate(self) -> None: ...


@dataclass(frozen=True)
class Answer:
    """An HTTP answer: its code, its JSON (None where it is none), its headers."""

    code: int
    json: Any
    headers: Mapping[str, str]


class Service:
    """`python app.py` (or another `program`) on a free port of loopback, its files in `folder`.

    At its first start it finds the tables of its SQLite file made, unless it is `fresh`: making
    them costs a fifth of the start.
    """

    def __init__(
        self,
        folder: Path,
        program: Path = ROOT / "app.py",
        *,
        fresh: bool = False,
        **settings: str,
    ) -> None:
        self.folder = folder
        self._program = program
        self.settings = {"JOBQUEST_DATA_DIR": str(folder), "HOST": "127.0.0.1", "PORT": "0"}
        self.settings |= settings
        self.fresh = fresh
        self.url = ""
        self.python_path = [str(ROOT)]
        self._written = _new_file()
        self._process: Process | None = None

    def start(self) -> Service:
        """Start it and wait until it says where it listens, and answers there."""
        self.launch()
        wait_for(lambda: self.get("/healthz").code == 200, START_SECONDS, self.tail)
        return self

    def launch(self) -> None:
        """Start it and wait until it says where it listens."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("JOBQUEST_", "KAFKA_"))}
        self._written = _new_file()  # one that was killed may still write to the last one
        if not self.fresh:
            self._make_tables()
        self.fresh = True  # a file that a test deletes is lost
        python_path = os.pathsep.join(self.python_path)
        self._process = self._spawn({**kept, **self.settings, "PYTHONPATH": python_path})
        wait_for(lambda: self._address() or self._ended(), START_SECONDS, self.tail)
        self.url = self._address()
        assert self.url, self.tail()
        # A restart keeps the port, so that a browser finds it again.
        self.settings["PORT"] = self.url.rsplit(":", 1)[1]

    def kill(self) -> None:
        """`kill -9`, workers included: nothing gets to clean up."""
        if self._process and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(10)

    def signal(self, number: int) -> None:
        """A signal to the server alone, as a supervisor sends it."""
        assert self._process
        self._process.send_signal(number)

    def stop(self) -> int:
        """SIGTERM to the server, as a supervisor does; its exit code."""
        assert self._process
        if self._process.poll() is None:
            self._process.terminate()
        try:
            return self._process.wait(15)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError("It did not stop within 15 s.\n" + self.tail()) from None

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid

    def get(self, path: str, **headers: str) -> Answer:
        return self.request("GET", path, headers=headers)

    def post(
        self, event_type: str, data: Mapping[str, Any], user_id: str | None = None, **more: Any
    ) -> Answer:
        """Publish an event over the API."""
        body = {"eventType": event_type, "data": data, **more}
        if user_id is not None:
            body["userId"] = user_id
        return self.request("POST", "/api/kafka/events", json.dumps(body).encode())

    def switch(self, action: str) -> Answer:
        """Start or stop the consumer."""
        return self.request("POST", "/api/kafka/status", json.dumps({"action": action}).encode())

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Any request; code 0 where nobody answers."""
        request = urllib.request.Request(
            self.url + path,
            body,
            {"Content-Type": "application/json", **(headers or {})},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=20) as response:
                return _answer(response.status, response.read(), response.headers)
        except urllib.error.HTTPError as error:
            return _answer(error.code, error.read(), error.headers)
        except (OSError, http.client.HTTPException):  # cut off counts as no answer
            return Answer(0, None, {})

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.get("/api/kafka/status").json["data"]
        return found

    def wait_until_caught_up(self, seconds: float = 30.0) -> None:
        """Until nothing is left to process, follow-ups included, and it has stayed so."""
        wait_for(lambda: self._is_caught_up() and self._is_caught_up(), seconds, self.tail)

    @property
    def output(self) -> list[str]:
        """The lines that it wrote since its last start."""
        return self._read(os.fstat(self._written.fileno()).st_size).splitlines(keepends=True)

    def tail(self) -> str:
        """The last lines it wrote."""
        return "".join(self.output[-40:])

    def _make_tables(self) -> None:
        file = self.folder / READ_SIDE
        if "DATABASE_URL" not in self.settings and not file.exists():
            file.write_bytes(new_read_side())

    def _spawn(self, environment: dict[str, str]) -> Process:
        return subprocess.Popen(
            [sys.executable, str(self._program)],
            cwd=self.folder,  # no .env of a developer's is found there
            env=environment,
            stdout=self._written,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def _is_caught_up(self) -> bool:
        status, topics = self.status(), self.get("/api/kafka/topics")
        return (
            status["consumerRunning"]
            and status["lag"]["messages"] == 0  # as it was measured up to a second ago
            and status["followUpsWaiting"] == 0
            and topics.code == 200
            and not any(topic["lag"] for topic in topics.json["data"]["topics"])
        )

    def _read(self, size: int) -> str:
        # At a place of its own: the process shares the file's place with us.
        return os.pread(self._written.fileno(), size, 0).decode(errors="replace")

    def _address(self) -> str:
        found = re.search(r"on (http://[^/ ]+)/", self._read(HEAD_BYTES))
        return found[1] if found else ""

    def _ended(self) -> bool:
        return self._process is None or self._process.poll() is not None


@cache
def new_read_side() -> bytes:
    """A read side's file with its tables and nothing in them."""
    with tempfile.TemporaryDirectory() as folder:
        database = Database(load({"JOBQUEST_DATA_DIR": folder}).read_side_url)
        database.upgrade()
        database.close()
        return (Path(folder) / READ_SIDE).read_bytes()


def _new_file() -> IO[bytes]:
    return tempfile.TemporaryFile("ab+")  # not in the service's folder: that may be a full disk


def wait_for(
    condition: Callable[[], object], seconds: float, explain: Callable[[], str] = lambda: ""
) -> None:
    """Wait until `condition()` holds; fails after `seconds`, with what `explain()` says.

    A look costs CPU time, of the service too, which the condition may wait for: so the longer it
    takes, the rarer are the looks.
    """
    began = time.monotonic()
    while not condition():
        waited = time.monotonic() - began
        if waited > seconds:
            raise AssertionError(f"Not within {seconds:.0f} s.\n{explain()}")
        first, last = LOOK_SECONDS
        time.sleep(min(last, max(first, waited / 10)))  # between looks, never instead of one


def _answer(code: int, body: bytes, headers: Any) -> Answer:
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    return Answer(code, document, dict(headers.items()))
