"""What clients can write into a head: none of it is an error of ours, a second spelling of a route,
or a way around the checks of the live view."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.load import threads_of, worker_of
from tests.raw import BATCH, EVENTS, LOGIN, Talk, spelled
from tests.service import Service, wait_for

HANDSHAKE = (
    b"Host: localhost",
    b"Connection: Upgrade",
    b"Upgrade: websocket",
    b"Sec-WebSocket-Version: 13",
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)
TARGETS = (
    b"/",
    b"/healthz",
    EVENTS,
    b"/events/none",
    b"/api/events/none",
    b"/api/users/nobody",
    b"/analytics",
    b"/static/app.css",
    b"/ws/events",
    b"/nothing",
)
ODD_FIELDS = (
    b"Accept: text/html\r\nHost: evil.example",
    b"Host: [::1",
    b"Host: localhost:99999",
    b"Host: \xff",
    b"Accept: \xff\xfe;q=\xc3",
    b"Accept-Language: \xff",
    b"Cookie: \xff\xfe=\x80",
    b"Origin: \xff",
    b"SCRIPT_NAME: /api",
    b"Script-Name: /api",
    b"X-Forwarded-Prefix: /x",
    b"X-Forwarded-Proto: gopher",
    b"X-Forwarded-Host: evil.example, \xff",
    b"Range: bytes=99999999999999999999-",
    b"If-None-Match: \xff",
    b"If-Modified-Since: 99999",
    b"Content-Type: \xff/\xff; charset=\xff",
    b"Content-Encoding: \xff",
    b"Authorization: Basic \xff",
    b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__",
    b"Sec-WebSocket-Protocol: \xff\xfe\r\n" + b"\r\n".join(HANDSHAKE[1:]),
    b"Sec-WebSocket-Extensions: \xff\r\n" + b"\r\n".join(HANDSHAKE[1:]),
    b"Sec-WebSocket-Key: \xff\r\nConnection: Upgrade\r\nUpgrade: websocket",
    b"Expect: \xff",
)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service on the embedded log, whose log has no traceback at the end."""
    service = Service(tmp_path_factory.mktemp("odd")).start()
    yield service
    assert service.stop() == 0
    assert not [line for line in service.output if "Traceback" in line], service.tail()


def head(method: bytes, target: bytes, *fields: bytes) -> bytes:
    given = b"\r\n".join(fields)
    host = () if b"Host:" in given else (b"Host: localhost",)
    return b"\r\n".join([b"%s %s HTTP/1.1" % (method, target), *host, *fields, b"", b""])


def code_of(service: Service, request: bytes) -> int:
    """The code of its answer; 101 if it was upgraded. The connection is closed."""
    talk = Talk(service, begun=False)
    try:
        talk.say(request)
        return int(talk.interim()[9:12])
    finally:
        talk.close()


@pytest.mark.parametrize("fields", ODD_FIELDS, ids=lambda fields: ascii(fields[:40]))
def test_no_head_makes_an_error_of_ours(alone: Service, fields: bytes) -> None:
    for target in TARGETS:
        for method in (b"GET", b"POST", b"OPTIONS"):
            code = code_of(alone, head(method, target, fields, b"Content-Length: 0"))
            assert code < 500, (method, target, code)


@pytest.mark.parametrize(
    "chunks",
    [b"x\r\n\r\n", b"5\r\nabcdeXX0\r\n\r\n", b"-1\r\n\r\n", b"5;\x00=\r\nabcde\r\n0\r\n\r\n"],
)
def test_chunks_that_are_none_are_the_client_s_fault(alone: Service, chunks: bytes) -> None:
    coded = b"Transfer-Encoding: chunked"
    for path in (EVENTS, BATCH, b"/api/kafka/status", b"/nothing"):
        code = code_of(alone, spelled(chunks, b"Content-Length", coded, path=path))
        assert code == 400, (path, code)


