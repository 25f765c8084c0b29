"""kafka-python as the log uses it: through its insides (`fast_path`) or only through what it
documents (`documented.py`).

`version.py` decides once, at the start; sender, subscription and cluster know only the protocols
below.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from jobquest.clock import now_ms
from jobquest.log import NewRecord, Record

# For a new connection to be usable: enough for a broker that takes two seconds for each answer.
# Doubles with each failure. The library waits for ten seconds and more, and offers no setting: a
# broker that hangs would keep the group away from its next coordinator for so long.
_CONNECTING = {
    "socket_connection_setup_timeout_ms": 5_000,
    "socket_connection_setup_timeout_max_ms": 10_000,
}


class Entry(Protocol):
    """A record on its way; `encoded` is what `encode` makes of it."""

    record: NewRecord
    encoded: bytes


class Answers(Protocol):
    """Receives the broker's answers to entries, on any thread."""

    def confirmed(self, entries: Sequence[Any], topic: str, partition: int, offset: int) -> None:
        """The broker has these entries, one behind the other, the first at `offset`."""
        ...

    def failed(self, entry: Any, error: Exception) -> None:
        """The broker, or the library, does not accept the entry."""
        ...


class Outgoing(Protocol):
    """A producer of the library's. Any thread may call it."""

    never_waits: bool  # in `put`

    def know(self, topics: Iterable[str]) -> None:
        """Find out the partitions of these topics. Raises KafkaError if that takes too long."""
        ...

    def put(self, entries: Sequence[Entry]) -> None:
        """Send records, in their order within each partition. If it raises, some of them may be on
        their way."""
        ...

    def end(self) -> None:
        """End it without waiting; its threads and sockets end, too."""
        ...


class Reader(Protocol):
    """A consumer of the library's; `consumer` is for everything but its poll."""

    consumer: Any

    def poll(self, timeout_ms: int, max_records: int) -> dict[Any, list[Record]]:
        """TopicPartition → records of ours, damaged ones included. Raises what the library's poll
        raises."""
        ...

    def close(self) -> None:
        """End it; nothing is committed."""
        ...


class Library(Protocol):
    """kafka-python, as one log uses it. The settings are the library's own."""

    def producer(self, answers: Answers, **settings: Any) -> Outgoing:
        """A producer, which reports to `answers`. Needs no broker yet."""
        ...

    def reader(self, **settings: Any) -> Reader:
        """A consumer. Needs no broker yet."""
        ...

    def admin(self, timeout_ms: int, **settings: Any) -> Any:
        """A connected admin client. Raises KafkaError if no broker answers in time. One caller at a
        time, always with the same settings."""
        ...

    @property
    def addresses(self) -> Addresses:
        """What its clients know about the brokers."""
        ...

    def close(self) -> None:
        """Stop waiting for a client that `admin` may still be connecting."""
        ...


def damaged(place: Any, offset: int, error: Exception) -> Record:
    """The record at this offset of a TopicPartition, which could not be unpacked."""
    why = f"{type(error).__name__}: {error}"
    return Record(place.topic, place.partition, offset, None, None, (), now_ms(), why)


class Addresses:
    """Keeps the library's clients from creating topics that they ask for, and knows which addresses
    the brokers have given them."""

    def __init__(self) -> None:
        self._clusters: weakref.WeakSet[Any] = weakref.WeakSet()

    def known(self) -> list[str]:
        """The addresses (host:port) that brokers advertise, as far as our open clients know."""
        brokers = [broker for cluster in list(self._clusters) for broker in cluster.brokers()]
        return sorted({f"{broker.host}:{broker.port}" for broker in brokers})

    def settings(self, client_class: Any) -> dict[str, Callable[..., Any]]:
        """The setting that does both for a client of this class.

        The library has `allow_auto_create_topics` for the first, and ignores it (3.0.12): a broker
        with Kafka's default settings then creates every topic that is asked for, with one partition
        and a week's retention. But the part of a client that asks, and that knows the brokers, is
        made by a callable that may be replaced.
        """
        make = client_class.DEFAULT_CONFIG.get("kafka_client")
        if make is None:
            return {}

        def client(**settings: Any) -> Any:
            made = make(**settings, **_CONNECTING)
            cluster = getattr(made, "cluster", None)
            if cluster is not None:
                cluster.config["allow_auto_create_topics"] = False
                self._clusters.add(cluster)
            return made

        return {"kafka_client": client}
