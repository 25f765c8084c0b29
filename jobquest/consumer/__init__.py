"""The consumer: reads the log in batches, runs handlers, has the read side apply the batch.

`run` is the background thread: no error ends it, and it reports each in its snapshot. `step`
processes one batch; tests call it directly. The runtime owns the consumer. It uses only the public
promises of the log and the read side, and knows nothing of HTTP or of other processes.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from jobquest.clock import now_ms
from jobquest.consumer import retries
from jobquest.consumer.handlers import Handler, Handlers
from jobquest.consumer.offsets import Offsets
from jobquest.consumer.reactor import Reactor
from jobquest.consumer.retries import Backoff, Calm, CircuitBreaker, Probes
from jobquest.consumer.watch import Watch
from jobquest.consumer.writing import Writer
from jobquest.errors import PositionMoved, StateConflict, Unavailable
from jobquest.log import EventLog, Origin, Partition, Record, Subscription
from jobquest.read import Batch, ReadSide
from jobquest.read.failures import Failure
from jobquest.read.rebuild import Progress

logger = logging.getLogger(__name__)

State = Literal[
    "stopped",
    "starting",
    "running",
    "idle",
    "degraded",  # only of the whole service: events are processed, but not all of them
    "paused",
    "stalled",
    "crashed",
    "disconnected",
]

# In one transaction. Each rewrites the same pages of the indexes and most users' rows, however many
# events it has. On a database that several instances share, others wait for its users' rows.
MAX_RECORDS, MAX_SHARED_RECORDS = 10_000, 3_000
POLL_SECONDS = 0.5
IDLE_AFTER_SECONDS = 1.0
# A step costs as much as about twenty events, even with few events in it: at 200 events a second,
# steps without a pause used half a core, and requests had to wait for them.
PACE_SECONDS = 0.05  # from the start of one small step to the next
SMALL_STEP = 500  # a step with at most this many events is small
PASS_SECONDS = 1.0  # between two calls of _pass_gaps while there are records
JOINING_SECONDS = 10.0  # a subscription without partitions after that is a standby, not starting
REBALANCE_SECONDS = 5.0  # without partitions for less than that, the state stays as it was
STOP_SECONDS = 10.0
RETRY_SECONDS = 0.5  # of retries, after which a step continues with new records
LONGEST_WAIT_MS = int(1_000 * retries.LONGEST_WAIT_SECONDS * (1 + retries.JITTER))  # of an event
NEVER = float("inf")
PROGRESS_SECONDS = 1.0
JOINS = "It waits for its partitions."
STANDBY = "Other processes read every partition; this one takes over when one of them ends."
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 5.0  # after an error of the thread's own


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of this process's consumer. It is replaced as a whole, so readers need no lock.

    `assignment` names the partitions that it reads (`topic/number`). `processed`, `retried`, `dead`
    and `duplicates` count outcomes since the process started.
    """

    state: State = "stopped"
    reason: str | None = None
    assignment: tuple[str, ...] = ()
    processed: int = 0
    retried: int = 0
    dead: int = 0
    duplicates: int = 0


class CircuitOpen(Exception):
    """Too many events failed in a row: the consumer pauses."""


