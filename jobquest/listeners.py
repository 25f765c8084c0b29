"""A listening socket for each of several web workers.

The kernel distributes connections evenly over the sockets. Called by the server; it knows sockets
and processes, and nothing of requests.
"""

from __future__ import annotations

import signal
import socket
import sys
from typing import Any

BACKLOG = 2048


def sockets_for(workers: int, listening: socket.socket) -> list[socket.socket]:
    """A socket for each worker, on the port of `listening`; `listening` alone if there is only one
    worker, or if the system does not distribute connections.

    `listening` has bound the port exclusively, so that nobody else can bind it, not even another
    service of ours; only then is the port shared with our own sockets. They stay open in the
    server: connections that wait for a worker that dies are there for its successor.
    """
    if workers == 1 or sys.platform != "linux":  # elsewhere the newest socket gets everything
        return [listening]
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return [listening, *(_another(listening) for _ in range(workers - 1))]


def _another(listening: socket.socket) -> socket.socket:
    another = socket.socket(listening.family, socket.SOCK_STREAM)
    another.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    another.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    another.bind(listening.getsockname())
    another.listen(BACKLOG)
    return another


def fix_count(server: Any) -> None:
    """Once the server handles signals, have it ignore those that change the number of its
    processes. The kernel would give connections to a socket without a worker."""
    if server.num_workers > 1:
        for number in (signal.SIGTTIN, signal.SIGTTOU):
            signal.signal(number, signal.SIG_IGN)


def choose_socket(server: Any, worker: Any, *, has_consumer: bool) -> None:
    """In the server, before the fork: choose the socket that the fewest workers have, so that a
    successor gets the socket and the role of the process that has ended. The last socket is the
    consumer's."""
    taken = [other.socket_number for other in server.WORKERS.values()]
    worker.socket_number = min(range(server.num_workers), key=taken.count)
    worker.is_consumer = has_consumer and worker.socket_number == server.num_workers - 1


def take_socket(_server: Any, worker: Any) -> None:
    """In the worker, after the fork: keep its own socket only."""
    own = [] if worker.is_consumer else [worker.sockets[worker.socket_number % len(worker.sockets)]]
    # The kernel gives connections to every open socket, even if that socket's worker is ending.
    for other in worker.sockets:
        if other not in own:
            other.close()
    worker.sockets = own
