"""The whole log as one stream: the records of every partition, merged by the time of appending.

The rebuild reads it. It does not know what records are about.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from itertools import accumulate, islice
from operator import attrgetter, itemgetter

from jobquest.errors import LogUnavailable
from jobquest.log import EventLog, Found, Origin, Partition, Record

READ_RECORDS = 1_000  # of one partition in one call
LOW_BYTES = 4_000_000  # of values in memory, of one partition: with more, it is not read further
EMPTY_READS = 10  # in a row, of a partition that should have more records: then it is an error
_time_of = attrgetter("timestamp_ms")


def in_order(
    log: EventLog, spans: Mapping[Origin, tuple[int, int]]
) -> Iterator[tuple[Origin, Record]]:
    """The records between two offsets of each partition, ordered by the time of appending, and by
    offset within each partition. Raises LogUnavailable."""
    streams = [_Stream(origin, *span) for origin, span in spans.items()]
    while streams := [stream for stream in streams if stream.records or stream.start < stream.end]:
        _read_on(log, streams)
        # No stream can return an earlier record than this any more.
        sure = min((s.moments[-1] for s in streams if s.start < s.end), default=None)
        found = [entry for stream in streams for entry in stream.pop_until(sure)]
        found.sort(key=itemgetter(0))  # stable: records of the same time keep their order
        for _, origin, record in found:
            yield origin, record


def bounded(
    records: Iterator[tuple[Origin, Record]], most: int, most_bytes: int
) -> list[tuple[Origin, Record]]:
    """At most so many of the next records, and fewer if their values have so many bytes."""
    batch, size = [], 0
    for entry in islice(records, most):
        batch.append(entry)
        size += len(entry[1].value or b"")
        if size >= most_bytes:
            break
    return batch


class _Stream:
    """The records of a partition that were read and wait for the others; `start` is the next offset
    to read.

    `moments` are the records' times, but never earlier than the time of the record before: within a
    partition, the order of offsets comes before the time.
    """

    def __init__(self, origin: Origin, start: int, end: int) -> None:
        self.origin = origin
        self.start = start
        self.end = end
        self.records: list[Record] = []
        self.moments: list[int] = []
        self.empty_reads = 0

    @property
    def partition(self) -> Partition:
        return Partition(self.origin.topic, self.origin.number)

    @property
    def is_low(self) -> bool:
        """Whether few records of it are in memory."""
        few = len(self.records) < READ_RECORDS // 2
        return few and sum(len(record.value or b"") for record in self.records) < LOW_BYTES

    def add(self, found: Found) -> None:
        """Add what was read from `start` on."""
        self.empty_reads = 0 if found.next > self.start else self.empty_reads + 1
        if self.empty_reads == EMPTY_READS:
            place = f"{self.origin.topic}/{self.origin.number}"
            raise LogUnavailable(f"The log returns nothing of {place} from offset {self.start} on.")
        self.start = found.next
        self.records += found.records
        self.moments = list(accumulate(map(_time_of, self.records), max))

    def pop_until(self, until: int | None) -> Iterator[tuple[int, Origin, Record]]:
        """Remove and return the records up to this time; None: all of them."""
        count = len(self.moments) if until is None else bisect_right(self.moments, until)
        moments, self.moments = self.moments[:count], self.moments[count:]
        records, self.records = self.records[:count], self.records[count:]
        return zip(moments, [self.origin] * count, records, strict=True)


def _read_on(log: EventLog, streams: list[_Stream]) -> None:
    """Read until each stream has a record in memory, or is at its end."""
    low = [stream for stream in streams if stream.start < stream.end and stream.is_low]
    while low:
        spans = {stream.partition: (stream.start, stream.end) for stream in low}
        found = log.read_each(spans, READ_RECORDS)
        for stream in low:
            stream.add(found[stream.partition])
        low = [stream for stream in low if not stream.records and stream.start < stream.end]
