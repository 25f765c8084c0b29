"""What only Apache Kafka has: topics of its own making, brokers that go away, damage, retention."""

from __future__ import annotations

import gc
import itertools
import logging
import os
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import kafka
import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigFilterType, ConfigResource, ConfigResourceType, KafkaAdminClient
from kafka.errors import KafkaConnectionError, TopicAuthorizationFailedError
from kafka.record.default_records import DefaultRecordBatch

from jobquest.errors import LogUnavailable, RecordRefused, TopicUnavailable
from jobquest.log import EventLog, NewRecord, Partition, Record
from jobquest.log.kafka import KafkaLog, sender
from jobquest.log.kafka.encoding import encode
from jobquest.log.kafka.subscription import ABSENCE_SECONDS
from jobquest.log.kafka.version import library_of
from tests.kafka_broker import KafkaBroker, free_port, why_not
from tests.logs import UNTRIED, OnKafka, clock_off, everything
from tests.proxy import Proxy
from tests.service import wait_for

pytestmark = pytest.mark.kafka


@pytest.fixture(params=[kafka.__version__, UNTRIED])
def version(request: pytest.FixtureRequest) -> str:
    """The version as which kafka-python is used: each way to use it has one."""
    found: str = request.param
    return found


@pytest.fixture
def place(kafka_broker: KafkaBroker, version: str) -> OnKafka:
    return OnKafka(kafka_broker.bootstrap, [f"t-{uuid.uuid4().hex[:12]}"], version)


def make_topic(place: OnKafka, partitions: int = 1, **configs: str) -> None:
    with KafkaAdminClient(bootstrap_servers=place.bootstrap, api_version=(4, 0)) as admin:
        settings = {"num_partitions": partitions, "replication_factor": 1, "configs": configs}
        admin.create_topics({place.topics[0]: settings}, wait_for_metadata=True)


def configs(place: OnKafka) -> dict[str, str]:
    with KafkaAdminClient(bootstrap_servers=place.bootstrap, api_version=(4, 0)) as admin:
        wanted = [ConfigResource(ConfigResourceType.TOPIC, place.topics[0])]
        found = admin.describe_configs(wanted, config_filter=ConfigFilterType.ALL)
        return {k: v["value"] for k, v in found["topic"][place.topics[0]].items()}


def append(log: EventLog, topic: str, *values: bytes) -> None:
    for future in log.append([NewRecord(topic, b"k", value) for value in values]):
        future.result(10)


def read(log: EventLog, place: OnKafka, count: int, start: int | None = None) -> list[Record]:
    """Read `count` records as a group of its own; `start`: the stored offset of each partition."""

    def positions(origins):  # type: ignore[no-untyped-def]
        return {} if start is None else dict.fromkeys(origins, start)

    records: list[Record] = []
    deadline = time.monotonic() + 20
    with closing(log.subscribe(place.topics, uuid.uuid4().hex, positions)) as subscription:
        while len(records) < count and time.monotonic() < deadline:
            records += subscription.poll(0.2, 100)
    return records


def test_topics_are_made_to_be_kept_for_ever(place: OnKafka) -> None:
    with closing(place.open()) as log:
        assert len(log.describe(place.topics)) == 3
    found = configs(place)
    assert (found["retention.ms"], found["min.insync.replicas"]) == ("-1", "1")


def test_a_topic_gets_the_configs_of_its_own_and_takes_what_they_allow(place: OnKafka) -> None:
    allowed = {place.topics[0]: {"max.message.bytes": "2097152"}}
    with closing(place.open(topic_configs=allowed)) as log:
        append(log, place.topics[0], b"x" * 1_500_000)
    assert configs(place)["max.message.bytes"] == "2097152"
    assert configs(place)["retention.ms"] == "-1"


def test_a_topic_that_exists_stays_as_it_is_and_what_it_forgets_is_warned_of(
    place: OnKafka, caplog: pytest.LogCaptureFixture
) -> None:
    make_topic(place, partitions=2, **{"retention.ms": "86400000"})
    with closing(place.open()) as log:
        assert len(log.describe(place.topics)) == 2
        for _ in range(2):  # as after a lost connection
            log.subscribe(place.topics, "g", lambda origins: {}).close()
    assert configs(place)["retention.ms"] == "86400000"
    [line] = [one for one in caplog.messages if "with other settings" in one]
    assert f"{place.topics[0]} (partitions 2, not 3, retention.ms 86400000, not -1)" in line


