"""A producer that takes many records at once, at a quarter of what the library's `send` costs each.

`send` makes two futures and takes three locks for every record. What else it does (find the
partition, encode, append to the partition's open batch, wake the sending thread) is done here for
all records together, on the library's own parts. One callback per batch reports all its records.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

from kafka import KafkaProducer, TopicPartition
from kafka.errors import KafkaError
from kafka.partitioner.default import murmur2
from kafka.producer.producer_batch import ProducerBatch
from kafka.record.memory_records import MemoryRecordsBuilder

from jobquest.clock import now_ms
from jobquest.log.kafka.encoding import varint
from jobquest.log.kafka.fast_path.selector import LazySelector
from jobquest.log.kafka.library import Answers, Entry

_ANSWER_MS = 1_000.0
_hash_of = lru_cache(maxsize=8_192)(murmur2)  # in Python it costs as much as the encoding


class FastProducer:
    """See `Outgoing`."""

    never_waits = True

    def __init__(self, settings: Mapping[str, Any], answers: Answers) -> None:
        self._answers = answers
        self._producer = KafkaProducer(**settings, selector=LazySelector)
        self._producer._accumulator._batches = _OpenBatches()  # there is nothing in it yet
        client = self._producer._sender._client
        client.connection_delay = partial(_delay_ms, client, client.connection_delay)

    def know(self, topics: Iterable[str]) -> None:
        """See `Outgoing.know`."""
        for topic in topics:
            self._producer._metadata.add_topic(topic)  # so that one answer describes all
        for topic in topics:
            self._producer.partitions_for(topic)

    def put(self, entries: Sequence[Entry]) -> None:
        """See `Outgoing.put`. Raises what the library's `send` raises."""
        accumulator, opened = self._producer._accumulator, False
        accumulator._appends_in_progress.increment()
        try:
            for place, here in _by_partition(self._producer, entries).items():
                with accumulator._tp_lock(place):
                    opened |= _append(accumulator, place, here, self._answers)
        finally:
            accumulator._appends_in_progress.decrement()
            if opened:
                self._producer._sender.wakeup()

    def end(self) -> None:
        """See `Outgoing.end`. The library's own `close` raises while anything is on its way, and
        ends nothing; its finalizers would silence the library's log."""
        self._producer._unregister_cleanup()
        self._producer._closed = True
        self._producer._sender.force_close()


def _delay_ms(client: Any, delay: Callable[[Any], float], node: Any) -> float:
    """For how long the sending thread need not check whether it may send to `node`. The library
    says 0 for a connection that waits for an answer, so its thread checks a thousand times for each
    answer. The answer wakes it anyway."""
    connection = client._manager._conns.get(node)
    is_waiting = connection is not None and connection.connected
    return _ANSWER_MS if is_waiting else delay(node)


class _OpenBatches(defaultdict[Any, deque[Any]]):
    """A producer's open batches: TopicPartition → batches. The library's thread locks each
    partition several times for one record that it sends; so it sees only those that have a
    batch."""

    def __init__(self) -> None:
        super().__init__(deque)

    def keys(self) -> Any:
        """The partitions that have a batch, at this moment."""
        return [place for place, batches in list(self.items()) if batches]

    def __contains__(self, place: object) -> bool:
        return bool(self.get(place))


