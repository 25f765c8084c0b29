"""The log's past as one stream: every partition's records, merged by when they were appended.

The rebuild reads it. Knows nothing of what records are about.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from itertools import accumulate
from operator import attrgetter, itemgetter

from jobquest.errors import LogUnavailable
from jobquest.log import EventLog, Found, Origin, Partition, Record

READ_RECORDS = 1_000  # of one partition at one go
LOW_BYTES = 4_000_000  # of values that wait: with more it is not read on
EMPTY_READS = 10  # of a partition that should have more, until that is an error
_time_of = attrgetter("timestamp_ms")


def in_order(
    log: EventLog, spans: Mapping[Origin, tuple[int, int]]
) -> Iterator[tuple[Origin, Record]]:
    """The records between two offsets of each partition, by time of appending and in order within
    each. Raises LogUnavailable."""
    streams = [_Stream(origin, *span) for origin, span in spans.items()]
    while streams := [one for one in streams if one.records or one.start < one.end]:
        _read_on(log, streams)
        # Up to this moment nothing can come any more from any of them.
        sure = min((one.moments[-1] for one in streams if one.start < one.end), default=None)
        found = [entry for one in streams for entry in one.taken(sure)]
        found.sort(key=itemgetter(0))  # keeps what is of one moment as it was
        for _, origin, record in found:
            yield origin, record


class _Stream:
    """What was read of a partition and waits for the others; `start` is where to read on.

    `moments` are the records' times, save that none lies before the one ahead of it: order within
    a partition goes before time.
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
        """Whether little of it waits."""
        few = len(self.records) < READ_RECORDS // 2
        return few and sum(len(record.value or b"") for record in self.records) < LOW_BYTES

    def add(self, found: Found) -> None:
        """Take what was read from `start` on."""
        self.empty_reads = 0 if found.next > self.start else self.empty_reads + 1
        if self.empty_reads == EMPTY_READS:
            place = f"{self.origin.topic}/{self.origin.number}"
            raise LogUnavailable(f"The log gives nothing of {place} from {self.start} on.")
        self.start = found.next
        self.records += found.records
        self.moments = list(accumulate(map(_time_of, self.records), max))

    def taken(self, until: int | None) -> Iterator[tuple[int, Origin, Record]]:
        """Take out what is of this moment or before; None: everything."""
        count = len(self.moments) if until is None else bisect_right(self.moments, until)
        moments, self.moments = self.moments[:count], self.moments[count:]
        records, self.records = self.records[:count], self.records[count:]
        return zip(moments, [self.origin] * count, records, strict=True)


def _read_on(log: EventLog, streams: list[_Stream]) -> None:
    """Read until each has something that waits, or is at its end."""
    low = [one for one in streams if one.start < one.end and one.is_low]
    while low:
        found = log.read_each({one.partition: (one.start, one.end) for one in low}, READ_RECORDS)
        for one in low:
            one.add(found[one.partition])
        low = [one for one in low if not one.records and one.start < one.end]
