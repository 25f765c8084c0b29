"""The consumer: reads the log in batches, runs handlers, has the read side apply the batch.

`run` is the background thread: it survives anything and reports it; `step` is one batch, which
tests call by hand. Owned by the runtime. It knows the log and the read side by what they promise,
and nothing of HTTP or of other processes.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from jobquest.consumer.handlers import Handler, Handlers
from jobquest.errors import IdConflict, InvalidEvent, PositionMoved, Unavailable
from jobquest.events import Event, from_record
from jobquest.log import EventLog, Origin, Partition, Record, Subscription
from jobquest.read import Applied, Batch, Dead, ReadSide

logger = logging.getLogger(__name__)

State = Literal[
    "stopped", "starting", "running", "idle", "paused", "stalled", "crashed", "disconnected"
]

MAX_RECORDS = 2_000
HANDLER_SECONDS = 0.5  # of handlers' time after which a batch ends
POLL_SECONDS = 0.5
IDLE_AFTER_SECONDS = 1.0
JOINING_SECONDS = 10.0  # a seat without partitions after that is a standby, not a start
STOP_SECONDS = 10.0
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.5, 5.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """How the consumer of this process is; replaced whole, so that readers need no lock.

    `processed`, `dead` and `duplicates` count records since the process began.
    """

    state: State = "stopped"
    reason: str | None = None
    partitions: int = 0
    processed: int = 0
    dead: int = 0
    duplicates: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one record came to: counted, dead (`error` set), or known already (neither)."""

    record: Record
    origin: Origin
    event: Event | None
    error: Exception | None = None
    known: bool = False


