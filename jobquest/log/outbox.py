"""The outbox: keeps records durably while Kafka accepts none, and delivers them in order later.

It is between the producer and the log, in Kafka mode only, and has a circuit of two states (which
is not the consumer's circuit breaker). While it is closed, records go straight to the log. The
first record that the log does not confirm opens it: all records that are unconfirmed are written to
a file in the order of their append, new records go behind them, and a forwarder tries the log until
the file is empty. Only then does the circuit close, so that no record overtakes another. Under load
the file would never be empty: so while the last few records are delivered, new ones are held in
memory. If the log does not accept records of one topic, all this happens for that topic only.

"Not confirmed" is not "not written": second copies are harmless, the consumer drops them by id.
The outbox knows records and futures, no events.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from jobquest.errors import LogDamaged, LogUnavailable, RecordRefused, TopicUnavailable
from jobquest.log import PATIENT_SECONDS, PROMPT_SECONDS, EventLog, NewRecord, Position
from jobquest.log.pending import Pending, wait_for_all
from jobquest.log.spool_file import Kept, SpoolFile, claim, orphans

logger = logging.getLogger(__name__)

BATCH_RECORDS, BATCH_BYTES = 1_000, 8 * 1024 * 1024
TRY_SECONDS = 1.0  # between two tries of a log that is away
ADOPT_SECONDS = 5.0  # between two looks for spool files that nobody holds
REFUSED_SECONDS = 5.0  # until a callback that raised is tried again
HOLD_RECORDS, HOLD_SECONDS = 500, 0.4  # for the last ones, while new ones are held
STOP_SECONDS = 0.7  # for what is on its way to be confirmed, at the end

Appended = Pending[Position | None]
_Entry = tuple[Appended, NewRecord]
Refused = Callable[[NewRecord, RecordRefused], None]


class Waiting(NamedTuple):
    """How many events wait in the outbox of this process, and for how many seconds already."""

    events: int
    seconds: float


class Bar(NamedTuple):
    """Why the log accepts nothing of a topic, and until when it is not tried again (monotonic)."""

    why: str
    until: float


class Outbox:
    """Appends to `log`, or to a spool file in `folder`. Any thread may call it.

    At most `max_events` are kept. `refused` is called with each record that the log refuses for
    good after it was kept here: when it returns, it must have stored the record durably; if it
    raises, it is called again later. Building opens nothing; the first append does, or `start`.
    """

    def __init__(self, log: EventLog, folder: Path, max_events: int, refused: Refused) -> None:
        self._log = log
        self._folder = folder
        self._max_events = max_events
        self._refused = refused
        self._lock = threading.Lock()  # over what follows, down to `_logged`
        self._spool_file: SpoolFile | None = None
        self._open = False  # the circuit, for every topic
        self._open_topics: set[str] = set()  # for these it is open, too
        self._barred: dict[str, Bar] = {}  # topics for which the log accepts nothing now
        self._holding = False  # only while open for some topic
        self._hold_at, self._hold_until = 0.0, 0.0
        self._held: list[_Entry] = []  # unconfirmed, and not sent to the log yet
        self._unconfirmed: dict[Appended, NewRecord] = {}  # sent to the log, in the order of append
        self._thread: threading.Thread | None = None
        self._closed = False
        self._why = ""  # why there is no spool file
        self._logged: dict[str, str] = {}  # topic → the line about it in the service's log
        self._woken = threading.Event()
        self._stop = threading.Event()
        # The forwarder's own; others may read:
        self.stuck = ""  # why the log accepted nothing at the last try; "" if it did
        self._adopted: list[SpoolFile] = []
        self._adopts = self._inherits = False
        self._looked = 0.0  # for orphans
        self._hand_over_at = 0.0  # when refused records are handed over again
        self._is_fast = True  # the last delivery was

    def start(self, *, has_clients: bool = True) -> None:
        """Claim a spool file, preferably one with records, and deliver; then deliver what other
        processes have left. A process without clients leaves the files with records to those that
        start at the same time, whose new records would overtake these."""
        self._adopts, self._inherits = True, has_clients
        self._looked = time.monotonic()  # processes that start now claim theirs first
        with self._lock:
            if has_clients:
                self._begin()
            else:
                self._start_forwarder(ADOPT_SECONDS)

    def append(self, records: Sequence[NewRecord]) -> list[Appended]:
        """Append records in order. Each future resolves to the record's position, or to None once
        the record is durable here. It fails with LogUnavailable if neither is so (but the log may
        have it), or with RecordRefused; within about two seconds, at once while the circuit is
        open."""
        futures: list[Appended] = [Pending() for _ in records]
        entries = list(zip(futures, records, strict=True))
        with self._lock:
            self._begin()
            if self._open or self._open_topics or self._closed:
                entries = self._divert(entries)
            self._unconfirmed.update(entries)
        if entries:
            self._send(entries)
        return futures

    @property
    def is_ready(self) -> bool:
        """Whether an append goes straight to the log, and does not block."""
        is_straight = self._spool_file is not None and not (self._open or self._closed)
        return is_straight and self._log.is_ready

    def _send(self, entries: Sequence[_Entry]) -> None:
        # Not under the lock: it may wait for the log, whose threads answer under it.
        sent = self._log.append([record for _, record in entries])
        for (future, _), answer in zip(entries, sent, strict=True):
            answer.add_done_callback(partial(self._answered, future))

    @property
    def barred(self) -> Mapping[str, str]:
        """The topics of which the log accepts nothing while it accepts others; why."""
        with self._lock:
            return {topic: bar.why for topic, bar in self._barred.items()}

    def waiting(self) -> Waiting:
        """How much waits here. Fast."""
        files = [one for one in (self._spool_file, *self._adopted) if one and one.count]
        since_ms = min((one.oldest_ms or 0 for one in files), default=0)
        seconds = max(0.0, time.time() - since_ms / 1000) if since_ms else 0.0
        return Waiting(sum(one.count for one in files), round(seconds, 3))

    def stop(self) -> None:
        """End within about two seconds. What the log has not confirmed by then is kept here."""
        with self._lock:
            self._closed = True
            unconfirmed = list(self._unconfirmed)
        wait_for_all(unconfirmed, STOP_SECONDS)
        with self._lock:
            self._keep(self._pop_unconfirmed())
            spool_file, self._spool_file = self._spool_file, None
            self._why = "The outbox is closed."
        self._stop.set()
        self._woken.set()
        if self._thread:
            self._thread.join(STOP_SECONDS)
        for held in [spool_file, *self._adopted]:
            if held:
                held.close()

    # --- the circuit: under the lock ---

    def _begin(self) -> None:
        """Claim a spool file and start the forwarder, at the first use: never before a fork."""
        if self._closed:
            return
        if self._spool_file is None:
            try:
                self._spool_file = claim(self._folder, with_records=self._inherits)
                self._open_topics = self._spool_file.topics  # nothing may overtake what is in it
            except LogUnavailable as error:
                if self._why != str(error):
                    logger.error("There is no outbox: %s", error)
                self._why = str(error)
        self._start_forwarder()

    def _start_forwarder(self, wait: float = 0.0) -> None:
        """Start it once; it begins after so many seconds, or when a record waits here."""
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._run, args=(wait,), name="outbox", daemon=True
            )
            self._thread.start()

    def _divert(self, entries: Sequence[_Entry]) -> list[_Entry]:
        """Keep or hold the records that would overtake others, or that the log does not accept.
        The rest may go straight to the log."""
        straight: list[_Entry] = []
        held: list[_Entry] = []
        kept: list[_Entry] = []
        for entry in entries:
            topic = entry[1].topic
            if self._closed or topic in self._barred:
                kept.append(entry)
            elif not (self._open or topic in self._open_topics):
                straight.append(entry)
            else:
                (held if self._holding else kept).append(entry)
        self._keep(kept)
        self._unconfirmed.update(held)
        self._held += held
        return straight

    def _pop_unconfirmed(self, topic: str | None = None) -> list[_Entry]:
        """Remove and return what is unconfirmed, of one topic or of all."""
        if topic is None:
            entries = list(self._unconfirmed.items())
            self._unconfirmed.clear()
            self._held, self._holding = [], False
            return entries
        entries = [entry for entry in self._unconfirmed.items() if entry[1].topic == topic]
        for future, _ in entries:
            del self._unconfirmed[future]
        self._held = [entry for entry in self._held if entry[1].topic != topic]
        return entries

    def _open_circuit(self, error: LogUnavailable) -> None:
        """Keep here what is unconfirmed, and everything that comes from now on."""
        if self._spool_file and not self._open:
            logger.warning("Events wait in %s: %s", self._spool_file.path, error)
            self._open = True
        self._keep(self._pop_unconfirmed())
        self._woken.set()

    def _bar(self, error: TopicUnavailable) -> None:
        """Keep here what is unconfirmed of a topic, and everything that comes of it from now on."""
        topic, line = error.topic, str(error)
        if self._spool_file:
            if self._logged.get(topic) != line:
                logger.warning(
                    "Events of topic %s wait in %s: %s", topic, self._spool_file.path, error
                )
            self._logged[topic] = line
            self._open_topics.add(topic)
            self._barred[topic] = Bar(line, time.monotonic() + TRY_SECONDS)
        self._keep(self._pop_unconfirmed(topic))
        self._woken.set()

    def _keep(self, entries: Sequence[_Entry]) -> None:
        if not entries:
            return
        spool_file = self._spool_file
        if spool_file is None:
            self._refuse_all(entries, f"Neither Kafka nor the outbox accepts events: {self._why}")
            return
        room = max(0, self._max_events - spool_file.count)
        kept = spool_file.append([record for _, record in entries[:room]])
        for (future, _), written in zip(entries[:room], kept, strict=True):
            written.add_done_callback(partial(self._written, future))
        line = (
            f"Kafka does not accept events, and the outbox is full: it keeps {self._max_events}"
            " (JOBQUEST_OUTBOX_MAX_EVENTS)."
        )
        self._refuse_all(entries[room:], line)

    def _refuse_all(self, entries: Sequence[_Entry], line: str) -> None:
        for future, _ in entries:
            future.fail(LogUnavailable(line))

    # --- answers: on the threads of the log and of the spool file's writer ---

    def _answered(self, future: Appended, sent: Pending[Position]) -> None:
        error = sent.exception()
        if isinstance(error, LogUnavailable):
            with self._lock:
                if future not in self._unconfirmed:  # it is kept already
                    return
                if isinstance(error, TopicUnavailable):
                    self._bar(error)
                else:
                    self._open_circuit(error)
            return
        with self._lock:
            self._unconfirmed.pop(future, None)
        if error:
            future.fail(error)
        else:
            future.resolve(sent.result())

    def _written(self, future: Appended, written: Pending[Position]) -> None:
        # Without the lock: the thread that calls this may hold it already.
        if error := written.exception():
            line = f"Neither Kafka nor the outbox accepts events: {error}"
            future.fail(LogUnavailable(line))
        else:
            future.resolve(None)
        self._woken.set()

    # --- the forwarder's thread ---

    def _run(self, wait: float) -> None:
        self._woken.wait(wait)
        while not self._stop.is_set():
            try:
                self._step()
            except LogUnavailable as error:
                self.stuck = str(error)
                logger.debug("The outbox waits: %s", error)
                self._stop.wait(TRY_SECONDS)
            except Exception:
                logger.exception("The outbox failed and goes on")
                self._stop.wait(TRY_SECONDS)
            else:
                self.stuck = ""
                self._woken.wait(TRY_SECONDS)
                self._woken.clear()

    def _step(self) -> None:
        """Deliver what waits. Raises LogUnavailable if the log does not accept it."""
        with self._lock:
            self._begin()
        self._adopt()
        for held in (self._spool_file, *self._adopted):
            if held and held.damage:
                self._replace(held)
        try:
            self._log.reach(PATIENT_SECONDS if self._open else PROMPT_SECONDS)
        except LogUnavailable as error:
            with self._lock:
                if not self._open and not self._closed:
                    self._open_circuit(error)  # before a request has to wait for it
            raise
        if self._spool_file:
            try:
                self._deliver(self._spool_file)
                self._close_circuit(self._spool_file)
            finally:
                self._release(0.0)
        for orphan in tuple(self._adopted):
            self._deliver(orphan)
            if not orphan.count:
                self._adopted.remove(orphan)
                orphan.close()

    def _adopt(self) -> None:
        if not self._adopts or time.monotonic() - self._looked < ADOPT_SECONDS:
            return
        self._looked = time.monotonic()
        for spool_file in orphans(self._folder):
            logger.info("Delivering what another process has left in %s.", spool_file.path)
            self._adopted.append(spool_file)

    def _hold(self, spool_file: SpoolFile) -> None:
        """Hold new records while the last few here are delivered. Not if the log is slow: every
        request would then wait in vain."""
        with self._lock:
            is_open = self._open or self._open_topics - self._barred.keys()
            if is_open and spool_file is self._spool_file and self._is_fast and not self._holding:
                few = spool_file.deliverable(self._barred) <= HOLD_RECORDS
                if few and time.monotonic() > self._hold_at:
                    self._holding = True
                    self._hold_until = time.monotonic() + HOLD_SECONDS

    def _release(self, after: float) -> None:
        """Keep here what is held, if it is later than `after` (monotonic)."""
        with self._lock:
            if self._holding and time.monotonic() > after:
                self._hold_at = time.monotonic() + TRY_SECONDS
                self._keep(self._pop_unconfirmed())

    def _close_circuit(self, spool_file: SpoolFile) -> None:
        """If nothing is left that the log accepts, send what was held to the log, and close."""
        while True:
            with self._lock:
                is_drained = not spool_file.deliverable(self._barred)
                if not self._holding or spool_file is not self._spool_file or not is_drained:
                    return
                held, self._held = self._held, []
                if not held:
                    self._holding = self._open = False
                    self._open_topics = set(self._barred)
                    for topic in self._logged.keys() - self._barred:
                        del self._logged[topic]
                    break
            self._send(held)
        if self._open_topics:
            logger.info(
                "Kafka accepts events again, but for topic %s.",
                ", ".join(sorted(self._open_topics)),
            )
        else:
            logger.info("Kafka accepts events again; the outbox is empty.")

    def _deliver(self, spool_file: SpoolFile) -> None:
        try:
            self._hand_over(spool_file)
            self._try_barred(spool_file)
            while not self._stop.is_set():
                self._hold(spool_file)
                if batch := spool_file.first(BATCH_RECORDS, BATCH_BYTES, self.barred):
                    self._deliver_batch(spool_file, batch)
                elif self._holding and spool_file.deliverable(self.barred):
                    self._stop.wait(0.01)  # they are on their way into the file
                    self._release(self._hold_until)
                else:
                    return
        except LogDamaged as damage:
            spool_file.damage = damage
            self._replace(spool_file)

    def _try_barred(self, spool_file: SpoolFile) -> None:
        """Try the first record of each topic of which the log accepted nothing a while ago. If it
        accepts that one, the others follow."""
        now = time.monotonic()
        with self._lock:
            due = [topic for topic, bar in self._barred.items() if now >= bar.until]
            for topic in due:
                del self._barred[topic]
        for topic in due:
            if first := spool_file.first_of(topic, 1, BATCH_BYTES):
                self._deliver_batch(spool_file, first)

    def _deliver_batch(self, spool_file: SpoolFile, batch: Sequence[Kept]) -> None:
        began = time.monotonic()
        sent = self._log.append([kept.record for kept in batch], PATIENT_SECONDS)
        while not wait_for_all(sent, 0.1):
            self._release(self._hold_until)
            if self._stop.is_set():
                return  # they stay here: a second copy is harmless
        self._is_fast = time.monotonic() - began < PROMPT_SECONDS * 2 / 3
        done, failed = [], []
        for kept, future in zip(batch, sent, strict=True):
            error = future.exception()
            if isinstance(error, RecordRefused):
                spool_file.put_aside(kept, error)
            elif isinstance(error, LogUnavailable):
                failed.append(error)
            else:
                done.append(kept)
        spool_file.discard(done)
        self._hand_over(spool_file)
        forbidden: dict[str, TopicUnavailable] = {}
        for error in failed:
            if not isinstance(error, TopicUnavailable):
                raise error
            forbidden[error.topic] = error
        self.stuck = ""
        with self._lock:
            for error in forbidden.values():
                self._bar(error)

    def _hand_over(self, spool_file: SpoolFile) -> None:
        """Hand over what the log refused. A record that can't be handed over stays aside and blocks
        nothing."""
        if time.monotonic() < self._hand_over_at:
            return
        handed_over = []
        for kept, refusal in spool_file.aside:
            try:
                self._refused(kept.record, refusal)
            except Exception as error:  # the database may be away
                logger.warning("A refused event stays in the outbox: %s", error)
                self._hand_over_at = time.monotonic() + REFUSED_SECONDS
                break
            handed_over.append(kept)
        spool_file.discard(handed_over)

    def _replace(self, spool_file: SpoolFile) -> None:
        with self._lock:  # nothing is appended meanwhile
            fresh = spool_file.with_new_file()
            if self._spool_file is spool_file:
                self._spool_file = fresh
            else:
                self._adopted[self._adopted.index(spool_file)] = fresh
