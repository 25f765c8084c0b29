"""A Kafka that does not let us do everything: what is forbidden harms nothing else, the status
names it, and all goes on by itself once it is allowed."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import kafka
import pytest

from jobquest.errors import LogUnavailable, TopicUnavailable
from jobquest.events import CATALOGUE
from jobquest.log import EventLog, NewRecord, Origin, Partition, Record
from jobquest.log.kafka import KafkaLog
from jobquest.log.outbox import Outbox
from jobquest.report import HEALTHY, LOG_TOPICS
from tests.kafka_broker import why_not
from tests.kafka_rights import GuardedBroker
from tests.logs import UNTRIED, OnKafka, delete_topics, everything
from tests.service import Service, wait_for

pytestmark = pytest.mark.kafka

GROUP = "job-quest-consumer"
FORBIDDEN = "notifications"
PLACES = ("/", "/topics", "/topics/notifications", "/api/kafka/topics", "/api/kafka/status")


@pytest.fixture(scope="module")
def broker() -> Iterator[GuardedBroker]:
    if reason := why_not():
        pytest.skip(reason)
    made = GuardedBroker()
    made.start()
    made.grant_group(GROUP)
    yield made
    made.remove()


# --- the log ---


@pytest.fixture
def topics(broker: GuardedBroker) -> Iterator[list[str]]:
    """Two topics; everything is allowed with the first."""
    names = [f"t-{uuid.uuid4().hex[:8]}" for _ in range(2)]
    broker.make(names)
    broker.grant(names[:1], "READ", "WRITE")
    yield names
    delete_topics(broker.bootstrap, names)


@pytest.fixture(params=[kafka.__version__, UNTRIED])
def log(
    request: pytest.FixtureRequest, broker: GuardedBroker, topics: list[str]
) -> Iterator[EventLog]:
    """The log with the rights of a user, by each way to use kafka-python."""
    with closing(
        KafkaLog(
            bootstrap=[broker.guarded],
            client_id="tests",
            partitions=2,
            replication_factor=1,
            security=broker.security,
            topics=topics,
            version=request.param,
        )
    ) as made:
        yield made


def records(topics: Sequence[str]) -> list[NewRecord]:
    return [NewRecord(topic, b"ada", b"%d" % n) for n in range(3) for topic in topics]


def write(log: EventLog, topics: Sequence[str]) -> None:
    for future in log.append(records(topics)):
        future.result(10)


@pytest.mark.parametrize("granted", [["READ"], ["DESCRIBE"], []])
def test_records_of_a_topic_that_may_not_be_written_fail_alone(
    broker: GuardedBroker, topics: list[str], log: EventLog, granted: list[str]
) -> None:
    if granted:
        broker.grant(topics[1:], *granted)
    for _ in range(2):
        futures = log.append(records(topics))
        for future in futures[::2]:
            assert future.result(10).topic == topics[0]
        for future in futures[1::2]:
            with pytest.raises(TopicUnavailable, match=f"on topic {topics[1]} is missing") as said:
                future.result(10)
            assert said.value.topic == topics[1]
    assert topics[1] in log.missing_rights()
    broker.grant(topics[1:], "WRITE", "READ")

    def is_taken() -> bool:
        log.reach()
        return log.append(records(topics[1:]))[0].exception(10) is None

    wait_for(is_taken, 10)
    wait_for(lambda: not log.missing_rights(), 5)


@pytest.mark.parametrize("granted", [["WRITE"], []])
def test_a_topic_that_may_not_be_read_keeps_nothing_else_from_being_read(
    broker: GuardedBroker, topics: list[str], log: EventLog, granted: list[str]
) -> None:
    if granted:
        broker.grant(topics[1:], *granted)
    patience = 30  # above REJOIN_SECONDS
    found: list[Record] = []

    def positions(origins: Sequence[Origin]) -> dict[Origin, int]:
        at = {(record.topic, record.partition): record.offset + 1 for record in found}
        return {origin: at.get((origin.topic, origin.number), 0) for origin in origins}

    def read(count: int, other: int) -> bool:
        found.extend(subscription.poll(0.2, 100))
        of_first = sum(record.topic == topics[0] for record in found)
        return (of_first, len(found) - of_first) == (count, other)

    with (
        closing(OnKafka(broker.bootstrap, topics).open()) as writer,
        closing(log.subscribe(topics, GROUP, positions)) as subscription,
    ):
        write(writer, topics)
        wait_for(lambda: read(3, 0), patience)
        assert {place.topic for place in subscription.assignment()} == {topics[0]}
        broker.grant(topics[1:], "READ")
        wait_for(lambda: read(3, 3), patience)
        broker.withdraw(topics[1:], "READ")
        wait_for(lambda: read(3, 3) and len(subscription.assignment()) == 2, patience)
        write(writer, topics)
        wait_for(lambda: read(6, 3), patience)
        broker.grant(topics[1:], "READ")
        wait_for(lambda: read(6, 6), patience)


def test_a_look_at_a_topic_that_may_not_be_read_fails_alone(
    broker: GuardedBroker, topics: list[str], log: EventLog
) -> None:
    broker.grant(topics[1:], "WRITE")
    with closing(OnKafka(broker.bootstrap, topics).open()) as writer:
        write(writer, topics)
    assert len(log.describe(topics)) == 4
    places = [Partition(topics[1], number) for number in (0, 1)]
    with pytest.raises(TopicUnavailable, match=f"The right READ on topic {topics[1]} is missing"):
        log.read_each(dict.fromkeys(places, (0, 10)), 10)
    spans = {Partition(topics[0], number): (0, 10) for number in (0, 1)}
    assert sum(len(found.records) for found in log.read_each(spans, 10).values()) == 3


def test_a_group_that_may_not_be_joined_is_named(log: EventLog, topics: list[str]) -> None:
    with closing(log.subscribe(topics, "theirs", lambda origins: {})) as subscription:

        def is_named() -> bool:
            with suppress(LogUnavailable):
                subscription.poll(0.2, 10)
                return False
            return True

        wait_for(is_named, 10)
        with pytest.raises(LogUnavailable, match="The right READ on the group theirs is missing"):
            subscription.poll(5, 10)
    assert log.members("theirs") == ()
    assert {info.origin.topic for info in log.describe(topics)} == {topics[0]}


def test_a_topic_that_may_not_be_made_keeps_no_other_from_being_used(
    broker: GuardedBroker, topics: list[str], log: EventLog
) -> None:
    broker.grant(topics[1:], "READ", "WRITE")
    delete_topics(broker.bootstrap, topics[1:])
    futures = log.append(records(topics))
    assert futures[0].result(10).topic == topics[0]
    with pytest.raises(TopicUnavailable, match=f"The right CREATE on topic {topics[1]}"):
        futures[1].result(10)
    assert log.missing_rights() == {topics[1]: ("CREATE",)}
    assert {info.origin.topic for info in log.describe(topics)} == {topics[0]}
    broker.grant(topics[1:], "CREATE")

    def is_taken() -> bool:
        log.reach()
        return log.append(records(topics[1:]))[0].exception(10) is None

    wait_for(is_taken, 10)


def test_only_what_may_not_be_written_waits_and_its_order_stays(
    broker: GuardedBroker, topics: list[str], log: EventLog, tmp_path: Path
) -> None:
    broker.grant(topics[1:], "READ", "WRITE")
    outbox = Outbox(log, tmp_path, 10_000, lambda record, error: None)
    outbox.start()
    stop, taken = threading.Event(), [0]

    def publish() -> None:
        while not stop.wait(0.002):
            straight, either = outbox.append(
                [NewRecord(topic, b"ada", b"%d" % taken[0]) for topic in topics]
            )
            assert straight.result(5) is not None, "one of the other topic waits"
            either.result(5)
            taken[0] += 1

    def is_straight() -> bool:
        return outbox.append([NewRecord(topics[1], b"bob", b"")])[0].result(5) is not None

    wait_for(is_straight, 10)
    with ThreadPoolExecutor(1) as pool:
        published = pool.submit(publish)
        try:
            for _ in range(2):
                broker.withdraw(topics[1:], "WRITE")
                wait_for(lambda: outbox.waiting().events > 20, 10)
                assert list(outbox.barred) == topics[1:]
                broker.grant(topics[1:], "WRITE")
                wait_for(is_straight, 10)
        finally:
            stop.set()
        published.result(10)
        wait_for(lambda: not outbox.waiting().events, 10)
    outbox.stop()
    for topic in topics:
        values = [one.value for one in everything(broker.bootstrap, [topic]) if one.key == b"ada"]
        assert list(dict.fromkeys(values)) == [b"%d" % n for n in range(taken[0])], topic


# --- the service ---


@pytest.fixture(scope="module")
def service(broker: GuardedBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service without DESCRIBE_CONFIGS, which is all that it has no need of."""
    broker.make(LOG_TOPICS)
    broker.grant(LOG_TOPICS, "READ", "WRITE")
    folder = tmp_path_factory.mktemp("service")
    made = Service(folder, JOBQUEST_WORKERS="2", **broker.settings).start()
    wait_for(is_well(made), 30, made.tail)
    yield made
    made.kill()


