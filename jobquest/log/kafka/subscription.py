"""A consumer's subscription in a Kafka group; see `Subscription`. Positions belong to the caller:
the group's own offsets are written for lag tools and never read.

The subscription belongs to the thread that made it, save the listener's methods: the library calls
those on its own I/O thread, where they may only mark and seek.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from kafka import ConsumerRebalanceListener, OffsetAndMetadata, TopicPartition
from kafka.errors import (
    GroupAuthorizationFailedError,
    KafkaError,
    OffsetOutOfRangeError,
    RetriableError,
    TopicAuthorizationFailedError,
)

from jobquest.errors import LogUnavailable
from jobquest.log import Origin, Partition, Record, StartPositions, missing_right
from jobquest.log.kafka.cluster import Cluster
from jobquest.log.kafka.library import Library

logger = logging.getLogger(__name__)

IDENTITY_SECONDS = 2.0  # how soon a topic made anew is noticed, or that the broker is away
CLOSE_MS = 3_000
COMMIT_SECONDS = 1.0
CLOSE_COMMIT_MS = 500
PAUSE_SECONDS = 0.1  # after a poll that failed
# A leader that joins again because of new metadata (kafka-python 3.0.12: more partitions, a topic
# that may be seen now) forgets about it if a poll ends before the join does: it has no partitions
# then, and no heartbeat. The fast path sees that at once. Otherwise a rebalance that takes so long
# is begun anew; it may only wait for a member who is busy, to whom that does no harm.
REJOIN_SECONDS = 30.0
_SETTINGS = {
    "enable_auto_commit": False,
    "auto_offset_reset": "none",  # out of range is an incident, not something to skip over
    "isolation_level": "read_committed",
    "max_poll_interval_ms": 300_000,
    "session_timeout_ms": 10_000,
    "heartbeat_interval_ms": 2_000,
    "request_timeout_ms": 12_000,  # above the session timeout: a join waits that long
    "metadata_max_age_ms": 5_000,
    "allow_auto_create_topics": False,
    # No deserializers: one that raises would leave the next poll spinning.
}


class KafkaSubscription(ConsumerRebalanceListener):  # type: ignore[misc]
    """One member of the group."""

    def __init__(
        self,
        library: Library,
        cluster: Cluster,
        common: Mapping[str, Any],
        topics: Sequence[str],
        group: str,
        start: StartPositions,
    ) -> None:
        self._cluster = cluster
        self._topics = topics
        self._group = group
        self._start = start
        self._lock = threading.Lock()  # over the three below
        self._revoked: float | None = None  # since when a rebalance goes on
        self._fresh: set[Any] = set()  # assigned, but not yet sought to where `start` says
        self._origins: dict[Any, Origin] = {}  # assigned and sought
        self._forbidden: frozenset[str] = frozenset()  # topics that may not be read; the owner's
        self._checked = time.monotonic()
        self._uncommitted: dict[Any, OffsetAndMetadata] = {}
        self._committed = 0.0
        self._pause = threading.Event()  # never set
        self._subscribed: list[str] = []
        self._new_reader = partial(library.reader, **common, **_SETTINGS, group_id=group)
        self._join()

    def _join(self) -> None:
        self._reader = self._new_reader()
        self._consumer = self._reader.consumer
        self._subscribed = []
        self._subscribe()

    # --- the listener: on the library's I/O thread ---

    def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
        with self._lock:
            self._revoked = None
            self._hold(assigned)

    def on_partitions_revoked(self, revoked: Iterable[Any]) -> None:
        with self._lock:
            self._revoked = self._revoked or time.monotonic()
            for place in revoked:
                self._fresh.discard(place)
                self._origins.pop(place, None)

    def _hold(self, places: Iterable[Any]) -> None:
        """Fetch nothing of these until they are sought. The offset only keeps the library from
        looking for one by itself, which raises."""
        for place in places:
            self._fresh.add(place)
            self._origins.pop(place, None)
            self._consumer.pause(place)
            self._consumer.seek(place, 0)

    # --- the owner's thread ---

    def poll(self, timeout: float, max_records: int) -> list[Record]:
        deadline = time.monotonic() + timeout
        self._check_membership()
        self._check_identities()
        self._commit()
        while True:
            self._settle()
            remaining = max(0.0, deadline - time.monotonic())
            try:
                polled = self._reader.poll(int(remaining * 1000), max_records)
            except OffsetOutOfRangeError as error:
                self._forget(error)
                continue
            except TopicAuthorizationFailedError as error:
                self._forbid(error)
                continue
            except GroupAuthorizationFailedError as error:
                line = f"The right READ on the group {self._group} is missing."
                raise LogUnavailable(line) from error
            except KafkaError as error:
                _pass_over(error)
                self._pause.wait(min(PAUSE_SECONDS, remaining))
                polled = {}
            with self._lock:  # what was fetched before a partition was sought is not to be read
                records = [
                    record
                    for place, batch in polled.items()
                    if place in self._origins
                    for record in batch
                ]
            if records or time.monotonic() >= deadline:
                return records

    def stay(self) -> None:
        self._check_identities()
        self._commit()
        with self._lock:
            held = list(self._origins)
        self._consumer.pause(*held)
        try:
            polled = self._reader.poll(0, 1)
            with self._lock:  # nothing may be skipped, whatever the library gives
                self._hold(polled)
        except OffsetOutOfRangeError as error:
            self._forget(error)
        except TopicAuthorizationFailedError as error:
            self._forbid(error)
        except KafkaError as error:
            _pass_over(error)
        finally:
            with self._lock:  # a rebalance may have taken some away
                self._consumer.resume(*(place for place in held if place in self._origins))

    def assignment(self) -> Mapping[Partition, Origin]:
        with self._lock:
            return {Partition(*place): origin for place, origin in self._origins.items()}

    def reached(self) -> Mapping[Partition, int]:
        with self._lock:
            held = list(self._origins)
        # Without the lock: the I/O thread takes it, too, and the library may wait for that one.
        try:
            offsets = {place: self._consumer.position(place, timeout_ms=0) for place in held}
        except (KafkaError, AssertionError) as error:
            logger.debug("The library does not know where it is: %r", error)
            return {}
        with self._lock:  # what was taken away meanwhile is sought anew by this thread alone
            return {
                Partition(*place): offset
                for place, offset in offsets.items()
                if place in self._origins and offset is not None
            }

    def rewind(self) -> None:
        with self._lock:
            self._hold(self._consumer.assignment())

    def commit(self, next_offsets: Mapping[Partition, int]) -> None:
        for place, following in next_offsets.items():
            self._uncommitted[TopicPartition(*place)] = OffsetAndMetadata(following, "", -1)

    def _commit(self) -> None:
        """Write the group's offsets, once a second: each writing costs as much as some events."""
        if not self._uncommitted or time.monotonic() - self._committed < COMMIT_SECONDS:
            return
        self._committed = time.monotonic()
        offsets, self._uncommitted = self._still_ours(), {}
        try:
            if offsets:
                self._consumer.commit_async(offsets)
        except (KafkaError, AssertionError) as error:
            logger.debug("The group's offsets could not be noted: %s", error)

    def _still_ours(self) -> dict[Any, OffsetAndMetadata]:
        """What is to be written, but of partitions that another member may be further in."""
        with self._lock:
            return {
                place: offset
                for place, offset in self._uncommitted.items()
                if place in self._origins
            }

    def close(self) -> None:
        try:
            if offsets := self._still_ours():
                self._consumer.commit(offsets, timeout_ms=CLOSE_COMMIT_MS)
        except Exception as error:
            logger.debug("The group's offsets could not be noted: %s", error)
        self._leave()

    def _check_membership(self) -> None:
        """Join anew if a rebalance does not end."""
        revoked = self._revoked
        if revoked is None or time.monotonic() - revoked < REJOIN_SECONDS:
            return
        logger.warning("A rebalance has not ended after %.0f s: joining anew.", REJOIN_SECONDS)
        self._leave()
        with self._lock:
            self._revoked = None
            self._fresh.clear()
            self._origins.clear()
        self._join()

    def _leave(self) -> None:
        try:
            self._consumer.close(autocommit=False, timeout_ms=CLOSE_MS)
        except Exception as error:
            logger.debug("A subscription did not close cleanly: %s", error)

    def _settle(self) -> None:
        """Seek the partitions that are new here to where `start` says, and let them flow."""
        with self._lock:
            assigned = self._consumer.assignment()
            fresh = sorted(p for p in self._fresh & assigned if p.topic not in self._forbidden)
        if not fresh:
            return
        ids = self._identities()
        fresh = [place for place in fresh if place.topic not in self._forbidden]
        origins = {p: Origin(p.topic, p.partition, ids[p.topic]) for p in fresh if p.topic in ids}
        if not origins:
            return
        positions = self._start(list(origins.values()))
        bounds = self._cluster.bounds(list(origins))
        with self._lock:
            for place, origin in origins.items():
                if place in self._fresh:  # it may have been taken away meanwhile
                    self._fresh.discard(place)
                    self._origins[place] = origin
                    self._consumer.seek(
                        place, _valid(origin, positions.get(origin), *bounds[place])
                    )
                    self._consumer.resume(place)

    def _check_identities(self) -> None:
        """Notice topics made anew. The library keeps its offset in them, which means nothing."""
        if time.monotonic() - self._checked < IDENTITY_SECONDS:
            return
        self._checked = time.monotonic()
        ids = self._identities()
        with self._lock:
            self._hold([place for place in self._origins if place.topic in self._forbidden])
            anew = [
                p for p, o in self._origins.items() if ids.get(p.topic, o.identity) != o.identity
            ]
            self._hold(anew)
        for topic in sorted({place.topic for place in anew}):
            logger.warning("Topic %s was made anew: reading it from its start.", topic)

    def _identities(self) -> dict[str, str]:
        """Topic → its id. The same answer names what may not be read: its partitions wait
        until it may."""
        ids = self._cluster.identities(self._topics)
        self._forbidden = self._cluster.unreadable()
        self._subscribe()
        return ids

    def _subscribe(self) -> None:
        """Take part in the topics that are there for us. Raises LogUnavailable if none is."""
        hidden = self._cluster.hidden()
        topics = [topic for topic in self._topics if topic not in hidden]
        if not topics:
            raise LogUnavailable(missing_right("DESCRIBE", self._topics[0]))
        if topics != self._subscribed:
            self._consumer.subscribe(topics, listener=self)
            self._subscribed = topics

    def _forbid(self, error: TopicAuthorizationFailedError) -> None:
        """Read nothing of the topics that it names, until the next look at our rights. Raises
        LogUnavailable if it names none of ours."""
        named = error.args[0] if error.args else ()
        topics = {topic for topic in self._topics if not isinstance(named, str) and topic in named}
        if not topics:
            raise LogUnavailable(f"Kafka can't be read: {error!r}.") from error
        self._forbidden |= topics
        with self._lock:
            self._hold([p for p in self._consumer.assignment() if p.topic in topics])

    def _forget(self, error: OffsetOutOfRangeError) -> None:
        """The offsets of the partitions that it names are out of range: `_valid` will say what is
        lost. If it names none, each may be."""
        named = error.args[0] if error.args else ()
        with self._lock:
            held = self._consumer.assignment()
            found = held.intersection(named) if isinstance(named, Iterable) else set()
            self._hold(found or held)


def _pass_over(error: KafkaError) -> None:
    """A connection broke: the library finds another. Whether the broker is away for good is noticed
    by the next question for identities. Raises LogUnavailable for any other error."""
    if not isinstance(error, RetriableError):
        raise LogUnavailable(f"Kafka can't be read: {error!r}.") from error
    logger.debug("Kafka was lost while polling: %r", error)


def _valid(origin: Origin, stored: int | None, first: int, following: int) -> int:
    """The stored offset, or the first one where the log no longer has (or never had) it."""
    if stored is None or first <= stored <= following:
        return first if stored is None else stored
    name = f"{origin.topic}/{origin.number}"
    if stored < first:
        logger.warning("Up to %d records of partition %s are gone.", first - stored, name)
    else:
        logger.warning(
            "Partition %s ends at %d, before the stored position %d: reading it from its start.",
            name,
            following,
            stored,
        )
    return first
