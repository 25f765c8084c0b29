"""Some hundred odd requests; `python -m tests.odd_requests` sends as many as one likes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.odd_requests import Odd, agree, check, requests
from tests.service import Service

FRAMINGS = b"Transfer-Encoding: chunked", b"Content-Length: 2"


@pytest.mark.slow
def test_odd_requests_get_the_same_answer_whether_they_come_first_or_later(tmp_path: Path) -> None:
    service = Service(tmp_path).start()
    try:
        found = check(service, requests(300, seed=3))
    finally:
        service.kill()
    print(dict(found.codes))
    assert not found.wrong, "\n".join(found.wrong[:5])
    assert {"201", "400", "403"} <= found.codes.keys()


def test_only_a_refusal_of_a_large_request_may_close_once_and_be_kept_once() -> None:
    closed = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n{}"
    kept = closed.replace(b"close", b"keep-alive")
    follows = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{}"
    large, small = (Odd(b"POST / HTTP/1.1\r\n%s\r\n\r\n" % name, "ada") for name in FRAMINGS)
    assert agree(large, [kept, follows], [closed])
    assert agree(large, [closed], [kept, follows])
    assert agree(small, [closed], [closed])
    assert not agree(small, [kept, follows], [closed])
    assert not agree(large, [closed, follows], [closed])
    assert not agree(large, [kept], [kept, follows])
    assert not agree(large, [kept + b" ", follows], [closed])
    assert not agree(large, [], [closed])
    succeeded = [one.replace(b"400", b"200") for one in (kept, closed)]
    assert not agree(large, [succeeded[0], follows], [succeeded[1]])
