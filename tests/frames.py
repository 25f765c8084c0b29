"""WebSocket frames by hand (RFC 6455, section 5): for what a well-behaved client would not send."""

from __future__ import annotations

import base64
import json
import os
import socket
import struct
from typing import Any

TEXT, CLOSE, PING, PONG = 0x1, 0x8, 0x9, 0xA


class Frames:
    """Reads a server's frames from a socket."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self._buffer = b""

    def frame(self) -> tuple[int, bytes]:
        """The next frame: its first byte, its payload. EOFError where the connection has ended."""
        first, size = self._take(2)
        if size == 126:
            (size,) = struct.unpack("!H", self._take(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", self._take(8))
        return first, self._take(size)

    def message(self) -> dict[str, Any]:
        """The next frame, which is one of the feed's."""
        first, payload = self.frame()
        assert first == 0x80 | TEXT, (first, payload[:100])
        found: dict[str, Any] = json.loads(payload)
        return found

    def close_code(self) -> int | None:
        """Read to the end: the code of the close frame, None where the connection just ended."""
        try:
            while True:
                first, payload = self.frame()
                if first == 0x80 | CLOSE:
                    return int.from_bytes(payload[:2], "big")
        except (EOFError, ConnectionError):
            return None

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            more = self.socket.recv(65536)
            if not more:
                raise EOFError("the connection ended")
            self._buffer += more
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken


class Upgrade(Frames):
    """A raw client of `/ws/events`: `code` and `head` are the answer's."""

    def __init__(
        self,
        url: str,
        receive_buffer: int | None = None,
        query: str = "",
        **headers: str,
    ) -> None:
        host, port = url.removeprefix("http://").split(":")
        connection = socket.socket()
        if receive_buffer:  # before it connects: the window is agreed on then
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.settimeout(20)
        connection.connect((host, int(port)))
        super().__init__(connection)
        lines = {
            "Host": f"{host}:{port}",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
            "Sec-WebSocket-Version": "13",
        } | {name.replace("_", "-"): value for name, value in headers.items()}
        text = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value)
        connection.sendall(f"GET /ws/events{query} HTTP/1.1\r\n{text}\r\n".encode())
        while b"\r\n\r\n" not in self._buffer:
            more = connection.recv(65536)
            assert more, self._buffer
            self._buffer += more
        head, self._buffer = self._buffer.split(b"\r\n\r\n", 1)
        self.head = head.decode()
        self.code = int(self.head.split()[1])

    def body(self) -> Any:
        """The JSON of an answer that is no upgrade."""
        [size] = [
            int(line.split(":")[1])
            for line in self.head.splitlines()
            if line.lower().startswith("content-length:")
        ]
        return json.loads(self._take(size))

    def close(self) -> None:
        self.socket.close()


def client_frame(
    opcode: int, payload: bytes = b"", *, final: bool = True, compressed: bool = False
) -> bytes:
    """A frame as a client sends it, masked (with zeros: any mask will do)."""
    first = opcode | (0x80 if final else 0) | (0x40 if compressed else 0)
    return client_header(first, len(payload)) + payload


def client_header(first: int, size: int) -> bytes:
    """The head of a frame of `size` bytes."""
    if size < 126:
        return struct.pack("!BB", first, 0x80 | size) + bytes(4)
    if size < 65_536:
        return struct.pack("!BBH", first, 0x80 | 126, size) + bytes(4)
    return struct.pack("!BBQ", first, 0x80 | 127, size) + bytes(4)
