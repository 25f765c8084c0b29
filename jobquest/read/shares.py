"""A rebuild's first and longest part by several processes: one reads the log, and each of the
others folds the events of its share of the users.

So each row of a user has one writer, and each event's row the number of its record. Whatever is not
decided by one user's records alone (an id that two users have, a record whose key is not its user,
a new dead letter) raises `SharesDepend`: one process must do it then, in the order of the log. This
module does not know what a rebuild does before and after.
"""

from __future__ import annotations

import os
import queue
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection as Pipe
from multiprocessing.connection import wait
from multiprocessing.context import SpawnContext
from multiprocessing.synchronize import Lock
from threading import Thread
from typing import Any
from zlib import crc32

import msgspec
from sqlalchemy import Connection

from jobquest.collector import OF_A_REBUILD, collect_seldom
from jobquest.errors import JobQuestError
from jobquest.log import Headers, Origin, Record, StoredRecord, load_headers
from jobquest.read.database import Database
from jobquest.read.merge import bounded
from jobquest.read.replay import (
    BATCH_BYTES,
    BATCH_RECORDS,
    Entry,
    RebuildFailed,
    Replay,
    decoded,
    without_lock,
)

PORTION_RECORDS = 2_000  # sent to a process at once, on average, and fewer if they are large
PORTION_BYTES = 2_000_000  # of their values
MAX_PORTIONS = 15  # that wait to be sent to a process; less than a batch would let others wait
_NO_MORE = b""  # instead of a portion, even an empty one
_TURN_SECONDS = 1.0  # until the parent is looked for, while another process has its turn
_FULL_SECONDS = 0.1  # until a failure is looked for, while nothing more can be sent


class SharesDepend(JobQuestError):
    """The outcome of a record depends on those of other users."""


def fold_in_processes(
    url: str,
    records: Iterator[tuple[Origin, Record]],
    processes: int,
    progress: Callable[[int], None],
) -> int:
    """Fold these records into the shadow tables of the database `url`. Calls `progress` with how
    many more are done, and returns how many there were. Raises SharesDepend, RebuildFailed and
    Unavailable: then the shadow tables may have a part of the rows."""
    done = 0
    with ExitStack() as stack:
        shares = _started(stack, url, processes)

        def receive(timeout: float | None = 0) -> None:
            _receive(shares, progress, timeout)

        most = PORTION_RECORDS * processes, PORTION_BYTES * processes
        while portion := bounded(records, *most):
            for share, own in zip(shares, _divided(portion, processes, done), strict=True):
                if own.records:
                    share.send(own, receive)
            done += len(portion)
            receive()
        for share in shares:
            share.send(_Portion((), ()), receive)
        while not all(share.is_done for share in shares):
            receive(None)
    return done


def _started(stack: ExitStack, url: str, processes: int) -> list[_Share]:
    """So many processes, which end with the `stack`. Raises RebuildFailed."""
    context = get_context("spawn")  # a fork would copy locks that our threads hold
    shares: list[_Share] = []
    try:
        turn = context.Lock()  # SQLite lets a writer wait for long while others take turns
        for _ in range(processes):
            shares.append(_Share(context, url, turn))
            stack.callback(shares[-1].end)
        with _uninterrupted():
            for share in shares:
                share.start()
    except OSError as error:  # there are too many, or /dev/shm can't be written
        raise RebuildFailed(
            f"The processes of the rebuild can't be started: {error.strerror}. Nothing was changed."
            " Rebuild again, with --processes 1."
        ) from error
    return shares


class _Portion(msgspec.Struct, array_like=True):
    """Records for one process: the number of each, the index of its origin, and its values."""

    origins: Sequence[Origin]
    records: Sequence[tuple[int, int, tuple[Any, ...]]]


def _divided(records: Iterable[tuple[Origin, Record]], processes: int, done: int) -> list[_Portion]:
    """The portion of each process, with the records' numbers, which follow those that are
    `done`."""
    indexes: dict[Origin, int] = {}
    divided: list[list[tuple[int, int, Record]]] = [[] for _ in range(processes)]
    for number, (origin, record) in enumerate(records, done + 1):
        index = indexes.setdefault(origin, len(indexes))
        divided[crc32(record.key or b"") % processes].append((number, index, record))
    return [_Portion(list(indexes), own) for own in divided]


def _receive(
    shares: Sequence[_Share], progress: Callable[[int], None], timeout: float | None
) -> None:
    """Take the messages of the processes that have sent one by then."""
    working = {share.pipe: share for share in shares if not share.is_done}
    for pipe in wait(list(working), timeout):
        progress(working[pipe].received())  # type: ignore[index]


