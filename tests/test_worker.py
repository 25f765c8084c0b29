"""Kept-alive connections: what the worker's own loop answers, what it leaves to gunicorn's parser,
and that nobody can tell the difference."""

from __future__ import annotations

import json
import os
import re
import socket
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.glogging import Logger
from gunicorn.workers.gthread import TConn

from jobquest.web.plain import plain_request
from jobquest.worker import Worker
from tests.kafka_broker import free_port
from tests.load import events_of, threads_of, worker_of
from tests.service import Service, wait_for
from tests.test_batch import event, xp

EVENTS = b"/api/kafka/events"


def spelled(body: bytes, *fields: bytes, path: bytes = EVENTS) -> bytes:
    """A POST as most clients send it; `fields` beside, or in place of, the usual ones."""
    usual = [
        b"Host: localhost",
        b"Content-Type: application/json",
        b"Content-Length: %d" % len(body),
    ]
    names = {field.partition(b":")[0] for field in fields}
    head = [line for line in usual if line.partition(b":")[0] not in names]
    return b"\r\n".join([b"POST %s HTTP/1.1" % path, *head, *fields, b"", body])


LOGIN = b'{"eventType":"user.login","data":{},"userId":"ada"}'
PLAIN = spelled(LOGIN)
KNOWN = xp(1, id="known")


