"""Queries to the cluster and the creation of topics, by kafka-python's admin client and a consumer:
one caller at a time, bounded in time, reconnected after any error.

Used by the log and its subscriptions; it appends and consumes nothing itself.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from kafka import TopicPartition
from kafka.admin import ConfigFilterType, ConfigResource, ConfigResourceType, MemberToRemove
from kafka.errors import (
    CoordinatorLoadInProgressError,
    CoordinatorNotAvailableError,
    GroupAuthorizationFailedError,
    KafkaError,
    KafkaTimeoutError,
    NotCoordinatorError,
    TopicAuthorizationFailedError,
    UnknownMemberIdError,
    UnsupportedVersionError,
)

from jobquest.errors import LogUnavailable, TopicUnavailable
from jobquest.log import Found, Member, Origin, Partition, PartitionInfo, Record, missing_right
from jobquest.log.kafka.causes import causes, explained
from jobquest.log.kafka.library import Library, Reader
from jobquest.log.kafka.rights import FORBIDDEN, member_of, missing_rights
from jobquest.log.kafka.topics import in_one_line, settings_of

logger = logging.getLogger(__name__)

ANSWER_MS = 2_000
READ_SECONDS = 1.0
READ_BYTES = 65_536  # of each partition in one answer: a caller that needs one record gets few more
READ_RECORDS = 200  # about as many as one answer has of each partition if they are small
COORDINATOR_SECONDS = 10.0  # for a cluster's first coordinator
PAUSE_SECONDS = 0.1
MAX_READ_BYTES = 16 * 1024 * 1024  # of values in one read
AWAY_SECONDS = 1.0  # for this long after a failure, calls fail at once
RIGHTS_SECONDS = 1.0  # for this long, the answers about rights are reused
_TOPIC_EXISTS = 36
_NO_COORDINATOR = (
    CoordinatorNotAvailableError,
    CoordinatorLoadInProgressError,
    NotCoordinatorError,
)
_T = TypeVar("_T")


@dataclass
class _Connection:
    """The admin client or the reader, while it works. If one fails, the other may not: offsets and
    records come from a partition's leader, all else from any broker. If a leader hangs and all
    connections were given up for it, a subscription would think that the whole cluster is away."""

    client: Any = None
    away_until: float = 0.0
    away_reason: str = ""

    def close(self) -> None:
        client, self.client = self.client, None
        try:
            if client is not None:
                client.close()
        except Exception as error:
            logger.debug("A Kafka client did not close: %s", error)


class Cluster:
    """The brokers at `common["bootstrap_servers"]`. Any thread may call it."""

    def __init__(
        self,
        library: Library,
        common: Mapping[str, Any],
        topics: Sequence[str],
        partitions: int,
        replication_factor: int,
        topic_configs: Mapping[str, Mapping[str, str]],
    ) -> None:
        self._library = library
        self._common = dict(common)
        self._topics = topics
        self._settings = settings_of(topics, partitions, replication_factor, topic_configs)
        self._pause = threading.Event()  # never set
        self._lock = threading.Lock()  # guards everything below
        self._admin, self._reader = _Connection(), _Connection()
        self._prepared = False
        self._compared = False
        self._unusable: dict[str, str] = {}  # topic: the missing right that hides it from us
        self._missing: dict[str, tuple[str, ...]] = {}  # topic: the missing rights on it
        self._looked = 0.0  # when these two were read for all topics

    def prepare(self) -> Mapping[str, str]:
        """Create missing topics, once per connection; existing ones stay as they are. Returns the
        topics that can't be used, each with the reason."""
        is_over = time.monotonic() - self._looked > RIGHTS_SECONDS
        if not self._prepared or (self._unusable and is_over):
            self._call(self._admin, self._create_topics)
        return {topic: missing_right(right, topic) for topic, right in self._unusable.items()}

    def compare(self) -> None:
        """Log, once, which topics have other settings than new ones would get."""
        if not self._compared:
            self._call(self._admin, self._compare_topics)

    def forget(self) -> None:
        """Check again at the next `prepare`: topics may be gone together with a lost broker."""
        self._prepared = False

    def identities(self, topics: Sequence[str]) -> dict[str, str]:
        """Topic → its id, for those that exist."""
        return {found["name"]: str(found["topic_id"]) for found in self._found(topics)}

    def describe(self, topics: Sequence[str]) -> list[PartitionInfo]:
        """See `EventLog.describe`."""
        self.prepare()
        origins = {
            TopicPartition(found["name"], partition["partition_index"]): Origin(
                found["name"], partition["partition_index"], str(found["topic_id"])
            )
            for found in self._found(topics)
            for partition in found["partitions"]
        }
        bounds = self.bounds(list(origins))
        return [PartitionInfo(origins[place], *bounds[place]) for place in sorted(origins)]

    def committed(self, group: str, topics: Sequence[str]) -> dict[Origin, int]:
        """See `EventLog.committed`."""
        self.prepare()
        ids = self.identities(topics)
        found = self._of_coordinator(
            group, lambda: self._administering().list_group_offsets([group])[group]
        )
        return {
            Origin(place.topic, place.partition, ids[place.topic]): one.offset
            for place, one in found.items()
            if place.topic in ids and one.offset >= 0
        }

    def missing_rights(self) -> Mapping[str, tuple[str, ...]]:
        """See `EventLog.missing_rights`."""
        self.prepare()
        if time.monotonic() - self._looked > RIGHTS_SECONDS:
            self._found(self._topics)
            self._looked = time.monotonic()
        unusable = {topic: (right,) for topic, right in self._unusable.items()}
        return unusable | {topic: rights for topic, rights in self._missing.items() if rights}

    def members(self, group: str) -> Sequence[Member]:
        """See `EventLog.members`."""

        def query() -> Sequence[Member]:
            try:
                found = self._administering().describe_groups([group])[group]
            except GroupAuthorizationFailedError:
                return ()
            return [member_of(one) for one in found["members"]]

        return self._call(self._admin, query)

    def remove_member(self, group: str, name: str, patience: float = COORDINATOR_SECONDS) -> bool:
        """Remove the member with this `group.instance.id`, if the group has one: others get its
        partitions at once. Returns whether the broker knows members with names. `patience`: for how
        many seconds the group may have no coordinator. Raises LogUnavailable."""

        def query() -> bool:
            try:
                one = MemberToRemove(group_instance_id=name)
                self._administering().remove_group_members(group, [one])
            except UnknownMemberIdError:  # there is no such group
                return True
            except UnsupportedVersionError:
                return False
            return True

        return self._of_coordinator(group, query, patience)

    def unreadable(self) -> frozenset[str]:
        """The topics that may not be read, by the latest answer about each."""
        return frozenset(topic for topic, rights in self._missing.items() if "READ" in rights)

    def hidden(self) -> frozenset[str]:
        """The topics that are hidden from us, by the latest answer about each. A client of the
        library that asks for one of them no longer connects."""
        forbidden = (topic for topic, rights in self._missing.items() if "DESCRIBE" in rights)
        return frozenset([*forbidden, *self._unusable])

    def bounds(self, places: Sequence[Any]) -> dict[Any, tuple[int, int]]:
        """TopicPartition → the first offset that is kept, and the next offset."""
        if not places:
            return {}
        try:
            return self._call(self._reader, lambda: self._bounds(places))
        except KeyError:  # new partitions: the library only knows those from when it connected
            self._call(self._reader, self._reader.close)
        try:
            return self._call(self._reader, lambda: self._bounds(places))
        except KeyError as error:
            raise LogUnavailable(f"Kafka does not say how long {error} is.") from error

    def read(self, partition: Partition, offset: int, limit: int) -> list[Record]:
        """See `EventLog.read`."""
        place = TopicPartition(*partition)
        _, following = self.bounds([place])[place]
        return self.read_each({partition: (offset, following)}, limit)[partition].records[:limit]

    def read_each(
        self, spans: Mapping[Partition, tuple[int, int]], limit: int
    ) -> dict[Partition, Found]:
        """See `EventLog.read_each`."""
        return self._call(self._reader, lambda: self._read(spans, limit))

    def offset_at(self, partition: Partition, moment_ms: int) -> int | None:
        """See `EventLog.offset_at`."""
        place = TopicPartition(*partition)

        def query() -> int | None:
            found = self._reading().consumer.offsets_for_times(
                {place: max(0, moment_ms)}, timeout_ms=ANSWER_MS
            )
            return None if found[place] is None else int(found[place].offset)

        return self._call(self._reader, query)

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            self._admin.close()
            self._reader.close()
            self._library.close()

    # --- the rest is called with the lock held, or acquires it ---

    def _call(self, connection: _Connection, query: Callable[[], _T]) -> _T:
        with self._lock:
            if time.monotonic() < connection.away_until:
                raise LogUnavailable(connection.away_reason)
            with self._errors(connection):
                return query()

    def _of_coordinator(
        self, group: str, query: Callable[[], _T], patience: float = COORDINATOR_SECONDS
    ) -> _T:
        """The answer of the group's coordinator, which a new cluster creates on demand. Raises
        LogUnavailable."""

        def attempt() -> tuple[_T] | None:
            try:
                return (query(),)
            except _NO_COORDINATOR:
                return None
            except GroupAuthorizationFailedError as error:
                raise LogUnavailable(f"The right READ on the group {group} is missing.") from error

        deadline = time.monotonic() + patience
        while (found := self._call(self._admin, attempt)) is None:
            if time.monotonic() > deadline:
                raise LogUnavailable(f"Kafka has no coordinator for the group {group} yet.")
            self._pause.wait(PAUSE_SECONDS)
        return found[0]

    @contextmanager
    def _errors(self, connection: _Connection) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        except TopicAuthorizationFailedError as error:  # the connection is fine
            topics = error.args[0] if error.args else ()
            topic = next(iter(topics), "") if isinstance(topics, (set, frozenset)) else str(topics)
            raise TopicUnavailable(topic, missing_right("READ", topic)) from error
        except (KafkaError, AssertionError, RuntimeError, OSError) as error:
            connection.away_reason = self._reason(error, began)
            # A client that lost its brokers does not always find them again: reconnect. If
            # not even a new client finds one, the reader has lost its brokers too.
            if connection.client is None:
                self._reader.close()
            connection.close()
            connection.away_until = time.monotonic() + AWAY_SECONDS
            raise LogUnavailable(connection.away_reason) from error

    def _reason(self, error: Exception, began: float) -> str:
        """What is wrong, with the addresses that the brokers advertise: the error does not name
        them, and they may be unreachable even if the configured address answers."""
        if isinstance(error, KafkaTimeoutError):
            error = causes.since(began) or error
        configured, known = self._common["bootstrap_servers"], self._library.addresses.known()
        advertised = not set(known) <= set(configured)
        return explained(error, known if advertised else configured, advertised=advertised)

    def _bounds(self, places: Sequence[Any]) -> dict[Any, tuple[int, int]]:
        reader = self._reading().consumer
        first = reader.beginning_offsets(places, timeout_ms=ANSWER_MS)
        following = reader.end_offsets(places, timeout_ms=ANSWER_MS)
        return {place: (first[place], following[place]) for place in places}

    def _administering(self) -> Any:
        if self._admin.client is None:
            self._admin.client = self._library.admin(
                ANSWER_MS, **self._common, request_timeout_ms=ANSWER_MS
            )
        return self._admin.client

    def _reading(self) -> Reader:
        if self._reader.client is None:
            self._reader.client = self._library.reader(
                **self._common,
                group_id=None,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                isolation_level="read_committed",  # as in subscriptions, so that the ends agree
                request_timeout_ms=ANSWER_MS,
                fetch_max_wait_ms=100,
                max_partition_fetch_bytes=READ_BYTES,
                allow_auto_create_topics=False,
            )
        reader: Reader = self._reader.client
        return reader

    def _found(self, topics: Sequence[str]) -> list[dict[str, Any]]:
        found = self._call(self._admin, lambda: self._administering().describe_topics(list(topics)))
        self._missing = self._missing | {topic["name"]: missing_rights(topic) for topic in found}
        there = [topic for topic in found if topic["error_code"] == 0]
        names = {topic["name"] for topic in there}
        self._unusable = {t: right for t, right in self._unusable.items() if t not in names}
        return there

    def _create_topics(self) -> None:
        admin = self._administering()
        found = {topic["name"]: topic for topic in admin.describe_topics(list(self._topics))}
        existing = {name for name, topic in found.items() if topic["error_code"] == 0}
        missing = [topic for topic in self._topics if topic not in existing]
        unusable = {}
        if missing:
            wanted = {topic: self._settings[topic].request() for topic in missing}
            created = []
            for topic in admin.create_topics(wanted, raise_errors=False)["topics"]:
                name, code = topic["name"], topic["error_code"]
                is_hidden = found[name]["error_code"] == FORBIDDEN
                if code == FORBIDDEN or (is_hidden and code == _TOPIC_EXISTS):
                    unusable[name] = "DESCRIBE" if is_hidden else "CREATE"
                elif code == 0:
                    created.append(name)
                elif code != _TOPIC_EXISTS:  # else another process was faster
                    reason = topic["error_message"]
                    raise LogUnavailable(f"Topic {name} can't be created: {reason}")
            if usable := [topic for topic in missing if topic not in unusable]:
                admin.wait_for_topics(usable)
            if created:
                logger.info("Created the topics %s", ", ".join(created))
        self._missing = {name: missing_rights(topic) for name, topic in found.items()}
        self._unusable, self._looked, self._prepared = unusable, time.monotonic(), True

    def _compare_topics(self) -> None:
        """Somebody else may have created a topic with the broker's defaults first. So all topics
        are compared, by their actual settings."""
        admin = self._administering()
        found = [
            topic for topic in admin.describe_topics(list(self._topics)) if not topic["error_code"]
        ]
        wanted = [ConfigResource(ConfigResourceType.TOPIC, topic["name"]) for topic in found]
        answer = admin.describe_configs(wanted, config_filter=ConfigFilterType.ALL)
        configs = answer.get(ConfigResourceType.TOPIC.name.lower(), {})
        line = in_one_line(
            {
                topic["name"]: self._settings[topic["name"]].differences(
                    topic, configs.get(topic["name"], {})
                )
                for topic in found
            }
        )
        names = [topic["name"] for topic in found]
        unknown = sorted(name for name in names if "retention.ms" not in configs.get(name, {}))
        if unknown:
            logger.warning(
                "How long Kafka keeps records is unknown for %s: the right DESCRIBE_CONFIGS is"
                " missing.",
                ", ".join(unknown),
            )
        if line:
            logger.warning(
                "Topics exist with other settings, and keep them: %s. Records that a topic deletes"
                " can't be read again.",
                line,
            )
        self._compared = True

    def _read(
        self, spans: Mapping[Partition, tuple[int, int]], limit: int
    ) -> dict[Partition, Found]:
        reader = self._reading()
        consumer = reader.consumer
        consumer.assign([TopicPartition(*partition) for partition in spans])
        for partition, (start, _) in spans.items():  # the library keeps what it has fetched ahead
            consumer.seek(TopicPartition(*partition), start)
        found: dict[Partition, list[Record]] = {partition: [] for partition in spans}
        reached = {partition: start for partition, (start, _) in spans.items()}
        most, total, size = len(spans) * max(limit, READ_RECORDS), 0, 0
        deadline = time.monotonic() + READ_SECONDS
        while total < most and any(
            len(found[partition]) < limit and reached[partition] < end
            for partition, (_, end) in spans.items()
        ):
            if size >= MAX_READ_BYTES and all(found.values()):
                break
            polled = reader.poll(100, most)
            for place, records in polled.items():
                found[Partition(*place)] += records
                total += len(records)
                size += sum(len(record.value or b"") for record in records)
            # Behind the last record, and behind offsets after it that are hidden from readers.
            for partition in spans:
                at = consumer.position(TopicPartition(*partition), timeout_ms=0)
                reached[partition] = reached[partition] if at is None else at
            if (total and not polled) or time.monotonic() >= deadline:
                break
        return {one: _within(found[one], reached[one], *span) for one, span in spans.items()}


def _within(records: list[Record], reached: int, start: int, end: int) -> Found:
    """The records of a span: the library may return more, and starts over if `start` is gone."""
    if records and not start <= records[0].offset <= records[-1].offset < end:
        records = [record for record in records if start <= record.offset < end]
    return Found(records, min(max(start, reached), end))
