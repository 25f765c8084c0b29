"""The web worker: how requests arrive and answers leave."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from jobquest import create_app, open_files
from jobquest.access.caller import WRITE
from jobquest.server import REQUEST_THREADS
from jobquest.web.live import MAX_WITH_THREADS
from jobquest.worker import MAX_THREADS
from tests.frames import CLOSE, Upgrade, client_frame
from tests.kafka_broker import free_port
from tests.load import events_of, forget_peak, peak_memory_of, start_threads, threads_of, worker_of
from tests.raw import BATCH, LOGIN, PLAIN, Talk, spelled
from tests.service import Service, wait_for
from tests.test_batch import event, xp

CHUNKED = spelled(b"", b"Content-Length", b"Transfer-Encoding: chunked")


def chunks(body: bytes, size: int = 7, trailer: bytes = b"") -> bytes:
    pieces = [body[n : n + size] for n in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in pieces) + b"0\r\n" + trailer + b"\r\n"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service on the embedded log."""
    service = Service(tmp_path_factory.mktemp("worker")).start()
    yield service
    service.kill()
    assert not [line for line in service.output if "Traceback" in line], service.tail()


Starter = Callable[..., Service]


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Starter]:
    """Starts services that end with the test."""
    made: list[Service] = []

    def start(**settings: Any) -> Service:
        made.append(Service(tmp_path, **settings))
        return made[-1].start()

    yield start
    for service in made:
        service.kill()


@pytest.fixture
def talk(alone: Service) -> Iterator[Talk]:
    made = Talk(alone)
    yield made
    made.close()


def test_a_request_that_is_split_anywhere_is_answered_like_a_whole_one(talk: Talk) -> None:
    for request in (PLAIN, CHUNKED + chunks(LOGIN, trailer=b"X-Sum: 1\r\n")):
        for at in range(1, len(request)):
            talk.say(request[:at])
            talk.say(request[at:])
            assert talk.answer()[0] == 201


def test_a_request_that_comes_byte_by_byte_is_answered(talk: Talk) -> None:
    for request in (PLAIN, CHUNKED + chunks(LOGIN)):
        for at in range(len(request)):
            talk.say(request[at : at + 1])
        assert talk.answer()[0] == 201


def test_requests_that_come_together_are_answered_in_their_order(talk: Talk) -> None:
    talk.say(PLAIN + spelled(b"1") + CHUNKED + chunks(LOGIN) + PLAIN)
    assert [talk.answer()[0] for _ in range(4)] == [201, 400, 201, 201]
    talk.say(PLAIN * 200)
    assert [talk.answer()[0] for _ in range(200)] == [201] * 200
    talk.say(PLAIN + PLAIN[:50])
    assert talk.answer()[0] == 201
    talk.say(PLAIN[50:])
    assert talk.answer()[0] == 201


def test_a_client_that_asks_first_is_told_to_go_on_and_gets_one_answer(talk: Talk) -> None:
    asking = spelled(LOGIN, b"Expect: 100-continue")
    for end in (len(asking) - len(LOGIN), len(asking) - 3):
        talk.say(asking[:end])
        assert talk.interim() == b"HTTP/1.1 100 Continue"
        talk.say(asking[end:])
        assert talk.answer()[0] == 201
    assert talk.ask(asking)[0] == 201  # did not wait, so it is told nothing first
    talk.say(CHUNKED.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
    assert talk.interim() == b"HTTP/1.1 100 Continue"
    assert talk.ask(chunks(LOGIN))[0] == 201


def test_a_client_that_asks_first_for_too_much_is_refused_before_it_sends(talk: Talk) -> None:
    talk.say(spelled(b"", b"Expect: 100-continue", b"Content-Length: 2000000"))
    code, fields, document = talk.answer()
    assert code == 413
    assert document["status"] == "error"
    assert fields["Connection"] == "close"
    assert talk.is_over()


@pytest.fixture(scope="module")
def protected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, bytes]]:
    """A service that asks for credentials, and the header with a key."""
    folder = tmp_path_factory.mktemp("protected")
    runtime = create_app({"JOBQUEST_DATA_DIR": str(folder)}).extensions["jobquest"]
    key = runtime.access.keys.create("ci", [WRITE], None)
    service = Service(folder).start()
    yield service, b"Authorization: Bearer " + key.encode()
    service.kill()


