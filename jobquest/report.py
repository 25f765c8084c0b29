"""The state of the whole service, of all its processes: its status, its topics, its readiness.

Created by the runtime, called by it and by the web side; changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from jobquest.audit import TOPIC as AUDIT
from jobquest.browse import Wanted, browse
from jobquest.clock import now_ms
from jobquest.errors import LogUnavailable, ReadSideUnavailable
from jobquest.events import TOPICS, format_time
from jobquest.lag import Lag, left_of, next_to_read
from jobquest.log import EventLog, refuse_unreadable
from jobquest.read import ReadSide
from jobquest.read.dead_letters import TOPIC as DEAD_LETTERS
from jobquest.read.failures import read_side_failed
from jobquest.read.queries import Queries
from jobquest.read.retry_topic import TOPIC as RETRIES
from jobquest.read.service_state import ServiceState

SILENT_AFTER_MS = 5_000
LOG_TOPICS = (*TOPICS, DEAD_LETTERS, RETRIES, AUDIT)
HEALTHY = frozenset({"running", "idle"})
WORKING = HEALTHY | {"degraded"}
_TRAIL = re.compile(rf"(topic )?{AUDIT}")
NOBODY_READS = "No process reads a partition yet."
# If processes differ, the service is in the worst of their states.
WORST_FIRST = (
    "stalled",
    "crashed",
    "disconnected",
    "paused",
    "starting",
    "degraded",
    "running",
    "idle",
    "stopped",
)


class Report:
    """Reports for the whole service; `own_heartbeat` returns this process's own state."""

    def __init__(
        self,
        log: EventLog,
        read_side: ReadSide,
        queries: Queries,
        state: ServiceState,
        lag: Lag,
        *,
        group: str,
        own_heartbeat: Callable[[], dict[str, Any]],
    ) -> None:
        self._log = log
        self._read_side = read_side
        self._queries = queries
        self._state = state
        self._lag = lag
        self._group = group
        self._own_heartbeat = own_heartbeat

    def status(self) -> dict[str, Any]:
        """The service's status, as `GET /api/kafka/status` returns it. Never raises."""
        try:
            processes = self.processes()
            state, reason = _worst(processes)
            counts = self._queries.outcomes()
        except ReadSideUnavailable as error:
            processes, counts = [], {}
            state, reason = "disconnected", str(error)
        except Exception as error:  # for example, one of our tables or columns is missing
            processes, counts = [], {}
            state, reason = "crashed", read_side_failed(error)
        progress = self._lag.now()
        if progress.error and state in WORKING:
            state, reason = "disconnected", str(progress.error)
        elif state in WORKING or reason == NOBODY_READS:
            lines = dict.fromkeys(
                line for one in working_part(processes) for line in one.get("obstacles", ())
            )
            state = "degraded" if lines and state in WORKING else state
            reason = " ".join(lines) or reason
        return {
            "consumerRunning": state in WORKING,
            "state": state,
            "reason": _without_trail(reason),
            "mode": self._log.mode,
            "groupId": self._group,
            "lag": progress.lag if state in WORKING else progress.lag | {"caughtUpIn": None},
            "rate": progress.rate,
            "outbox": _waiting(processes),
            **counts,
            "processes": [
                {**_without_trail(one), "lag": progress.lag_of(one["assignment"])}
                for one in processes
            ],
            "timestamp": format_time(now_ms()),
        }

    def topics(self, more: Sequence[str] = ()) -> list[dict[str, Any]]:
        """Every topic with its partitions' offsets, the group's lag, the records accepted a second
        and the process that reads each partition; and `more` topics, which no process reads. Raises
        Unavailable."""
        found = self._log.describe((*TOPICS, *more))
        stored = self._read_side.positions([info.origin for info in found])
        read = [info for info in found if info.origin.topic in TOPICS]
        offsets = {info.origin: (info.next, next_to_read(info, stored)) for info in read}
        left = left_of(self._log, offsets)
        rates = self._lag.now().topics
        readers = {
            place: process["id"] for process in self.processes() for place in process["assignment"]
        }
        topics: dict[str, dict[str, Any]] = {}
        for info in found:
            topic = topics.setdefault(
                info.origin.topic,
                {
                    "name": info.origin.topic,
                    "id": info.origin.identity,
                    "lag": 0,
                    "rate": rates.get(info.origin.topic),
                    "partitions": [],
                },
            )
            lag, _ = left.get(info.origin, (0, None))
            topic["lag"] += lag
            topic["partitions"].append(
                {
                    "partition": info.origin.number,
                    "first": info.first,
                    "next": info.next,
                    "position": stored.get(info.origin),
                    "lag": lag,
                    "process": readers.get(f"{info.origin.topic}/{info.origin.number}"),
                }
            )
        return [topics[name] for name in (*TOPICS, *more) if name in topics]

    def records(self, topic: str, partition: int, wanted: Wanted) -> dict[str, Any] | None:
        """Records of a partition; None if there is no such partition. Raises LogUnavailable, and
        TopicUnavailable if the topic may not be read."""
        if topic not in LOG_TOPICS:
            return None
        refuse_unreadable(self._log, topic)
        for info in self._log.describe([topic]):
            if info.origin.number == partition:
                return browse(self._log, info, wanted)
        return None

    def readiness(self, status: Mapping[str, Any]) -> dict[str, str | None]:
        """Each part that the service needs, and its problem at this status (None: no problem)."""
        problems: dict[str, str | None] = {"readSide": None, "log": None, "consumer": None}
        try:
            self._queries.check_tables()
        except ReadSideUnavailable as error:
            problems["readSide"] = str(error)
        except Exception as error:
            problems["readSide"] = read_side_failed(error)
        away = self._lag.now().error
        if isinstance(away, LogUnavailable):
            problems["log"] = str(away)
        if status["state"] not in WORKING | {"stopped"}:  # stopped is the operator's wish
            problems["consumer"] = f"{status['state']}: {status['reason'] or 'no reason known'}"
        return problems

    def processes(self) -> list[dict[str, Any]]:
        """Each process that is alive, from its last heartbeat, sorted by host and pid. If one is
        silent, and others read its partitions, it has no partitions and is `takenOver`. Raises
        ReadSideUnavailable."""
        processes, silent = [], []
        for row in self._state.processes():
            consumer, silent_ms = row["consumer"], row["silent_ms"]
            if row["id"] == self._state.process_id:  # known here, even with a read-only database
                row["heartbeat_ms"] += silent_ms
                consumer, silent_ms = self._own_heartbeat(), 0
            if silent_ms > SILENT_AFTER_MS and consumer["state"] != "stopped":
                who = f"{row['host']} (pid {row['pid']})"
                reason = f"{who} has sent no heartbeat for {silent_ms // 1000} s"
                consumer |= {"state": "stalled", "reason": reason}
                silent.append(row["id"])
            processes.append(
                {
                    "id": row["id"],
                    "host": row["host"],
                    "pid": row["pid"],
                    "version": None,  # of a process of an older version, which does not say it
                    "heartbeat": format_time(row["heartbeat_ms"]),
                    "takenOver": False,
                    **consumer,
                }
            )
        _take_over(processes, silent)
        return sorted(processes, key=lambda one: (one["host"], one["pid"]))


