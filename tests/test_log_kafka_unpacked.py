"""Our own unpacking of Kafka's record batches gives what kafka-python's gives."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka import TopicPartition
from kafka.consumer.fetcher import Fetcher, IsolationLevel
from kafka.errors import CorruptRecordError
from kafka.record import MemoryRecords, MemoryRecordsBuilder

from jobquest.log import Record
from jobquest.log.kafka.fast_path.unpacked import Unpacked, UnreadableRecord

PLACE = TopicPartition("t", 3)
BYTES = st.none() | st.binary(max_size=300)
HEADERS = st.lists(st.tuples(st.text(max_size=100), st.binary(max_size=200)), max_size=8)
RECORDS = st.lists(st.tuples(st.integers(0, 2**41), BYTES, BYTES, HEADERS), min_size=1, max_size=20)


def packed(records: Sequence[Any], compression: int = 0, magic: int = 2, **more: Any) -> bytes:
    builder = MemoryRecordsBuilder(magic, compression, batch_size=1 << 20, **more)
    for timestamp, key, value, headers in records:
        builder.append(timestamp=timestamp, key=key, value=value, headers=headers)
    builder.close()
    return bytes(builder.buffer())


def unpacked(by: Any, data: bytes, first: int = 0, **more: Any) -> list[Any]:
    found: list[Any] = by(first, PLACE, MemoryRecords(data), **more).take()
    return found


def plain(record: Any) -> tuple[Any, ...]:
    headers = [(name, value) for name, value in record.headers]
    return (*record[:2], record.offset, record.key, record.value, headers)


@settings(deadline=None)
@given(RECORDS, st.sampled_from([0, 1, 2, 3, 4]), st.integers(0, 30))
def test_it_gives_what_the_library_gives(records: Any, compression: int, first: int) -> None:
    data = packed(records, compression)
    ours = unpacked(Unpacked, data, first)
    theirs = unpacked(Fetcher.PartitionRecords, data, first)
    assert [plain(one) for one in ours] == [plain(one) for one in theirs]
    assert [one.timestamp_ms for one in ours] == [one.timestamp for one in theirs]
    assert all(isinstance(one, Record) and one.damage is None for one in ours)


def test_records_of_the_old_format_are_read() -> None:
    [found] = unpacked(Unpacked, packed([(5, b"k", b"v", [])], magic=1))
    assert found == Record("t", 3, 0, b"k", b"v", (), 5)


@pytest.mark.parametrize("compression", [0, 3])
def test_damage_is_noticed(compression: int) -> None:
    data = bytearray(packed([(5, b"k", b"v" * 100, [])], compression))
    data[-20] ^= 1
    with pytest.raises(UnreadableRecord) as raised:
        unpacked(Unpacked, bytes(data))
    assert (raised.value.place, raised.value.offset) == (PLACE, 0)
    assert isinstance(raised.value.cause, CorruptRecordError)
    assert "The checksum of the batch at 0 fails" in str(raised.value.cause)


def test_the_first_record_that_cannot_be_unpacked_is_named_and_those_before_it_are_read() -> None:
    sound = packed([(5, b"k", b"v", []), (6, b"k", b"w", [])])
    broken = bytearray(packed([(7, b"k", b"x" * 100, [])]))
    broken[7], broken[-20] = 2, broken[-20] ^ 1  # its base offset; a byte of its value
    fetched = Unpacked(0, PLACE, MemoryRecords(sound + bytes(broken)))
    assert [one.value for one in fetched.take()] == [b"v", b"w"]
    with pytest.raises(UnreadableRecord) as raised:
        fetched.take()
    assert (raised.value.place, raised.value.offset) == (PLACE, 2)


@pytest.mark.parametrize("cut", range(1, 25))
def test_a_record_that_does_not_fit_its_batch_is_noticed(cut: int) -> None:
    data = packed([(5, b"key", b"value", [("name", b"text")])])
    length = len(data) - 12 - cut
    short = data[:8] + length.to_bytes(4, "big") + data[12:-cut]
    with pytest.raises(UnreadableRecord):
        unpacked(Unpacked, short, check_crcs=False)


def test_records_of_an_aborted_transaction_are_left_out() -> None:
    of_producer = {"transactional": True, "producer_id": 9, "producer_epoch": 0, "base_sequence": 0}
    data = packed([(5, b"k", b"v", [])], **of_producer)
    aborted = [SimpleNamespace(first_offset=0, producer_id=9)]
    committed = {"isolation_level": IsolationLevel.READ_COMMITTED}
    for by in (Unpacked, Fetcher.PartitionRecords):
        assert unpacked(by, data, aborted_transactions=aborted, **committed) == []
        assert len(unpacked(by, data, aborted_transactions=aborted)) == 1
        assert len(unpacked(by, data, **committed)) == 1


def test_headers_that_are_no_utf_8_are_shown_all_the_same() -> None:
    data = packed([(5, b"k", b"v", [("name", b"text")])]).replace(b"name", b"n\xffme")
    [found] = unpacked(Unpacked, data, check_crcs=False)
    assert found.headers == (("n\ufffdme", b"text"),)