@pytest.mark.parametrize(
    "fields",
    [
        [b"Content-Length: 1000000"],
        [b"Content-Length: 20", b"Expect: 100-continue"],
        [b"Content-Length", b"Transfer-Encoding: chunked"],
        [b"Content-Length: 20"],
    ],
    ids=["large", "asks first", "chunked", "late"],
)
def test_who_has_no_credential_is_refused_before_the_body(
    protected: tuple[Service, bytes], fields: list[bytes]
) -> None:
    service, credential = protected
    for wrong in ([], [b"Authorization: Bearer jq_unknown"]):
        talk = Talk(service)
        talk.say(spelled(b"", *fields, *wrong))
        began = time.monotonic()
        code, answered, _ = talk.answer()
        assert (code, answered["Connection"]) == (401, "close")
        assert time.monotonic() - began < 3  # not the five seconds that a body may take
        assert talk.is_over()
        talk.close()
    talk = Talk(service)
    asking = [field for field in fields if b"Expect" in field]
    talk.say(spelled(LOGIN, credential, *asking)[: -len(LOGIN)])
    if asking:
        assert talk.interim() == b"HTTP/1.1 100 Continue"
    else:
        time.sleep(1.2)  # meanwhile its head was looked at
    talk.say(LOGIN)
    assert talk.answer()[0] == 201
    talk.close()


@pytest.mark.parametrize("size", [65_000, 66_000, 131_000, 1_000_000, 1_100_000, 5_000_000])
@pytest.mark.parametrize("form", ["declared", "chunked"])
def test_after_a_large_body_the_connection_does_what_the_answer_says(
    talk: Talk, size: int, form: str
) -> None:
    body = b'{"eventType":"user.login","data":{},"metadata":{"a":"%s"}}' % (b"a" * size)
    request = spelled(body) if form == "declared" else CHUNKED + chunks(body, 60_000)
    code, fields, document = talk.ask(request)
    assert code == (400 if size < 65_500 else 413)
    assert document["status"] == "error"
    if fields["Connection"] == "close":
        assert size > 1_000_000
        assert talk.is_over()
    else:
        assert talk.ask(PLAIN)[0] == 201


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"hello\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: localhost\n\n", 400),
        (b"GET / HTTP/3.0\r\nHost: localhost\r\n\r\n", 400),
        (b"GET /%s HTTP/1.1\r\nHost: localhost\r\n\r\n" % (b"a" * 9_000), 414),
        (spelled(LOGIN, b"X-Long: %s" % (b"a" * 9_000)), 431),
        (spelled(LOGIN, *[b"X-%d: %s" % (n, b"a" * 5_000) for n in range(20)]), 431),
        (spelled(LOGIN, b"X-Odd\x00: a"), 400),
        (spelled(LOGIN, b"X-Folded: a\r\n b"), 400),
        (spelled(LOGIN, b"Content-Length: +5"), 400),
        (spelled(LOGIN, b"Content-Length: 5", b"Content-length: 6"), 400),
        (spelled(LOGIN, b"Transfer-Encoding: chunked"), 400),
        (spelled(LOGIN, b"Expect: nothing"), 417),
        (CHUNKED.replace(b"chunked", b"zip"), 501),
        (CHUNKED.replace(b"chunked", b"gzip"), 400),
        (CHUNKED + b"zz\r\n", 400),
        (CHUNKED + b"-5\r\n", 400),
        (CHUNKED + b"5\r\nabcdefgh\r\n", 400),
        (CHUNKED + b"5" * 5_000, 400),
        (CHUNKED + b"1\r\na\r\n0\r\nHost: evil\r\n\r\n", 400),
    ],
    ids=lambda part: f"{part[:60]!r} {len(part)}" if isinstance(part, bytes) else str(part),
)
def test_what_is_no_http_is_refused_in_the_one_shape_of_errors(
    alone: Service, sent: bytes, code: int
) -> None:
    for later in (False, True):
        talk = Talk(alone, begun=later)
        got, fields, document = talk.ask(sent)
        assert got == code
        assert fields["Content-Type"] == "application/json"
        assert fields["Connection"] == "close"
        assert document.keys() == {"status", "message"}
        assert document["status"] == "error"
        assert talk.is_over()
        talk.close()


