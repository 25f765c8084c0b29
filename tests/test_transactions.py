"""Records of other clients that do not count, and offsets that have no record: transactions that
are aborted, committed or open, compaction, retention. Offsets are no counts."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from contextlib import closing

import kafka
import pytest
from kafka import TopicPartition
from kafka.admin import KafkaAdminClient

from jobquest.browse import Wanted
from jobquest.config import load
from jobquest.events import TOPICS
from jobquest.lag import Lag
from jobquest.log import Found, NewRecord, Origin, Partition, Record
from jobquest.read.merge import in_order
from jobquest.runtime import Runtime
from tests.kafka_broker import KafkaBroker
from tests.logs import UNTRIED, OnKafka
from tests.service import wait_for
from tests.test_rebuild import lose, rows_of
from tests.transactions import abort, commit, transaction

pytestmark = pytest.mark.kafka

TOPIC = "achievements"


@pytest.fixture
def place(kafka_broker: KafkaBroker, version: str) -> OnKafka:
    return OnKafka(kafka_broker.bootstrap, [f"t-{uuid.uuid4().hex[:12]}"], version)


@pytest.fixture(params=[kafka.__version__, UNTRIED])
def version(request: pytest.FixtureRequest) -> str:
    """The version as which kafka-python is used: each way to use it has one."""
    found: str = request.param
    return found


@pytest.fixture
def runtime(empty_kafka: str, settings: dict[str, str]) -> Iterator[Runtime]:
    """The parts without a server, on Kafka."""
    made = Runtime(load({**settings, "KAFKA_BROKER": empty_kafka}))
    yield made
    made.consumer.close()
    made.stop()


def xp(amount: int, id: str) -> bytes:
    event = {
        "id": id,
        "type": "xp.earned",
        "userId": "u",
        "timestamp": "2026-11-24T06:00:00.000Z",
        "metadata": {},
        "data": {"xpAmount": amount, "totalXp": 0},
    }
    return json.dumps(event).encode()


def xp_of(runtime: Runtime) -> int:
    found = runtime.queries.user("u")
    return found["xp"] if found else 0


def lag(runtime: Runtime) -> int:
    """What the status says, and what the topics' page does."""
    [topic] = [one for one in runtime.report.topics() if one["name"] == TOPIC]
    messages: int = runtime.report.status()["lag"]["messages"]
    return max(messages, topic["lag"])


def is_caught_up(runtime: Runtime) -> bool:
    runtime.consumer.step(0.1)
    return lag(runtime) == 0


def test_aborted_records_count_nowhere_and_the_lag_comes_to_0_behind_transactions(
    runtime: Runtime,
) -> None:
    runtime.log.describe([])  # the topics are made
    [bootstrap] = runtime.config.kafka_broker
    commit(bootstrap, TOPIC, [xp(10, "a"), xp(10, "b")])
    abort(bootstrap, TOPIC, [xp(50, "c")])
    assert lag(runtime) > 0
    wait_for(lambda: is_caught_up(runtime), 30)
    assert xp_of(runtime) == 20
    before = rows_of(runtime)
    # Nobody consumes now, and what comes does not count: there is nothing to catch up with.
    abort(bootstrap, TOPIC, [xp(50, "d")])
    assert Lag(runtime.log, runtime.read_side, TOPICS).now().lag["messages"] == 0
    assert sum(topic["lag"] for topic in runtime.report.topics()) == 0

    shown = runtime.report.records(TOPIC, 0, Wanted())
    assert shown
    assert [one["event"]["id"] for one in shown["records"]] == ["a", "b"]
    assert (shown["stopped"], shown["next"]) == ("end", shown["end"])

    made = runtime.rebuild.run()
    assert (made.events, made.lost, xp_of(runtime)) == (2, 0, 20)
    again = lose(runtime)
    assert again.rebuild.run().events == 2
    assert rows_of(again) == before
    commit(bootstrap, TOPIC, [xp(5, "e")])
    wait_for(lambda: is_caught_up(again), 30)
    assert xp_of(again) == 25
    again.consumer.close()
    again.stop()


def test_the_last_records_are_shown_though_aborted_ones_lie_behind_them(runtime: Runtime) -> None:
    runtime.log.describe([])
    [bootstrap] = runtime.config.kafka_broker
    commit(bootstrap, TOPIC, [xp(1, f"e{n}") for n in range(60)])
    abort(bootstrap, TOPIC, [xp(50, "no")] * 300)
    shown = runtime.report.records(TOPIC, 0, Wanted(limit=50))
    assert shown
    assert [one["event"]["id"] for one in shown["records"]] == [f"e{n}" for n in range(10, 60)]
    assert shown["stopped"] == "end"


