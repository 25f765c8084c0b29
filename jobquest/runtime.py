"""The runtime: builds log, read side, producer, consumer and feed from the settings. Starts and
stops them, and the consumer of the whole service. No Flask here.

Building it opens no connection and starts no thread, because the command line and the reloader
build one too, and servers fork. `start` does both.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import orjson

from jobquest import open_files
from jobquest.access import Access
from jobquest.activity import Activity
from jobquest.audit import TOPIC as AUDIT
from jobquest.audit import Audit, log_lost
from jobquest.config import Config
from jobquest.consumer import Consumer, Snapshot
from jobquest.consumer.handlers import load_handlers
from jobquest.consumer.redrive import Redrive
from jobquest.consumer.relay import Relay
from jobquest.consumer.retries import Backoff, CircuitBreaker
from jobquest.errors import JobQuestError, RecordRefused, Unavailable
from jobquest.events import TOPICS
from jobquest.feed import Feed
from jobquest.lag import Lag
from jobquest.log import EventLog, NewRecord
from jobquest.log.outbox import Outbox, Waiting
from jobquest.log.sqlite import SqliteLog
from jobquest.notifications import Notifications
from jobquest.obstacles import Obstacles, member_name
from jobquest.producer import Producer
from jobquest.read import Batch, ReadSide
from jobquest.read.database import Database
from jobquest.read.dead_letters import TOPIC as DEAD_LETTERS
from jobquest.read.dead_letters import DeadLetters, dead_before_the_log
from jobquest.read.history import forget_old
from jobquest.read.processes import REVISION_KEY
from jobquest.read.queries import Queries
from jobquest.read.rebuild import Rebuild
from jobquest.read.retry_topic import TOPIC as RETRIES
from jobquest.read.schema import REVISION
from jobquest.read.service_state import ServiceState
from jobquest.rebuilder import Rebuilder
from jobquest.report import LOG_TOPICS, WORKING, Report, working_part
from jobquest.version import version

logger = logging.getLogger(__name__)

BEAT_SECONDS = 1.0
CHANGE_SECONDS = 15.0
OUR_RECORD_BYTES = 2_097_152  # the original inside it may be as large as a topic allows
FOLLOW_SECONDS = 0.5  # for the consumer to stop; if it takes longer, the next beat calls again
STOP_SECONDS = 2.0  # for all of `stop`; the server allows 4 s, of which requests may use 2
HALT_SECONDS = 1.2  # of those, for the consumer's batch
FORGET_SECONDS = 3_600.0  # between two searches for rows that are too old
LAG_NOTED_SECONDS = 5.0
LAG_SAMPLE_SECONDS = 5.0
SERVES = "It answers requests; another process of the service consumes."


class StateNotReached(JobQuestError):
    """The consumer did not reach the wanted state in time; `status` is the status it has."""

    def __init__(self, message: str, status: dict[str, Any]) -> None:
        super().__init__(message)
        self.status = status


class Runtime:
    """All parts of the service, connected. Attributes are the parts; methods concern all of it."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.database = Database(
            config.read_side_url, upgrades=config.database_upgrade, pool=config.database_pool
        )
        self.access = Access(config, self.database)
        self.state = ServiceState(self.database)
        process_id = self.state.process_id
        self.dead_letters = DeadLetters(self.database, process_id, config.kafka_group_id)
        self.read_side = ReadSide(self.database, self.dead_letters, process_id)
        self.queries = Queries(self.database)
        self.log = _log(config, member_name(process_id))
        self.outbox = _outbox(config, self.log, self.read_side)
        self.audit = Audit(self.log, self.outbox)
        self.producer = Producer(self.log, self.read_side, self.outbox)
        self.activity = Activity(self.producer)
        self.notifications = Notifications(self.producer)
        self.feed = Feed(self.queries, open_files.for_viewers(config.max_sockets))
        self.access.ended = self.feed.end
        self.relay = Relay(self.read_side.outgoing, self.log)
        self.redrive = Redrive(self.dead_letters, self.read_side, self.log)
        self.rebuild = Rebuild(
            self.database,
            self.dead_letters,
            self.log,
            TOPICS,
            config.kafka_group_id,
            keep_days=config.keep_days,
        )
        self.consumer = Consumer(
            self.log,
            self.read_side,
            topics=TOPICS,
            group=config.kafka_group_id,
            backoff=Backoff(config.retry_max_attempts, config.retry_base_seconds),
            breaker=CircuitBreaker(config.brake_failures),
            want=self.state.want,
            changed=self._changed,
            recover=self.rebuild.recover,
        )
        load_handlers(config.handlers, self.consumer)
        self._lag = Lag(self.log, self.read_side, TOPICS)
        self.report = Report(
            self.log,
            self.read_side,
            self.queries,
            self.state,
            self._lag,
            group=config.kafka_group_id,
            own_heartbeat=self._own_heartbeat,
        )
        self._obstacles = Obstacles(self.log, config.kafka_group_id)
        self._obstacle_lines: list[str] = []  # found at the last look
        self._lag_noted = self._lag_sampled = self._forgets_at = 0.0
        self._lock = threading.Lock()
        self._started = False
        self._consumes = True
        self._woken, self._news = threading.Event(), threading.Event()
        self._stop = threading.Event()
        self._supervisor = threading.Thread(target=self._supervise, name="supervisor", daemon=True)
        self._reporter = threading.Thread(target=self._report, name="reporter", daemon=True)
        self._shown: object = None
        self._last_seen: object = None  # the consumer, when it last woke the supervisor
        self._version = version()
        self._wanted = "stopped"  # the operator's wish that was followed last
        self._generation: int | None = None  # the number of that wish

    def start(self, *, consumes: bool = True) -> None:
        """Start the threads of this process, once. The consumer starts if the operator wants it,
        unless another process of the service consumes."""
        with self._lock:
            if self._started or self._stop.is_set():
                return
            self._started, self._consumes = True, consumes
        if self.outbox:
            self.outbox.start(has_clients=not (consumes and self.config.has_consumer_process))
        self.access.start()
        self.feed.start()
        self.relay.start()
        self._supervisor.start()
        self._reporter.start()

    def begin_stop(self) -> None:
        """Tell the consumer and the viewers' connections to end, while requests end. Safe in a
        signal handler; `stop` does the rest."""
        self._stop.set()
        self._wake()
        self.access.stop()
        self.feed.begin_stop()

    def stop(self) -> None:
        """Stop everything in order: consumer, relay, viewers, outbox, log, database.

        Takes at most STOP_SECONDS, whatever hangs. Work that is unfinished then is recovered as
        after a `kill -9`.
        """
        deadline = time.monotonic() + STOP_SECONDS

        def left() -> float:
            return max(0.1, deadline - time.monotonic())

        self._stop.set()
        self._wake()
        self.access.stop()
        if not self.consumer.halt(HALT_SECONDS):
            logger.warning("The consumer did not stop in time: this process ends without it.")
        self.relay.stop(left())
        self.feed.stop(left())
        if self._started:
            self._supervisor.join(left())
            leaving = threading.Thread(target=self._leave, name="leaving", daemon=True)
            leaving.start()  # a locked database would make this thread wait for longer
            leaving.join(left())
            self._reporter.join(left())
        self.close_log(left())
        self.access.close()
        self.database.close()

    def close_log(self, timeout: float = 5.0) -> None:
        """Close what publishes: after that, records on their way to Kafka are in the outbox."""
        if self.outbox:
            self.outbox.stop()
        self.log.close(timeout)

    def _leave(self) -> None:
        try:
            self.state.leave()
        except Unavailable as error:
            logger.warning("This process is still listed for a while: %s", error)

    # --- the consumer, for the whole service ---

    def start_consumer(self) -> dict[str, Any]:
        """Start consuming in every process; returns the status once it runs. Idempotent.

        Raises StateNotReached, ReadSideUnavailable.
        """
        self.state.want("running")

        def reached(processes: list[dict[str, Any]]) -> bool:
            reading = any(process["assignment"] for process in processes)
            return reading and _states(working_part(processes)) <= WORKING

        return self._await("running", reached)

    def stop_consumer(self) -> dict[str, Any]:
        """Stop consuming in every process; returns the status once it has stopped. Idempotent.

        Raises StateNotReached, ReadSideUnavailable.
        """
        self.state.want("stopped")
        return self._await("stopped", lambda found: _states(found) <= {"stopped"})

    def _await(
        self, wanted: str, reached: Callable[[list[dict[str, Any]]], bool]
    ) -> dict[str, Any]:
        def all_have(processes: list[dict[str, Any]]) -> bool:
            # A process that has just started may follow an older wish before it is listed.
            listed = {process["id"] for process in processes}
            return (not self._started or self.state.process_id in listed) and reached(processes)

        self._woken.set()
        deadline = time.monotonic() + CHANGE_SECONDS
        while True:
            if all_have(self.report.processes()):
                status = self.report.status()
                if all_have(status["processes"]):  # somebody may have changed the wish meanwhile
                    return status
            if time.monotonic() > deadline or self._stop.is_set():
                status = self.report.status()
                line = f"The consumer is not {wanted} after {CHANGE_SECONDS:.0f} s"
                raise StateNotReached(f"{line}: it is {status['state']}.", status)
            self._stop.wait(0.05)

    # --- the supervisor's thread ---

    def _changed(self) -> None:
        self.feed.wake()
        self.relay.wake()
        now = self.consumer.snapshot
        seen = (now.state, now.reason, now.assignment)
        if seen != self._last_seen:  # counts change with every batch: they wait for the next beat
            self._last_seen = seen
            self._wake()

    def _wake(self) -> None:
        self._woken.set()
        self._news.set()

    def _supervise(self) -> None:
        """Follow the operator's wish, and write the heartbeat."""
        self._repeat(self._woken, self._follow, self._beat)
        self.consumer.halt(0.0)  # once more, because `_follow` may have started it meanwhile

    def _report(self) -> None:
        """Show the status to the viewers, store the lag: tasks that may wait for the log."""
        tasks = [self._look, self._show_status, self._note_lag, self._sample_lag, self._forget]
        if self._consumes:
            tasks.append(Rebuilder(self.rebuild, self._stop).look)
        self._repeat(self._news, *tasks)

    def _repeat(self, woken: threading.Event, *tasks: Callable[[], None]) -> None:
        name = threading.current_thread().name
        said: dict[Callable[[], None], str] = {}  # an upgrade may wait for hours
        while not self._stop.is_set():
            for task in tasks:
                try:
                    task()
                    said.pop(task, None)
                except Unavailable as error:
                    if str(error) not in said.values():
                        logger.warning("The %s waits: %s", name, error)
                    said[task] = str(error)
                except Exception:
                    logger.exception("The %s failed and continues", name)
            woken.wait(BEAT_SECONDS)
            woken.clear()
            self._stop.wait(0.1)  # the state of a consumer in trouble may change all the time

    def _look(self) -> None:
        is_to_read = self._consumes and self._wanted == "running"
        processes = self.report.processes() if is_to_read else []
        lines = self._obstacles.lines(processes, self._lag.partitions) if is_to_read else []
        for line in set(lines) - set(self._obstacle_lines):
            logger.warning("Not everything is processed: %s", line)
        if lines != self._obstacle_lines:
            self._obstacle_lines = lines
            self._woken.set()  # others get to know it with the next heartbeat

    def _beat(self) -> None:
        self.state.beat(orjson.dumps(self._own_heartbeat()))
        self.consumer.watch.note()

    def _own_heartbeat(self) -> dict[str, Any]:
        waiting = self.outbox.waiting() if self.outbox else Waiting(0, 0.0)
        barred = {**self.relay.barred, **(self.outbox.barred if self.outbox else {})}
        stuck = self.outbox.stuck if self.outbox else ""
        return {
            "version": self._version,
            REVISION_KEY: REVISION,
            **asdict(self._snapshot()),
            "outbox": {**waiting._asdict(), "barred": barred, "stuck": stuck},
            "obstacles": self._obstacle_lines,
        }

    def _snapshot(self) -> Snapshot:
        """This process's consumer: idle if another process consumes for it."""
        now = self.consumer.snapshot
        if self._consumes or self._wanted == "stopped" or now.state != "stopped":
            return now
        return replace(now, state="idle", reason=SERVES)

    def _follow(self) -> None:
        self.state.forget_dead_processes()
        wanted, generation = self.state.wanted()
        if wanted is None:
            wanted = "running" if self.config.consumer_autostart else "stopped"
        self._wanted = wanted
        if not self._consumes:
            return
        if wanted == "running":
            self.consumer.resume(even_if_paused=generation != self._generation)
        else:
            self.consumer.halt(FOLLOW_SECONDS)
        self._generation = generation

    def _show_status(self) -> None:
        if not self.feed.viewers:  # a status takes some milliseconds, which would delay requests
            self._shown, self.feed.status = None, b""
            return
        status = self.report.status()
        self.feed.status = orjson.dumps(status)  # for those who join
        # Heartbeats and the timestamp change all the time: they are no reason to send a status.
        news = {key: value for key, value in status.items() if key != "timestamp"}
        news["processes"] = [
            {k: v for k, v in process.items() if k != "heartbeat"}
            for process in status["processes"]
        ]
        if news != self._shown:
            self._shown = news
            self.feed.show_status(self.feed.status)

    def _note_lag(self) -> None:
        """For the chart of the last hour; written by the process that consumes."""
        now = time.monotonic()
        if not self.consumer.snapshot.assignment or now - self._lag_noted < LAG_NOTED_SECONDS:
            return
        self._lag_noted = now
        lag = self._lag.now().lag
        if lag["messages"]:
            self.read_side.note_lag(lag["messages"], lag["seconds"])

    def _sample_lag(self) -> None:
        if time.monotonic() - self._lag_sampled >= LAG_SAMPLE_SECONDS:
            self._lag_sampled = time.monotonic()
            self._lag.sample()

    def _forget(self) -> None:
        """Delete a few of the rows that are too old, at each beat as long as there are more."""
        if time.monotonic() < self._forgets_at:
            return
        if not forget_old(self.database, self.config.keep_days):
            self._forgets_at = time.monotonic() + FORGET_SECONDS


