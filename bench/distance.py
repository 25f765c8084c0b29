"""A database that is some way off: passes bytes on, each after a delay, and counts what it sees.

    python -m bench.distance PORT SECONDS

It prints its own port. For each line on its input it prints, as JSON, how many round trips and how
many statements PostgreSQL's clients have needed so far. A round trip is a message of a client after
an answer; a statement is a `Bind` or a `Query` of PostgreSQL's protocol.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable

from tests.service import ROOT

CHUNK = 1 << 18
STATEMENTS = b"BQ"  # the kinds of messages that run a statement
TLS_QUESTION = 4  # bytes behind its length
KIND_AND_LENGTH = 5  # bytes at the beginning of a message


class Distance:
    """A database on loopback's `target` port, so many seconds away in each direction: in reach at
    `port`. A process of its own, so that it delays nobody else."""

    def __init__(self, target: int, seconds: float) -> None:
        command = [sys.executable, "-m", "bench.distance", str(target), str(seconds)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
        self.port = int(self._read())

    def needed(self) -> dict[str, int]:
        """The `round_trips` and `statements` so far."""
        assert self._process.stdin
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        needed: dict[str, int] = json.loads(self._read())
        return needed

    def _read(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline()

    def __enter__(self) -> Distance:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


class Counted:
    """What all connections have needed."""

    def __init__(self) -> None:
        self.round_trips = 0
        self.statements = 0


class Messages:
    """Counts the statements in one client's bytes, without keeping them."""

    def __init__(self, counted: Counted) -> None:
        self._counted = counted
        self._head = b""
        self._skip = 0
        self._is_first = True  # the first message has no kind

    def count(self, data: bytes) -> None:
        """Count the statements that begin in the client's next bytes."""
        place = 0
        while place < len(data):
            skipped = min(self._skip, len(data) - place)
            place += skipped
            self._skip -= skipped
            if self._skip or place == len(data):
                return
            size = KIND_AND_LENGTH - self._is_first
            taken = data[place : place + size - len(self._head)]
            self._head += taken
            place += len(taken)
            if len(self._head) == size:
                self._skip = int.from_bytes(self._head[-4:]) - 4
                self._counted.statements += not self._is_first and self._head[0] in STATEMENTS
                # A question about TLS has no kind either, and the first message follows it.
                self._is_first &= self._skip == TLS_QUESTION
                self._head = b""


async def main(port: int, seconds: float) -> None:
    """Pass everything on until killed."""
    counted = Counted()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", port)
        messages, answered = Messages(counted), [True]

        def asked(data: bytes) -> None:
            counted.round_trips += answered[0]
            answered[0] = False
            messages.count(data)

        def answers(_data: bytes) -> None:
            answered[0] = True

        await asyncio.gather(
            _pass_on(reader, there_writer, seconds, asked),
            _pass_on(there_reader, writer, seconds, answers),
        )

    server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=CHUNK)
    print(server.sockets[0].getsockname()[1], flush=True)
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
    )
    while await lines.readline():
        print(json.dumps(vars(counted)), flush=True)


async def _pass_on(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    seconds: float,
    seen: Callable[[bytes], None],
) -> None:
    """Pass everything on after the delay; Chunks do not wait for each
    other."""
    waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
    delivering = asyncio.create_task(_deliver(waiting, writer))
    data = b"."
    while data:
        try:
            data = await reader.read(CHUNK)
        except ConnectionError:
            data = b""
        if data:
            seen(data)
        waiting.put_nowait((asyncio.get_running_loop().time() + seconds, data))
    await delivering


async def _deliver(
    waiting: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter
) -> None:
    while True:
        due, data = await waiting.get()
        await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))
        if not data:
            break
        writer.write(data)
        try:
            await writer.drain()
        except ConnectionError:
            break
    writer.close()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2])))