class Talk:
    """One connection, kept alive: it has had its first answer, so the loop has it."""

    def __init__(self, service: Service, receive_buffer: int | None = None) -> None:
        host, port = service.url.removeprefix("http://").split(":")
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(20)
        self.socket.connect((host, int(port)))
        self._buffer = b""
        self.say(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert self.answer()[0] == 200

    def say(self, data: bytes) -> None:
        self.socket.sendall(data)

    def answer(self) -> tuple[int, dict[str, str], Any]:
        """The next answer: its code, head and JSON."""
        while b"\r\n\r\n" not in self._buffer:
            self._receive()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        fields = dict(line.split(": ", 1) for line in lines)
        while len(self._buffer) < int(fields["Content-Length"]):
            self._receive()
        body = self._buffer[: int(fields["Content-Length"])]
        self._buffer = self._buffer[int(fields["Content-Length"]) :]
        return int(first.split()[1]), fields, json.loads(body)

    def ask(self, data: bytes) -> tuple[int, dict[str, str], Any]:
        self.say(data)
        return self.answer()

    def close(self) -> None:
        self.socket.close()

    def _receive(self) -> None:
        data = self.socket.recv(65_536)
        assert data, "it was closed"
        self._buffer += data


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service on the embedded log, which has processed KNOWN."""
    service = Service(tmp_path_factory.mktemp("worker")).start()
    service.request("POST", EVENTS.decode(), KNOWN)
    wait_for(lambda: service.get("/api/events/known").code == 200, 30, service.tail)
    yield service
    service.kill()


@pytest.fixture
def talk(alone: Service) -> Iterator[Talk]:
    made = Talk(alone)
    yield made
    made.close()


def test_a_plain_request_is_one_whole_post_with_nothing_unusual() -> None:
    request = plain_request(PLAIN)
    assert request is not None
    assert request.path == EVENTS.decode()
    assert request.host == "localhost"
    assert request.content_type == "application/json"
    assert request.body == LOGIN
    assert plain_request(spelled(LOGIN, b"User-Agent: a b", b"Accept: */*")) is not None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        PLAIN[:-1],
        PLAIN + b"P",
        PLAIN + PLAIN,
        PLAIN.replace(b"POST", b"PUT"),
        PLAIN.replace(b"HTTP/1.1", b"HTTP/1.0"),
        PLAIN.replace(b"\r\n", b"\n"),
        spelled(LOGIN, path=EVENTS + b"?dryRun=1"),
        spelled(LOGIN, path=b"http://localhost" + EVENTS),
        spelled(LOGIN, b"Origin: http://localhost"),
        spelled(LOGIN, b"Expect: 100-continue"),
        spelled(LOGIN, b"Transfer-Encoding: chunked"),
        spelled(LOGIN, b"X-Forwarded-Proto: https"),
        spelled(LOGIN, b"Connection: close"),
        spelled(LOGIN, b"Host: localhost\r\nHost: evil.example"),
        spelled(LOGIN, b"Content-Length: %d\r\nContent-Length: 1" % len(LOGIN)),
        spelled(LOGIN, b"Content-Length: +%d" % len(LOGIN)),
        spelled(LOGIN, b"Content-Length: %d " % len(LOGIN)),
        spelled(LOGIN, b"Content-Type : application/json"),
        spelled(LOGIN, b"Accept: a\r\n folded"),
        spelled(LOGIN, b"Accept: a\x00b"),
        spelled(LOGIN, b"Accept: \xff"),
    ],
    ids=lambda data: f"{data[:60]!r} {len(data)}",
)
def test_what_is_spelled_otherwise_is_left_to_the_servers_parser(data: bytes) -> None:
    assert plain_request(data) is None


def shape_of(answer: tuple[int, dict[str, str], Any]) -> tuple[int, dict[str, str], str]:
    code, fields, document = answer
    text = re.sub(r'"(id|timestamp)": "[^"]+"|"offset": \d+', "", json.dumps(document))
    return code, {k: v for k, v in fields.items() if k not in ("Date", "Content-Length")}, text


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (EVENTS, LOGIN),
        (EVENTS, b'{"eventType":"nope"}'),
        (EVENTS, b"[" * 50_000),
        (EVENTS, b""),
        (EVENTS, KNOWN),
        (EVENTS + b"/batch", b'{"events":[%s,1]}' % LOGIN),
        (EVENTS + b"/batch", b'{"events":[%s]}' % b",".join([event()] * 1_000)),
        (EVENTS + b"/batch", b"{}"),
        (b"/api/kafka/nothing", LOGIN),
    ],
    ids=lambda part: f"{part[:30]!r} {len(part)}",
)
def test_a_plain_request_is_answered_as_any_other(talk: Talk, path: bytes, body: bytes) -> None:
    plain = shape_of(talk.ask(spelled(body, path=path)))
    odd = shape_of(talk.ask(spelled(body, b"Pragma: no-cache", path=path)))
    assert plain == odd
    assert talk.ask(PLAIN)[0] == 201


def test_plain_requests_that_wait_for_the_log_hold_no_threads(alone: Service) -> None:
    talks = [Talk(alone) for _ in range(40)]
    before = threads_of(worker_of(alone))
    with closing(sqlite3.connect(alone.folder / "log.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")  # now nothing is durable
        for talk in talks:
            talk.say(PLAIN)
        assert alone.get("/healthz").code == 200
        assert threads_of(worker_of(alone)) <= before + 2
    assert [talk.answer()[0] for talk in talks] == [201] * 40
    for talk in talks:
        talk.close()


def test_what_comes_in_pieces_or_in_one_piece_is_answered_in_order(talk: Talk) -> None:
    for piece in (PLAIN[:20], PLAIN[20:-5], PLAIN[-5:]):
        talk.say(piece)
        threading.Event().wait(0.05)  # so that they do not arrive as one
    assert talk.answer()[0] == 201
    talk.say(PLAIN + spelled(b"1") + PLAIN)
    assert [talk.answer()[0] for _ in range(3)] == [201, 400, 201]


def test_a_client_that_goes_or_does_not_read_holds_up_no_other(alone: Service, talk: Talk) -> None:
    batch = spelled(b'{"events":[%s]}' % b",".join([event()] * 1_000), path=EVENTS + b"/batch")
    open_files = Path(f"/proc/{worker_of(alone)}/fd")
    before = len(list(open_files.iterdir()))
    for _ in range(20):
        gone = Talk(alone)
        gone.say(PLAIN)
        gone.close()
    slow = Talk(alone, receive_buffer=4096)
    for _ in range(20):  # their answers are some megabytes
        slow.say(batch)
        assert talk.ask(PLAIN)[0] == 201
    assert [slow.answer()[0] for _ in range(20)] == [201] * 20
    slow.close()
    wait_for(lambda: len(list(open_files.iterdir())) <= before + 2, 20, alone.tail)


def test_an_answer_to_a_connection_that_is_full_already_is_sent_as_its_client_reads() -> None:
    config = Config()
    worker = Worker(1, os.getpid(), [], None, 30, config, Logger(config))
    worker.tpool = ThreadPoolExecutor(1)
    worker.method_queue.init()
    ours, theirs = socket.socketpair()
    conn = TConn(config, ours, "", "")
    filled = 0
    with suppress(BlockingIOError):
        while True:
            filled += ours.send(b" " * 4096)
    worker._write(conn, b"the answer", keep=True)
    theirs.settimeout(20)
    read = b""
    while len(read) < filled + len(b"the answer"):
        read += theirs.recv(65_536)
    assert read.strip() == b"the answer"
    worker.tpool.shutdown()
    worker.method_queue.close()
    ours.close()
    theirs.close()


def test_a_worker_that_is_told_to_end_answers_what_it_has_begun(tmp_path: Path) -> None:
    service = Service(tmp_path).start()
    wait_for(lambda: service.status()["consumerRunning"], 30, service.tail)
    taken: list[str] = []
    said: list[str] = []

    def hammer() -> None:
        talk = Talk(service)
        try:
            while said[-1:] != ["close"]:
                code, fields, document = talk.ask(spelled(xp(1, userId="ada")))
                assert code == 201
                taken.append(document["data"]["id"])
                said.append(fields["Connection"])
        except (AssertionError, OSError):
            pass  # closed between two requests

    threads = [threading.Thread(target=hammer) for _ in range(8)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(taken) > 200, 30, service.tail)
    assert service.stop() == 0
    for thread in threads:
        thread.join()
    assert "close" in said, "what comes after it is told not to ask again"
    service.start()
    service.wait_until_caught_up(60)
    assert set(taken) <= {one["id"] for one in events_of(service, "xp.earned")}
    service.kill()


@pytest.mark.kafka
def test_while_kafka_is_away_a_kept_alive_connection_is_answered_too(tmp_path: Path) -> None:
    service = Service(tmp_path, KAFKA_BROKER=f"127.0.0.1:{free_port()}", JOBQUEST_WORKERS="1")
    talk = Talk(service.start())
    for _ in range(10):
        code, _, document = talk.ask(PLAIN)
        assert code == 202
        assert document["data"]["result"] == "queued"
    talk.close()
    service.kill()
