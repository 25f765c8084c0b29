"""The look at lengths agrees with gunicorn's parser, wherever a request is cut."""

from __future__ import annotations

import pytest
from gunicorn import http
from gunicorn.config import Config
from gunicorn.http.errors import NoMoreData, ParseException

from jobquest import framing
from jobquest.framing import Arrived, Framing
from jobquest.web.entrance import MAX_BATCH_BYTES
from tests.odd_requests import requests
from tests.raw import LOGIN, spelled

CONFIG = Config()


def parsed(data: bytes) -> str:
    """What the parser makes of it: whole, refused, or part of something."""
    parser = http.get_parser(CONFIG, (data,), ("", 0))
    try:
        request = next(parser)
        body = request.body.read()
    except NoMoreData:
        return "part"
    except ParseException:
        return "refused"
    lengths = [int(value) for name, value in request.headers if name == "CONTENT-LENGTH"]
    return "part" if lengths and len(body) < lengths[0] else "whole"


def cuts(data: bytes) -> list[int]:
    """Where to cut it: everywhere, or in a long one near both ends."""
    ends = range(1, len(data) + 1)
    return [*ends] if len(data) < 1_000 else [*ends[:300], *ends[-300:]]


@pytest.mark.slow
def test_a_request_counts_as_whole_when_the_parser_has_all_of_it_and_never_before() -> None:
    seen = {"whole": 0, "part": 0, "refused": 0}
    for request in requests(200, seed=1):
        look = Framing()
        for end in cuts(request.sent):
            found, verdict = look.look(request.sent[:end]), parsed(request.sent[:end])
            seen[verdict] += 1
            if found is not Arrived.PART:
                assert verdict != "part", request.sent[:end]
                break
            assert verdict != "whole", request.sent[:end]
    assert all(seen.values())


def test_what_is_looked_at_in_one_piece_or_in_many_is_found_alike() -> None:
    for request in requests(200, seed=2):
        look = Framing()
        pieces = [look.look(bytearray(request.sent[:end])) for end in cuts(request.sent)]
        whole = Framing().look(request.sent)
        assert whole in (pieces[-1], Arrived.WHOLE)
        assert (whole is Arrived.PART) == (set(pieces) == {Arrived.PART})


def test_heads_and_bodies_that_no_route_takes_are_not_waited_for() -> None:
    assert framing.MAX_BODY_BYTES >= MAX_BATCH_BYTES
    assert Framing().look(b"GET / HTTP/1.1\r\nX: " + b"a" * 70_000) is Arrived.LONG_HEAD
    assert Framing().look(spelled(b"", b"Content-Length: 1048577")) is Arrived.TOO_LARGE
    assert Framing().look(spelled(b"", b"Content-Length: %s" % (b"9" * 5_000))) is Arrived.TOO_LARGE
    chunked = spelled(b"", b"Content-Length", b"Transfer-Encoding: chunked")
    assert Framing().look(chunked + b"ffffffff\r\n") is Arrived.TOO_LARGE
    assert Framing().look(chunked + b"1\r\na\r\n" * 400_000) is Arrived.TOO_LARGE
    assert Framing().look(chunked + b"0\r\n" + b"a: b\r\n" * 400_000) is Arrived.TOO_LARGE


@pytest.mark.parametrize("version", [b"HTTP/1.0", b"HTTP/1.1"])
def test_only_who_knows_of_it_is_told_to_go_on(version: bytes) -> None:
    asking = spelled(LOGIN, b"Expect: 100-Continue").replace(b"HTTP/1.1", version)
    look = Framing()
    assert look.look(asking[:-1]) is Arrived.PART
    assert look.expects == (version == b"HTTP/1.1")
