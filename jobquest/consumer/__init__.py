"""The consumer: reads the log in batches, runs handlers, has the read side apply the batch.

`run` is the background thread: it survives anything and reports it; `step` is one batch, which
tests call by hand. Owned by the runtime. It knows the log and the read side by what they promise,
and nothing of HTTP or of other processes.
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
from jobquest.consumer.retries import Backoff, CircuitBreaker, Probes
from jobquest.consumer.watch import Watch
from jobquest.consumer.writing import Writer
from jobquest.errors import PositionMoved, StateConflict, Unavailable
from jobquest.log import EventLog, Origin, Partition, Record, Subscription
from jobquest.read import Batch, ReadSide
from jobquest.read.rebuild import Progress

logger = logging.getLogger(__name__)

State = Literal[
    "stopped",
    "starting",
    "running",
    "idle",
    "degraded",  # of the whole service alone: events are processed, but not all of them
    "paused",
    "stalled",
    "crashed",
    "disconnected",
]

MAX_RECORDS = 3_000
POLL_SECONDS = 0.5
IDLE_AFTER_SECONDS = 1.0
# A step costs as much as some twenty events, however few it has: at 200 events a second, steps
# without a pause took half a core, and requests waited for them.
PACE_SECONDS = 0.05  # from one step to the next, while each has
SMALL_STEP = 500  # events or fewer
PASS_SECONDS = 1.0  # while there are records; otherwise at once
JOINING_SECONDS = 10.0  # a subscription without partitions after that is a standby, not a start
REBALANCE_SECONDS = 5.0  # without partitions for less than that, nothing has changed
STOP_SECONDS = 10.0
RETRY_SECONDS = 0.5  # of retries after which a step goes on to new records
LONGEST_WAIT_MS = int(1_000 * retries.LONGEST_WAIT_SECONDS * (1 + retries.JITTER))
NEVER = float("inf")
PROGRESS_SECONDS = 1.0
STANDBY = "Another process reads every partition; this one takes over when that ends."
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.5, 5.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """How the consumer of this process is; replaced whole, so that readers need no lock.

    `assignment` names the partitions that it reads (`topic/number`). `processed`, `retried`, `dead`
    and `duplicates` count outcomes since the process began.
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
    """Reads `topics` as a member of `group`. Any thread may call its public methods, save `step`,
    which belongs to one thread at a time."""

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
        """`want` stores what the operator wants; `changed` is called after every applied batch
        and every change of state; `recover` rebuilds a read side that was lost."""
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
        self.watch = Watch(read_side, backoff)
        self._reactor = Reactor(read_side, self._handlers, backoff, breaker, self.watch)
        self._writer = Writer(read_side, backoff, breaker, self.watch, self._took)
        self._lock = threading.Lock()  # over the two below
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._snapshot = Snapshot()
        # The consumer thread's own:
        self._subscription: Subscription | None = None
        self._backlog: list[Record] = []
        self._offsets = Offsets(read_side.outgoing_since)
        self._gone: set[Partition] = set()  # events wait in them, but the topic has them no more
        self._last_record = 0.0
        self._last_progress = 0.0
        self._passed = 0.0

    # --- handlers ---

    def register_event_handler(self, event_type: str, handler: Handler) -> None:
        """Have `handler(event)` called for every event of this type, at least once per event."""
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
        """How it is now; stalled where its thread hangs, which that can't say itself."""
        now, stalled = self._snapshot, self.watch.stalled
        return replace(now, state="stalled", reason=stalled) if stalled else now

    def start(self) -> None:
        """Start consuming, here and in every process of the service. Idempotent."""
        self._want("running")
        self.resume(afresh=True)

    def stop(self) -> None:
        """Stop consuming, here and in every process of the service; returns when this one has."""
        self._want("stopped")
        self.halt()

    def resume(self, *, afresh: bool = False) -> None:
        """Start this process's thread, unless it runs. One that has paused itself starts only
        `afresh`: with the failures forgotten that made it pause."""
        with self._lock:
            if self._thread and self._thread.is_alive():
                return  # one that is still stopping is asked again by the supervisor
            if self._snapshot.state == "paused" and not afresh:
                return
            self._breaker.reset()
            self._probes.start_again()
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
        if thread is threading.current_thread():
            return False
        if thread:
            thread.join(timeout)
            if thread.is_alive():
                return False
        with self._lock:
            if self._thread is thread:
                self._enter("stopped")  # also where it had paused
        return True

    # --- the thread ---

    def run(self, stop: threading.Event) -> None:
        """Step until `stop` is set or the circuit breaker opens, whatever else happens; says in the
        snapshot what does."""
        wait = FIRST_WAIT_SECONDS
        while not stop.is_set():
            began = time.monotonic()
            try:
                self._consume(stop)
            except CircuitOpen as opened:
                self._leave()
                logger.error("The consumer pauses: %s", opened)
                self._enter("paused", str(opened))
                return
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
        self._recover_lost()
        joined = time.monotonic()
        had = 0.0  # partitions
        while not stop.is_set():
            began = time.monotonic()
            count = self.step(POLL_SECONDS)
            now = time.monotonic()
            assert self._subscription is not None
            assignment = _named(self._subscription.assignment())
            had = now if assignment else had
            if count:
                self._last_record = now
                self._enter("running", assignment=assignment)
            elif not assignment and had and now - had < REBALANCE_SECONDS:
                pass
            elif not assignment and now - joined < JOINING_SECONDS:
                if self._snapshot.state not in ("disconnected", "crashed"):  # until it works again
                    self._enter("starting")
            elif now - self._last_record > IDLE_AFTER_SECONDS:
                self._enter("idle", None if assignment else STANDBY, assignment)
            if 0 < count <= SMALL_STEP:
                stop.wait(max(0.0, began + PACE_SECONDS - now))

    def step(self, timeout: float = 0.0) -> int:
        """Take one batch through, and what is due for another try: returns how many events that
        were, 0 where none came within `timeout` seconds.

        Raises Unavailable where log or database is away (nothing is lost then, the records come
        again) and BrakePulled.
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
            logger.warning("%s Reading its position again.", error)
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
            subscription.stay()  # a rebalance in it removes what is not ours any more
        polled = self._backlog or subscription.poll(
            0.0 if count else min(timeout, until_next), MAX_RECORDS
        )
        assigned = subscription.assignment()
        records = [one for one in polled if one[:2] in assigned]
        self._backlog = []
        if records:
            # Nothing overtakes what waits in a partition that is ours since this poll, either.
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
        """Move behind offsets that have no record for us (aborted ones, a transaction's marker):
        the group would be behind for ever. What has a record was applied before."""
        reached = subscription.reached().items()
        self._writer.pass_over({assigned[place]: at for place, at in reached if place in assigned})

    def _retry(self, subscription: Subscription) -> tuple[int, float]:
        """Try what is due again; how many events that were, and in how many seconds the next is
        due (NEVER: nothing waits)."""
        partitions = set(subscription.assignment())
        # Whoever reads a topic's first partition tries what waits in those that it has no more.
        partitions |= {one for one in self._gone if Partition(one.topic, 0) in partitions}
        if wait := self._probes.wait:
            return 0, wait
        found = self._read_side.tries(partitions, self._probes.most + 1, LONGEST_WAIT_MS)
        if not found.due:
            return 0, NEVER if found.next_ms is None else (found.next_ms - now_ms()) / 1000
        if self._snapshot.state == "starting":  # the first may take long: it works already
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
        """Give the subscription back; for callers of `step`."""
        self._leave()

    def _start_positions(self, origins: Sequence[Origin]) -> Mapping[Origin, int]:
        positions = self._read_side.positions(origins)
        self._writer.stored |= {origin: positions.get(origin) for origin in origins}
        # A process that died may have committed less than it has done.
        self._offsets.reach({Partition(o.topic, o.number): n for o, n in positions.items()})
        # They are read again from there.
        places = {(origin.topic, origin.number) for origin in origins}
        self._backlog = [record for record in self._backlog if record[:2] not in places]
        self._find_gone({topic for topic, number in places if number == 0})
        return positions

    def _find_gone(self, topics: set[str]) -> None:
        """Notice what waits in partitions that a topic made anew has no more."""
        waiting = {one for one in self._read_side.waiting_in() if one.topic in topics}
        there = self._log.describe(sorted({topic for topic, _ in waiting})) if waiting else ()
        gone = waiting - {Partition(one.origin.topic, one.origin.number) for one in there}
        self._gone = {one for one in self._gone if one.topic not in topics} | gone

    def _recover_lost(self) -> None:
        try:
            self._recover(self._recovering)
        except StateConflict as error:
            raise Unavailable(f"{error} This process waits for it.") from error

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
        if self._subscription:
            self._subscription.rewind()

    def _leave(self) -> None:
        self._backlog = []
        try:
            self._commit(at_once=True)
        except Exception as error:  # whatever is wrong, the partitions have to be given back
            logger.debug("The group's offsets could not be noted: %s", error)
        self._offsets = Offsets(self._read_side.outgoing_since)
        subscription, self._subscription = self._subscription, None
        if subscription:
            subscription.close()

    # --- what a batch came to ---

    def _took(self, batch: Batch, outcomes: int) -> None:
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
