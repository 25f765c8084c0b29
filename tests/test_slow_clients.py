"""Clients that are silent, slow or impolite by the hundred: they cost nobody else anything."""

from __future__ import annotations

import json
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
import websocket

from jobquest import worker
from tests.load import forget_peak, peak_memory_of, worker_of
from tests.raw import BATCH, HELLO, PLAIN, Talk, spelled
from tests.service import Service, wait_for
from tests.test_batch import event

MANY = 1_000
NOT_READING = 100
VIEWERS = 50
CLOSING = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
SOON = 0.5  # s; everybody else's request takes some milliseconds


@pytest.fixture(scope="module", autouse=True)
def _files() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65_536), hard))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service on the embedded log."""
    service = Service(tmp_path_factory.mktemp("slow")).start()
    yield service
    service.kill()
    assert not [line for line in service.output if "Traceback" in line], service.tail()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Service]:
    """One for a single test: it may not be what it was afterwards."""
    service = Service(tmp_path).start()
    yield service
    service.kill()


def address_of(service: Service) -> tuple[str, int]:
    host, port = service.url.removeprefix("http://").split(":")
    return host, int(port)


@contextmanager
def crowd(service: Service, count: int, say: bytes = b"") -> Iterator[list[socket.socket]]:
    """So many connections, each of which says this."""
    with ExitStack() as stack:
        made = []
        for _ in range(count):
            one = stack.enter_context(socket.create_connection(address_of(service), timeout=20))
            if say:
                one.sendall(say)
            made.append(one)
        yield made


def timed(service: Service, count: int = 100) -> float:
    """How long a normal client waits at worst, on a connection that is kept alive and on new
    ones."""
    times = []
    talk = Talk(service)
    for number in range(count):
        began = time.monotonic()
        if number % 5 == 0:
            talk.close()
            talk = Talk(service, begun=False)
        assert talk.ask(PLAIN)[0] == 201
        times.append(time.monotonic() - began)
    talk.close()
    return sorted(times)[int(count * 0.99) - 1]


def ended(sockets: list[socket.socket]) -> int:
    """How many of them the server has ended so far."""
    found = 0
    for one in sockets:
        one.setblocking(False)
        try:
            while data := one.recv(65_536):
                assert data
            found += 1
        except BlockingIOError:
            pass
        except OSError:
            found += 1
    return found


class Drip:
    """Sends a byte on each of many connections, again and again, until the block ends."""

    def __init__(self, sockets: list[socket.socket], byte: bytes) -> None:
        self._sockets = sockets
        self._byte = byte
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stop.wait(0.2):
            for one in self._sockets:
                with suppress(OSError):  # ended
                    one.send(self._byte, socket.MSG_DONTWAIT)

    def __enter__(self) -> Drip:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


@contextmanager
def viewers(service: Service) -> Iterator[None]:
    """Viewers who see what is published meanwhile, to the end."""
    url = service.url.replace("http", "ws") + "/ws/events?type=level.up"
    watching = [websocket.create_connection(url, timeout=20) for _ in range(VIEWERS)]
    yield
    data = {"newLevel": 2, "totalXp": 100}
    id = service.post("level.up", data).json["data"]["id"]
    for one in watching:
        while id not in one.recv():
            pass
        one.close()


@pytest.mark.parametrize("count", [1, 60])
@pytest.mark.parametrize("say", [CLOSING, CLOSING.replace(b"1.1", b"1.0"), b"no HTTP\r\n\r\n"])
def test_clients_that_do_not_close_what_we_have_ended_cost_nobody_anything(
    alone: Service, say: bytes, count: int
) -> None:
    with crowd(alone, count, say) as clients:
        assert timed(alone) < SOON
        for one in clients:
            assert one.recv(65_536)
        began = time.monotonic()
        open_files = Path(f"/proc/{worker_of(alone)}/fd")
        wait_for(lambda: len(list(open_files.iterdir())) < 100 + count / 2, 10, alone.tail)
        assert time.monotonic() - began < worker.LINGER_SECONDS + 2


def test_more_kept_alive_clients_than_threads_are_all_answered(alone: Service) -> None:
    with crowd(alone, MANY, HELLO) as clients:
        for one in clients:
            assert b"keep-alive" in one.recv(65_536)
        for one in clients:
            one.sendall(HELLO)
        for one in clients:
            assert b"200 OK" in one.recv(65_536)
        assert timed(alone) < SOON


BODY_TO_COME = spelled(b"", b"Content-Length: 60000")


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.parametrize(
    ("say", "drip", "answer"),
    [
        (b"", b"", b""),
        (b"POST / HTTP/1.1\r\nX: ", b"a", b""),
        (BODY_TO_COME, b"a", b"HTTP/1.1 408 "),
        (spelled(b"", b"Content-Length", b"Transfer-Encoding: chunked"), b"0", b"HTTP/1.1 408 "),
        (spelled(b"", b"Content-Length: 60000", b"Expect: 100-continue"), b"", b"HTTP/1.1 100 "),
    ],
    ids=["silent", "heads", "bodies", "chunks", "asking"],
)
def test_a_thousand_clients_that_do_not_come_to_an_end_cost_nobody_anything(
    alone: Service, say: bytes, drip: bytes, answer: bytes
) -> None:
    normal = timed(alone)
    with viewers(alone), crowd(alone, MANY, say) as clients:
        began = time.monotonic()
        with Drip(clients, drip) if drip else ExitStack():
            beside = timed(alone)
            print(f"p99 {normal:.3f} s alone, {beside:.3f} s beside {MANY} slow clients")
            assert beside < SOON
            if answer:
                clients[0].settimeout(20)
                assert clients[0].recv(65_536).startswith(answer)
            wait_for(lambda: ended(clients) == MANY, 20, alone.tail)
        assert time.monotonic() - began < worker.ARRIVE_SECONDS + worker.LINGER_SECONDS + 3
        assert timed(alone) < max(3 * normal, 0.05)  # s; so long a busy machine may take by itself


@pytest.mark.slow
def test_clients_that_do_not_read_cost_a_bounded_amount_of_memory_and_time(
    own: Service,
) -> None:
    service = own
    big = event(metadata={"a": "a" * 4_000})
    for _ in range(5):
        batch = spelled(b'{"events":[%s]}' % b",".join([big] * 100), path=BATCH)
        assert Talk(service).ask(batch)[0] == 201
    service.wait_until_caught_up()
    page = b"GET /api/events?type=user.login&limit=500 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    size = len(json.dumps(Talk(service).ask(page)[2]))
    normal = timed(service)
    before = forget_peak(worker_of(service))
    clients = []
    with viewers(service), ExitStack() as stack:
        for _ in range(NOT_READING):
            one = stack.enter_context(socket.socket())
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            one.connect(address_of(service))
            one.sendall(page * 4)  # more than a socket holds
            clients.append(one)
        began = time.monotonic()
        most = worker.MAX_UNSENT_BYTES / size
        wait_for(lambda: kept(service, clients) < 1.2 * most, 40, service.tail)
        print(f"{kept(service, clients)} kept after {time.monotonic() - began:.1f} s")
        print(f"p99 {normal:.3f} s alone, {timed(service):.3f} s beside {NOT_READING}")
        wait_for(lambda: kept(service, clients) == 0, 20, service.tail)
        print(f"all cut after {time.monotonic() - began:.1f} s")
        peak = peak_memory_of(worker_of(service))
        print(f"{size} bytes an answer; {before / 1e6:.0f} MB before, {peak / 1e6:.0f} at most")
        assert 1.2 * most < NOT_READING / 2
        assert peak - before < 500e6
        assert timed(service) < SOON


def kept(service: Service, clients: list[socket.socket]) -> int:
    """How many of these connections the server has not closed."""
    ports = {one.getsockname()[1] for one in clients}
    _, server = address_of(service)
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    ends = [[int(row[n].split(":")[1], 16) for n in (1, 2)] for row in rows if row[3] == "01"]
    return sum(ours == server and theirs in ports for ours, theirs in ends)
