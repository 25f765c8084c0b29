"""Puts many records into the library's producer at once, at a quarter of what `send` costs each.

`send` makes two futures and takes three locks for every record; what it does besides (find the
partition, encode, append to the partition's open batch, wake the sending thread) is done here for
all of them, on the library's own parts. One callback per batch tells about all its records.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from typing import Any

from kafka import TopicPartition
from kafka.errors import KafkaError
from kafka.partitioner.default import murmur2
from kafka.producer.producer_batch import ProducerBatch
from kafka.record.memory_records import MemoryRecordsBuilder

from jobquest.clock import now_ms
from jobquest.log.kafka.encoding import varint
from jobquest.log.kafka.library import Answers, Entry

_hash_of = lru_cache(maxsize=8_192)(murmur2)  # in Python it costs as much as the encoding


class Waiting(defaultdict[Any, deque[Any]]):
    """A producer's open batches: TopicPartition → batches. To the library, whose thread locks each
    partition several times for one record that it sends, only those exist that have a batch."""

    def __init__(self) -> None:
        super().__init__(deque)

    def keys(self) -> Any:
        """The partitions that have a batch, at this moment."""
        return [place for place, batches in list(self.items()) if batches]

    def __contains__(self, place: object) -> bool:
        return bool(self.get(place))


class _Batch(ProducerBatch):  # type: ignore[misc]
    """The library's batch, with our entries where it has a future for each record."""

    def __init__(self, place: Any, records: MemoryRecordsBuilder, answers: Answers) -> None:
        super().__init__(place, records)
        self._answers = answers
        self.entries: list[Entry] = []
        self._record_futures = _Followers(self.entries, answers)
        self.produce_future.add_callback(self._tell)

    def take(self, entries: Sequence[Entry]) -> int:
        """Append records, what the library's builder does with each, on some that are encoded; how
        many of them had room."""
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
        if taken := offset - first:
            builder._max_timestamp = max(builder._max_timestamp, now)
            builder._num_records += taken
            builder._last_offset = offset - 1
            self.records._next_offset = offset
            self.entries += entries[:taken]
        return taken

    def _tell(self, came: tuple[int, int, Callable[[int], Exception] | None]) -> None:
        _tell(self._answers, self.topic_partition, self.entries, 0, came)


class _Followers:
    """What the library asks to follow each record when it splits a batch that a topic finds too
    large."""

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
        answer.add_callback(partial(_tell, self._answers, place, [self._entry], index))


def _tell(
    answers: Answers,
    place: Any,
    entries: Sequence[Entry],
    index: int,
    came: tuple[int, int, Callable[[int], Exception] | None],
) -> None:
    """Tell what became of entries, the first of which stands at `index` of its batch."""
    base, _, error_of = came
    if error_of is None:
        answers.took(entries, place.topic, place.partition, base + index)
        return
    for number, entry in enumerate(entries, index):
        answers.failed(entry, error_of(number))


def accumulate(producer: Any, entries: Iterable[Entry], answers: Answers) -> None:
    """Append the records, in their order within each partition. Raises what `send` raises: then
    some may be on their way."""
    accumulator, opened = producer._accumulator, False
    accumulator._appends_in_progress.increment()
    try:
        for place, here in _by_partition(producer, entries).items():
            with accumulator._tp_lock(place):
                opened |= _append(accumulator, place, here, answers)
    finally:
        accumulator._appends_in_progress.decrement()
        if opened:
            producer._sender.wakeup()


def _append(accumulator: Any, place: Any, entries: Sequence[Entry], answers: Answers) -> bool:
    """Append to the partition's last batch, and to new ones; whether there are new ones."""
    if accumulator._closed:
        raise KafkaError("The producer is closed.")
    queue = accumulator._batches[place]
    last = queue[-1] if queue else None
    taken = last.take(entries) if isinstance(last, _Batch) else 0
    is_new = taken < len(entries)
    while taken < len(entries):
        config = accumulator.config
        records = MemoryRecordsBuilder(
            config["message_version"], config["compression_attrs"], config["batch_size"]
        )
        last = _Batch(place, records, answers)
        taken += last.take(entries[taken:])  # the first always fits
        queue.append(last)
        accumulator._incomplete.add(last)
    return is_new


def partition_of(key: bytes, count: int) -> int:
    """Which of `count` partitions a key goes to, as the library's and Java's default has it."""
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