class Consumer:
    """Reads `topics` as a member of `group`. Any thread may call its public methods, except `step`,
    which only one thread at a time may call."""

    def __init__(
        self,
        log: EventLog,
        read_side: ReadSide,
        *,
        topics: Sequence[str],
        group: str,
        backoff: Backoff,
        breaker: CircuitBreaker,
        want: Callable[[str], None] = lambda wanted: None,
        changed: Callable[[], None] = lambda: None,
        recover: Callable[[Progress], object] = lambda progress: None,
    ) -> None:
        """`want` stores the state that the operator wants. `changed` is called after every applied
        batch and every change of state. `recover` rebuilds a read side that was lost."""
        self._log = log
        self._read_side = read_side
        self._topics = topics
        self._group = group
        self._want = want
        self._changed = changed
        self._recover = recover
        self._handlers = Handlers()
        self._breaker = breaker
        self._probes = Probes()
        self._calm = Calm()
        self._max_records = MAX_SHARED_RECORDS if read_side.is_shared else MAX_RECORDS
        self.watch = Watch(read_side, backoff)
        self._reactor = Reactor(read_side, self._handlers, backoff, breaker, self.watch)
        self._writer = Writer(read_side, backoff, breaker, self.watch, self._count_outcomes)
        self._lock = threading.Lock()  # guards the next two
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._snapshot = Snapshot()
        # Only the consumer's thread uses these:
        self._subscription: Subscription | None = None
        self._backlog: list[Record] = []
        self._offsets = Offsets(read_side.outgoing.since)
        self._gone: set[Partition] = set()  # events wait here, but the topic lost the partition
        self._last_record = 0.0
        self._last_progress = 0.0
        self._passed = 0.0

    # --- handlers ---

    def register_event_handler(self, event_type: str, handler: Handler) -> None:
        """Call `handler(event)` for every event of this type, at least once per event."""
        self._handlers.register(event_type, handler)

    def unregister_event_handler(self, event_type: str, handler: Handler) -> None:
        """Undo `register_event_handler`."""
        self._handlers.unregister(event_type, handler)

    def handler_names(self, event_type: str) -> list[str]:
        """The names of a type's handlers, in the order in which they are called."""
        return [name for name, _ in self._handlers.of(event_type)]

    # --- start and stop ---

    @property
    def snapshot(self) -> Snapshot:
        """The current state: stalled if the thread hangs, which it can't report itself."""
        now, stalled = self._snapshot, self.watch.stalled
        return replace(now, state="stalled", reason=stalled) if stalled else now

    def start(self) -> None:
        """Start consuming in every process of the service. Idempotent."""
        self._want("running")
        self.resume(even_if_paused=True)

    def stop(self) -> None:
        """Stop consuming in every process of the service; returns when this process has stopped."""
        self._want("stopped")
        self.halt()

    def resume(self, *, even_if_paused: bool = False) -> None:
        """Start this process's thread if it doesn't run. A paused consumer starts only with
        `even_if_paused`; the failures that made it pause are then forgotten."""
        with self._lock:
            if self._thread and self._thread.is_alive():
                return  # if it is still stopping, the supervisor calls again
            if self._snapshot.state == "paused" and not even_if_paused:
                return
            self._breaker.reset()
            self._probes.start_again()
            self._stop = threading.Event()
            self._enter("starting", JOINS)
            self._thread = threading.Thread(
                target=self.run, args=(self._stop,), name="consumer", daemon=True
            )
            self._thread.start()

    def halt(self, timeout: float = STOP_SECONDS) -> bool:
        """Stop this process's thread. Returns whether it ended within `timeout` seconds."""
        with self._lock:
            self._stop.set()
            thread = self._thread
        if thread is threading.current_thread():
            return False
        if thread:
            thread.join(timeout)
            if thread.is_alive():
                return False
        with self._lock:
            if self._thread is thread:
                self._enter("stopped")  # also if it was paused
        return True

    # --- the thread ---

    def run(self, stop: threading.Event) -> None:
        """Step until `stop` is set or the circuit breaker opens. Any other error is reported in the
        snapshot, and the thread continues."""
        wait = FIRST_PAUSE_SECONDS
        while not stop.is_set():
            began = time.monotonic()
            try:
                self._consume(stop)
            except CircuitOpen as opened:
                self._leave()
                logger.error("The consumer is paused: %s", opened)
                self._enter("paused", str(opened))
                return
            except Unavailable as error:
                logger.warning("The consumer is disconnected: %s", error)
                self._enter("disconnected", str(error))
            except Exception as error:
                logger.exception("The consumer crashed and starts again")
                self._enter("crashed", Failure.of(error).error)
            finally:
                self._leave()
            if time.monotonic() - began > LONGEST_PAUSE_SECONDS * 2:
                wait = FIRST_PAUSE_SECONDS
            stop.wait(wait)
            wait = min(wait * 2, LONGEST_PAUSE_SECONDS)
        self._enter("stopped")

    def _consume(self, stop: threading.Event) -> None:
        self._recover_lost()
        joined = time.monotonic()
        last_assigned = 0.0
        while not stop.is_set():
            began = time.monotonic()
            count = self.step(POLL_SECONDS)
            now = time.monotonic()
            assert self._subscription is not None
            assignment = _named(self._subscription.assignment())
            last_assigned = now if assignment else last_assigned
            if count:
                self._last_record = now
                self._enter("running", assignment=assignment)
            elif not assignment and last_assigned and now - last_assigned < REBALANCE_SECONDS:
                pass
            elif not assignment and now - joined < JOINING_SECONDS:
                if self._snapshot.state not in ("disconnected", "crashed"):  # until it works again
                    self._enter("starting", JOINS)
            elif now - self._last_record > IDLE_AFTER_SECONDS:
                self._enter("idle", None if assignment else STANDBY, assignment)
            if 0 < count <= SMALL_STEP:
                stop.wait(max(0.0, began + PACE_SECONDS - now))

    def step(self, timeout: float = 0.0) -> int:
        """Process one batch, and the events that are due for a retry. Returns how many events that
        were: 0 if none arrived within `timeout` seconds.

        Raises Unavailable if the log or the database is away (nothing is lost: the records are read
        again), and CircuitOpen.
        """
        self.watch.begin("Reading the log")
        if self._subscription is None:
            self._recover_lost()
            self._subscription = self._log.subscribe(
                self._topics, self._group, self._start_positions
            )
        try:
            count = self._step(self._subscription, timeout)
        except PositionMoved as error:
            logger.warning("%s The consumer reads its position again.", error)
            self._rewind()
            return 0
        except Exception:
            self._rewind()
            raise
        finally:
            self.watch.end()
        if count:
            self._changed()
        if reason := self._breaker.open_reason:
            self._rewind()
            raise CircuitOpen(reason)
        return count

    def _step(self, subscription: Subscription, timeout: float) -> int:
        self._commit()
        known = set(subscription.assignment())
        count, until_next = self._retry(subscription)
        if self._breaker.open_reason:
            return count
        self.watch.begin("Reading the log")
        if self._backlog:
            subscription.stay()  # a rebalance during it removes records of revoked partitions
        polled = self._backlog or subscription.poll(
            0.0 if count else min(timeout, until_next), self._max_records
        )
        assigned = subscription.assignment()
        records = [one for one in polled if one[:2] in assigned]
        self._backlog = []
        if records:
            # An event that waits in a partition assigned by this poll must not be overtaken either.
            waits = until_next < NEVER or bool(assigned.keys() - known)
            outcomes = self._reactor.react(records, assigned, waits=waits)
            self._backlog = records[len(outcomes) :]
            self._writer.write(outcomes)
            count += len(outcomes)
        now = time.monotonic()
        if not self._backlog and (not records or now - self._passed > PASS_SECONDS):
            self._passed = now
            self._pass_gaps(subscription, assigned)
        return count

    def _pass_gaps(self, subscription: Subscription, assigned: Mapping[Partition, Origin]) -> None:
        """Move the position past offsets without a record for us (aborted records, transaction
        markers): otherwise the group's lag would never reach 0. All records before them have been
        applied."""
        reached = subscription.reached().items()
        self._writer.pass_over({assigned[place]: at for place, at in reached if place in assigned})

    def _retry(self, subscription: Subscription) -> tuple[int, float]:
        """Retry the events that are due. Returns how many events that were, and the seconds until
        the next is due (NEVER: no event waits)."""
        partitions = set(subscription.assignment())
        # The reader of a topic's first partition retries what waits in partitions that are gone.
        partitions |= {one for one in self._gone if Partition(one.topic, 0) in partitions}
        if wait := self._probes.wait:
            return 0, wait
        if self._calm.holds(partitions) and not self._writer.parked:
            return 0, NEVER
        self._writer.parked = False
        self._calm.end()
        found = self._read_side.tries(partitions, self._probes.most + 1, LONGEST_WAIT_MS)
        if not found.due:
            if found.next_ms is None:
                self._calm.begin(partitions)
            return 0, NEVER if found.next_ms is None else (found.next_ms - now_ms()) / 1000
        if self._snapshot.state == "starting":  # the first retry may take long, and is real work
            self._enter("running", assignment=_named(subscription.assignment()))
        deadline = time.monotonic() + RETRY_SECONDS
        count, tried, succeeded = 0, 0, 0
        for key in found.due[: self._probes.most]:
            outcomes = self._reactor.retry(key)
            self._writer.write(outcomes)
            tried += 1
            count += len(outcomes)
            succeeded += any(outcome.verdict != "parked" for outcome in outcomes)
            if self._breaker.open_reason or time.monotonic() > deadline:
                break
        self._probes.tried(succeeded, left=len(found.due) > tried)
        return count, 0.0

    def close(self) -> None:
        """Close the subscription; for callers of `step`."""
        self._leave()

    def _start_positions(self, origins: Sequence[Origin]) -> Mapping[Origin, int]:
        positions = self._read_side.positions(origins)
        self._writer.stored |= {origin: positions.get(origin) for origin in origins}
        # A process that died may have applied more than it committed.
        self._offsets.reach({Partition(o.topic, o.number): n for o, n in positions.items()})
        # The records of these partitions are read again from their positions.
        places = {(origin.topic, origin.number) for origin in origins}
        self._backlog = [record for record in self._backlog if record[:2] not in places]
        self._find_gone({topic for topic, number in places if number == 0})
        return positions

    def _find_gone(self, topics: set[str]) -> None:
        """Find events that wait in partitions which a recreated topic no longer has."""
        waiting = {one for one in self._read_side.waiting_in() if one.topic in topics}
        there = self._log.describe(sorted({topic for topic, _ in waiting})) if waiting else ()
        gone = waiting - {Partition(one.origin.topic, one.origin.number) for one in there}
        self._gone = {one for one in self._gone if one.topic not in topics} | gone

    def _recover_lost(self) -> None:
        try:
            self._recover(self._recovering)
        except StateConflict as error:
            raise Unavailable(str(error)) from error

    def _recovering(self, done: int, total: int) -> None:
        if self._stop.is_set():
            raise Unavailable("The rebuild of the read side was stopped.")
        now = time.monotonic()
        if now - self._last_progress > PROGRESS_SECONDS:
            self._last_progress = now
            line = f"The read side is new: {done:,} of {total:,} records are counted again."
            self._enter("starting", line)

    def _rewind(self) -> None:
        self._backlog = []
        self._calm.end()
        if self._subscription:
            self._subscription.rewind()

    def _leave(self) -> None:
        self._backlog = []
        try:
            self._commit(at_once=True)
        except Exception as error:  # whatever fails, the partitions must be given back
            logger.debug("The group's offsets could not be committed: %s", error)
        self._offsets = Offsets(self._read_side.outgoing.since)
        subscription, self._subscription = self._subscription, None
        if subscription:
            subscription.close()

    # --- the result of a batch ---

    def _count_outcomes(self, batch: Batch, outcomes: int) -> None:
        moved = batch.moves.items()
        self._offsets.reach({Partition(o.topic, o.number): end for o, (_, end) in moved})
        applied, parked, dead = len(batch.applied), len(batch.parked), len(batch.dead)
        was = self._snapshot
        self._snapshot = replace(
            was,
            processed=was.processed + applied,
            retried=was.retried + parked,
            dead=was.dead + dead,
            duplicates=was.duplicates + outcomes - applied - parked - dead,
        )

    def _commit(self, *, at_once: bool = False) -> None:
        ready = self._offsets.ready(at_once=at_once) if self._subscription else {}
        if ready and self._subscription:
            self._subscription.commit(ready)

    def _enter(
        self, state: State, reason: str | None = None, assignment: tuple[str, ...] = ()
    ) -> None:
        was = self._snapshot
        self._snapshot = replace(was, state=state, reason=reason, assignment=assignment)
        if self._snapshot != was:
            self._changed()


def _named(partitions: Iterable[Partition]) -> tuple[str, ...]:
    return tuple(f"{topic}/{number}" for topic, number in sorted(partitions))
