"""The feed: sends what the read side has stored to the live viewers.

While there are viewers, one thread per process follows the number of the last change (`seq`). So it
sees the changes of all processes, and keeps the latest items in one ring. Only this thread reads
the database, and never while it holds the lock: status, heartbeats (from the loop of `sockets.py`,
a second thread) and closing frames reach the viewers whatever the database does. A frame is encoded
once for each distinct filter and sent without blocking, to those alone who are shown it
(`audience.py`); a viewer that is too slow is disconnected and delays nobody. Everything is bounded
in bytes and in items: if there are more changes than fit, the newest are sent, and a `gap` names
the rest. When the database has a new `epoch`, viewers have to connect again. No Flask here.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

import orjson

from jobquest.audience import Audience, Item
from jobquest.errors import Unavailable
from jobquest.read.cursor import Cursor
from jobquest.read.queries import Queries
from jobquest.sockets import POLICY_VIOLATION, Sockets
from jobquest.viewer import MAX_BACKLOG_BYTES, Viewer, frame_of

logger = logging.getLogger(__name__)

RING_ITEMS, RING_BYTES = 1_000, 4_000_000
TICK_SECONDS = 0.05  # one frame per tick under load; otherwise, looks for other processes' changes
IDLE_SECONDS = 1.0  # between looks without viewers, only for the epoch that the status names
LOOK_BYTES = 1_000_000  # sent of what one look finds: a viewer may have to catch up with that
PORTION_ITEMS = 100  # read at a time: some megabytes of the largest items that are listed
JOIN_SECONDS = 2.0
STATUS_PORTION, STATUS_PAUSE_SECONDS = 100, 0.005  # viewers
MAX_REPLAY_BYTES = MAX_BACKLOG_BYTES // 2  # leaves a viewer that returns some room for new changes
GOING_AWAY, SERVICE_RESTART = 1001, 1012  # RFC 6455, section 7.4.1; IANA's registry of close codes
TRY_AGAIN_LATER = 1013


class Feed:
    """The ring and its viewers: at most `most` of them. The runtime calls `start` and `stop`; who
    connects a viewer calls `admit`, then `join`."""

    def __init__(self, queries: Queries, most: int) -> None:
        self._queries = queries
        self._lock = threading.Condition()  # guards audience, ring and looks
        self._audience = Audience(most)
        self._sockets = Sockets(self.leave)
        self._ring: deque[Item] = deque()
        self._ring_bytes = 0
        self._floor = 0  # changes up to this one are not in the ring
        self._seq = 0
        self._requested = self._answered = 0  # looks that somebody waits for
        self._woken = threading.Event()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._looked = float("-inf")  # at once: the status names the epoch
        self.epoch = ""
        self.status = b""  # the service's (JSON), at most a beat old; empty if nobody keeps it so

    def start(self) -> None:
        """Start the threads."""
        self._sockets.open()
        for name, run in (("feed", self._run), ("feed-sockets", self._serve)):
            self._threads.append(threading.Thread(target=run, name=name, daemon=True))
            self._threads[-1].start()

    def wake(self) -> None:
        """Look now, if there are viewers: this process has applied a batch."""
        if self.viewers:
            self._woken.set()

    def begin_stop(self) -> None:
        """Tell the threads to disconnect every viewer (1001) and end. Safe in a signal handler."""
        self._stop.set()
        self._woken.set()
        self._sockets.begin_stop()

    def stop(self, timeout: float = 3.0) -> None:
        """Call `begin_stop`, and wait for the threads."""
        self.begin_stop()
        deadline = time.monotonic() + timeout
        for thread in reversed(self._threads):  # last, the one that may wait for the database
            thread.join(max(0.0, deadline - time.monotonic()))

    @property
    def viewers(self) -> int:
        """How many viewers are connected to this process."""
        return len(self._audience.present)

    def admit(self, viewer: Viewer, most: int = sys.maxsize) -> None:
        """Give a viewer a seat before its connection is upgraded, if fewer than `most` are taken;
        `leave` takes it back. Raises NoSeat, NoSeatForOwner."""
        with self._lock:
            self._audience.admit(viewer, most)

    def join(self, viewer: Viewer, since: Cursor | None, status: bytes) -> bool:
        """Show an admitted viewer what happens, and take its socket over: send it the service's
        status (JSON; ours, if that is newer), replay the changes after `since`, then continue live.
        If `since` is of another epoch, nothing is replayed: the viewer has to begin again, as
        `hello` says.

        False if the feed can't serve now (the database is away, the service is stopping, or the
        viewer's credential has just ended): then the viewer is told to try again later.
        """
        with self._lock:
            joins = self._is_ready_for(since) and viewer in self._audience.seated
            if joins:
                self._greet(viewer, since, status)
                self._audience.show(viewer)
                self._woken.set()  # from the idle pace to that of viewers
        if joins:
            self._sockets.watch(viewer)
        else:
            self._sockets.end([viewer], TRY_AGAIN_LATER)
        return joins

    def _is_ready_for(self, since: Cursor | None) -> bool:
        # Without a look, a viewer would be sent again what its page already shows.
        is_behind = not self.viewers or (since is not None and since.seq > self._seq)
        return not (is_behind and not self._await_look()) and not self._stop.is_set()

    def _greet(self, viewer: Viewer, since: Cursor | None, status: bytes) -> None:
        hello = {"kind": "hello", "seq": self._seq, "epoch": self.epoch}
        if viewer.sees_status:
            hello["status"] = orjson.Fragment(self.status or status)
        viewer.send(_json_frame(hello))
        if since is not None and since.is_of(self.epoch) and since.seq < self._seq:
            self._replay(viewer, since.seq)

    def _await_look(self) -> bool:
        """Wait for a look that starts after this call; the lock is free meanwhile. False if there
        was none in time."""
        self._requested += 1
        mine = self._requested
        self._woken.set()
        self._lock.wait_for(lambda: self._answered >= mine or self._stop.is_set(), JOIN_SECONDS)
        return self._answered >= mine

    def leave(self, viewer: Viewer) -> None:
        """Take a viewer's seat back, if it has one."""
        with self._lock:
            self._audience.remove(viewer)

    def end(self, credential: str) -> None:
        """Close all sockets of a credential that has ended."""
        self.end_if(lambda viewer: viewer.credential == credential)

    def end_if(self, has_ended: Callable[[Viewer], bool]) -> None:
        """Close the sockets of all viewers whose credential has ended."""
        self._dismiss_if(has_ended, POLICY_VIOLATION)

    def show_status(self, status: bytes) -> None:
        """Send the service's status (JSON) to every viewer who sees it; to thousands with pauses,
        in which requests are answered."""
        with self._lock:
            viewers = [viewer for viewer in self._audience.present if viewer.sees_status]
        frame = _json_frame({"kind": "status", **orjson.loads(status)})
        for begin in range(0, len(viewers), STATUS_PORTION):
            if begin and self._stop.wait(STATUS_PAUSE_SECONDS):
                return
            self._sockets.send(viewers[begin : begin + STATUS_PORTION], frame)

    def _dismiss_if(self, is_meant: Callable[[Viewer], bool], code: int) -> None:
        """Close viewers' connections for this reason, and send them nothing from now on. Those that
        have not joined yet can't any more."""
        with self._lock:
            seated = list(self._audience.seated)
        meant = [viewer for viewer in seated if is_meant(viewer)]
        with self._lock:
            joined = self._audience.present.intersection(meant)
            for viewer in meant:
                self._audience.remove(viewer)
        self._sockets.end(joined, code)

    # --- the thread that serves sockets whatever the database does ---

    def _serve(self) -> None:
        self._sockets.run()
        self._dismiss_if(lambda _: True, GOING_AWAY)
        with self._lock:
            self._lock.notify_all()

    # --- the thread that reads the database ---

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._step()
            except Unavailable as error:
                logger.warning("The feed waits: %s", error)
                self._stop.wait(1.0)
            except Exception:
                logger.exception("The feed failed and continues")
                self._stop.wait(1.0)

    def _step(self) -> None:
        pace = TICK_SECONDS if self.viewers else IDLE_SECONDS
        self._woken.wait(max(0.0, self._looked + pace - time.monotonic()))
        self._woken.clear()
        self._looked = time.monotonic()
        if self._look():
            self._stop.wait(max(0.0, self._looked + TICK_SECONDS - time.monotonic()))

    def _look(self) -> bool:
        """Put what has changed into the ring and send it to the viewers. Returns whether anything
        had changed."""
        requested, is_watched = self._requested, bool(self.viewers)
        epoch, last = self._queries.last_change()
        if epoch != self.epoch:
            self._begin_epoch(epoch, last)
        news = False
        if (is_watched or requested > self._answered) and last > self._seq:
            items, up_to = self._read(self._seq, last)
            if self._queries.last_change()[0] != epoch:
                return False  # the items may be of a new epoch, which the next look begins
            self._add(items, up_to, last)
            news = True
        with self._lock:
            self._answered = requested
            self._lock.notify_all()
        return news

    def _begin_epoch(self, epoch: str, last: int) -> None:
        """Forget the numbers of the epoch before. The last items are loaded again, so that a viewer
        from before a restart misses nothing."""
        if self.epoch:
            logger.info("The read side was rebuilt: viewers have to connect again.")
        with self._lock:
            before = frozenset(self._audience.present)
            self.epoch = epoch
            self._seq = max(0, last - RING_ITEMS)
            self._begin_at(self._seq)
        self._dismiss_if(before.__contains__, SERVICE_RESTART)

    def _begin_at(self, seq: int) -> None:
        self._ring.clear()
        self._ring_bytes = 0
        self._floor = seq

    def _read(self, since: int, last: int) -> tuple[list[Item], int]:
        """The changes after `since` up to `last`, oldest first: the newest ones that fit. And the
        change up to which they did not fit: `since` if all did."""
        found: list[Item] = []
        size, below = 0, last + 1
        while below > since + 1:
            changes = self._queries.changes(since, PORTION_ITEMS, below)
            for change in reversed(changes):
                item = Item(*change)
                size += len(item.json)
                if len(found) == RING_ITEMS or size > LOOK_BYTES:
                    return found[::-1], item.seq
                found.append(item)
            below = found[-1].seq if len(changes) == PORTION_ITEMS else since + 1
        return found[::-1], since

    def _add(self, items: Sequence[Item], up_to: int, last: int) -> None:
        """Put items into the ring and send them. Who joins meanwhile finds them in the ring."""
        with self._lock:
            before, self._seq = self._seq, last
            if up_to > before:
                self._begin_at(up_to)
            self._ring.extend(items)
            self._ring_bytes += sum(len(item.json) for item in items)
            while len(self._ring) > RING_ITEMS or self._ring_bytes > RING_BYTES:
                oldest = self._ring.popleft()
                self._ring_bytes -= len(oldest.json)
                self._floor = oldest.seq
            everybody = list(self._audience.present) if up_to > before else []
            addressed = list(self._audience.addressed(items))
        self._sockets.send(everybody, _gap_frame(before + 1, up_to))
        for viewers, chosen in addressed:
            for personal in {viewer.sees_personal for viewer in viewers}:
                those = [one for one in viewers if one.sees_personal == personal]
                self._sockets.send(those, _events_frame(chosen, personal))

    def _replay(self, viewer: Viewer, since: int) -> None:
        """Send the ring's items after `since`: the newest that fit, and a gap for the rest."""
        missed: deque[Item] = deque()
        size, gap_to = 0, self._floor
        for item in reversed(self._ring):
            if item.seq <= since:
                break
            if item.passes(viewer.filter):
                size += len(item.json)
                if size > MAX_REPLAY_BYTES:
                    gap_to = item.seq
                    break
                missed.appendleft(item)
        if since < gap_to:
            viewer.send(_gap_frame(since + 1, gap_to))
        if missed:
            viewer.send(_events_frame(missed, viewer.sees_personal))


def _gap_frame(first: int, last: int) -> bytes:
    return _json_frame({"kind": "gap", "from": first, "to": last})


def _events_frame(items: Iterable[Item], personal: bool) -> bytes:
    shown = (item.unmasked if personal else item.json for item in items)
    return frame_of(b'{"kind":"events","items":[' + b",".join(shown) + b"]}")


def _json_frame(message: dict[str, object]) -> bytes:
    return frame_of(orjson.dumps(message))
