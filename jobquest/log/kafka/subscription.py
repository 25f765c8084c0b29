"""A consumer's subscription in a Kafka group; see `Subscription`. The caller keeps the positions:
the group's own offsets are only written, for lag tools, and never read here.

The subscription belongs to the thread that created it, except the listener's methods: the library
calls those on its own I/O thread, where they may only mark and seek.
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
    FencedInstanceIdError,
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
from jobquest.log.kafka.membership import InstanceName

logger = logging.getLogger(__name__)

IDENTITY_SECONDS = 2.0  # within which a recreated topic is noticed
# A cluster needs 9 s to replace a broker that hangs. A member that leaves the group meanwhile comes
# back much later than one that stays: the others have to wait for its session to end. The next look
# is up to IDENTITY_SECONDS later, and may wait for 2 s for another caller.
ABSENCE_SECONDS = 13.0
CLOSE_MS = 3_000
COMMIT_SECONDS = 1.0
CLOSE_COMMIT_MS = 500
PAUSE_SECONDS = 0.1  # after a failed poll
# A leader that rejoins because of new metadata (kafka-python 3.0.12: more partitions) loses that
# join if a poll ends first: it then has no partitions and no heartbeat. The fast path notices that
# at once. Otherwise, a rebalance that takes longer than the session timeout is started again: by
# then the broker has expelled such a member. Others may only be waiting for a busy member; then
# that does no harm.
REJOIN_SECONDS = 12.0
_SETTINGS = {
    "enable_auto_commit": False,
    "auto_offset_reset": "none",  # out of range is an incident, it must not be skipped silently
    "isolation_level": "read_committed",
    "max_poll_interval_ms": 300_000,
    "session_timeout_ms": 10_000,
    "heartbeat_interval_ms": 500,  # the answer tells a member that another one joins or leaves
    "request_timeout_ms": 12_000,  # above the session timeout, because a join waits that long
    "metadata_max_age_ms": 5_000,
    "allow_auto_create_topics": False,
    # No deserializers: if one raised, the next poll would loop for ever.
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
        instance: InstanceName | None = None,
    ) -> None:
        self._cluster = cluster
        self._instance = instance
        self._name: str | None = None  # in the group; only this member has it
        self._topics = topics
        self._group = group
        self._start = start
        self._lock = threading.Lock()  # guards the next three
        self._revoked: float | None = None  # since when a rebalance is in progress
        self._fresh: set[Any] = set()  # assigned, but not yet sought to where `start` says
        self._origins: dict[Any, Origin] = {}  # assigned and sought
        self._forbidden: frozenset[str] = frozenset()  # unreadable topics; for the owner's thread
        self._checked = self._answered = time.monotonic()
        self._uncommitted: dict[Any, OffsetAndMetadata] = {}
        self._committed = 0.0
        self._pause = threading.Event()  # never set
        self._subscribed: list[str] = []
        self._new_reader = partial(library.reader, **common, **_SETTINGS, group_id=group)
        try:
            self._name = instance.acquire() if instance else None
            self._join()
        except BaseException:
            self._release_name()
            raise

    def _join(self) -> None:
        """Join as a new member. One that has this member's name must have been killed."""
        if self._name and not self._cluster.remove_member(self._group, self._name):
            self._release_name()
        self._reader = self._new_reader(group_instance_id=self._name)
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
        """Fetch nothing of these partitions until they are sought. The offset 0 only keeps the
        library from looking for an offset itself, which raises."""
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
            except FencedInstanceIdError:
                self._give_name_up()
                continue
            except GroupAuthorizationFailedError as error:
                line = f"The right READ on the group {self._group} is missing."
                raise LogUnavailable(line) from error
            except KafkaError as error:
                _raise_if_fatal(error)
                self._pause.wait(min(PAUSE_SECONDS, remaining))
                polled = {}
            with self._lock:  # drop what was fetched before a partition was sought
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
            with self._lock:  # no record may be skipped, whatever the library returns
                self._hold(polled)
        except OffsetOutOfRangeError as error:
            self._forget(error)
        except TopicAuthorizationFailedError as error:
            self._forbid(error)
        except FencedInstanceIdError:
            self._give_name_up()
        except KafkaError as error:
            _raise_if_fatal(error)
        finally:
            with self._lock:  # a rebalance may have revoked some of them
                self._consumer.resume(*(place for place in held if place in self._origins))

    def assignment(self) -> Mapping[Partition, Origin]:
        with self._lock:
            return {Partition(*place): origin for place, origin in self._origins.items()}

    def reached(self) -> Mapping[Partition, int]:
        with self._lock:
            held = list(self._origins)
        # Without the lock: the I/O thread needs it too, and the library may wait for that thread.
        try:
            offsets = {place: self._consumer.position(place, timeout_ms=0) for place in held}
        except (KafkaError, AssertionError) as error:
            logger.debug("The library does not know where it is: %r", error)
            return {}
        with self._lock:  # partitions that were revoked meanwhile are sought again by this thread
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
        """Write the group's offsets, at most once a second: it costs as much as a few events."""
        if not self._uncommitted or time.monotonic() - self._committed < COMMIT_SECONDS:
            return
        self._committed = time.monotonic()
        offsets, self._uncommitted = self._still_ours(), {}
        try:
            if offsets:
                self._consumer.commit_async(offsets)
        except (KafkaError, AssertionError) as error:
            logger.debug("The group's offsets could not be committed: %s", error)

    def _still_ours(self) -> dict[Any, OffsetAndMetadata]:
        """The offsets to write, without partitions where another member may be further."""
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
            logger.debug("The group's offsets could not be committed: %s", error)
        self._leave()
        self._release_name()

    def _check_membership(self) -> None:
        """Join again if a rebalance does not end."""
        revoked = self._revoked
        if revoked is None or time.monotonic() - revoked < REJOIN_SECONDS:
            return
        logger.warning("A rebalance has not ended after %.0f s: joining again.", REJOIN_SECONDS)
        self._rejoin()

    def _rejoin(self) -> None:
        """Join as a new member."""
        self._leave()
        with self._lock:
            self._revoked = None
            self._fresh.clear()
            self._origins.clear()
        self._join()

    def _leave(self) -> None:
        """Leave the group. The library sends nothing if the member has a name."""
        try:
            if self._name:
                self._cluster.remove_member(self._group, self._name, patience=0.0)
        except LogUnavailable as error:
            logger.debug("The group keeps this member until its session ends: %s", error)
        try:
            self._consumer.close(autocommit=False, timeout_ms=CLOSE_MS)
        except Exception as error:
            logger.debug("A subscription did not close cleanly: %s", error)

    def _release_name(self) -> None:
        if self._instance and self._name:
            self._instance.release()
        self._name = None

    def _give_name_up(self) -> None:
        """Another process has joined with this member's name: its data folder is a copy of ours,
        and its host's name is the same. Join without a name, or both would take turns."""
        logger.warning(
            "Another process is the group's member %s: joining without a name.", self._name
        )
        self._release_name()
        self._rejoin()

    def _settle(self) -> None:
        """Seek new partitions to where `start` says, and start to fetch them."""
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
                if place in self._fresh:  # it may have been revoked meanwhile
                    self._fresh.discard(place)
                    self._origins[place] = origin
                    self._consumer.seek(
                        place, _valid(origin, positions.get(origin), *bounds[place])
                    )
                    self._consumer.resume(place)

    def _check_identities(self) -> None:
        """Notice recreated topics. The library keeps its old offset, which then means nothing.
        Raises LogUnavailable if there has been no answer for ABSENCE_SECONDS."""
        if time.monotonic() - self._checked < IDENTITY_SECONDS:
            return
        self._checked = time.monotonic()
        try:
            ids = self._identities()
        except LogUnavailable as error:
            if time.monotonic() - self._answered > ABSENCE_SECONDS:
                raise
            logger.debug("It is not known whether topics were recreated: %s", error)
            return
        self._answered = time.monotonic()
        with self._lock:
            self._hold([place for place in self._origins if place.topic in self._forbidden])
            recreated = [
                p for p, o in self._origins.items() if ids.get(p.topic, o.identity) != o.identity
            ]
            self._hold(recreated)
        for topic in sorted({place.topic for place in recreated}):
            logger.warning("Topic %s was recreated: reading it from its start.", topic)

    def _identities(self) -> dict[str, str]:
        """Topic → its id. The same answer names the topics that may not be read: their partitions
        wait until they may."""
        ids = self._cluster.identities(self._topics)
        self._forbidden = self._cluster.unreadable()
        self._subscribe()
        return ids

    def _subscribe(self) -> None:
        """Subscribe to the topics that are visible to us. Raises LogUnavailable if none is.

        If others become visible, a new member joins. The reason is that kafka-python 3.0.12 may
        never assign a topic that was hidden for a while: it forgets the topic's partitions, but
        compares later metadata with what it knew before.
        """
        hidden = self._cluster.hidden()
        topics = [topic for topic in self._topics if topic not in hidden]
        if not topics:
            raise LogUnavailable(missing_right("DESCRIBE", self._topics[0]))
        if self._subscribed and topics != self._subscribed:
            self._rejoin()
        elif topics != self._subscribed:
            self._consumer.subscribe(topics, listener=self)
            self._subscribed = topics

    def _forbid(self, error: TopicAuthorizationFailedError) -> None:
        """Stop reading the topics that the error names, until the next check of our rights. Raises
        LogUnavailable if it names none of ours."""
        named = error.args[0] if error.args else ()
        topics = {topic for topic in self._topics if not isinstance(named, str) and topic in named}
        if not topics:
            raise LogUnavailable(f"Kafka can't be read: {error!r}.") from error
        self._forbidden |= topics
        with self._lock:
            self._hold([p for p in self._consumer.assignment() if p.topic in topics])

    def _forget(self, error: OffsetOutOfRangeError) -> None:
        """Seek the partitions again that the error names, or all if it names none: their offsets
        are out of range. `_valid` will log what is lost."""
        named = error.args[0] if error.args else ()
        with self._lock:
            held = self._consumer.assignment()
            found = held.intersection(named) if isinstance(named, Iterable) else set()
            self._hold(found or held)


def _raise_if_fatal(error: KafkaError) -> None:
    """Raise LogUnavailable, unless a connection broke: then the library finds another. If the
    broker stays away, the next check of the topics' identities notices it."""
    if not isinstance(error, RetriableError):
        raise LogUnavailable(f"Kafka can't be read: {error!r}.") from error
    logger.debug("Kafka was lost while polling: %r", error)


def _valid(origin: Origin, stored: int | None, first: int, following: int) -> int:
    """The stored offset, or the first one if the log no longer has it (or never had it)."""
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
