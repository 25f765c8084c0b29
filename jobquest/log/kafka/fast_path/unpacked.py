"""Record batches unpacked straight into our records, in place of kafka-python's own unpacking.

The library makes several objects for each header, and two for each record. That is more than half
of the time of reading, and hardly anybody reads headers. The library's checks are made here, too:
checksums, transactions, structure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kafka import KafkaConsumer
from kafka.consumer.fetcher import Fetcher, IsolationLevel
from kafka.errors import CorruptRecordError
from kafka.record.util import decode_varint

from jobquest.log import Headers, Record
from jobquest.log.kafka.library import damaged

_LOG_APPEND_TIME = 1


class FastReader:
    """A consumer whose `poll` returns records of ours; see `Reader`."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.consumer = KafkaConsumer(**settings)
        self.consumer._fetcher.PartitionRecords = Unpacked

    def poll(self, timeout_ms: int, max_records: int) -> dict[Any, list[Record]]:
        """See `Reader.poll`."""
        coordinator = self.consumer._coordinator
        if coordinator and coordinator.rejoining and not coordinator.need_rejoin():
            coordinator.request_rejoin()  # it forgets to, see `subscription.REJOIN_SECONDS`
        try:
            polled: dict[Any, list[Record]] = self.consumer.poll(
                timeout_ms, max_records=max_records
            )
            return polled
        except UnreadableRecord as found:
            # Without the seek, the library's next poll spins for ever.
            self.consumer.seek(found.place, found.offset + 1)
            return {found.place: [damaged(found.place, found.offset, found.cause)]}

    def close(self) -> None:
        """See `Reader.close`."""
        self.consumer.close(autocommit=False)


class UnreadableRecord(Exception):
    """`cause` says why the record at `offset` of a partition can't be unpacked (checksum, codec,
    structure). It is no KafkaError: `poll` raises those for harmless reasons, too, such as a lost
    connection."""

    def __init__(self, place: Any, offset: int, cause: Exception) -> None:
        super().__init__(f"{place} at {offset}: {cause}")
        self.place = place
        self.offset = offset
        self.cause = cause


class Unread(Record):
    """A record whose headers are still packed; they are unpacked when they are read."""

    __slots__ = ()

    @property
    def headers(self) -> Headers:
        return _headers(self[5])  # type: ignore[arg-type]


class Unpacked(Fetcher.PartitionRecords):  # type: ignore[misc]
    """The part of one fetch that belongs to one partition. The library calls the method below."""

    def _unpack_records(self, place: Any, records: Any, *_deserializers: Any) -> Iterator[Record]:
        """Raises UnreadableRecord."""
        try:
            while (batch := records.next_batch()) is not None:
                if self.check_crcs and not batch.validate_crc():
                    line = f"The checksum of the batch at {batch.base_offset} fails."
                    raise CorruptRecordError(line)
                if batch.magic < 2:
                    yield from self._of_old_format(place, batch)
                    continue
                self.leader_epoch = batch.leader_epoch
                if self._is_shown(batch):
                    self.bytes_read += batch.size_in_bytes
                    for record in _records(place, batch):
                        self.records_read += 1
                        self.next_fetch_offset = record.offset + 1
                        yield record
                # Compaction may have removed the batch's last records.
                self.next_fetch_offset = batch.next_offset
        except Exception as error:
            raise UnreadableRecord(place, self.next_fetch_offset, error) from error
        self.drain()

    def _is_shown(self, batch: Any) -> bool:
        """Whether readers get its records: it is no transaction's marker, and its transaction was
        not aborted."""
        if self.isolation_level == IsolationLevel.READ_COMMITTED and batch.has_producer_id():
            self._consume_aborted_transactions_up_to(batch.last_offset)
            if self._contains_abort_marker(batch):
                self.aborted_producer_ids.discard(batch.producer_id)
            elif self._is_batch_aborted(batch):
                return False
        return not batch.is_control_batch

    def _of_old_format(self, place: Any, batch: Any) -> Iterator[Record]:
        """The records of a batch from before Kafka 0.11: old topics still have them."""
        topic, partition = place
        for found in batch:
            if self.check_crcs and not found.validate_crc():
                raise CorruptRecordError(f"The checksum of the record at {found.offset} fails.")
            self.bytes_read += found.size_in_bytes
            self.records_read += 1
            self.next_fetch_offset = found.offset + 1
            at = found.offset
            yield Record(topic, partition, at, found.key, found.value, (), found.timestamp)


def _records(place: Any, batch: Any) -> Iterator[Record]:
    """A batch's records (Kafka's message format 2)."""
    iter(batch)  # decompresses
    data, at = bytes(batch._buffer), batch._pos
    topic, partition = place
    base, first_ms = batch.base_offset, batch.first_timestamp
    fixed_ms = batch.max_timestamp if batch.timestamp_type == _LOG_APPEND_TIME else None
    for _ in range(batch.records_count):
        length, at = decode_varint(data, at)
        end = at + length
        delta_ms, at = decode_varint(data, at + 1)  # behind the attributes, which are unused
        delta, at = decode_varint(data, at)
        size, at = decode_varint(data, at)
        key = None if size < 0 else data[at : at + size]
        size, at = decode_varint(data, at + max(0, size))
        value = None if size < 0 else data[at : at + size]
        at += max(0, size)
        if not at < end <= len(data):
            raise CorruptRecordError(f"The record at {base + delta} does not fit its batch.")
        time_ms = first_ms + delta_ms if fixed_ms is None else fixed_ms
        packed: Any = data[at:end]
        yield Unread(topic, partition, base + delta, key, value, packed, time_ms)
        at = end
    if at != len(data):
        raise CorruptRecordError(f"{len(data) - at} bytes are left of the batch at {base}.")


def _headers(packed: bytes) -> Headers:
    count, at = decode_varint(packed, 0)
    found = []
    for _ in range(count):
        size, at = decode_varint(packed, at)
        name = packed[at : at + size].decode("utf-8", "replace")
        size, at = decode_varint(packed, at + size)
        found.append((name, packed[at : at + max(0, size)]))
        at += max(0, size)
    return tuple(found)