def _states(processes: list[dict[str, Any]]) -> set[str]:
    return {process["state"] for process in processes}


def _outbox(config: Config, log: EventLog, read_side: ReadSide) -> Outbox | None:
    if not config.kafka_broker:
        return None

    def dead_letter(record: NewRecord, error: RecordRefused) -> None:
        if record.topic == AUDIT:
            log_lost(record.value or b"", error)
            return
        logger.error("Failed to publish event: %s", error)
        read_side.apply(Batch(dead=[dead_before_the_log(record, error)]))

    return Outbox(log, config.data_dir.absolute(), config.outbox_max_events, dead_letter)


def _log(config: Config, member: str) -> EventLog:
    if not config.kafka_broker:
        return SqliteLog(config.data_dir.absolute() / "log.db", LOG_TOPICS)
    from jobquest.log.kafka import KafkaLog  # here: slow to import, and only needed with Kafka

    return KafkaLog(
        bootstrap=config.kafka_broker,
        client_id="jobquest",
        member_name=member,
        folder=config.data_dir.absolute(),
        partitions=config.kafka_partitions,
        replication_factor=config.kafka_replication_factor,
        security=config.kafka_security(),
        topics=LOG_TOPICS,
        topic_configs={
            DEAD_LETTERS: {"max.message.bytes": str(OUR_RECORD_BYTES)},
            RETRIES: {"max.message.bytes": str(OUR_RECORD_BYTES), "cleanup.policy": "compact"},
        },
    )