def is_well(service: Service) -> Callable[[], bool]:
    return lambda: service.status()["state"] in HEALTHY


def publish(service: Service, kind: str, count: int = 4) -> list[int]:
    """Publish some events; the codes of the answers."""
    data = CATALOGUE[kind].example
    return [service.post(kind, data, user_id="ada").code for _ in range(count)]


def processed(service: Service, kind: str) -> int:
    found = service.get(f"/api/events?type={kind}&limit=500").json["data"]["events"]
    return sum(one["outcome"] == "processed" for one in found)


def assert_degraded(service: Service, right: str) -> None:
    wait_for(lambda: service.status()["state"] == "degraded", 10, lambda: str(service.status()))
    assert service.status()["consumerRunning"] is True
    missing = f"The right {right} on topic {FORBIDDEN} is missing."

    def agree() -> bool:
        """Each worker may answer, and one hears earlier of events that wait in the outbox."""
        reason, ready = service.status()["reason"] or "", service.get("/readyz")
        return missing in reason and (ready.code, ready.json["data"]["reason"]) == (200, reason)

    wait_for(agree, 10, lambda: str(service.status()))
    assert {place: service.get(place).code for place in PLACES} == dict.fromkeys(PLACES, 200)


def test_without_the_right_to_see_settings_everything_else_works(service: Service) -> None:
    assert publish(service, "mission.started") == [201] * 4
    wait_for(lambda: processed(service, "mission.started") == 4, 20, service.tail)
    ready = service.get("/readyz")
    assert ready.code == 200, ready.json
    assert {place: service.get(place).code for place in PLACES} == dict.fromkeys(PLACES, 200)
    lines = [line for line in service.output if "How long Kafka keeps records" in line]
    assert 1 <= len(lines) <= len(service.status()["processes"])
    assert all("DESCRIBE_CONFIGS" in line for line in lines)


