"""Viewers of the running service that are slow, dead, hostile or many: each harms only itself."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import websocket

from jobquest.sockets import RECEIVED_BYTES
from tests.frames import CLOSE, PING, PONG, TEXT, Upgrade, client_frame, client_header
from tests.load import forget_peak, heaps_of, peak_memory_of, start_threads, threads_of, worker_of
from tests.raw import Talk
from tests.samples import SAMPLES
from tests.service import ROOT, Service, wait_for

SEATS = 256
LARGE = SAMPLES["notification.sent"] | {"message": "x" * 5000}
HUGE_BYTES = 200_000_000


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Service]:
    """The service on the embedded log: what viewers may do has nothing to do with the log."""
    with settled(Service(tmp_path)) as made:
        yield made


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def alone_on_each_log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Service]:
    """The same on either log; one worker, so that a test can look into it."""
    settings = {"JOBQUEST_WORKERS": "1"}
    if request.param == "kafka":
        settings["KAFKA_BROKER"] = request.getfixturevalue("empty_kafka")
    with settled(Service(tmp_path, **settings)) as made:
        yield made


@contextmanager
def settled(made: Service) -> Iterator[Service]:
    """Start it; its server and its log's producer have the threads that they will need, so that a
    test can count what is left behind."""
    try:
        made.start()
        wait_for(lambda: made.status()["consumerRunning"], 30, made.tail)
        with Stream(made) as stream:
            wait_for(lambda: len(stream.answered) >= 10, 30, made.tail)
        at_once = [Upgrade(made.url) for _ in range(30)]
        wait_for(lambda: viewers(made) == 30, 10, made.tail)
        for viewer in at_once:
            viewer.close()
        wait_for(lambda: viewers(made) == 0, 10, made.tail)
        yield made
    finally:
        made.kill()


class Stream:
    """Publishes large events until stopped; when each was answered, by its id."""

    def __init__(self, service: Service, clients: int = 2) -> None:
        self.answered: dict[str, float] = {}
        self._service = service
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(clients)]
        for thread in self._threads:
            thread.start()

    def _run(self, client: int) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            id = f"large-{client}-{number}"
            if self._service.post("notification.sent", LARGE, id=id).code == 201:
                self.answered[id] = time.monotonic()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


class Watcher:
    """A viewer that reads: when it saw each event."""

    def __init__(self, service: Service) -> None:
        self.saw: dict[str, float] = {}
        self._socket = websocket.create_connection(live(service), timeout=20)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while True:
                for item in json.loads(self._socket.recv()).get("items", []):
                    self.saw[item["event"]["id"]] = time.monotonic()
        except (OSError, ValueError, websocket.WebSocketException):
            return

    @property
    def connected(self) -> bool:
        return self._thread.is_alive()

    def close(self) -> None:
        self._socket.close()
        self._thread.join()


def live(service: Service) -> str:
    return service.url.replace("http", "ws") + "/ws/events"


def viewers(service: Service) -> int:
    """How many viewers its one worker has."""
    with urllib.request.urlopen(service.url + "/metrics", timeout=20) as answer:
        found = re.search(r"^jobquest_viewers\S* (\S+)$", answer.read().decode(), re.MULTILINE)
    assert found
    return int(float(found[1]))


def ninety_nine(values: list[float]) -> float:
    return sorted(values)[int(len(values) * 0.99)]


def test_a_viewer_that_never_reads_is_cut_and_delays_nobody(alone_on_each_log: Service) -> None:
    alone = alone_on_each_log
    worker = worker_of(alone)
    watcher = Watcher(alone)
    wait_for(lambda: viewers(alone) == 1, 10)
    start_threads(alone.url)
    threads, memory = threads_of(worker), forget_peak(worker)
    asleep = [Upgrade(alone.url, receive_buffer=4096) for _ in range(10)]
    wait_for(lambda: viewers(alone) == 11, 10)
    with Stream(alone) as stream:
        wait_for(lambda: viewers(alone) == 1, 60, alone.tail)
        goal = len(stream.answered) + 50
        wait_for(lambda: len(stream.answered) > goal, 30, alone.tail)
    wait_for(lambda: stream.answered.keys() <= watcher.saw.keys(), 20, alone.tail)
    late = [watcher.saw[id] - answered for id, answered in stream.answered.items()]
    growth = peak_memory_of(worker) - memory
    print(f"{len(late)} events; seen after {ninety_nine(late):.3f} s (p99), {growth:,} B more")
    assert ninety_nine(late) < 1.0
    assert growth < 60_000_000
    assert watcher.connected
    assert threads_of(worker) <= threads, "a viewer takes no thread"
    for viewer in asleep:
        viewer.close()
    watcher.close()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has a heap per thread")
def test_the_server_s_many_threads_share_one_heap_beside_the_main_one(alone: Service) -> None:
    worker = worker_of(alone)
    talks = [Talk(alone) for _ in range(60)]
    for talk in talks:
        talk.say(b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert [talk.answer()[0] for talk in talks] == [200] * 60
    assert threads_of(worker) > 30
    assert heaps_of(worker) == 1


def test_a_viewer_whose_process_is_stopped_is_cut(alone: Service) -> None:
    code = "import sys, websocket\nws = websocket.create_connection(sys.argv[1])\n"
    code += "print('here', flush=True)\nwhile True: ws.recv()"
    client = subprocess.Popen(
        [sys.executable, "-c", code, live(alone)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        assert client.stdout
        assert client.stdout.readline() == "here\n"
        wait_for(lambda: viewers(alone) == 1, 10)
        os.kill(client.pid, signal.SIGSTOP)
        with Stream(alone):
            wait_for(lambda: viewers(alone) == 0, 60, alone.tail)
    finally:
        client.kill()
        client.wait()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="TCP_USER_TIMEOUT is Linux's")
def test_a_dead_peer_is_noticed_within_seconds(alone: Service) -> None:
    """Half open: nothing that is sent there is ever answered, and no packet says that it ended."""
    viewer = Upgrade(alone.url)
    wait_for(lambda: viewers(alone) == 1, 10)
    _drop_every_packet(viewer.socket)
    began = time.monotonic()
    assert alone.post("user.login", {}).code == 201  # something to send
    wait_for(lambda: viewers(alone) == 0, 25, alone.tail)
    print(f"noticed after {time.monotonic() - began:.1f} s")
    viewer.close()


def _drop_every_packet(connection: socket.socket) -> None:
    """A socket filter (BPF) that lets nothing in, acknowledgements and data alike."""
    drop_all = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # RET 0
    program = struct.pack("HL", 1, ctypes.addressof(drop_all))
    connection.setsockopt(socket.SOL_SOCKET, 26, program)  # SO_ATTACH_FILTER


def _in_pieces(data: bytes, size: int = 65_536) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def compressed_bomb() -> Iterator[bytes]:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    dead_letters = b"a" * 1_000_000
    packed = b"".join(packer.compress(dead_letters) for _ in range(HUGE_BYTES // len(dead_letters)))
    packed += packer.flush(zlib.Z_SYNC_FLUSH)
    yield from _in_pieces(client_frame(TEXT, packed[:-4], compressed=True))


def huge_message() -> Iterator[bytes]:
    yield client_header(0x80 | TEXT, HUGE_BYTES)
    for _ in range(HUGE_BYTES // 100_000):
        yield b"a" * 100_000


def endless_fragments() -> Iterator[bytes]:
    yield client_frame(TEXT, b"a", final=False)
    while True:
        yield client_frame(0, b"", final=False) * 1000


def endless_messages() -> Iterator[bytes]:
    while True:
        yield client_frame(TEXT, b"a") * 1000


def endless_pings() -> Iterator[bytes]:
    while True:
        yield client_frame(PING, b"p" * 125) * 100


def garbage() -> Iterator[bytes]:
    yield client_frame(0x7, b"\xff" * 100)


def not_masked() -> Iterator[bytes]:
    yield b"\x81\x05hello"


def no_text() -> Iterator[bytes]:
    yield client_frame(TEXT, b"\xff\xfe\xfd")


@pytest.mark.parametrize(
    "says",
    [
        compressed_bomb,
        huge_message,
        endless_fragments,
        endless_messages,
        endless_pings,
        garbage,
        not_masked,
        no_text,
    ],
)
def test_a_hostile_viewer_is_cut_with_bounded_memory(
    alone: Service, says: Callable[[], Iterator[bytes]]
) -> None:
    worker = worker_of(alone)
    watcher = Watcher(alone)
    wait_for(lambda: viewers(alone) == 1, 10)
    threads, memory = threads_of(worker), forget_peak(worker)
    hostile = Upgrade(alone.url, Sec_WebSocket_Extensions="permessage-deflate")
    assert hostile.code == 101
    assert "permessage-deflate" not in hostile.head
    wait_for(lambda: viewers(alone) == 2, 10)
    sent = 0
    hostile.socket.settimeout(2)
    try:
        for piece in says():
            hostile.socket.sendall(piece)
            sent += len(piece)
            assert sent < 20_000_000, "it is let say anything"
    except (ConnectionError, TimeoutError):
        pass  # cut while it spoke: whether the rest is reset or just not taken is the kernel's
    hostile.socket.settimeout(20)
    code = hostile.close_code()
    growth = peak_memory_of(worker) - memory
    print(f"{says.__name__}: closed with {code} after {sent:,} B; {growth:,} B more")
    assert code in (None, 1002, 1007, 1008, 1009)
    assert growth < 60_000_000
    wait_for(lambda: viewers(alone) == 1, 10)
    wait_for(lambda: threads_of(worker) <= threads, 10, alone.tail)
    assert alone.post("user.login", {}, id="after").code == 201
    wait_for(lambda: "after" in watcher.saw, 10, alone.tail)
    hostile.close()
    watcher.close()


def test_a_pong_is_never_within_a_frame(alone: Service) -> None:
    """A viewer that takes nothing for a while, and pings: what it then reads are whole frames."""
    viewer = Upgrade(alone.url, receive_buffer=4096)
    assert viewer.message()["kind"] == "hello"
    for number in range(200):  # more than the sockets take, less than what it is cut for
        assert alone.post("notification.sent", LARGE, id=f"n{number}").code == 201
        if number % 10 == 9:
            viewer.socket.sendall(client_frame(PING, b"%d" % number))
    seen, pongs = set(), []
    while "n199" not in seen or len(pongs) < 20:
        first, payload = viewer.frame()
        if first == 0x80 | PONG:
            pongs.append(int(payload))
        else:
            assert first == 0x80 | TEXT
            seen |= {item["event"]["id"] for item in json.loads(payload).get("items", [])}
    assert {f"n{number}" for number in range(200)} <= seen
    viewer.socket.sendall(client_frame(CLOSE, struct.pack("!H", 1000)))
    assert pongs == list(range(9, 200, 10))
    assert viewer.close_code() == 1000
    viewer.close()


@pytest.fixture
def alone_with_few_seats(tmp_path: Path) -> Iterator[Service]:
    with settled(Service(tmp_path, JOBQUEST_MAX_SOCKETS=str(SEATS))) as made:
        yield made


def test_viewers_are_capped_so_that_requests_are_always_answered(
    alone_with_few_seats: Service,
) -> None:
    alone, count, took = alone_with_few_seats, SEATS + 44, []
    worker = worker_of(alone)
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            began = time.monotonic()
            assert alone.get("/healthz").code == 200
            took.append(time.monotonic() - began)

    start = threading.Barrier(count)

    def upgrade(_number: int) -> tuple[Upgrade, float]:
        start.wait()
        began = time.monotonic()
        return Upgrade(alone.url), time.monotonic() - began

    asking = threading.Thread(target=ask)
    asking.start()
    with ThreadPoolExecutor(count) as pool:
        answers = list(pool.map(upgrade, range(count)))
    wait_for(lambda: viewers(alone) == SEATS, 20, alone.tail)
    over.set()
    asking.join()
    refused = [(answer, seconds) for answer, seconds in answers if answer.code != 101]
    assert len(refused) == count - SEATS
    for answer, _ in refused:
        assert answer.code == 503
        assert "Retry-After" in answer.head
        assert answer.body()["status"] == "error"
    slowest = max(seconds for _, seconds in refused)
    print(
        f"refused within {slowest:.2f} s; {len(took)} requests meanwhile: p99"
        f" {ninety_nine(took):.3f} s; {threads_of(worker)} threads"
    )
    assert ninety_nine(took) < 4.0  # 300 clients in one process take the most of it
    assert slowest < 5.0
    for answer, _ in answers:
        answer.close()
    wait_for(lambda: viewers(alone) == 0, 20, alone.tail)
    late = Upgrade(alone.url)  # the seats are given back
    assert late.code == 101
    late.close()


def test_what_is_no_handshake_takes_no_seat(alone: Service) -> None:
    for headers in ({"Sec_WebSocket_Key": ""}, {"Sec_WebSocket_Version": "7"}, {"Connection": ""}):
        for _ in range(3):
            answer = Upgrade(alone.url, **headers)
            assert answer.code in (400, 426)
            assert answer.body()["status"] == "error"
            answer.close()
    assert viewers(alone) == 0


def test_a_viewer_may_say_a_little(alone: Service) -> None:
    """A page's own ping, or a library's: within bounds nobody is cut for it."""
    viewer = websocket.create_connection(live(alone), timeout=20)
    assert json.loads(viewer.recv())["kind"] == "hello", "from here on it is sent what happens"
    for _ in range(20):
        viewer.send("hello")
        viewer.ping("x" * 100)
    assert RECEIVED_BYTES > 20 * 250
    assert alone.post("user.login", {}, id="seen").code == 201
    while "seen" not in {
        item["event"]["id"] for item in json.loads(viewer.recv()).get("items", [])
    }:
        pass
    viewer.close()
