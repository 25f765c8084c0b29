"""Records in Kafka's format, as the library itself writes and reads them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka import TopicPartition
from kafka.partitioner.default import DefaultPartitioner
from kafka.record.memory_records import MemoryRecords, MemoryRecordsBuilder

from jobquest.log import NewRecord
from jobquest.log.kafka.encoding import encode
from jobquest.log.kafka.fast_path.producer import _Batch, partition_of

BATCH_BYTES = 65_536
_BYTES = st.one_of(
    st.binary(max_size=200), st.sampled_from([b"", b"x" * 127, b"x" * 9_000, b"x" * 70_000])
)
_RECORDS = st.builds(
    NewRecord,
    st.just("t"),
    st.none() | _BYTES,
    st.none() | _BYTES,
    st.lists(st.tuples(st.text(max_size=70), _BYTES), max_size=8).map(tuple),
)


class Sent:
    """A record on its way, and where the broker put it."""

    def __init__(self, record: NewRecord) -> None:
        self.record = record
        self.encoded = encode(record)
        self.offset: int | None = None


class Told:
    """Notes where each record is."""

    def confirmed(self, entries: Sequence[Sent], _topic: str, _partition: int, offset: int) -> None:
        for number, one in enumerate(entries, offset):
            one.offset = number

    def failed(self, entry: Sent, error: Exception) -> None:
        raise AssertionError(error)


@pytest.mark.slow
@given(st.lists(_RECORDS, min_size=1, max_size=5), st.integers(0, 5))
def test_the_library_reads_what_was_written_and_finds_room_for_as_much(
    records: list[NewRecord], several: int
) -> None:
    ours = _Batch(TopicPartition("t", 0), MemoryRecordsBuilder(2, 0, BATCH_BYTES), Told())
    library = MemoryRecordsBuilder(2, 0, BATCH_BYTES)
    sent = [Sent(record) for record in records]
    taken = 0
    for one in records:
        if library.append(None, one.key, one.value, list(one.headers)) is None:
            break
        taken += 1
    first = ours.add(sent[:several])
    assert first + ours.add(sent[first:]) == taken
    library.close()
    ours.records.close()
    assert not ours.add(sent), "a batch that goes out accepts no more"
    assert len(ours.records.buffer()) == len(library.buffer())
    [batch] = MemoryRecords(bytes(ours.records.buffer()))
    assert batch.validate_crc()
    found = list(batch)
    assert [record.offset for record in found] == list(range(taken))
    for record, one in zip(found, records, strict=False):
        assert (record.key, record.value) == (one.key, one.value)
        assert tuple(record.headers) == one.headers
    ours.complete(100, -1)
    assert [one.offset for one in sent[:taken]] == list(range(100, 100 + taken))


class Cluster:
    """A topic with so many partitions, as the library's partitioner asks for it."""

    def __init__(self, count: int) -> None:
        self._numbers = set(range(count))

    def topics(self) -> set[str]:
        return {"t"}

    def partitions_for_topic(self, _topic: str) -> set[int]:
        return self._numbers

    available_partitions_for_topic = partitions_for_topic


@given(st.binary(max_size=130), st.integers(1, 50))
def test_a_key_goes_to_the_partition_that_other_producers_would_take(
    key: bytes, count: int
) -> None:
    library = DefaultPartitioner().partition("t", None, key, None, None, Cluster(count))
    assert partition_of(key, count) == library