def test_missions_are_processed_while_notifications_may_not_be_read(
    service: Service, broker: GuardedBroker
) -> None:
    broker.withdraw([FORBIDDEN], "READ")
    assert_degraded(service, "READ")
    assert publish(service, "notification.sent") == [201] * 4
    before = processed(service, "mission.started")
    assert publish(service, "mission.started") == [201] * 4
    wait_for(lambda: processed(service, "mission.started") == before + 4, 20, service.tail)
    assert processed(service, "notification.sent") == 0
    assert service.status()["state"] == "degraded"
    page = service.get(f"/topics/{FORBIDDEN}")
    told = service.get(f"/api/kafka/topics/{FORBIDDEN}/records")
    assert (page.code, told.code) == (200, 503)
    assert told.json["message"] == f"The right READ on topic {FORBIDDEN} is missing."
    broker.grant([FORBIDDEN], "READ")
    wait_for(lambda: processed(service, "notification.sent") == 4, 20, service.tail)
    wait_for(is_well(service), 10, service.tail)


def test_missions_pass_while_notifications_may_not_be_written(
    service: Service, broker: GuardedBroker
) -> None:
    broker.withdraw([FORBIDDEN], "WRITE")
    wait_for(lambda: publish(service, "notification.read", 1) == [202], 10)
    before = processed(service, "notification.read")
    assert publish(service, "notification.read") == [202] * 4
    assert publish(service, "mission.failed", 8) == [201] * 8
    wait_for(lambda: processed(service, "mission.failed") == 8, 20, service.tail)
    assert_degraded(service, "WRITE")
    assert service.status()["outbox"]["events"] == 5
    broker.grant([FORBIDDEN], "WRITE")
    wait_for(lambda: processed(service, "notification.read") == before + 5, 20, service.tail)
    wait_for(is_well(service), 10, service.tail)
    wait_for(lambda: publish(service, "notification.read", 1) == [201], 5)
    assert sum("log.outbox: Events of topic" in line for line in service.output) <= 2


def test_follow_ups_pass_while_dead_letters_may_not_be_written(
    service: Service, broker: GuardedBroker
) -> None:
    broker.withdraw(["dead-letters"], "WRITE")
    with closing(OnKafka(broker.bootstrap, ["system-events"]).open()) as writer:
        writer.append([NewRecord("system-events", b"eve", b"no JSON")])[0].result(10)
    wait_for(lambda: service.status()["followUpsWaiting"] == 1, 20, service.tail)
    before = processed(service, "level.up")
    assert publish(service, "mission.completed", 8) == [201] * 8
    wait_for(lambda: processed(service, "level.up") > before, 20, service.tail)
    wait_for(lambda: service.status()["followUpsWaiting"] == 1, 20, service.tail)
    wait_for(lambda: "WRITE on topic dead-letters" in (service.status()["reason"] or ""), 10)
    broker.grant(["dead-letters"], "WRITE")
    wait_for(lambda: service.status()["followUpsWaiting"] == 0, 20, service.tail)
    wait_for(is_well(service), 10, service.tail)
