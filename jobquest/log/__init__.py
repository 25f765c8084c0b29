"""The event log: what the rest of the service may ask of it, whichever log is behind.

Two implementations, one contract: `sqlite.py` (embedded) and `kafka.py` (Apache Kafka); the suite
`tests/test_log_contract.py` runs on both. Called by the producer, the consumer and the runtime.
The log moves bytes: it knows no event, no schema and no database but its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import orjson

from jobquest.log.pending import Pending

PROMPT_SECONDS = 1.5  # what a person who publishes waits for the log
PATIENT_SECONDS = 10.0  # what a thread waits that has nobody waiting: a slow log gets on, too
Mode = Literal["embedded", "kafka"]
Headers = tuple[tuple[str, bytes], ...]


class Partition(NamedTuple):
    """One partition of one topic."""

    topic: str
    number: int


class Position(NamedTuple):
    """Where a record stands in the log."""

    topic: str
    partition: int
    offset: int


class NewRecord(NamedTuple):
    """A record to append. Records of one key keep their order and share a partition.

    `value` is None for a tombstone; one with neither key nor value is refused.
    """

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


class Record(NamedTuple):
    """A record as the log has it. `timestamp_ms` is when it was appended, Unix milliseconds.

    `value` is None for a tombstone. `damage` is set where the log could not unpack the record's
    batch (checksum, codec): then `value` is None too and the line says why.
    """

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp_ms: int
    damage: str | None = None


class Member(NamedTuple):
    """A member of a consumer group, where it comes from, and what it was given to read."""

    client: str
    host: str
    partitions: tuple[Partition, ...]


class Origin(NamedTuple):
    """A partition of one life of a topic: `identity` changes when a topic is made anew."""

    topic: str
    number: int
    identity: str


@dataclass(frozen=True, slots=True)
class PartitionInfo:
    """One partition as it is now: `first` is the oldest offset kept, `next` the one to come, or the
    first one of a transaction that is still open. Offsets are no counts: some have no record."""

    origin: Origin
    first: int
    next: int


class Found(NamedTuple):
    """What was read of a partition. `next` is where to read on: offsets before it that have no
    record here have none for anybody (a transaction's marker, an aborted record, compaction)."""

    records: list[Record]
    next: int


# Asked for newly assigned partitions: the next offset to read of each; absent means its start.
StartPositions = Callable[[Sequence[Origin]], Mapping[Origin, int]]


class Subscription(Protocol):
    """A consumer's subscription. It belongs to the thread that made it; only that thread may call
    it."""

    def poll(self, timeout: float, max_records: int) -> list[Record]:
        """Return up to `max_records` records, waiting at most `timeout` seconds for the first.

        Per partition in the order of their offsets. Partitions that were assigned since the last
        poll (a rebalance, a topic made anew) are first sought to what `start` says. Records of
        a partition that has meanwhile been taken away are not returned.
        Raises LogUnavailable when the log is known to be away.
        """
        ...

    def stay(self) -> None:
        """Remain a member of the group, and let others join, while records that were polled are
        worked on: reads nothing. To be called every few seconds then.

        Raises LogUnavailable when the log is known to be away.
        """
        ...

    def assignment(self) -> Mapping[Partition, Origin]:
        """The partitions this subscription reads now. Empty while another process holds them."""
        ...

    def reached(self) -> Mapping[Partition, int]:
        """Where each partition is read on: behind what was polled, and behind offsets that follow
        it and have no record."""
        ...

    def rewind(self) -> None:
        """Ask `start` again for every partition: what was polled but not applied comes again."""
        ...

    def commit(self, next_offsets: Mapping[Partition, int]) -> None:
        """Tell the log how far the group is: for lag tools, and for a read side that is lost. Never
        raises."""
        ...

    def close(self) -> None:
        """Leave the group. Bounded; never raises."""
        ...


class EventLog(Protocol):
    """An append-only log of topics with partitions."""

    @property
    def mode(self) -> Mode: ...

    def append(
        self, records: Sequence[NewRecord], timeout: float = PROMPT_SECONDS
    ) -> list[Pending[Position]]:
        """Append records in order; each future resolves once its record is durable.

        A future fails with LogUnavailable (not confirmed: it may still have been written) or
        RecordRefused (never will be). Every future resolves, whatever the log does: on Kafka
        within about `timeout` seconds (the call itself does not block for longer, and not at all
        while Kafka is known to be away), embedded once its file's lock was waited for. One that
        was not confirmed on Kafka fails everything that is on its way there: so give patience
        where nobody waits. Any thread may call it.
        """
        ...

    @property
    def is_ready(self) -> bool:
        """Whether an append would not block now."""
        ...

    def reach(self, timeout: float = PROMPT_SECONDS) -> None:
        """Make ready to append. Raises LogUnavailable where that is not so in `timeout` seconds."""
        ...

    def subscribe(self, topics: Sequence[str], group: str, start: StartPositions) -> Subscription:
        """Take a subscription in `group`. Raises LogUnavailable when the log is away."""
        ...

    def describe(self, topics: Sequence[str]) -> list[PartitionInfo]:
        """Every partition of those of `topics` that exist. Raises LogUnavailable."""
        ...

    def committed(self, group: str, topics: Sequence[str]) -> dict[Origin, int]:
        """How far the group is, as it told by `commit`: the next offset of each partition that it
        has told about. Raises LogUnavailable."""
        ...

    def read(self, partition: Partition, offset: int, limit: int) -> list[Record]:
        """Read at most `limit` records from `offset` on, outside any group.

        Bounded in time; returns what was there. Raises LogUnavailable.
        """
        ...

    def read_each(
        self, spans: Mapping[Partition, tuple[int, int]], limit: int
    ) -> dict[Partition, Found]:
        """Read about `limit` records of each partition, from one offset up to another (which is not
        read any more), outside any group.

        Bounded in time, so that a partition may give fewer than it has. Raises LogUnavailable.
        """
        ...

    def offset_at(self, partition: Partition, moment_ms: int) -> int | None:
        """The offset of the first record appended at `moment_ms` (Unix milliseconds) or later; None
        where there is none. Raises LogUnavailable."""
        ...

    def missing_rights(self) -> Mapping[str, Sequence[str]]:
        """Topic → the rights on it, such as READ, that are missing. Raises LogUnavailable."""
        ...

    def members(self, group: str) -> Sequence[Member]:
        """Who reads as a member of `group`; nobody, if the log does not say. Raises
        LogUnavailable."""
        ...

    def close(self, timeout: float = 5.0) -> None:
        """Flush what was appended, within `timeout` seconds, then resolve what is left."""
        ...


def missing_right(right: str, topic: str) -> str:
    """The line that names a missing right on a topic."""
    return f"The right {right} on topic {topic} is missing."


def dump_headers(headers: Headers) -> bytes:
    """Headers as bytes to store: JSON, in which latin-1 maps every byte to one character."""
    return orjson.dumps([(name, value.decode("latin-1")) for name, value in headers])


def load_headers(stored: bytes) -> Headers:
    """Undo `dump_headers`. Raises ValueError if somebody else wrote it, or bytes were lost."""
    pairs = orjson.loads(stored)
    if not isinstance(pairs, list) or not all(_is_header(pair) for pair in pairs):
        raise ValueError("they are no list of names and values")
    return tuple((name, value.encode("latin-1")) for name, value in pairs)


def _is_header(pair: object) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and all(isinstance(one, str) for one in pair)


def rescued_headers(stored: bytes) -> Headers:
    """The same where a record is worth more than its headers: none, if they can't be read."""
    try:
        return load_headers(stored)
    except ValueError:
        return ()
