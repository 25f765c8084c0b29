"""Requests as bytes, and a connection to send them on: for tests of how they are spelled, cut and
joined."""

from __future__ import annotations

import json
import socket
from typing import Any

from tests.service import Service

EVENTS = b"/api/kafka/events"
BATCH = EVENTS + b"/batch"
LOGIN = b'{"eventType":"user.login","data":{},"userId":"ada"}'
HELLO = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


def spelled(body: bytes, *fields: bytes, path: bytes = EVENTS) -> bytes:
    """A POST as most clients send it; `fields` beside, or in place of, the usual ones. A field
    without a colon leaves the usual one out."""
    usual = [
        b"Host: localhost",
        b"Content-Type: application/json",
        b"Content-Length: %d" % len(body),
    ]
    names = {field.partition(b":")[0] for field in fields}
    head = [line for line in usual if line.partition(b":")[0] not in names]
    more = [field for field in fields if b":" in field]
    return b"\r\n".join([b"POST %s HTTP/1.1" % path, *head, *more, b"", body])


PLAIN = spelled(LOGIN)


class Talk:
    """One connection; if it has `begun`, it has had its first answer."""

    def __init__(
        self, service: Service, receive_buffer: int | None = None, begun: bool = True
    ) -> None:
        host, port = service.url.removeprefix("http://").split(":")
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(20)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.connect((host, int(port)))
        self._buffer = b""
        if begun:
            assert self.ask(HELLO)[0] == 200

    def say(self, data: bytes) -> None:
        self.socket.sendall(data)

    def answer(self) -> tuple[int, dict[str, str], Any]:
        """The next answer: its code, head and JSON."""
        first, *lines = self._head().decode("latin-1").split("\r\n")
        fields = dict(line.split(": ", 1) for line in lines)
        length = int(fields["Content-Length"])
        while len(self._buffer) < length:
            self._receive()
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        return int(first.split()[1]), fields, json.loads(body)

    def interim(self) -> bytes:
        """The next answer, which has a first line and nothing else."""
        return self._head()

    def ask(self, data: bytes) -> tuple[int, dict[str, str], Any]:
        self.say(data)
        return self.answer()

    def is_over(self) -> bool:
        """Whether the server has ended it, in good order and without another byte."""
        return not self._buffer and self.socket.recv(1) == b""

    def close(self) -> None:
        self.socket.close()

    def _head(self) -> bytes:
        while b"\r\n\r\n" not in self._buffer:
            self._receive()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        return head

    def _receive(self) -> None:
        data = self.socket.recv(65_536)
        assert data, "it was closed"
        self._buffer += data
