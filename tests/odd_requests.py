"""Odd requests by the thousand, each sent as the first and as a later request of a connection.

`python -m tests.odd_requests --count 5000` starts a service and sends them: the same answer either
way, nothing lost, nothing doubled, no restart. Spellings of heads, lengths, splits, requests that
come together, chunks, Expect, clients that close their side, absolute targets. The same seed gives
the same requests.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import socket
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobquest.framing import LARGE_BODY_BYTES
from tests.load import events_of, worker_of
from tests.raw import EVENTS, HELLO
from tests.service import Service

SECONDS = 20.0  # for an answer; by far
CLIENTS = 8
_CLOSES = b"\r\nConnection: close\r\n"
_VARYING = re.compile(rb'"(?:id|timestamp)":"[^"]*"|"offset":\d+')


@dataclass(frozen=True)
class Odd:
    """A request as bytes, and how they are sent."""

    sent: bytes
    user: str  # whose XP it may add to
    cuts: tuple[int, ...] = ()
    half_closed: bool = False
    together: bool = False  # with the request before it, if it is a later one


@dataclass
class Found:
    """What came of them."""

    codes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    taken: dict[str, int] = field(default_factory=dict)  # events, by user

    def add(self, request: Odd, first: list[bytes], later: list[bytes]) -> None:
        """Compare the answers to a request that was sent first, and later."""
        self.codes[first[0][9:12].decode("latin-1") if first else "none"] += 1
        if not agree(request, first, later):
            self.wrong.append(f"{request}:\n  first {first}\n  later {later}")
        self.taken[request.user] = b"".join([*first, *later]).count(b'"result":"accepted"')


def requests(count: int, seed: int) -> Iterator[Odd]:
    """So many odd requests."""
    chance = random.Random(f"{seed}")
    for number in range(count):
        yield _odd(chance, f"odd-{seed}-{number}")


def _odd(chance: random.Random, user: str) -> Odd:
    data = {"xpAmount": 1, "totalXp": 0}
    body = json.dumps({"eventType": "xp.earned", "data": data, "userId": user}).encode()
    path = EVENTS
    if chance.random() < 0.3:
        path = EVENTS + b"/batch"
        events = [body] * chance.choice([1, 3, 30, 400])
        if chance.random() < 0.3:
            events.insert(chance.randrange(len(events)), chance.choice([b"{}", b"1", b"{"]))
        body = b'{"events": [%s]}' % b", ".join(events)
    if chance.random() < 0.1:
        body = chance.choice([b"", b"{}", b"[1", b"\xff", body + b" " * 70_000, body[:-1]])
    fields = [_name(chance, name) + _value(chance, value) for name, value in _fields(chance)]
    framing, sent_body = _body(chance, body)
    fields += framing
    chance.shuffle(fields)
    if chance.random() < 0.05:
        fields.append(chance.choice(_REFUSED))
    head = b"\r\n".join([_first_line(chance, path), *fields, b"", b""])
    if chance.random() < 0.03:
        head = chance.choice([b"\r\n" + head, head.replace(b"\r\n", b"\n"), b"\r\n\r\n" + head])
    sent = head + sent_body
    cuts = sorted(chance.randrange(1, len(sent)) for _ in range(chance.choice([0, 0, 1, 1, 2, 5])))
    if chance.random() < 0.1:
        cuts = [len(head)]  # as many clients do
    return Odd(sent, user, tuple(cuts), chance.random() < 0.1, chance.random() < 0.3)


_REFUSED = [
    b"X-Folded: a\r\n b",
    b"X-Odd\x00: a",
    b"X-Space : a",
    b"Content-Length: 5",
    b"Content-Length: -5",
    b"Content-Length: 0x5",
    b"Expect: tea",
    b"Host: evil.example",
    b"no colon",
    b"X-Long: " + b"a" * 9_000,
]


def _first_line(chance: random.Random, path: bytes) -> bytes:
    target = path
    if chance.random() < 0.2:
        target = chance.choice(
            [
                b"http://localhost" + EVENTS,
                b"http://evil.example" + EVENTS,
                EVENTS + b"?dryRun=1",
                EVENTS + b"?a=%00",
                EVENTS + b"/",
                b"/" + EVENTS,
                b"/api%2fkafka/events",
                b"/healthz",
                b"*",
                b"localhost:80",
                b"/" + b"a" * 5_000,
            ]
        )
    method = chance.choice([b"POST"] * 12 + [b"GET", b"PUT", b"OPTIONS", b"post", b"P"])
    version = chance.choice([b"HTTP/1.1"] * 12 + [b"HTTP/1.0", b"HTTP/2.0", b"HTTP/1.10", b""])
    return b" ".join([method, target, version])


def _fields(chance: random.Random) -> list[tuple[bytes, bytes]]:
    fields = [
        (b"Host", chance.choice([b"localhost"] * 9 + [b"127.0.0.1:5000", b"evil.example"])),
        (b"Content-Type", chance.choice([b"application/json"] * 9 + [b"text/plain"])),
    ]
    others = [
        (b"Authorization", b"Bearer " + b"a" * 200),
        (b"X-Forwarded-For", b"10.1.2.3"),
        (b"X-Forwarded-Proto", b"https"),
        (b"X-Request-Id", b"0f8fad5b-d9cb-469f-a165-70867728950e"),
        (b"User-Agent", b"odd/" + b"1" * chance.randrange(300)),
        (b"Accept", b"*/*"),
        (b"Cookie", b"a=b; c=d"),
        (b"Origin", chance.choice([b"http://localhost:3000", b"http://evil.example", b"null"])),
        (b"Connection", chance.choice([b"keep-alive", b"Keep-Alive", b"close", b"Upgrade", b"x"])),
        (b"Upgrade", chance.choice([b"h2c", b"websocket"])),
        (b"SCRIPT_NAME", b"/api"),
        (b"Content_Length", b"7"),
        (b"Accept-Language", b"\xe4\xf6"),
        (b"Trailer", b"X-Sum"),
    ]
    return fields + [one for one in others if chance.random() < 0.2]


def _name(chance: random.Random, name: bytes) -> bytes:
    return chance.choice([name, name, name.lower(), name.upper(), name.title(), name.swapcase()])


def _value(chance: random.Random, value: bytes) -> bytes:
    before = chance.choice([b": "] * 6 + [b":", b":  ", b":\t"])
    return before + value + chance.choice([b""] * 6 + [b" ", b"\t"])


def _body(chance: random.Random, body: bytes) -> tuple[list[bytes], bytes]:
    """The fields that tell how long a body is, and the body as it is sent."""
    fields = []
    if chance.random() < 0.1:
        fields.append(_name(chance, b"Expect") + _value(chance, b"100-continue"))
    if chance.random() < 0.7:
        length = b"%d" % len(body)
        if chance.random() < 0.1:
            length = b"000" + length
        return [*fields, _name(chance, b"Content-Length") + _value(chance, length)], body
    coding = chance.choice([b"chunked"] * 6 + [b"Chunked", b"identity", b"gzip", b"gzip, chunked"])
    sent = b""
    while body:
        size = chance.choice([1, 7, 50, 1_000])
        piece, body = body[:size], body[size:]
        line = chance.choice([b"%x", b"%X", b"00%x", b"%x;a=b", b'%x ;a="b"']) % len(piece)
        sent += line + b"\r\n" + piece + b"\r\n"
    sent += chance.choice([b"0\r\n\r\n", b"000\r\n\r\n", b"0\r\nX-Sum: 1\r\n\r\n"])
    if chance.random() < 0.1:
        sent = chance.choice([sent.replace(b"\r\n", b"\n", 1), b"x" + sent, sent[:-1] + b"x"])
    return [*fields, _name(chance, b"Transfer-Encoding") + _value(chance, coding)], sent


def agree(request: Odd, first: list[bytes], later: list[bytes]) -> bool:
    """Whether the answers are the same. Guards see the head of a large request before its body, if
    that is late. If they refuse it then, the connection closes: that depends on the packets."""
    if first == later:
        return True
    if not (first and later and _is_asked_early(request)):
        return False
    closed = [one for one in (first, later) if _CLOSES in one[0]]
    heads = {one[0].replace(b"\r\nConnection: keep-alive\r\n", _CLOSES) for one in (first, later)}
    is_refused = first[0].startswith(b"HTTP/1.1 4")
    return is_refused and len(closed) == 1 == len(closed[0]) and len(heads) == 1


def _is_asked_early(request: Odd) -> bool:
    head, _, body = request.sent.lower().partition(b"\r\n\r\n")
    return b"chunked" in head or b"100-continue" in head or len(body) > LARGE_BODY_BYTES


def answers(service: Service, request: Odd, later: bool) -> list[bytes]:
    """All answers to a request on a connection of its own, without what differs each time; as a
    later one, after another request. Then the client closes its side."""
    host, port = service.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=SECONDS) as one:
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        received, before = b"", b""
        if later and request.together:
            before = HELLO
        elif later:
            one.sendall(HELLO)
            while received.count(b"\n") < 2 or not received.endswith(b"}\n"):
                received += one.recv(65_536)
        try:
            _send(one, before, request)
            if request.half_closed:
                one.shutdown(socket.SHUT_WR)
            else:
                one.sendall(HELLO.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            while data := one.recv(65_536):
                received += data
        except ConnectionError:
            pass
    found = [_same(answer) for answer in _split(received)]
    return found[1:] if later else found


def _send(one: socket.socket, before: bytes, request: Odd) -> None:
    begin = 0
    for end in (*request.cuts, len(request.sent)):
        one.sendall(before + request.sent[begin:end])
        begin, before = end, b""


def _split(received: bytes) -> Iterator[bytes]:
    while received:
        head, _, rest = received.partition(b"\r\n\r\n")
        length = re.search(rb"\r\nContent-Length: (\d+)", head)
        size = int(length[1]) if length else 0
        if not head.startswith(b"HTTP/1.1 100"):  # whether it is sent depends on the time
            yield head + b"\r\n\r\n" + rest[:size]
        received = rest[size:]


def _same(answer: bytes) -> bytes:
    kept = re.sub(rb"\r\n(?:Date|Content-Length): [^\r]*", b"", answer)
    return _VARYING.sub(b"", kept)


def check(service: Service, wanted: Iterable[Odd]) -> Found:
    """Send them all, and see what the service has kept of them."""
    found = Found()
    process = worker_of(service)

    def both(request: Odd) -> tuple[Odd, list[bytes], list[bytes]]:
        return request, answers(service, request, False), answers(service, request, True)

    with ThreadPoolExecutor(CLIENTS) as pool:
        for result in pool.map(both, wanted):
            found.add(*result)
    service.wait_until_caught_up(120)
    kept: Counter[str] = Counter(event["userId"] for event in events_of(service, "xp.earned"))
    for user in {*found.taken, *kept}:
        if kept[user] != found.taken.get(user, 0):
            found.wrong.append(f"{user}: {found.taken.get(user)} taken, {kept[user]} kept")
    if worker_of(service) != process:
        found.wrong.append("The worker was replaced.")
    found.wrong += [line for line in service.output if "Traceback" in line or "ERROR" in line]
    return found


def main() -> int:
    """Run it from the command line."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--count", type=int, default=2_000, help="how many requests")
    options.add_argument("--seed", type=int, default=0, help="which requests")
    wanted: Any = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        service = Service(Path(folder)).start()
        try:
            found = check(service, requests(wanted.count, wanted.seed))
        finally:
            service.kill()
    print(f"{wanted.count} requests, each sent first and later: {dict(found.codes)}")
    print("\n".join(found.wrong[:20]))
    print(f"{len(found.wrong)} disagreements")
    return 1 if found.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