def _take_over(processes: Sequence[dict[str, Any]], silent: Collection[str]) -> None:
    """Take from silent processes the partitions that others read by now."""
    alive = (one["assignment"] for one in processes if one["id"] not in silent)
    are_read = {place for assignment in alive for place in assignment}
    for one in processes:
        if one["id"] in silent and are_read:
            one["assignment"] = [place for place in one["assignment"] if place not in are_read]
            one["takenOver"] = not one["assignment"]


def working_part(processes: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The processes that the service's state depends on: nobody waits for one that is taken over,
    which has ended, or will see that it has lost its partitions."""
    return [one for one in processes if not one["takenOver"]]


def _worst(processes: list[dict[str, Any]]) -> tuple[str, str | None]:
    processes = working_part(processes)
    is_read = any(process["assignment"] for process in processes if process["state"] in HEALTHY)
    # A process that joins while another one reads changes nothing yet.
    counted = [p for p in processes if not (is_read and p["state"] == "starting")]
    found = sorted(counted, key=lambda process: WORST_FIRST.index(process["state"]))
    if not found:
        return "stopped", None
    state = found[0]["state"]
    if state in WORKING and not any(process["assignment"] for process in processes):
        return "starting", NOBODY_READS  # each waits for another one: partitions change hands
    # The reason of a standby process is not the service's, if another one works.
    return state, None if state in WORKING else found[0]["reason"]


def _without_trail(value: Any) -> Any:
    """What everybody may see, such as the reason why a topic is not written to, without the name of
    the audit trail's topic: that is there for those who manage the service alone."""
    if isinstance(value, str):
        return _TRAIL.sub("the audit trail's topic", value)
    if isinstance(value, Mapping):
        return {name: _without_trail(one) for name, one in value.items() if name != AUDIT}
    return [_without_trail(one) for one in value] if isinstance(value, list) else value


def _waiting(processes: list[dict[str, Any]]) -> dict[str, Any]:
    """The events in the outboxes of all processes, and the age of the oldest."""
    found = [process["outbox"] for process in processes if "outbox" in process]
    return {
        "events": sum(outbox["events"] for outbox in found),
        "seconds": max((outbox["seconds"] for outbox in found), default=0.0),
    }