@pytest.mark.parametrize(
    "target",
    [
        b"//api/kafka/events",
        b"/api/kafka//events",
        b"/api/kafka/events/",
        b"/api%2fkafka/events",
        b"/api/kafka%2Fevents",
        b"/api/%6bafka/events",
        b"/./api/kafka/events",
        b"/x/../api/kafka/events",
        b"/api/kafka/events%00",
        b"http://localhost//api/kafka/events",
    ],
)
def test_nothing_is_published_under_another_spelling(alone: Service, target: bytes) -> None:
    for more in (b"X-Plain: 1", b"SCRIPT_NAME: /api", b"Script-Name: /", b"X-Forwarded-Prefix: /"):
        assert code_of(alone, spelled(LOGIN, more, path=target)) in (400, 404)


def test_a_header_does_not_take_a_part_of_the_path_away(alone: Service) -> None:
    for name in (b"SCRIPT_NAME", b"Script-Name", b"X-Forwarded-Prefix", b"X-Script-Name"):
        prefixed = spelled(LOGIN, name + b": /other", path=b"/other" + EVENTS)
        assert code_of(alone, prefixed) == 404, name
        assert code_of(alone, spelled(LOGIN, name + b": /api")) == 201, name


@pytest.mark.parametrize(
    "target",
    [
        b"/ws/events/",
        b"/ws//events",
        b"//ws/events",
        b"/ws/events%2f",
        b"/ws%2fevents",
        b"/WS/events",
    ],
)
def test_the_live_view_has_one_address_too(alone: Service, target: bytes) -> None:
    before = threads_of(worker_of(alone))
    for _ in range(10):
        assert code_of(alone, head(b"GET", target, *HANDSHAKE)) == 404
    wait_for(lambda: threads_of(worker_of(alone)) <= before + 2, 10)


def test_only_the_live_view_is_upgraded_to(alone: Service) -> None:
    assert code_of(alone, head(b"GET", b"/healthz", *HANDSHAKE)) == 200
    assert code_of(alone, spelled(LOGIN, *HANDSHAKE[1:])) == 201
    assert code_of(alone, head(b"GET", b"/ws/events", b"Upgrade: h2c")) == 400
    assert code_of(alone, head(b"GET", b"/ws/events", *HANDSHAKE)) == 101


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ((b"Sec-WebSocket-Version: 8",), 426),
        ((b"Sec-WebSocket-Key: abc",), 400),
        ((b"Sec-WebSocket-Key:",), 400),
        ((b"Sec-WebSocket-Key: !!!!!!!!!!!!!!!!!!!!!!!!",), 400),
    ],
)
def test_a_handshake_that_is_none_is_refused(
    alone: Service, fields: tuple[bytes, ...], code: int
) -> None:
    names = {field.partition(b":")[0] for field in fields}
    kept = [field for field in HANDSHAKE if field.partition(b":")[0] not in names]
    assert code_of(alone, head(b"GET", b"/ws/events", *kept, *fields)) == code


@pytest.mark.parametrize("coding", [b"gzip, chunked", b"chunked, chunked", b"gzip"])
def test_no_other_transfer_coding_reaches_a_route(alone: Service, coding: bytes) -> None:
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(LOGIN), LOGIN)
    request = spelled(chunks, b"Content-Length", b"Transfer-Encoding: " + coding)
    assert code_of(alone, request) in (400, 501)


def test_a_request_of_http_1_1_names_its_host(alone: Service) -> None:
    for nothing in (b"", b"Host:\r\n", b"Host: \r\n"):
        talk = Talk(alone)
        code, _, answer = talk.ask(b"GET /healthz HTTP/1.1\r\n%s\r\n" % nothing)
        talk.close()
        assert code == 400
        assert answer["message"] == "The request names no host: send a Host header."
    assert code_of(alone, b"GET /healthz HTTP/1.0\r\n\r\n") == 200
    assert code_of(alone, b"GET /healthz HTTP/1.1\r\nHost: ::1\r\n\r\n") == 400
    assert code_of(alone, b"GET ftp://localhost/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n") == 404
