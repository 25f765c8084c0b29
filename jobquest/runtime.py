"""The runtime: builds log, read side, producer, consumer and feed from the settings; starts and
stops them, and the consumer of the whole service. No Flask here.

Building opens no connection and starts no thread (the command line and the reloader build one too,
and servers fork); `start` does.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import orjson

from jobquest.activity import Activity
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
from jobquest.read.queries import Queries
from jobquest.read.rebuild import Rebuild
from jobquest.read.retry_topic import TOPIC as RETRIES
from jobquest.read.service_state import ServiceState
from jobquest.report import LOG_TOPICS, WORKING, Report

logger = logging.getLogger(__name__)

BEAT_SECONDS = 1.0
CHANGE_SECONDS = 15.0
OUR_RECORD_BYTES = 2_097_152  # the original in it may be as large as a topic takes
FOLLOW_SECONDS = 0.5  # a consumer that takes longer to stop is asked again at the next beat
STOP_SECONDS = 2.0  # all of `stop`; the server's patience is 4 s, of which requests may take 2
HALT_SECONDS = 1.2  # of these for the consumer's batch
FORGET_SECONDS = 3_600.0  # from one look for what is too old to the next
LAG_NOTED_SECONDS = 5.0
LAG_SAMPLE_SECONDS = 5.0
SERVES = "It answers requests; another process of the service consumes."


class StateNotReached(JobQuestError):
    """The consumer did not come into the wanted state in time; `status` says how it is."""

    def __init__(self, message: str, status: dict[str, Any]) -> None:
        super().__init__(message)
        self.status = status


class Runtime:
    """Everything that runs, wired. Attributes are the parts; methods speak for the service."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.database = Database(
            config.read_side_url, upgrades=config.database_upgrade, pool=config.database_pool
        )
        self.state = ServiceState(self.database)
        process_id = self.state.process_id
        self.dead_letters = DeadLetters(self.database, process_id, config.kafka_group_id)
        self.read_side = ReadSide(self.database, self.dead_letters, process_id)
        self.queries = Queries(self.database)
        self.log = _log(config, member_name(process_id))
        self.outbox = _outbox(config, self.log, self.read_side)
        self.producer = Producer(self.log, self.read_side, self.outbox)
        self.activity = Activity(self.producer)
        self.notifications = Notifications(self.producer)
        self.feed = Feed(self.queries)
        self.relay = Relay(self.read_side, self.log)
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
            how_we_are=self._how_we_are,
        )
        self._obstacles = Obstacles(self.log, config.kafka_group_id)
        self._found: list[str] = []  # obstacles
        self._lag_noted = self._lag_sampled = self._forgets_at = 0.0
        self._lock = threading.Lock()
        self._started = False
        self._consumes = True
        self._woken, self._news = threading.Event(), threading.Event()
        self._stop = threading.Event()
        self._supervisor = threading.Thread(target=self._supervise, name="supervisor", daemon=True)
        self._reporter = threading.Thread(target=self._tell, name="reporter", daemon=True)
        self._shown: object = None
        self._was: object = None  # the consumer, when it woke the supervisor last
        self._wanted = "stopped"  # the operator's wish that was followed last
        self._generation: int | None = None  # of the operator's wish that was followed last

    def start(self, *, consumes: bool = True) -> None:
        """Start the threads of this process, once; the consumer as the operator wants it, unless
        another process of the service consumes."""
        with self._lock:
            if self._started or self._stop.is_set():
                return
            self._started, self._consumes = True, consumes
        if self.outbox:
            self.outbox.start()
        self.feed.start()
        self.relay.start()
        self._supervisor.start()
        self._reporter.start()

    def begin_stop(self) -> None:
        """Have the consumer and the viewers' connections end, while requests do. Safe in a signal
        handler; `stop` does the rest."""
        self._stop.set()
        self._wake()
        self.feed.begin_stop()

    def stop(self) -> None:
        """Stop everything in order: consumer, relay, viewers, outbox, log, database.

        Within STOP_SECONDS, whatever hangs: what is left undone then, a `kill -9` would leave too.
        """
        deadline = time.monotonic() + STOP_SECONDS

        def left() -> float:
            return max(0.1, deadline - time.monotonic())

        self._stop.set()
        self._wake()
        if not self.consumer.halt(HALT_SECONDS):
            logger.warning("The consumer did not stop in time: it is left behind.")
        self.relay.stop(left())
        self.feed.stop(left())
        if self._started:
            self._supervisor.join(left())
            leaving = threading.Thread(target=self._leave, name="leaving", daemon=True)
            leaving.start()  # a database that is locked makes its callers wait for longer
            leaving.join(left())
            self._reporter.join(left())
        self.close_log(left())
        self.database.close()

    def close_log(self, timeout: float = 5.0) -> None:
        """Close the way in: what is on its way to Kafka is in the outbox after that."""
        if self.outbox:
            self.outbox.stop()
        self.log.close(timeout)

    def _leave(self) -> None:
        try:
            self.state.leave()
        except Unavailable as error:
            logger.warning("This process stays on the list for a while: %s", error)

    # --- the consumer, for the whole service ---

    def start_consumer(self) -> dict[str, Any]:
        """Start consuming everywhere; returns the status once it works. Idempotent.

        Raises StateNotReached, ReadSideUnavailable.
        """
        self.state.want("running")

        def reached(processes: list[dict[str, Any]]) -> bool:
            reading = any(process["assignment"] for process in processes)
            return reading and _states(processes) <= WORKING

        return self._await("running", reached)

    def stop_consumer(self) -> dict[str, Any]:
        """Stop consuming everywhere; returns the status once it has stopped. Idempotent.

        Raises StateNotReached, ReadSideUnavailable.
        """
        self.state.want("stopped")
        return self._await("stopped", lambda found: _states(found) <= {"stopped"})

    def _await(
        self, wanted: str, reached: Callable[[list[dict[str, Any]]], bool]
    ) -> dict[str, Any]:
        def all_are_so(processes: list[dict[str, Any]]) -> bool:
            # A process that has just begun may follow an older wish before it is on the list.
            listed = {process["id"] for process in processes}
            return (not self._started or self.state.process_id in listed) and reached(processes)

        self._woken.set()
        deadline = time.monotonic() + CHANGE_SECONDS
        while True:
            if all_are_so(self.report.processes()):
                status = self.report.status()
                if all_are_so(status["processes"]):  # another's wish may have come since
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
        how = (now.state, now.reason, now.assignment)
        if how != self._was:  # figures alone change with every batch: they wait for the next beat
            self._was = how
            self._wake()

    def _wake(self) -> None:
        self._woken.set()
        self._news.set()

    def _supervise(self) -> None:
        """Follow what the operator wants, say that we live."""
        self._repeat(self._woken, self._follow, self._beat)
        self.consumer.halt(0.0)  # the last word: `_follow` may have started it since

    def _tell(self) -> None:
        """Show the status to the viewers, note the lag: what may have to wait for the log."""
        tasks = (self._look, self._show_status, self._note_lag, self._sample_lag, self._forget)
        self._repeat(self._news, *tasks)

    def _repeat(self, woken: threading.Event, *tasks: Callable[[], None]) -> None:
        name = threading.current_thread().name
        while not self._stop.is_set():
            for task in tasks:
                try:
                    task()
                except Unavailable as error:
                    logger.warning("The %s waits: %s", name, error)
                except Exception:
                    logger.exception("The %s failed and goes on", name)
            woken.wait(BEAT_SECONDS)
            woken.clear()
            self._stop.wait(0.1)  # a consumer in trouble may change all the time

    def _look(self) -> None:
        is_to_read = self._consumes and self._wanted == "running"
        processes = self.report.processes() if is_to_read else []
        found = self._obstacles.lines(processes, self._lag.partitions) if is_to_read else []
        for line in set(found) - set(self._found):
            logger.warning("Not everything is processed: %s", line)
        self._found = found

    def _beat(self) -> None:
        self.state.beat(orjson.dumps(self._how_we_are()))
        self.consumer.watch.note()

    def _how_we_are(self) -> dict[str, Any]:
        waiting = self.outbox.waiting() if self.outbox else Waiting(0, 0.0)
        barred = dict(self.outbox.barred) if self.outbox else {}
        return {
            **asdict(self._snapshot()),
            "outbox": {**waiting._asdict(), "barred": barred},
            "obstacles": self._found,
        }

    def _snapshot(self) -> Snapshot:
        """This process's consumer; one that leaves consuming to another stands by."""
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
            self.consumer.resume(afresh=generation != self._generation)
        else:
            self.consumer.halt(FOLLOW_SECONDS)
        self._generation = generation

    def _show_status(self) -> None:
        if not self.feed.viewers:  # it takes some milliseconds, for which requests would wait
            self._shown = None
            return
        status = self.report.status()
        # Heartbeats and the time of day change all the time: they are no news.
        news = {key: value for key, value in status.items() if key != "timestamp"}
        news["processes"] = [
            {k: v for k, v in process.items() if k != "heartbeat"}
            for process in status["processes"]
        ]
        if news != self._shown:
            self._shown = news
            self.feed.show_status(orjson.dumps(status))

    def _note_lag(self) -> None:
        """For the chart of the last hour; whoever consumes writes it."""
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
        """Delete a little of what is older than it is kept, at each beat while there is more."""
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
        logger.error("Failed to publish event: %s", error)
        read_side.apply(Batch(dead=[dead_before_the_log(record, error)]))

    return Outbox(log, config.data_dir.absolute(), config.outbox_max_events, dead_letter)


def _log(config: Config, member: str) -> EventLog:
    if not config.kafka_broker:
        return SqliteLog(config.data_dir.absolute() / "log.db", LOG_TOPICS)
    from jobquest.log.kafka import KafkaLog  # not needed, and slow to import, where there is none

    return KafkaLog(
        bootstrap=config.kafka_broker,
        client_id="jobquest",
        member_name=member,
        partitions=config.kafka_partitions,
        replication_factor=config.kafka_replication_factor,
        security=config.kafka_security(),
        topics=LOG_TOPICS,
        topic_configs={
            DEAD_LETTERS: {"max.message.bytes": str(OUR_RECORD_BYTES)},
            RETRIES: {"max.message.bytes": str(OUR_RECORD_BYTES), "cleanup.policy": "compact"},
        },
    )
