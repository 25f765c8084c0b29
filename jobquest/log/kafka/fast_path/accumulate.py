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
from jobquest.log.kafka.library import Entry

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

    def __init__(self, place: Any, records: MemoryRecordsBuilder) -> None:
        super().__init__(place, records)
        self._record_futures: list[_Follower]
        self.entries: list[Entry] = []
        self.produce_future.add_callback(self._tell)

    def take(self, entry: Entry) -> bool:
        """Append a record; False where it has no room."""
        if self.records._closed or not self._append(entry.encoded):
            return False
        self.entries.append(entry)
        self._record_futures.append(_Follower(entry))
        return True

    def _append(self, encoded: bytes) -> bool:
        """What the library's builder does with a record, on one that is encoded."""
        builder, now = self.records._builder, now_ms()
        is_first = not builder._num_records
        if is_first:
            builder._first_timestamp = builder._max_timestamp = now
        offset = self.records._next_offset
        head = b"\0" + varint(now - builder._first_timestamp) + varint(offset)
        size = varint(len(head) + len(encoded))
        whole = b"".join((size, head, encoded))
        if not is_first and len(builder._buffer) + len(whole) > builder._batch_size:
            return False
        builder._buffer += whole
        builder._max_timestamp = max(builder._max_timestamp, now)
        builder._num_records += 1
        builder._last_offset = offset
        self.records._next_offset = offset + 1
        return True

    def _tell(self, came: tuple[int, int, Callable[[int], Exception] | None]) -> None:
        _tell(self.topic_partition, self.entries, 0, came)


class _Follower:
    """What the library asks to follow a record when it splits a batch that a topic finds too
    large."""

    __slots__ = ("_entry",)

    def __init__(self, entry: Entry) -> None:
        self._entry = entry

    def rebind(self, answer: Any, index: int) -> None:
        answer.add_callback(partial(_tell, answer.topic_partition, [self._entry], index))


def _tell(
    place: Any,
    entries: Sequence[Entry],
    index: int,
    came: tuple[int, int, Callable[[int], Exception] | None],
) -> None:
    """Tell entries, the first of which stands at `index` of its batch."""
    base, _, error_of = came
    for number, entry in enumerate(entries, index):
        if error_of:
            entry.failed(error_of(number))
        else:
            entry.took(place.topic, place.partition, base + number)


def accumulate(producer: Any, entries: Iterable[Entry]) -> None:
    """Append the records, in their order within each partition. Raises what `send` raises: then
    some may be on their way."""
    accumulator, opened = producer._accumulator, False
    accumulator._appends_in_progress.increment()
    try:
        for place, here in _by_partition(producer, entries).items():
            with accumulator._tp_lock(place):
                opened |= _append(accumulator, place, here)
    finally:
        accumulator._appends_in_progress.decrement()
        if opened:
            producer._sender.wakeup()


def _append(accumulator: Any, place: Any, entries: Sequence[Entry]) -> bool:
    """Append to the partition's last batch, and to new ones; whether there are new ones."""
    if accumulator._closed:
        raise KafkaError("The producer is closed.")
    queue, opened = accumulator._batches[place], False
    last = queue[-1] if queue else None
    for entry in entries:
        if isinstance(last, _Batch) and last.take(entry):
            continue
        config = accumulator.config
        last = _Batch(
            place,
            MemoryRecordsBuilder(
                config["message_version"], config["compression_attrs"], config["batch_size"]
            ),
        )
        last.take(entry)  # the first always fits
        queue.append(last)
        accumulator._incomplete.add(last)
        opened = True
    return opened


def partition_of(key: bytes, count: int) -> int:
    """Which of `count` partitions a key goes to, as the library's and Java's default has it."""
    hashed: int = _hash_of(key)
    return (hashed & 0x7FFFFFFF) % count


def _by_partition(producer: Any, entries: Iterable[Entry]) -> dict[Any, list[Entry]]:
    found: dict[Any, list[Entry]] = {}
    counts: dict[str, int] = {}
    for entry in entries:
        topic, key = entry.record.topic, entry.record.key
        if topic not in counts:
            counts[topic] = len(producer._metadata.partitions_for_topic(topic) or ())
            if not counts[topic]:
                raise KafkaError(f"Topic {topic} is not known")
        if key is None:
            number = producer._partition(topic, None, None, None, None, None)
        else:
            number = partition_of(key, counts[topic])
        found.setdefault(TopicPartition(topic, number), []).append(entry)
    return found