class _Share:
    """The process of one share, and the records that it is sent next."""

    def __init__(self, context: SpawnContext, url: str, turn: Lock) -> None:
        self._turn = turn  # a process that starts finds it by its name, as long as it is here
        self.pipe, self._theirs = context.Pipe()
        given = (url, os.getpid(), self._theirs, turn)
        self._process = context.Process(target=_work, args=given, daemon=True)
        self._portions: queue.Queue[bytes] = queue.Queue(MAX_PORTIONS)
        self._feeder = Thread(target=self._feed, name="rebuild-feeder", daemon=True)
        self.is_done = False

    def start(self) -> None:
        self._process.start()
        self._theirs.close()  # so that the end of the process is the end of the pipe
        self._feeder.start()

    def send(self, portion: _Portion, waiting: Callable[[], None]) -> None:
        """Send a portion, the last one empty. As long as there is no room, call `waiting`."""
        packed = _pack.encode(portion)
        while True:
            try:
                return self._portions.put(packed, timeout=_FULL_SECONDS)
            except queue.Full:
                waiting()

    def received(self) -> int:
        """How many more records the process has done, from its next message."""
        try:
            message = self.pipe.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            raise RebuildFailed(
                f"A process of the rebuild ended with {self._process.exitcode}. Nothing was"
                " changed. Rebuild again, with --processes 1 if memory is short."
            ) from None
        if isinstance(message, Exception):
            raise message
        self.is_done = not message
        return int(message)

    def end(self) -> None:
        """End the process, whatever it is doing."""
        if self._process.pid:
            self._process.kill()
            self._process.join()
        with suppress(queue.Full):  # then the thread is sending, and notices the end of the process
            self._portions.put_nowait(_NO_MORE)
        if self._feeder.ident:
            self._feeder.join()
        self._theirs.close()
        self.pipe.close()

    def _feed(self) -> None:
        # A thread: one call sends a whole portion, and waits as long as the process has no room.
        with suppress(OSError):  # the process has ended, which `received` tells
            while portion := self._portions.get():
                self.pipe.send_bytes(portion)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C waits, and never reaches a process or thread that is started meanwhile."""
    was = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, was)


# --- in the process of a share ---

_pack = msgspec.msgpack.Encoder()
_unpack = msgspec.msgpack.Decoder(_Portion)


def _work(url: str, parent: int, pipe: Pipe, turn: Lock) -> None:
    """Fold what comes: sends how many records are folded, at last 0, or an error."""
    collect_seldom(OF_A_REBUILD)
    with suppress(EOFError, ConnectionError):  # the parent was killed
        try:
            with Database(url).reading() as connection:
                connection.execution_options(write=True)
                replay = Replay(connection)
                for done in _folded(replay, connection, _batches(pipe), parent, turn):
                    pipe.send(done)
            pipe.send(0)
        except JobQuestError as error:
            pipe.send(error)


def _batches(pipe: Pipe) -> Iterator[tuple[list[int], list[tuple[Origin, Record]]]]:
    """The portions that come, joined to as many records as one transaction folds, and the numbers
    of the records."""
    numbers: list[int] = []
    records: list[tuple[Origin, Record]] = []
    size = 0
    while found := (portion := _unpack.decode(data := pipe.recv_bytes())).records:
        origins = [portion.origins[index] for _, index, _ in found]
        numbers += [number for number, _, _ in found]
        records += zip(origins, _records([row for _, _, row in found]), strict=True)
        size += len(data)
        if len(records) > BATCH_RECORDS - PORTION_RECORDS or size > BATCH_BYTES:
            yield numbers, records
            numbers, records, size = [], [], 0
    if records:
        yield numbers, records


def _records(rows: Sequence[tuple[Any, ...]]) -> list[Record]:
    if all(isinstance(row[5], bytes) for row in rows):
        return [*StoredRecord.of_each(rows)]
    return [Record._make((*row[:5], _headers(row[5]), *row[6:])) for row in rows]


def _headers(found: bytes | list[list[Any]]) -> Headers:
    if isinstance(found, bytes):
        return load_headers(found)
    return tuple((name, value) for name, value in found)


def _folded(
    replay: Replay,
    connection: Connection,
    batches: Iterable[tuple[list[int], list[tuple[Origin, Record]]]],
    parent: int,
    turn: Lock,
) -> Iterator[int]:
    """Fold the batches; how many records after each transaction."""

    @contextmanager
    def writing() -> Iterator[None]:
        # One that was killed keeps its turn, and the parent that would end us may be gone as well.
        while not turn.acquire(timeout=_TURN_SECONDS):
            _end_without(parent)
        try:
            with connection.begin():
                # If the parent is there now, another rebuild must wait for this transaction.
                _end_without(parent)
                yield
        finally:
            turn.release()

    for numbers, records in batches:
        entries = decoded(records)
        with without_lock(connection):
            folded = replay.read(entries, numbers)
        _refuse_dependent(entries, replay)
        with writing():
            replay.write(folded)
        _refuse_dependent([], replay)
        yield len(records)
    with writing():
        replay.write_kept()


def _end_without(parent: int) -> None:
    """Without the parent, which holds the rebuild's lock, another rebuild may have begun."""
    if os.getppid() != parent:
        raise SystemExit


def _refuse_dependent(entries: Sequence[Entry], replay: Replay) -> None:
    """Raise SharesDepend if another share may have to do with one of these."""
    if replay.dead_lettered or replay.refused or replay.is_of_others:
        raise SharesDepend("An id is used twice, or a record is a new dead letter.")
    for entry in entries:
        if entry.event and entry.event.user_id.encode() != entry.record.key:
            raise SharesDepend("The key of a record is not the user of its event.")
