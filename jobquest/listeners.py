"""What each of several web workers has to itself: a listening socket.

The kernel spreads connections evenly over the sockets. Called by the server; it knows sockets and
processes, and nothing of what is served.
"""

from __future__ import annotations

import signal
import socket
import sys
from typing import Any

BACKLOG = 2048


def sockets_for(workers: int, listening: socket.socket) -> list[socket.socket]:
    """A socket for each worker, on the port that `listening` has; `listening` for all where there
    is but one worker, or where the system spreads nothing.

    `listening` took the port for itself, so whoever else wants it is refused, another service of
    ours too; only then are ours let in beside it. They stay open in the server: what waits for a
    worker that dies is there for its successor.
    """
    if workers == 1 or sys.platform != "linux":  # elsewhere the newest socket gets everything
        return [listening]
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return [listening, *(_beside(listening) for _ in range(workers - 1))]


def _beside(listening: socket.socket) -> socket.socket:
    another = socket.socket(listening.family, socket.SOCK_STREAM)
    another.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    another.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    another.bind(listening.getsockname())
    another.listen(BACKLOG)
    return another


def fix_count(server: Any) -> None:
    """Once the server handles signals: have it ignore those that would change the number of its
    processes. A socket without a worker would be given connections that nobody answers."""
    if server.num_workers > 1:
        for number in (signal.SIGTTIN, signal.SIGTTOU):
            signal.signal(number, signal.SIG_IGN)


def choose_socket(server: Any, worker: Any, *, has_consumer: bool) -> None:
    """In the server, before the fork: the socket that the fewest have, so that a successor gets the
    socket and the role of the process that has ended. The last socket is the consumer's."""
    taken = [other.socket_number for other in server.WORKERS.values()]
    worker.socket_number = min(range(server.num_workers), key=taken.count)
    worker.is_consumer = has_consumer and worker.socket_number == server.num_workers - 1


def take_socket(_server: Any, worker: Any) -> None:
    """In the worker, after the fork."""
    own = [] if worker.is_consumer else [worker.sockets[worker.socket_number % len(worker.sockets)]]
    # A socket that somebody holds open is given connections, also if its own worker is ending.
    for other in worker.sockets:
        if other not in own:
            other.close()
    worker.sockets = own