class _Batch(ProducerBatch):  # type: ignore[misc]
    """The library's batch, with our entries in place of a future for each record."""

    def __init__(self, place: Any, records: MemoryRecordsBuilder, answers: Answers) -> None:
        super().__init__(place, records)
        self._answers = answers
        self.entries: list[Entry] = []
        self._record_futures = _Followers(self.entries, answers)
        self.produce_future.add_callback(self._report)

    def add(self, entries: Sequence[Entry]) -> int:
        """Append records that are encoded already, as the library's builder does; how many of them
        had room."""
        if self.records._closed:
            return 0
        builder, now = self.records._builder, now_ms()
        if not builder._num_records:
            builder._first_timestamp = builder._max_timestamp = now
        first: int = self.records._next_offset
        offset = first
        head = b"\0" + varint(now - builder._first_timestamp)
        buffer, limit = builder._buffer, builder._batch_size
        for entry in entries:
            number, encoded = varint(offset), entry.encoded
            size = varint(len(head) + len(number) + len(encoded))
            whole = b"".join((size, head, number, encoded))
            if offset and len(buffer) + len(whole) > limit:
                break
            buffer += whole
            offset += 1
        if added := offset - first:
            builder._max_timestamp = max(builder._max_timestamp, now)
            builder._num_records += added
            builder._last_offset = offset - 1
            self.records._next_offset = offset
            self.entries += entries[:added]
        return added

    def _report(self, answer: tuple[int, int, Callable[[int], Exception] | None]) -> None:
        _report(self._answers, self.topic_partition, self.entries, 0, answer)


class _Followers:
    """One follower for each record. The library asks for them when it splits a batch that is too
    large for its topic."""

    def __init__(self, entries: Sequence[Entry], answers: Answers) -> None:
        self._entries = entries
        self._answers = answers

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, number: int) -> _Follower:
        return _Follower(self._entries[number], self._answers)


class _Follower:
    """Follows one record."""

    def __init__(self, entry: Entry, answers: Answers) -> None:
        self._entry = entry
        self._answers = answers

    def rebind(self, answer: Any, index: int) -> None:
        place = answer.topic_partition
        answer.add_callback(partial(_report, self._answers, place, [self._entry], index))


def _report(
    answers: Answers,
    place: Any,
    entries: Sequence[Entry],
    index: int,
    answer: tuple[int, int, Callable[[int], Exception] | None],
) -> None:
    """Report the broker's answer to entries, the first of which is at `index` of its batch."""
    base, _, error_of = answer
    if error_of is None:
        answers.confirmed(entries, place.topic, place.partition, base + index)
        return
    for number, entry in enumerate(entries, index):
        answers.failed(entry, error_of(number))


def _append(accumulator: Any, place: Any, entries: Sequence[Entry], answers: Answers) -> bool:
    """Append to the partition's last batch, then to new ones; whether there are new ones."""
    if accumulator._closed:
        raise KafkaError("The producer is closed.")
    queue = accumulator._batches[place]
    last = queue[-1] if queue else None
    added = last.add(entries) if isinstance(last, _Batch) else 0
    is_new = added < len(entries)
    while added < len(entries):
        config = accumulator.config
        records = MemoryRecordsBuilder(
            config["message_version"], config["compression_attrs"], config["batch_size"]
        )
        last = _Batch(place, records, answers)
        added += last.add(entries[added:])  # the first always fits
        queue.append(last)
        accumulator._incomplete.add(last)
    return is_new


def partition_of(key: bytes, count: int) -> int:
    """Which of `count` partitions a key goes to: the default of the library and of Java's."""
    hashed: int = _hash_of(key)
    return (hashed & 0x7FFFFFFF) % count


@lru_cache
def _places(topic: str, count: int) -> Sequence[Any]:
    return [TopicPartition(topic, number) for number in range(count)]


def _by_partition(producer: Any, entries: Iterable[Entry]) -> dict[Any, list[Entry]]:
    found: dict[Any, list[Entry]] = {}
    topics: dict[str, Sequence[Any]] = {}
    for entry in entries:
        topic, key = entry.record.topic, entry.record.key
        places = topics.get(topic)
        if places is None:
            count = len(producer._metadata.partitions_for_topic(topic) or ())
            if not count:
                raise KafkaError(f"Topic {topic} is not known")
            places = topics[topic] = _places(topic, count)
        if key is None:
            place = places[producer._partition(topic, None, None, None, None, None)]
        else:
            place = places[partition_of(key, len(places))]
        found.setdefault(place, []).append(entry)
    return found