def test_a_record_that_the_broker_refuses_does_not_stop_the_next(place: OnKafka) -> None:
    """The library's default producer would fail every later record too."""
    make_topic(place, **{"max.message.bytes": "2000"})
    with closing(place.open()) as log:
        append(log, place.topics[0], b"good")
        [refused] = log.append([NewRecord(place.topics[0], b"k", b"x" * 5000)])
        with pytest.raises(RecordRefused):
            refused.result(10)
        append(log, place.topics[0], b"good again")


@pytest.mark.parametrize("count", [1, 50])
@pytest.mark.parametrize(("hours", "side"), [(5, "ahead of"), (-5, "behind")])
def test_records_of_a_clock_that_is_wrong_are_not_refused_but_wait(
    place: OnKafka, hours: int, side: str, count: int
) -> None:
    """The library tells several at once with another error than one."""
    hour = {"message.timestamp.before.max.ms": "3600000"}  # the other limit is so by default
    ours = {"message.timestamp.type": "LogAppendTime"}
    [topic] = place.topics
    topics = {topic: hour, f"{topic}-2": ours}
    line = f"clock is {side} Kafka's, by 240 min more"
    with closing(replace(place, topics=list(topics)).open(topic_configs=topics)) as log:
        append(log, topic, b"before")
        for _ in range(2):
            with clock_off(hours * 3_600_000):
                futures = log.append([NewRecord(topic, b"k", b"v")] * count)
                [other] = log.append([NewRecord(f"{topic}-2", b"k", b"v")])
                for future in futures:
                    with pytest.raises(TopicUnavailable, match=line) as said:
                        future.result(10)
                    assert said.value.topic == topic
                assert other.result(10).topic == f"{topic}-2"
            append(log, topic, b"v")


def test_a_record_that_a_topic_never_takes_is_refused(place: OnKafka) -> None:
    make_topic(place, **{"cleanup.policy": "compact"})
    with closing(place.open()) as log:
        for future in log.append([NewRecord(place.topics[0], None, b"v")] * 3):
            with pytest.raises(RecordRefused):
                future.result(10)


def test_records_that_are_too_many_for_one_batch_are_taken_in_several(place: OnKafka) -> None:
    make_topic(place, **{"max.message.bytes": "3000"})
    values = [b"%d" % n * 900 for n in range(9)]
    values.insert(4, b"x" * 5000)
    with closing(place.open()) as log:
        futures = log.append([NewRecord(place.topics[0], b"k", value) for value in values])
        assert isinstance(futures.pop(4).exception(10), RecordRefused)
        positions = [future.result(10) for future in futures]
    kept = {record.offset: record.value for record in everything(place.bootstrap, place.topics)}
    values.pop(4)
    assert [kept[position.offset] for position in positions] == values
    assert positions == sorted(positions)