def test_a_client_that_says_no_more_gets_its_answers_and_then_the_end(alone: Service) -> None:
    for count in (1, 3):
        talk = Talk(alone, begun=count > 1)
        talk.say(PLAIN * count)
        talk.socket.shutdown(socket.SHUT_WR)
        assert [talk.answer()[0] for _ in range(count)] == [201] * count
        talk.socket.settimeout(2)  # at once: sooner than what is idle is closed
        assert talk.is_over()
        talk.close()


def test_a_client_that_ends_in_the_midst_of_a_body_is_told_so(talk: Talk) -> None:
    talk.say(PLAIN[:-5])
    talk.socket.shutdown(socket.SHUT_WR)
    assert talk.answer()[0] == 400
    assert talk.is_over()


@pytest.mark.parametrize("form", [b"Connection: close", b"HTTP/1.0"])
def test_a_client_that_wants_one_answer_gets_one(alone: Service, form: bytes) -> None:
    request = spelled(LOGIN, form) if b":" in form else PLAIN.replace(b"HTTP/1.1", form)
    talk = Talk(alone, begun=False)
    code, fields, _ = talk.ask(request + PLAIN)
    assert (code, fields["Connection"]) == (201, "close")
    assert talk.is_over()
    talk.close()


def test_a_client_that_goes_or_does_not_read_holds_up_no_other(alone: Service, talk: Talk) -> None:
    batch = spelled(b'{"events":[%s]}' % b",".join([event()] * 1_000), path=BATCH)
    open_files = Path(f"/proc/{worker_of(alone)}/fd")
    assert talk.ask(batch)[0] == 201  # by now what the service itself opens is open
    alone.wait_until_caught_up()
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


def test_who_is_a_proxy_is_not_the_servers_to_say(alone: Service, talk: Talk) -> None:
    for field in (b"SCRIPT_NAME: /api", b"Script-Name: /api", b"PATH_INFO: /healthz"):
        assert talk.ask(spelled(LOGIN, field))[0] == 201
    code, _, _ = talk.ask(spelled(LOGIN, b"X-Forwarded-Proto: https", b"X-Forwarded-SSL: off"))
    assert code == 201  # and not a contradiction


@pytest.mark.slow
def test_the_environment_does_not_move_paths(started: Starter) -> None:
    service = started(SCRIPT_NAME="/api", FORWARDED_ALLOW_IPS="*")
    assert service.post("user.login", {}).code == 201
    assert service.get("/healthz").code == 200


def test_idle_connections_take_no_threads(alone: Service) -> None:
    before = threads_of(worker_of(alone))
    talks = [Talk(alone) for _ in range(50)] + [Talk(alone, begun=False) for _ in range(50)]
    assert alone.get("/healthz").code == 200
    assert threads_of(worker_of(alone)) <= before + 4
    for one in talks:
        one.close()


def sockets_of(pid: int) -> int:
    """How many sockets a process has open."""
    found = 0
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # it was closed meanwhile
            found += os.readlink(file).startswith("socket:")
    return found


def test_many_viewers_take_no_threads_and_little_memory(alone: Service) -> None:
    worker = worker_of(alone)
    for _ in range(10):  # what their first one needs is there
        Upgrade(alone.url).close()
    start_threads(alone.url)
    sockets, threads, memory = sockets_of(worker), threads_of(worker), forget_peak(worker)
    print(f"{threads} threads")
    viewers = [Upgrade(alone.url) for _ in range(MAX_THREADS + 372)]
    assert {viewer.code for viewer in viewers} == {101}
    assert {viewer.message()["kind"] for viewer in viewers} == {"hello"}
    each = (peak_memory_of(worker) - memory) / len(viewers)
    print(f"{each:,.0f} B each")
    assert threads_of(worker) <= threads + 2
    assert each < 40_000
    for viewer in viewers:
        viewer.close()
    wait_for(lambda: sockets_of(worker) <= sockets + 2, 20, alone.tail)