class Consumer:
    """Reads `topics` as a member of `group`. Any thread may call its public methods, save `step`,
    which belongs to one thread at a time."""

    def __init__(
        self,
        log: EventLog,
        read_side: ReadSide,
        *,
        topics: Sequence[str],
        group: str,
        want: Callable[[str], None] = lambda wanted: None,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        """`want` stores what the operator wants; `changed` is called after every applied batch
        and every change of state."""
        self._log = log
        self._read_side = read_side
        self._topics = topics
        self._group = group
        self._want = want
        self._changed = changed
        self._handlers = Handlers()
        self._lock = threading.Lock()  # over the two below
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self.snapshot = Snapshot()
        # The consumer thread's own:
        self._seat: Subscription | None = None
        self._stored: dict[Origin, int | None] = {}
        self._backlog: list[Record] = []
        self._last_record = 0.0

    # --- handlers ---

    def register_event_handler(self, event_type: str, handler: Handler) -> None:
        """Have `handler(event)` called for every event of this type, at least once per event."""
        self._handlers.register(event_type, handler)

    def unregister_event_handler(self, event_type: str, handler: Handler) -> None:
        """Undo `register_event_handler`."""
        self._handlers.unregister(event_type, handler)

    # --- start and stop ---

    def start(self) -> None:
        """Start consuming, here and in every process of the service. Idempotent."""
        self._want("running")
        self.resume()

    def stop(self) -> None:
        """Stop consuming, here and in every process of the service; returns when this one has."""
        self._want("stopped")
        self.halt()

    def resume(self) -> None:
        """Start this process's thread, unless it runs."""
        with self._lock:
            if self._thread and self._thread.is_alive():
                return  # one that is still stopping is asked again by the supervisor
            self._stop = threading.Event()
            self._enter("starting")
            self._thread = threading.Thread(
                target=self.run, args=(self._stop,), name="consumer", daemon=True
            )
            self._thread.start()

    def halt(self, timeout: float = STOP_SECONDS) -> bool:
        """Stop this process's thread; whether it ended within `timeout` seconds."""
        with self._lock:
            self._stop.set()
            thread = self._thread
        if thread is None or thread is threading.current_thread():
            return thread is None
        thread.join(timeout)
        return not thread.is_alive()

    # --- the thread ---

    def run(self, stop: threading.Event) -> None:
        """Step until `stop` is set, whatever happens; says in the snapshot what does."""
        wait = FIRST_WAIT_SECONDS
        while not stop.is_set():
            began = time.monotonic()
            try:
                self._consume(stop)
            except Unavailable as error:
                logger.warning("The consumer is disconnected: %s", error)
                self._enter("disconnected", str(error))
            except Exception as error:
                logger.exception("The consumer crashed and starts again")
                self._enter("crashed", f"{type(error).__name__}: {error}")
            finally:
                self._leave()
            if time.monotonic() - began > LONGEST_WAIT_SECONDS * 2:
                wait = FIRST_WAIT_SECONDS
            stop.wait(wait)
            wait = min(wait * 2, LONGEST_WAIT_SECONDS)
        self._enter("stopped")

    def _consume(self, stop: threading.Event) -> None:
        joined = time.monotonic()
        while not stop.is_set():
            count = self.step(POLL_SECONDS)
            now = time.monotonic()
            assert self._seat is not None
            partitions = len(self._seat.assignment())
            if count:
                self._last_record = now
                self._enter("running", partitions=partitions)
            elif not partitions and now - joined < JOINING_SECONDS:
                self._enter("starting")
            elif now - self._last_record > IDLE_AFTER_SECONDS:
                self._enter("idle", partitions=partitions)

    def step(self, timeout: float = 0.0) -> int:
        """Take one batch through: returns how many records it had, 0 where none came in time.

        Raises Unavailable where log or database is away; nothing is lost then, the records come
        again.
        """
        if self._seat is None:
            self._seat = self._log.subscribe(self._topics, self._group, self._start_positions)
        polled = self._backlog or self._seat.poll(timeout, MAX_RECORDS)
        assigned = self._seat.assignment()  # a rebalance may have taken a partition since
        records = [one for one in polled if Partition(one.topic, one.partition) in assigned]
        if not records:
            self._backlog = []
            return 0
        try:
            outcomes = self._react(records, assigned)
            self._backlog = records[len(outcomes) :]
            self._apply(outcomes)
        except PositionMoved as error:
            logger.warning("%s Reading its position again.", error)
            self._rewind()
            return 0
        except Exception:
            self._rewind()
            raise
        self._changed()
        return len(outcomes)

    def close(self) -> None:
        """Give the seat back; for callers of `step`."""
        self._leave()

    def _start_positions(self, origins: Sequence[Origin]) -> Mapping[Origin, int]:
        positions = self._read_side.positions(origins)
        self._stored.update({origin: positions.get(origin) for origin in origins})
        return positions

    def _rewind(self) -> None:
        self._backlog = []
        if self._seat:
            self._seat.rewind()

    def _leave(self) -> None:
        self._backlog = []
        seat, self._seat = self._seat, None
        if seat:
            seat.close()

    # --- one batch ---

    def _react(
        self, records: Sequence[Record], assigned: Mapping[Partition, Origin]
    ) -> list[Outcome]:
        """Decode the records, drop what is known, run the handlers; may end before the last
        record, when handlers have had their time."""
        decoded = [
            _decode(record, assigned[Partition(record.topic, record.partition)])
            for record in records
        ]
        ids = [outcome.event.id for outcome in decoded if outcome.event]
        known = self._read_side.contents(ids)
        outcomes = []
        deadline = time.monotonic() + HANDLER_SECONDS
        for outcome in decoded:
            if outcome.event and not outcome.error:
                outcome = self._handle(outcome, outcome.event, known)
                if not outcome.error and not outcome.known:
                    known[outcome.event.id] = outcome.event.to_json()  # type: ignore[union-attr]
            if outcome.error:
                logger.error("Failed to process event: %s", outcome.error)
            outcomes.append(outcome)
            if time.monotonic() > deadline:
                break
        return outcomes

    def _handle(self, outcome: Outcome, event: Event, known: Mapping[str, bytes]) -> Outcome:
        if event.id in known:
            # Ours name a fact by their id: whichever event caused it, it is the same one.
            if event.is_ours or event.has_content_of(known[event.id]):
                return replace(outcome, known=True)
            return replace(outcome, error=IdConflict(f"Another event has the id {event.id}."))
        logger.info("Processing event: %s for user: %s", event.type, event.user_id)
        for handler in self._handlers.of(event.type):
            try:
                handler(event)
            except BaseException as error:
                failed = error if isinstance(error, Exception) else RuntimeError(repr(error))
                return replace(outcome, error=failed)
        return outcome

    def _apply(self, outcomes: Sequence[Outcome]) -> None:
        """Write the outcomes in one transaction, or one by one where an event is to blame."""
        batch = Batch(
            applied=[Applied(o.event, o.record) for o in outcomes if o.event and _counts(o)],
            dead=[Dead(o.record, o.origin, o.error, o.event) for o in outcomes if o.error],
            moves=self._moves(outcomes),
        )
        try:
            self._read_side.apply(batch)
        except (Unavailable, PositionMoved):
            raise
        except Exception as error:
            if len(outcomes) > 1:
                logger.warning("A batch failed (%s): applying it one by one.", error)
                for outcome in outcomes:
                    self._apply([outcome])
                return
            if not _counts(outcomes[0]):
                raise  # not even its letter can be written: nothing to do but say so
            logger.error("Failed to process event: %s", error)
            self._apply([replace(outcomes[0], error=error)])
            return
        self._took(batch, len(outcomes))

    def _took(self, batch: Batch, records: int) -> None:
        next_offsets = {}
        for origin, (_, following) in batch.moves.items():
            self._stored[origin] = following
            next_offsets[Partition(origin.topic, origin.number)] = following
        if self._seat:
            self._seat.commit(next_offsets)
        applied, dead = len(batch.applied), len(batch.dead)
        was = self.snapshot
        self.snapshot = replace(
            was,
            processed=was.processed + applied,
            dead=was.dead + dead,
            duplicates=was.duplicates + records - applied - dead,
        )

    def _moves(self, outcomes: Sequence[Outcome]) -> dict[Origin, tuple[int | None, int]]:
        return {
            outcome.origin: (self._stored.get(outcome.origin), outcome.record.offset + 1)
            for outcome in outcomes
        }

    def _enter(self, state: State, reason: str | None = None, partitions: int = 0) -> None:
        was = self.snapshot
        self.snapshot = replace(was, state=state, reason=reason, partitions=partitions)
        if self.snapshot != was:
            self._changed()


def _counts(outcome: Outcome) -> bool:
    return not outcome.error and not outcome.known


def _decode(record: Record, origin: Origin) -> Outcome:
    try:
        if record.damage:
            raise InvalidEvent(record.damage)
        return Outcome(record, origin, from_record(record.value, record.timestamp_ms))
    except InvalidEvent as error:
        return Outcome(record, origin, None, error)