def test_what_cannot_be_unpacked_is_told_by_offset_and_the_next_is_read(
    place: OnKafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_topic(place)
    with closing(place.open(folder=tmp_path)) as log:
        for n in range(3):  # one batch each
            append(log, place.topics[0], b"%d" % n)
        sound = DefaultRecordBatch.validate_crc
        monkeypatch.setattr(
            DefaultRecordBatch,
            "validate_crc",
            lambda batch: batch.base_offset != 1 and sound(batch),
        )
        before = time.process_time()
        records = read(log, place, 3)
        assert [record.value for record in records] == [b"0", None, b"2"]
        assert records[1].offset == 1
        assert "CorruptRecordError" in str(records[1].damage)
        outside = log.read(Partition(place.topics[0], 0), 0, 3)  # as a rebuild reads
        assert [(one.offset, one.value) for one in outside] == [(0, b"0"), (1, None), (2, b"2")]
        assert time.process_time() - before < 3, "it spun"


@pytest.mark.parametrize(
    ("stored", "says"), [(0, "3 records of partition"), (99, "before the stored position 99")]
)
def test_a_stored_offset_that_is_gone_is_told_with_what_is_lost(
    place: OnKafka, caplog: pytest.LogCaptureFixture, stored: int, says: str
) -> None:
    make_topic(place)
    with closing(place.open()) as log:
        append(log, place.topics[0], *(b"%d" % n for n in range(6)))
        with KafkaAdminClient(bootstrap_servers=place.bootstrap, api_version=(4, 0)) as admin:
            admin.delete_records({TopicPartition(place.topics[0], 0): 3})
        assert [record.offset for record in read(log, place, 3, start=stored)] == [3, 4, 5]
    assert any(says in line for line in caplog.messages), caplog.messages


def test_the_group_s_offsets_are_written_soon_and_at_the_end_for_lag_tools(
    place: OnKafka,
) -> None:
    make_topic(place)
    group, spot = uuid.uuid4().hex, Partition(place.topics[0], 0)

    def written() -> int | None:
        with closing(
            KafkaConsumer(bootstrap_servers=place.bootstrap, group_id=group, api_version=(4, 0))
        ) as tool:
            found: int | None = tool.committed(TopicPartition(*spot), timeout_ms=5_000)
            return found

    with closing(place.open()) as log:
        append(log, place.topics[0], b"1", b"2", b"3")
        with closing(log.subscribe(place.topics, group, lambda origins: {})) as subscription:
            wait_for(lambda: subscription.poll(0.2, 100), 20)
            subscription.commit({spot: 2})

            def is_written() -> bool:
                subscription.poll(0.2, 100)
                return written() == 2

            wait_for(is_written, 10)
            subscription.commit({spot: 3})
        assert written() == 3
        with closing(log.subscribe(place.topics, group, lambda origins: {})) as subscription:
            wait_for(lambda: subscription.poll(0.2, 100), 20)
            subscription.commit({spot: 1})
            subscription.on_partitions_revoked([TopicPartition(*spot)])  # another may be further
        assert written() == 3


def test_records_of_a_compressing_producer_are_read(place: OnKafka) -> None:
    make_topic(place)
    for codec in ("gzip", "snappy", "lz4", "zstd"):
        other = KafkaProducer(bootstrap_servers=place.bootstrap, compression_type=codec)
        other.send(place.topics[0], codec.encode()).get(10)
        other.close()
    with closing(place.open()) as log:
        values = [record.value for record in read(log, place, 4)]
    assert values == [b"gzip", b"snappy", b"lz4", b"zstd"]


def test_a_connection_that_breaks_in_a_poll_harms_no_record(
    place: OnKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library raises a broken pipe out of its poll as it raises damage, with sound records of
    an earlier fetch in its hands. A soak that killed the broker nine times lost nine records so;
    no fault made on purpose has brought the exception about, so it is thrown in here."""
    make_topic(place)
    sound, calls = KafkaConsumer.poll, itertools.count()

    def poll(consumer: KafkaConsumer, *args: Any, **options: Any) -> Any:
        if next(calls) % 2 and consumer._fetcher._next_partition_records:
            raise KafkaConnectionError("[Errno 32] Broken pipe")
        return sound(consumer, *args, **options)

    with closing(place.open()) as log:
        append(log, place.topics[0], *(b"%d" % n for n in range(20)))
        monkeypatch.setattr(KafkaConsumer, "poll", poll)
        records: list[Record] = []
        with closing(
            log.subscribe(place.topics, uuid.uuid4().hex, lambda origins: {})
        ) as subscription:
            wait_for(lambda: records.extend(subscription.poll(0.2, 3)) or len(records) >= 20, 20)
    assert [record.value for record in records] == [b"%d" % n for n in range(20)]


def test_a_connection_that_stays_broken_is_not_polled_without_rest(
    place: OnKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_topic(place)
    calls = itertools.count()

    def poll(consumer: KafkaConsumer, *args: Any, **options: Any) -> Any:
        next(calls)
        raise KafkaConnectionError("[Errno 32] Broken pipe")

    with (
        closing(place.open()) as log,
        closing(log.subscribe(place.topics, uuid.uuid4().hex, lambda origins: {})) as subscription,
    ):
        monkeypatch.setattr(KafkaConsumer, "poll", poll)
        assert subscription.poll(1.0, 3) == []
    assert next(calls) <= 12


def test_what_kafka_will_never_let_us_read_is_no_damage_but_an_absence(
    place: OnKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_topic(place)

    def poll(consumer: KafkaConsumer, *args: Any, **options: Any) -> Any:
        raise TopicAuthorizationFailedError("not yours")

    with (
        closing(place.open()) as log,
        closing(log.subscribe(place.topics, uuid.uuid4().hex, lambda origins: {})) as subscription,
    ):
        monkeypatch.setattr(KafkaConsumer, "poll", poll)
        with pytest.raises(LogUnavailable, match="not yours"):
            subscription.poll(1.0, 3)


def open_files() -> int:
    gc.collect()  # the library leaves refused sockets in reference cycles
    return len(os.listdir("/proc/self/fd"))


def away(port: int, version: str) -> KafkaLog:
    log = OnKafka(f"127.0.0.1:{port}", ["t"], version).open()
    assert isinstance(log, KafkaLog)
    return log


def test_a_broker_that_is_away_is_told_soon_and_leaves_nothing_behind(
    caplog: pytest.LogCaptureFixture, version: str
) -> None:
    caplog.set_level(logging.CRITICAL, "kafka")  # captured records would keep sockets alive
    with closing(away(free_port(), version)) as log:
        with pytest.raises(LogUnavailable):
            log.describe(["t"])
        threads, files = threading.active_count(), open_files()
        for _ in range(3):
            time.sleep(1.1)  # beyond the time in which it answers from memory
            began = time.monotonic()
            for future in log.append([NewRecord("t", b"k", b"v")] * 5):
                with pytest.raises(LogUnavailable):
                    future.result(1)
            with pytest.raises(LogUnavailable):
                log.subscribe(["t"], "g", lambda origins: {})
            assert time.monotonic() - began < 3
        # An attempt that goes on by itself has two or three threads and what it tries to open.
        assert threading.active_count() <= threads + 3
        assert open_files() <= files + 8  # a client that is left behind has four
    wait_for(lambda: threading.active_count() <= threads, 10)
    wait_for(lambda: open_files() <= files + 1, 10)


@pytest.fixture(scope="module")
def proxied() -> Iterator[tuple[KafkaBroker, Proxy]]:
    """A broker of this module's own, for clients that go around its proxy or through it."""
    if reason := why_not():
        pytest.skip(reason)
    with Proxy() as proxy:
        broker = KafkaBroker(advertise=proxy.port)
        proxy.target = broker.behind
        yield broker.start(), proxy
        broker.remove()


@pytest.fixture
def own_broker(proxied: tuple[KafkaBroker, Proxy]) -> Iterator[KafkaBroker]:
    """A broker that a test may kill or freeze."""
    broker, _ = proxied
    yield broker
    broker.restore()


@pytest.fixture
def own_place(own_broker: KafkaBroker, version: str) -> OnKafka:
    return OnKafka(own_broker.bootstrap, [f"t-{uuid.uuid4().hex[:12]}"], version)


def test_a_broker_that_was_killed_is_found_again(
    own_broker: KafkaBroker, own_place: OnKafka, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    [topic] = own_place.topics
    with closing(own_place.open()) as log:
        append(log, topic, b"before")
        with closing(log.subscribe([topic], topic, lambda origins: {})) as subscription:
            wait_for(lambda: subscription.poll(0.2, 10), 20)
            own_broker.kill()
            with pytest.raises(LogUnavailable):
                wait_for(lambda: subscription.poll(0.2, 10), ABSENCE_SECONDS + 20)
            own_broker.start()

            def appended() -> bool:
                [future] = log.append([NewRecord(topic, b"k", b"after")])
                return future.exception(12) is None

            wait_for(appended, 60)
            assert b"after" in {record.value for record in read(log, own_place, 2)}


def test_every_future_resolves_when_the_broker_hangs_and_the_next_append_works(
    own_broker: KafkaBroker, own_place: OnKafka
) -> None:
    """The library alone waits for 12 s; with its defaults it would never send again."""
    [topic] = own_place.topics
    with closing(own_place.open()) as log:
        append(log, topic, b"before")
        own_broker.freeze()
        failed: list[int] = []
        began = time.monotonic()
        futures = log.append([NewRecord(topic, b"%d" % (n % 7), b"%d" % n) for n in range(500)])
        for n, future in enumerate(futures):
            future.add_done_callback(lambda _, n=n: failed.append(n))  # type: ignore[misc]
        assert time.monotonic() - began < 0.5, "it blocked"
        for future in futures:
            assert isinstance(future.exception(2.5), LogUnavailable)
        assert time.monotonic() - began < 2.5
        assert failed == list(range(500))
        began = time.monotonic()
        [refused] = log.append([NewRecord(topic, b"k", b"v")])
        assert isinstance(refused.exception(0), LogUnavailable)
        assert time.monotonic() - began < 0.1, "it waited for a log that is known to be away"
        own_broker.thaw()
        thawed = time.monotonic()
        wait_for(lambda: log.append([NewRecord(topic, b"k", b"v")])[0].exception(3) is None, 10)
        assert time.monotonic() - thawed < 5


def test_a_library_whose_thread_has_ended_is_replaced(place: OnKafka) -> None:
    with closing(place.open()) as log:
        assert isinstance(log, KafkaLog)
        append(log, place.topics[0], b"before")
        log._sender._producer._producer._sender.force_close()  # type: ignore[union-attr]
        [lost] = log.append([NewRecord(place.topics[0], b"k", b"v")])
        assert isinstance(lost.exception(3), LogUnavailable)
        again = [NewRecord(place.topics[0], b"k", b"v")]
        wait_for(lambda: log.append(again)[0].exception(3) is None, 10)


def give_up_both(log: EventLog, topic: str) -> None:
    """Append two records that the broker does not confirm, the second while the first waits: both
    fail together."""
    began = time.monotonic()
    [first] = log.append([NewRecord(topic, b"k", b"first")], 30.0)
    wait_for(lambda: time.monotonic() - began > 2, 5)
    [second] = log.append([NewRecord(topic, b"k", b"second")], 30.0)
    assert isinstance(first.exception(10), LogUnavailable)
    assert isinstance(second.exception(0.5), LogUnavailable)


def test_nothing_that_was_sent_behind_a_failed_record_overtakes_it(
    own_broker: KafkaBroker, own_place: OnKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library gives one batch up, and would send the next one when the broker is back."""
    monkeypatch.setitem(sender._SETTINGS, "request_timeout_ms", 2_500)
    monkeypatch.setitem(sender._SETTINGS, "delivery_timeout_ms", 3_000)
    [topic] = own_place.topics
    with closing(own_place.open()) as log:
        append(log, topic, b"before")
        own_broker.freeze()
        give_up_both(log, topic)
        own_broker.thaw()


def test_what_waits_behind_a_record_that_failed_is_never_sent_alone(
    proxied: tuple[KafkaBroker, Proxy], version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is cut before the broker gets the first one: it is lost for good. Whoever
    appended both appends both again, so a second one by itself would be out of order."""
    monkeypatch.setitem(sender._SETTINGS, "request_timeout_ms", 2_500)
    monkeypatch.setitem(sender._SETTINGS, "delivery_timeout_ms", 3_000)
    broker, proxy = proxied
    topic = f"t-{uuid.uuid4().hex[:12]}"
    with closing(OnKafka(proxy.bootstrap, [topic], version).open()) as log:
        before = [NewRecord(topic, b"k", b"before")]
        wait_for(lambda: log.append(before)[0].exception(3) is None, 20)
        proxy.black_hole()
        began = time.monotonic()
        give_up_both(log, topic)
        proxy.cut()
        proxy.pass_on()
        after = [NewRecord(topic, b"k", b"after")]
        wait_for(lambda: log.append(after)[0].exception(3) is None, 40)
        wait_for(lambda: time.monotonic() - began > 6, 10)  # nothing may come any more
    kept = {record.value for record in everything(broker.bootstrap, [topic])}
    assert kept == {b"before", b"after"}


class Entry:
    """A record on its way."""

    def __init__(self, record: NewRecord) -> None:
        self.record = record
        self.encoded = encode(record)


class Nobody:
    """Receives answers that no test looks at."""

    def confirmed(self, *_: object) -> None: ...

    def failed(self, *_: object) -> None: ...


def open_sockets() -> set[str]:
    """This process's sockets, by the numbers that the kernel gave them."""
    found = set()
    for file in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # closed since
            found.add(os.readlink(f"/proc/self/fd/{file}"))
    return {name for name in found if name.startswith("socket:")}


def test_producers_that_are_given_up_leave_no_thread_and_no_file_behind(
    own_broker: KafkaBroker, own_place: OnKafka, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "kafka")  # captured records would keep sockets alive
    caplog.set_level(logging.WARNING, "jobquest")
    [topic] = own_place.topics
    with closing(own_place.open()) as log:
        append(log, topic, b"before")
        threads, sockets = set(threading.enumerate()), open_sockets()
        library, settings = (
            library_of(own_place.version),
            sender._SETTINGS | {"api_version": (4, 0)},
        )
        made = [
            library.producer(Nobody(), bootstrap_servers=own_broker.bootstrap, **settings)
            for _ in range(3)  # the documented interface's threads are busy while they wait
        ]
        for producer in made:
            producer.know([topic])
        own_broker.freeze()
        entries = [Entry(NewRecord(topic, b"k", b"%d" % n)) for n in range(3)]
        for producer, entry in zip(made, entries, strict=True):
            producer.put([entry])
        wait_for(lambda: len(open_sockets() - sockets) >= 3, 5)
        time.sleep(0.3)  # they are on their way, and the broker is silent
        # Theirs alone: what other tests have left to the library opens and closes sockets, too.
        threads, sockets = set(threading.enumerate()) - threads, open_sockets() - sockets
        for producer in made:
            producer.end()
        del made, producer
        # The broker hangs all the while: the library gives up by itself after 12 s.
        wait_for(lambda: not any(thread.is_alive() for thread in threads), 30)
        # The library's clients refer to themselves: the collector closes what they held open.
        wait_for(lambda: gc.collect() >= 0 and not sockets & open_sockets(), 10)
        own_broker.thaw()
    assert not any("can't be closed" in line for line in caplog.messages)


def test_the_producer_s_thread_rests_while_a_request_is_in_flight(own_broker: KafkaBroker) -> None:
    """On the fast path. The library's own asks all the while whether it may send the next one."""
    topic = f"t-{uuid.uuid4().hex[:12]}"
    with closing(OnKafka(own_broker.bootstrap, [topic], kafka.__version__).open()) as log:
        append(log, topic, b"before")
        own_broker.freeze()
        log.append([NewRecord(topic, b"k", b"1")])
        time.sleep(0.1)  # it is on its way, and the broker is silent
        log.append([NewRecord(topic, b"k", b"2"), NewRecord(topic, b"l", b"3")])
        began = time.process_time()
        time.sleep(0.5)  # what is measured
        busy = time.process_time() - began
        own_broker.thaw()
    assert busy < 0.2, f"{busy:.2f} s of 0.5 s"


def test_a_topic_that_is_deleted_while_it_runs_is_created_again(place: OnKafka) -> None:
    make_topic(place)
    with closing(place.open()) as log:
        append(log, place.topics[0], b"before")
        place.make_anew(place.topics[0])
        [lost] = log.append([NewRecord(place.topics[0], b"k", b"v")])
        assert isinstance(lost.exception(3), LogUnavailable)
        again = [NewRecord(place.topics[0], b"k", b"again")]
        wait_for(lambda: log.append(again)[0].exception(3) is None, 10)
    kept = {record.value for record in everything(place.bootstrap, place.topics)}
    # What was not confirmed may still be written: the documented interface can't take it back.
    assert {b"again"} <= kept <= {b"again", b"v"}


def test_what_is_on_its_way_to_a_broker_that_hangs_is_bounded(
    own_broker: KafkaBroker, own_place: OnKafka
) -> None:
    """The library's own buffer is not: 20,000 records of 20 KB would take over 400 MB."""

    def resident_mb() -> float:
        with open("/proc/self/status") as status:
            return int(next(line for line in status if line.startswith("VmRSS")).split()[1]) / 1024

    [topic] = own_place.topics
    with closing(own_place.open()) as log, closing(own_place.open()) as other:
        append(log, topic, b"before")
        append(other, topic, b"before")
        own_broker.freeze()
        before = resident_mb()
        waiting = 0
        for _ in range(20):
            futures = log.append([NewRecord(topic, b"k", b"x" * 20_000)] * 1_000, 30.0)
            waiting += sum(not future.done() for future in futures)
        assert 3_000 < waiting < 3_500, "64 MB"
        assert "too much is on its way" in str(futures[-1].exception())
        assert resident_mb() - before < 200
        futures = other.append([NewRecord(topic, b"k", b"")] * 11_000, 30.0)
        assert sum(not future.done() for future in futures) == 10_000
        own_broker.thaw()


def test_a_join_that_the_library_forgets_is_made_again(
    place: OnKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It joins again because there are more partitions, and polls end before that does."""
    monkeypatch.setattr("jobquest.log.kafka.subscription.REJOIN_SECONDS", 6.0)
    [topic] = place.topics
    make_topic(place, 2)
    with (
        closing(place.open()) as log,
        closing(log.subscribe([topic], "hasty", lambda origins: {})) as subscription,
    ):
        wait_for(lambda: subscription.poll(0.5, 1) or len(subscription.assignment()) == 2, 20)
        with KafkaAdminClient(bootstrap_servers=place.bootstrap, api_version=(4, 0)) as admin:
            admin.create_partitions({topic: 6})
        hasty_until = time.monotonic() + 8
        while time.monotonic() < hasty_until:
            subscription.poll(0.0, 1)
            time.sleep(0.01)  # polls without any rest are no hastier
        wait_for(lambda: subscription.poll(0.5, 1) or len(subscription.assignment()) == 6, 40)