def test_more_requests_at_once_than_threads_are_all_answered(alone: Service) -> None:
    talks = [Talk(alone, begun=False) for _ in range(MAX_THREADS + 60)]
    for talk in talks:
        talk.say(PLAIN)
    assert [talk.answer()[0] for talk in talks] == [201] * len(talks)
    for talk in talks:
        talk.close()


@pytest.mark.slow
def test_a_worker_that_is_told_to_end_answers_what_it_has_begun(started: Starter) -> None:
    service = started()
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


OTHER_VERSION = """
import sys
import gunicorn
gunicorn.__version__ = "28.0.0"
from jobquest.server import main
sys.exit(main())
"""


@pytest.mark.slow
def test_on_a_version_that_was_not_tried_gunicorns_own_worker_serves(
    started: Starter, tmp_path: Path
) -> None:
    program = tmp_path / "other_version.py"
    program.write_text(OTHER_VERSION)
    service = started(program=program)
    [line] = [line for line in service.output if "WARNING" in line]
    assert "gunicorn 28.0.0" in line
    talk = Talk(service)
    assert [talk.ask(PLAIN)[0] for _ in range(3)] == [201] * 3
    assert service.status()["mode"] == "embedded"
    talk.close()
    viewers = [Upgrade(service.url) for _ in range(REQUEST_THREADS + 20)]
    assert {viewer.message()["kind"] for viewer in viewers} == {"hello"}, "they take no threads"
    assert service.post("user.login", {}, id="seen").code == 201
    seen = {"kind": ""}
    while seen["kind"] != "events":
        seen = viewers[-1].message()
    assert service.stop() == 0
    assert [viewer.close_code() for viewer in viewers] == [1001] * len(viewers)


NO_GUNICORN = """
import sys
sys.modules["gunicorn"] = None
from jobquest.server import main
sys.exit(main())
"""


@pytest.mark.slow
def test_flasks_own_server_has_viewers_too(started: Starter, tmp_path: Path) -> None:
    program = tmp_path / "no_gunicorn.py"
    program.write_text(NO_GUNICORN)
    service = started(program=program)
    viewers = [Upgrade(service.url) for _ in range(MAX_WITH_THREADS)]
    assert {viewer.message()["kind"] for viewer in viewers} == {"hello"}
    assert Upgrade(service.url).code == 503
    viewers[0].socket.sendall(client_frame(CLOSE, b"\x03\xe8"))
    assert viewers[0].close_code() == 1000
    with pytest.raises(EOFError):
        viewers[0].frame()
    wait_for(lambda: Upgrade(service.url).code == 101, 10, service.tail)
    assert service.post("user.login", {}, id="seen").code == 201
    seen = {"kind": ""}
    while seen["kind"] != "events":
        seen = viewers[-1].message()
    assert not [line for line in service.output if "Traceback" in line], service.tail()


FEW_FILES = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
from jobquest.server import main
main()
"""


@pytest.mark.slow
def test_where_few_files_may_be_open_viewers_leave_some_to_requests(
    started: Starter, tmp_path: Path
) -> None:
    program = tmp_path / "few_files.py"
    program.write_text(FEW_FILES)
    service, most = started(program=program), (1024 - open_files.SPARE) * 3 // 4
    [line] = [line for line in service.output if "JOBQUEST_MAX_SOCKETS=5000" in line]
    assert f"only {most} live viewers" in line
    viewers = [Upgrade(service.url) for _ in range(most)]
    assert {viewer.code for viewer in viewers} == {101}
    assert Upgrade(service.url).code == 503
    talks = [Talk(service) for _ in range(most // 3 - 20)]
    assert [talk.ask(PLAIN)[0] for talk in talks] == [201] * len(talks)


@pytest.mark.kafka
def test_while_kafka_is_away_a_kept_alive_connection_is_answered_too(started: Starter) -> None:
    talk = Talk(started(KAFKA_BROKER=f"127.0.0.1:{free_port()}", JOBQUEST_WORKERS="1"))
    for _ in range(10):
        code, _, document = talk.ask(PLAIN)
        assert code == 202
        assert document["data"]["result"] == "queued"
    talk.close()
