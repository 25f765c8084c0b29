"""The event log's interface, which is the same for both logs.

Two implementations, one contract: `sqlite.py` (embedded) and `kafka/` (Apache Kafka). The suite
`tests/test_log_contract.py` runs on both. Called by the producer, the consumer and the runtime.
The log moves bytes: it knows nothing of events, schemas or the read side.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Literal, NamedTuple, Protocol

import msgspec
import orjson

from jobquest.errors import TopicUnavailable
from jobquest.log.pending import Pending

PROMPT_SECONDS = 1.5  # how long a person who publishes waits for the log
PATIENT_SECONDS = 10.0  # how long a background thread waits, so that a slow log makes progress too
Mode = Literal["embedded", "kafka"]
Headers = tuple[tuple[str, bytes], ...]


class Partition(NamedTuple):
    """One partition of one topic."""

    topic: str
    number: int


class Position(NamedTuple):
    """The position of a record in the log."""

    topic: str
    partition: int
    offset: int


class NewRecord(NamedTuple):
    """A record to append. Records with the same key keep their order and share a partition.

    `value` is None for a tombstone; a record with neither key nor value is refused.
    """

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


class Record(NamedTuple):
    """A record in the log. `timestamp_ms` is when it was appended, in Unix milliseconds.

    `value` is None for a tombstone. `damage` is set if the log could not unpack the record's batch
    (checksum, codec): then `value` is None too, and `damage` says why.
    """

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp_ms: int
    damage: str | None = None


class StoredRecord(Record):
    """A record whose headers are loaded when they are read: few are."""

    __slots__ = ()

    @classmethod
    def of_each(cls, rows: Iterable[Sequence[Any]]) -> list[StoredRecord]:
        """The records with these values, of which the headers are bytes of `dump_headers`."""
        return list(map(tuple.__new__, repeat(cls), rows))

    @property
    def headers(self) -> Headers:
        return load_headers(self[5])  # type: ignore[arg-type]


class Member(NamedTuple):
    """A member of a consumer group, its host, and the partitions assigned to it."""

    client: str
    host: str
    partitions: tuple[Partition, ...]


class Origin(NamedTuple):
    """A partition of one life of a topic: a recreated topic has another `identity`."""

    topic: str
    number: int
    identity: str


@dataclass(frozen=True, slots=True)
class PartitionInfo:
    """One partition as it is now. `first` is the oldest offset kept. `next` is the offset of the
    next record, or of the first record of a transaction that is still open. Offsets are not
    counts: some have no record."""

    origin: Origin
    first: int
    next: int


class Found(NamedTuple):
    """The records read from a partition. `next` is where to continue: an offset before it without a
    record here has none for any reader (a transaction's marker, an aborted record, compaction)."""

    records: list[Record]
    next: int


# Called for newly assigned partitions; returns the next offset to read of each. If one is absent,
# it is read from its start.
StartPositions = Callable[[Sequence[Origin]], Mapping[Origin, int]]


class Subscription(Protocol):
    """A consumer's subscription. It belongs to the thread that created it; only that thread may
    call it."""

    def poll(self, timeout: float, max_records: int) -> list[Record]:
        """Return up to `max_records` records; wait at most `timeout` seconds for the first.

        Within each partition, records are in the order of their offsets. For partitions assigned
        since the last poll (by a rebalance, or because a topic was recreated), reading starts where
        `start` says. Records of revoked partitions are not returned.
        Raises LogUnavailable if the log is known to be away.
        """
        ...

    def stay(self) -> None:
        """Stay a member of the group, and let others join, while polled records are processed.
        Reads nothing. Must then be called every few seconds.

        Raises LogUnavailable if the log is known to be away.
        """
        ...

    def assignment(self) -> Mapping[Partition, Origin]:
        """The partitions that this subscription reads now. Empty while other processes have all."""
        ...

    def reached(self) -> Mapping[Partition, int]:
        """The next offset to read of each partition: behind the polled records, and behind offsets
        after them that have no record."""
        ...

    def rewind(self) -> None:
        """Call `start` again for every partition: records polled but not applied are read again."""
        ...

    def commit(self, next_offsets: Mapping[Partition, int]) -> None:
        """Store the group's offsets in the log: for lag tools, and for a rebuild of a lost read
        side. Never raises."""
        ...

    def close(self) -> None:
        """Leave the group. Bounded in time; never raises."""
        ...


class EventLog(Protocol):
    """An append-only log of topics with partitions."""

    @property
    def mode(self) -> Mode: ...

    def append(
        self, records: Sequence[NewRecord], timeout: float = PROMPT_SECONDS
    ) -> list[Pending[Position]]:
        """Append records in order; each future resolves once its record is durable.

        A future fails with LogUnavailable (not confirmed: the record may still have been written)
        or RecordRefused (it will never be written). Every future resolves, whatever the log does:
        on Kafka within about `timeout` seconds, embedded after waiting for its file's lock. On
        Kafka, the call itself blocks no longer than that, and not at all while Kafka is known to be
        away. If one record is not confirmed there, everything on its way to Kafka fails: so use a
        long timeout if nobody waits for the result. Any thread may call it.
        """
        ...

    @property
    def is_ready(self) -> bool:
        """Whether an append would not block now."""
        ...

    def reach(self, timeout: float = PROMPT_SECONDS) -> None:
        """Get ready to append. Raises LogUnavailable if that takes over `timeout` seconds."""
        ...

    def subscribe(self, topics: Sequence[str], group: str, start: StartPositions) -> Subscription:
        """Join `group` as a subscription. Raises LogUnavailable if the log is away."""
        ...

    def describe(self, topics: Sequence[str]) -> list[PartitionInfo]:
        """Every partition of those `topics` that exist. Raises LogUnavailable."""
        ...

    def committed(self, group: str, topics: Sequence[str]) -> dict[Origin, int]:
        """The group's offsets as stored by `commit`: the next offset of each partition that has
        one. Raises LogUnavailable."""
        ...

    def read(self, partition: Partition, offset: int, limit: int) -> list[Record]:
        """Read at most `limit` records from `offset` on, outside any group.

        Bounded in time; returns what was read by then. Raises LogUnavailable.
        """
        ...

    def read_each(
        self, spans: Mapping[Partition, tuple[int, int]], limit: int
    ) -> dict[Partition, Found]:
        """Read about `limit` records of each partition, from one offset up to another (which is not
        included), outside any group.

        Bounded in time, so it may return fewer records than a partition has. Raises LogUnavailable.
        """
        ...

    def offset_at(self, partition: Partition, moment_ms: int) -> int | None:
        """The offset of the first record appended at `moment_ms` (Unix milliseconds) or later; None
        if there is none. Raises LogUnavailable."""
        ...

    def missing_rights(self) -> Mapping[str, Sequence[str]]:
        """Topic → the missing rights on it, such as READ. Raises LogUnavailable."""
        ...

    def members(self, group: str) -> Sequence[Member]:
        """The members of `group`; none if the log does not say. Raises LogUnavailable."""
        ...

    def close(self, timeout: float = 5.0) -> None:
        """Flush appended records, within `timeout` seconds; then resolve the remaining futures."""
        ...


# When the outbox got a record, in Unix milliseconds, if that machine's clock was put back since.
KEPT_HEADER = "jobquest.kept"
_KEPT = re.compile(rb"[0-9]{1,15}")


def received_ms(record: Record) -> int:
    """When a record came to the service that sent it, by its clock: the record's own time, or when
    the outbox got it if that is later."""
    kept = (v for name, v in record.headers if name == KEPT_HEADER and _KEPT.fullmatch(v))
    return max([record.timestamp_ms, *map(int, kept)])


def missing_right(right: str, topic: str) -> str:
    """The message for a missing right on a topic."""
    return f"The right {right} on topic {topic} is missing."


def refuse_unreadable(log: EventLog, topic: str) -> None:
    """Raise TopicUnavailable if a topic may not be read, LogUnavailable if the log is away."""
    for right in log.missing_rights().get(topic, ()):
        if right != "WRITE":
            raise TopicUnavailable(topic, missing_right(right, topic))


def dump_headers(headers: Headers) -> bytes:
    """Headers as bytes to store: JSON, where latin-1 maps every byte to one character."""
    return orjson.dumps([(name, value.decode("latin-1")) for name, value in headers])


def load_headers(stored: bytes) -> Headers:
    """Undo `dump_headers`. Raises ValueError if somebody else wrote them, or bytes were lost."""
    return tuple((name, value.encode("latin-1")) for name, value in _pairs(stored))


def check_headers(stored: bytes) -> None:
    """Raise ValueError if `load_headers` would; at a third of its cost."""
    if not isinstance(stored, bytes) or not _PLAIN.fullmatch(stored):
        load_headers(stored)


def are_plain_headers(stored: Sequence[bytes]) -> bool:
    """Whether `load_headers` takes all of them for sure."""
    return all(map(_PLAIN.fullmatch, stored))


def _pairs(stored: bytes) -> list[tuple[str, str]]:
    try:
        return _PAIRS.decode(stored)
    except (msgspec.MsgspecError, TypeError) as error:
        raise ValueError("they are not a list of names and values") from error


_TEXT = rb'"[ !#-\[\]-~]*+"'  # printable ASCII without escapes
_PAIR = rb"\[" + _TEXT + b"," + _TEXT + rb"\]"
_PLAIN = re.compile(rb"\[(?:" + _PAIR + b"(?:," + _PAIR + rb")*+)?\]")
_PAIRS = msgspec.json.Decoder(list[tuple[str, str]])


def rescued_headers(stored: bytes) -> Headers:
    """The headers, or none if they can't be read: if the record matters more than its headers."""
    try:
        return load_headers(stored)
    except ValueError:
        return ()
