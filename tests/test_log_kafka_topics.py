"""Topics on a broker that makes each one that is asked for, as Kafka does by default."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import kafka
import pytest
from kafka.admin import ConfigFilterType, ConfigResource, ConfigResourceType, KafkaAdminClient

from jobquest.log import Found, NewRecord, Partition
from jobquest.read.retry_topic import TOPIC as RETRIES
from jobquest.report import LOG_TOPICS
from tests.kafka_broker import KafkaBroker, why_not
from tests.logs import KAFKA_PARTITIONS, UNTRIED, OnKafka, delete_topics
from tests.service import Service, wait_for

pytestmark = pytest.mark.kafka

OURS = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}
REFRESH_SECONDS = 6.0  # a consumer asks for its topics every 5 s


def settings_of(bootstrap: str) -> dict[str, tuple[int, dict[str, str]]]:
    """Topic → its partitions, and those of its configs that decide what it forgets."""
    with KafkaAdminClient(bootstrap_servers=bootstrap, api_version=(4, 0)) as admin:
        topics = [topic for topic in admin.list_topics() if not topic.startswith("__")]
        wanted = [ConfigResource(ConfigResourceType.TOPIC, topic) for topic in topics]
        configs = admin.describe_configs(wanted, config_filter=ConfigFilterType.ALL)
        return {
            one["name"]: (
                len(one["partitions"]),
                {name: configs["topic"][one["name"]][name]["value"] for name in OURS},
            )
            for one in admin.describe_topics(topics)
        }


def make_topics(bootstrap: str, topics: list[str]) -> None:
    """By the broker's defaults."""
    with KafkaAdminClient(bootstrap_servers=bootstrap, api_version=(4, 0)) as admin:
        admin.create_topics(topics, wait_for_metadata=True)


@pytest.fixture
def late_broker() -> Iterator[KafkaBroker]:
    """A broker that is not yet started, and forgets by default: so that nothing comes from it."""
    if reason := why_not():
        pytest.skip(reason)
    broker = KafkaBroker(**{"log.retention.bytes": "1000000", "log.cleanup.policy": "compact"})
    yield broker
    broker.remove()


def test_topics_come_out_with_our_settings_though_everybody_waits_for_the_broker(
    late_broker: KafkaBroker, tmp_path: Path
) -> None:
    """Three instances with two workers each ask for the topics before there is anybody to answer:
    whose question comes first is chance."""
    services: list[Service] = []
    with ExitStack() as ending:
        for number in range(3):
            folder = tmp_path / str(number)
            folder.mkdir()
            settings = {"KAFKA_BROKER": late_broker.bootstrap, "JOBQUEST_WORKERS": "2"}
            service = Service(folder, **settings)
            ending.callback(service.kill)
            services.append(service)
            service.start()
            # Its producers wait for the broker before it comes.
            assert service.post("user.login", {}, "u").json["data"]["result"] == "queued"
        late_broker.start()

        def all_have_asked() -> bool:
            return all(service.status()["outbox"]["events"] == 0 for service in services)

        wait_for(all_have_asked, 60, service.tail)
        found = settings_of(late_broker.bootstrap)
    compacted = OURS | {"cleanup.policy": "compact"}  # of what waits, the latest word counts
    assert found == dict.fromkeys(LOG_TOPICS, (6, OURS)) | {RETRIES: (6, compacted)}


def test_topics_with_other_settings_stay_as_they_are_and_one_line_a_start_says_so(
    kafka_as_it_comes: str, tmp_path: Path
) -> None:
    make_topics(kafka_as_it_comes, list(LOG_TOPICS))
    before = settings_of(kafka_as_it_comes)
    service = Service(tmp_path, KAFKA_BROKER=kafka_as_it_comes, JOBQUEST_WORKERS="2")
    try:
        service.start()
        wait_for(lambda: service.status()["consumerRunning"], 30, service.tail)
        service.post("user.login", {}, "u")
        [line] = [one for one in service.output if "with other settings" in one]
        assert "partitions 1, not 6" in line
        assert "retention.ms 604800000, not -1" in line
        assert all(topic in line for topic in LOG_TOPICS)
    finally:
        service.stop()
    assert settings_of(kafka_as_it_comes) == before


@pytest.mark.parametrize("version", [kafka.__version__, UNTRIED])
def test_a_deleted_topic_is_made_by_who_appends_and_by_no_question(
    kafka_as_it_comes: str, version: str
) -> None:
    bootstrap, topic = kafka_as_it_comes, f"t-{uuid.uuid4().hex[:12]}"
    place = Partition(topic, 0)
    with closing(OnKafka(bootstrap, [topic], version).open()) as log:
        log.append([NewRecord(topic, b"k", b"v")])[0].result(10)
        with closing(log.subscribe([topic], uuid.uuid4().hex, lambda origins: {})) as subscription:
            wait_for(lambda: subscription.poll(0.2, 10), 20)
            delete_topics(bootstrap, [topic])
            deadline = time.monotonic() + REFRESH_SECONDS
            while time.monotonic() < deadline:
                subscription.poll(0.2, 10)
                assert log.describe([topic]) == []
                assert log.read_each({place: (0, 1)}, 1) == {place: Found([], 0)}
            assert topic not in settings_of(bootstrap)
            again = [NewRecord(topic, b"k", b"again")]
            wait_for(lambda: log.append(again)[0].exception(3) is None, 20)
            assert settings_of(bootstrap)[topic] == (KAFKA_PARTITIONS, OURS)
            # A rebalance that the library forgets is begun again after REJOIN_SECONDS.
            wait_for(lambda: b"again" in {one.value for one in subscription.poll(0.2, 10)}, 30)
