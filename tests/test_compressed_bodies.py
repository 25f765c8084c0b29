"""Bodies that a client or its library has compressed: refused in words, with what is taken."""

from __future__ import annotations

import gzip
import http.client
import json
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.service import Service

LOGIN = {"eventType": "user.login", "data": {}, "userId": "ada"}
ROUTES: dict[str, tuple[str, Any]] = {
    "/api/kafka/events": ("POST", LOGIN),
    "/api/kafka/events?dryRun=1": ("POST", LOGIN),
    "/api/kafka/events/batch": ("POST", {"events": [LOGIN]}),
    "/api/kafka/status": ("POST", {"action": "start"}),
    "/api/kafka/dead-letters/redrive": ("POST", {"ids": [1]}),
    "/api/kafka/dead-letters/1": ("PATCH", {"value": {}}),
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    made = Service(tmp_path_factory.mktemp("service")).start()
    yield made
    made.kill()


def send(
    service: Service, method: str, path: str, body: bytes, chunked: bool = False, **headers: str
) -> tuple[int, dict[str, str], Any]:
    connection = http.client.HTTPConnection(service.url.removeprefix("http://"), timeout=20)
    sent = {"Content-Type": "application/json"}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(
        method, path, iter([body]) if chunked else body, sent, encode_chunked=chunked
    )
    answer = connection.getresponse()
    found = answer.status, dict(answer.getheaders()), json.loads(answer.read())
    connection.close()
    return found


@pytest.mark.parametrize("path", ROUTES)
def test_a_compressed_body_is_refused_with_what_is_taken(service: Service, path: str) -> None:
    method, document = ROUTES[path]
    plain = json.dumps(document).encode()
    for coding, body in (
        ("gzip", gzip.compress(plain)),
        ("GZIP", gzip.compress(plain)),
        ("x-gzip", gzip.compress(plain)),
        ("deflate", zlib.compress(plain)),
        ("br", plain),
        ("gzip, gzip", gzip.compress(gzip.compress(plain))),
        ("identity, gzip", gzip.compress(plain)),
    ):
        code, headers, answer = send(service, method, path, body, Content_Encoding=coding)
        assert (code, headers["Accept-Encoding"]) == (415, "identity"), coding
        assert answer["status"] == "error"
        assert "Content-Encoding" in answer["message"]


def test_a_compressed_body_in_chunks_is_refused_too(service: Service) -> None:
    body = gzip.compress(json.dumps(LOGIN).encode())
    code, headers, _ = send(
        service, "POST", "/api/kafka/events", body, chunked=True, Content_Encoding="gzip"
    )
    assert (code, headers["Accept-Encoding"]) == (415, "identity")


@pytest.mark.parametrize("coding", ["identity", "Identity", ""])
def test_a_body_that_says_it_is_not_compressed_is_taken(service: Service, coding: str) -> None:
    body = json.dumps(LOGIN).encode()
    code, _, _ = send(service, "POST", "/api/kafka/events", body, Content_Encoding=coding)
    assert code == 201


def test_the_connection_is_good_for_more_after_a_refusal(service: Service) -> None:
    connection = http.client.HTTPConnection(service.url.removeprefix("http://"), timeout=20)
    headers = {"Content-Type": "application/json"}
    packed, plain = gzip.compress(json.dumps(LOGIN).encode()), json.dumps(LOGIN).encode()
    codes = []
    for body, more in ((packed, {"Content-Encoding": "gzip"}), (plain, {})):
        connection.request("POST", "/api/kafka/events", body, {**headers, **more})
        answer = connection.getresponse()
        answer.read()
        codes.append(answer.status)
    connection.close()
    assert codes == [415, 201]
