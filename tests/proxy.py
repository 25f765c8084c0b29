"""A TCP proxy between clients and a broker that is told, while it runs, how to misbehave.

A broker behind one must advertise the proxy's address, else clients go around it:
`KafkaBroker(advertise=proxy.port)`, then `proxy.target = broker.behind`. One thread per connection
and direction; all end with `close`.
"""

from __future__ import annotations

import socket
import threading

CHUNK = 65_536


class Proxy:
    """Listens on `port` of loopback and passes everything on to `target`, until told otherwise.

    Each switch holds for connections that are open and for those to come, from the next chunk on.
    """

    def __init__(self, target: int = 0) -> None:
        self.target = target
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listening.getsockname()[1]
        self._changed = threading.Condition()  # over the four below
        self._delay = 0.0
        self._hole = False
        self._reset_after: int | None = None
        self._closed = False
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    @property
    def bootstrap(self) -> str:
        """Where clients connect: host:port."""
        return f"127.0.0.1:{self.port}"

    def pass_on(self) -> None:
        """Misbehave no more; what a black hole kept goes on its way."""
        self._switch()

    def delay(self, seconds: float) -> None:
        """Keep every chunk of an answer for so long. Requests pass at once."""
        self._switch(delay=seconds)

    def black_hole(self) -> None:
        """Take connections and bytes, and let nothing through in either direction."""
        self._switch(hole=True)

    def reset_after(self, count: int) -> None:
        """Reset each connection once `count` more bytes of answers passed through it."""
        self._switch(reset_after=count)

    def cut(self) -> None:
        """Reset every connection that is open now."""
        with self._changed:
            doomed = list(self._open)
        for one in doomed:
            _reset(one)

    def close(self) -> None:
        """Stop listening and reset what is open."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._listening.close()
        self.cut()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _switch(
        self, *, delay: float = 0.0, hole: bool = False, reset_after: int | None = None
    ) -> None:
        with self._changed:
            self._delay, self._hole, self._reset_after = delay, hole, reset_after
            self._changed.notify_all()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self.target), timeout=5)
                server.settimeout(None)
            except OSError:
                _reset(client)
                continue
            with self._changed:
                self._open |= {client, server}
            for pump in (self._pump_requests, self._pump_answers):
                threading.Thread(target=pump, args=(client, server), daemon=True).start()

    def _pump_requests(self, client: socket.socket, server: socket.socket) -> None:
        try:
            while chunk := client.recv(CHUNK):
                self._wait_out_the_hole()
                server.sendall(chunk)
        except OSError:
            pass
        self._drop(client, server)

    def _pump_answers(self, client: socket.socket, server: socket.socket) -> None:
        passed = 0
        try:
            while chunk := server.recv(CHUNK):
                self._wait_out_the_hole()
                with self._changed:
                    self._wait_out_the_delay(self._delay)
                    limit = self._reset_after
                if limit is not None and passed + len(chunk) > limit:
                    client.sendall(chunk[: max(0, limit - passed)])
                    break
                client.sendall(chunk)
                passed = passed + len(chunk) if limit is not None else 0
        except OSError:
            pass
        self._drop(client, server)

    def _wait_out_the_hole(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._hole)

    def _wait_out_the_delay(self, seconds: float) -> None:
        """Or until any other switch: a test need not wait a delay out."""
        self._changed.wait_for(lambda: self._closed or self._delay != seconds, seconds)

    def _drop(self, client: socket.socket, server: socket.socket) -> None:
        with self._changed:
            self._open -= {client, server}
        _reset(client)
        _reset(server)


def _reset(one: socket.socket) -> None:
    """Close it with RST, and wake whoever reads it."""
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        one.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    one.close()
