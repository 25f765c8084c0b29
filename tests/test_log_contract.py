"""What every event log promises, run on each: the embedded one, and a real Apache Kafka by
either way to use its library."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from jobquest.errors import LogUnavailable, RecordRefused
from jobquest.log import (
    EventLog,
    Found,
    NewRecord,
    Origin,
    Partition,
    Position,
    Record,
    Subscription,
)
from jobquest.log.sqlite import SqliteLog
from jobquest.read.merge import in_order
from tests.logs import UNTRIED, Embedded, OnKafka
from tests.service import wait_for

Start = Callable[[Sequence[Origin]], Mapping[Origin, int]]


def from_the_start(_origins: Sequence[Origin]) -> dict[Origin, int]:
    return {}


@pytest.fixture(
    params=[
        "embedded",
        pytest.param("kafka", marks=pytest.mark.kafka),
        pytest.param("kafka-documented", marks=pytest.mark.kafka),
    ]
)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Embedded | OnKafka:
    """Where the logs of a test are; each test has topics of its own."""
    topics = [f"{uuid.uuid4().hex[:12]}-{n}" for n in range(2)]
    if request.param == "embedded":
        return Embedded(tmp_path / "log.db", topics)
    bootstrap = request.getfixturevalue("kafka_broker").bootstrap
    if request.param == "kafka":
        return OnKafka(bootstrap, topics)
    return OnKafka(bootstrap, topics, UNTRIED)


@pytest.fixture
def log(place: Embedded | OnKafka) -> Iterator[EventLog]:
    with closing(place.open()) as opened:
        yield opened


def append(log: EventLog, *records: NewRecord) -> list[Position]:
    return [future.result(10) for future in log.append(records)]


@contextmanager
def subscription(
    log: EventLog, topics: Sequence[str], start: Start = from_the_start, group: str = "g"
) -> Iterator[Subscription]:
    with closing(log.subscribe(topics, group, start)) as taken:
        yield taken


def read(taken: Subscription, count: int, seconds: float = 15.0) -> list[Record]:
    """Poll until `count` records came, or time is up."""
    records: list[Record] = []
    deadline = time.monotonic() + seconds
    while len(records) < count and time.monotonic() < deadline:
        records += taken.poll(0.2, 2000)
    return records


def numbered(topic: str, *numbers: int, key: bytes = b"k") -> list[NewRecord]:
    return [NewRecord(topic, key, b"%d" % n) for n in numbers]


def test_records_of_one_key_keep_their_order_and_partition(
    log: EventLog, place: Embedded | OnKafka
) -> None:
    positions = append(log, *numbered(place.topics[0], *range(100)))
    assert len({position.partition for position in positions}) == 1
    assert [position.offset for position in positions] == list(range(100))
    with subscription(log, place.topics) as taken:
        assert [record.value for record in read(taken, 100)] == [b"%d" % n for n in range(100)]


def test_a_record_is_found_by_when_it_was_appended(
    log: EventLog, place: Embedded | OnKafka
) -> None:
    topic = place.topics[0]
    partition = Partition(topic, append(log, *numbered(topic, 0))[0].partition)
    for number in range(1, 8):
        wait_for(lambda: int(time.time() * 1000) > log.read(partition, 0, 99)[-1].timestamp_ms, 5)
        append(log, *numbered(topic, number))
    times = [record.timestamp_ms for record in log.read(partition, 0, 99)]
    assert times == sorted(set(times))
    for offset, moment in enumerate(times):
        assert log.offset_at(partition, moment) == offset
        assert log.offset_at(partition, moment - 1) == max(0, offset - (moment - 1 in times))
    for moment in (0, -1, -2):  # negative ones have meanings of their own in Kafka
        assert log.offset_at(partition, moment) == 0
    assert log.offset_at(partition, times[-1] + 1) is None


def test_bytes_come_back_as_they_went(log: EventLog, place: Embedded | OnKafka) -> None:
    value, headers = bytes(range(256)), (("a", b"\x00\xff"), ("a", b"again"), ("b", b""))
    before = int(time.time() * 1000) - 1
    [position] = append(log, NewRecord(place.topics[0], None, value, headers))
    with subscription(log, place.topics) as taken:
        [record] = read(taken, 1)
    assert (record.key, record.value, record.headers) == (None, value, headers)
    assert (record.topic, record.partition, record.offset) == position
    assert before <= record.timestamp_ms <= time.time() * 1000 + 1


def test_a_tombstone_comes_back_as_one_and_nothing_at_all_is_refused(
    log: EventLog, place: Embedded | OnKafka
) -> None:
    refused, taken = log.append(
        [NewRecord(place.topics[0], None, None), NewRecord(place.topics[0], b"k", None)]
    )
    with pytest.raises(RecordRefused):
        refused.result(10)
    assert taken.result(10).offset == 0
    with subscription(log, place.topics) as seated:
        [record] = read(seated, 1)
    assert (record.key, record.value, record.damage) == (b"k", None, None)


def test_reading_begins_where_it_is_told(log: EventLog, place: Embedded | OnKafka) -> None:
    append(log, *numbered(place.topics[0], 0, 1, 2, 3))
    with subscription(log, place.topics, lambda origins: dict.fromkeys(origins, 2)) as taken:
        # Partitions without records have no offset 2: they begin at their start all the same.
        assert [record.value for record in read(taken, 2)] == [b"2", b"3"]


def test_rewinding_brings_back_what_was_not_applied(
    log: EventLog, place: Embedded | OnKafka
) -> None:
    append(log, *numbered(place.topics[0], 0, 1, 2))
    with subscription(log, place.topics) as taken:
        assert len(read(taken, 3)) == 3
        taken.rewind()
        assert [record.offset for record in read(taken, 3)] == [0, 1, 2]
        assert max(taken.reached().values()) == 3
        assert sum(taken.reached().values()) == 3


def test_new_records_are_seen_soon(log: EventLog, place: Embedded | OnKafka) -> None:
    with subscription(log, place.topics) as taken:
        append(log, *numbered(place.topics[0], 0))
        read(taken, 1)
        append(log, *numbered(place.topics[1], 1))
        began = time.monotonic()
        assert [record.value for record in read(taken, 1)] == [b"1"]
        assert time.monotonic() - began < 2


def test_a_group_reads_each_record_once_and_the_next_member_takes_over(
    log: EventLog, place: Embedded | OnKafka
) -> None:
    append(log, *numbered(place.topics[0], *range(10)))
    with closing(place.open()) as other, subscription(other, place.topics) as second:
        with subscription(log, place.topics) as first:
            deadline = time.monotonic() + 15
            while time.monotonic() < deadline:  # until both have settled
                first.poll(0.1, 100)
                second.poll(0.1, 100)
                if first.assignment() and place.shares(first, second):
                    break
            assert not set(first.assignment()) & set(second.assignment())
        assert len(read(second, 10)) == 10 or set(second.assignment())
        deadline = time.monotonic() + 15
        while len(second.assignment()) < place.partitions and time.monotonic() < deadline:
            second.poll(0.1, 100)
        assert len(second.assignment()) == place.partitions


def test_what_the_log_has_is_described(log: EventLog, place: Embedded | OnKafka) -> None:
    append(log, *numbered(place.topics[0], 0, 1, 2))
    found = log.describe([*place.topics, "no-such-topic"])
    assert len(found) == place.partitions
    assert sum(info.next for info in found) == 3
    assert all(info.first == 0 for info in found)
    with closing(place.open()) as other:
        assert other.describe(place.topics) == found


def test_a_range_is_read_outside_the_group(log: EventLog, place: Embedded | OnKafka) -> None:
    [position, *_] = append(log, *numbered(place.topics[0], *range(10)))
    partition = Partition(position.topic, position.partition)
    assert [record.offset for record in log.read(partition, 3, 4)] == [3, 4, 5, 6]
    assert log.read(partition, 10, 4) == []


def test_of_large_records_a_few_are_read_at_a_time(
    log: EventLog, place: Embedded | OnKafka
) -> None:
    most, partitions = 20_000_000, []
    for topic in place.topics:
        for n in range(22):
            [position] = append(log, NewRecord(topic, b"ada", b"%d" % n + b"x" * 1_000_000))
        partitions.append(Partition(topic, position.partition))
    offsets: list[int] = []
    log.describe(place.topics)
    while len(offsets) < 22:
        found = log.read(partitions[0], len(offsets), 500)
        assert sum(len(record.value or b"") for record in found) < most
        offsets += [record.offset for record in found]
    assert offsets == list(range(22))
    with subscription(log, place.topics) as taken:
        seen = 0
        while seen < 44:
            found = taken.poll(1.0, 3_000)
            assert sum(len(record.value or b"") for record in found) < most
            seen += len(found)


def test_ranges_of_several_partitions_are_read_at_once(
    log: EventLog, place: Embedded | OnKafka
) -> None:
    ends = {}
    for topic in place.topics:
        [*_, last] = append(log, *numbered(topic, *range(10)))
        ends[Partition(topic, last.partition)] = last.offset + 1
    for _ in range(2):  # again from where it was begun, then to the end
        found = log.read_each({one: (3, end) for one, end in ends.items()}, 2)
        assert found.keys() == ends.keys()
        for records, following in found.values():
            offsets = [record.offset for record in records]
            assert offsets == list(range(3, following))
            assert len(offsets) >= 2
    found = log.read_each(dict.fromkeys(ends, (3, 5)), 100)
    assert {(len(records), following) for records, following in found.values()} == {(2, 5)}
    nothing = {one: Found([], end) for one, end in ends.items()}
    assert log.read_each({one: (end, end) for one, end in ends.items()}, 2) == nothing


def test_the_past_is_one_stream_by_time_and_in_order_within_each_partition(
    log: EventLog, place: Embedded | OnKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobquest.read.merge.READ_RECORDS", 4)
    for n in range(30):
        topic = place.topics[n * n % 7 % 2]
        append(log, *numbered(topic, n, key=b"%d" % (n % 3)))
    spans = {info.origin: (info.first, info.next) for info in log.describe(place.topics)}
    found = list(in_order(log, spans))
    times = [record.timestamp_ms for _, record in found]
    assert times == sorted(times)
    for origin, (first, following) in spans.items():
        mine = [record.offset for of, record in found if of == origin]
        assert mine == list(range(first, following))
    ends = {origin: (first, min(following, 2)) for origin, (first, following) in spans.items()}
    assert len(list(in_order(log, ends))) == sum(end - first for first, end in ends.values())


def test_a_closed_log_answers_every_append(log: EventLog, place: Embedded | OnKafka) -> None:
    append(log, *numbered(place.topics[0], 0))
    pending = log.append(numbered(place.topics[0], *range(1000)))
    log.close()
    late = log.append(numbered(place.topics[0], 1))
    assert all(future.exception(1) is None for future in pending)
    with pytest.raises(LogUnavailable):
        late[0].result(1)


def test_too_large_a_record_is_refused_and_the_next_is_taken(
    log: EventLog, place: Embedded | OnKafka
) -> None:
    large = NewRecord(place.topics[0], b"k", b"x" * 1_100_000)
    refused, taken = log.append([large, *numbered(place.topics[0], 1)])
    with pytest.raises(RecordRefused):
        refused.result(10)
    assert taken.result(10).offset == 0


def test_a_topic_created_again_is_read_from_its_start(
    log: EventLog, place: Embedded | OnKafka
) -> None:
    append(log, *numbered(place.topics[0], 0, 1, 2))
    positions: dict[Origin, int] = {}

    def start(origins: Sequence[Origin]) -> dict[Origin, int]:
        return {origin: positions[origin] for origin in origins if origin in positions}

    with subscription(log, place.topics, start) as taken:
        for record in read(taken, 3):
            origin = taken.assignment()[Partition(record.topic, record.partition)]
            positions[origin] = record.offset + 1
        before = {info.origin.identity for info in log.describe(place.topics[:1])}
        place.make_anew(place.topics[0])
        with closing(place.open()) as fresh:  # another client writes more than there was before
            append(fresh, *numbered(place.topics[0], 10, 11, 12, 13, 14))
            after = {info.origin.identity for info in fresh.describe(place.topics[:1])}
        assert before != after
        found = read(taken, 5)
        while len({record.value for record in found}) < 5:  # some may have come by the old offset
            again = read(taken, 1)
            assert again, found
            found += again
        assert {record.value for record in found} == {b"10", b"11", b"12", b"13", b"14"}


def test_the_embedded_log_is_durable_by_its_own_word(tmp_path: Path) -> None:
    """A kill shows nothing about power cuts: this is what SQLite is asked for."""
    with closing(SqliteLog(tmp_path / "log.db", ["t"])) as log:
        append(log, *numbered("t", 0))
        writer = log._writer
        assert writer
        [[synchronous]] = writer._connection.execute("PRAGMA synchronous")
        [[journal]] = writer._connection.execute("PRAGMA journal_mode")
    assert (synchronous, journal) == (2, "wal")