def test_what_waits_behind_an_open_transaction_is_read_once_it_ends(place: OnKafka) -> None:
    topic, spot = place.topics[0], Partition(place.topics[0], 0)
    with closing(place.open()) as log:
        log.describe([topic])
        with transaction(place.bootstrap, topic, [b"1", b"2"]) as producer:
            plain = [NewRecord(topic, b"%d" % n, b"plain") for n in range(20)]
            for future in log.append(plain):
                future.result(10)
            [info] = [one for one in log.describe([topic]) if one.origin.number == 0]
            assert info.next == 0
            assert list(in_order(log, {info.origin: (0, info.next)})) == []
            producer.commit_transaction()

        def is_over() -> int:
            [info] = [one for one in log.describe([topic]) if one.origin.number == 0]
            return info.next

        wait_for(is_over, 10)
        values = [record.value for record in log.read(spot, 0, 99)]
        assert values[:2] == [b"1", b"2"]
        assert set(values[2:]) == {b"plain"}


def spans_of(place: OnKafka) -> dict[Origin, tuple[int, int]]:
    with closing(place.open()) as log:
        return {one.origin: (one.first, one.next) for one in log.describe(place.topics)}


def test_a_past_with_offsets_that_have_no_record_is_read_to_its_end(place: OnKafka) -> None:
    """At its beginning, in its middle, at its end; and nothing but such offsets."""
    topic, spot = place.topics[0], Partition(place.topics[0], 0)
    with closing(place.open()) as log:
        log.describe([topic])
        abort(place.bootstrap, topic, [b"no"] * 10)
        [origin] = [one for one in spans_of(place) if one.number == 0]
        assert list(in_order(log, {origin: (0, 11)})) == []
        commit(place.bootstrap, topic, [b"1"])
        abort(place.bootstrap, topic, [b"no"] * 10)
        commit(place.bootstrap, topic, [b"2"])
        end = 11 + 2 + 11 + 2
        assert spans_of(place)[origin] == (0, end)
        began = time.monotonic()
        found = [record.value for _, record in in_order(log, {origin: (0, end)})]
        assert found == [b"1", b"2"]
        assert log.read_each({spot: (25, end)}, 5) == {spot: Found([], end)}
        assert time.monotonic() - began < 2, "it waited for what never comes"
        with closing(log.subscribe([topic], uuid.uuid4().hex, lambda origins: {})) as subscription:
            records: list[Record] = []

            def has_reached_the_end() -> bool:
                records.extend(subscription.poll(0.2, 1))
                return subscription.reached().get(spot) == end

            wait_for(has_reached_the_end, 20)
            assert [record.value for record in records] == [b"1", b"2"]


def test_what_compaction_and_deletion_took_holds_nobody_up(kafka_broker: KafkaBroker) -> None:
    topic = f"t-{uuid.uuid4().hex[:12]}"
    places = [OnKafka(kafka_broker.bootstrap, [topic], one) for one in (kafka.__version__, UNTRIED)]
    spot = Partition(topic, 0)
    eager = {  # the last record of each key stays, and the others go as soon as they can
        "cleanup.policy": "compact,delete",
        "min.cleanable.dirty.ratio": "0.001",
        "segment.ms": "100",
        "delete.retention.ms": "0",
        "max.compaction.lag.ms": "100",
    }
    with (
        KafkaAdminClient(bootstrap_servers=kafka_broker.bootstrap, api_version=(4, 0)) as admin,
        closing(places[0].open()) as log,
    ):
        settings = {"num_partitions": 1, "replication_factor": 1, "configs": eager}
        admin.create_topics({topic: settings}, wait_for_metadata=True)

        def append(key: bytes, value: bytes) -> None:
            log.append([NewRecord(topic, key, value)])[0].result(10)

        for n in range(20):
            append(b"k", b"%d" % n)
        admin.delete_records({TopicPartition(topic, 0): 5})

        def is_compacted() -> bool:
            append(b"other", b"x")  # closes the segment ahead of it
            return log.read(spot, 5, 1)[0].offset > 5

        wait_for(is_compacted, 60)
    for place in places:
        [(origin, (first, end))] = spans_of(place).items()
        assert first == 5
        with closing(place.open()) as log:
            found = [record for _, record in in_order(log, {origin: (0, end)})]
            assert found[0].offset == 19
            assert len(found) < end - first
            assert list(in_order(log, {origin: (0, 3)})) == []  # all of it is gone
