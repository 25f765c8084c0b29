"""The name of an instance in its group: who has it, and what happens if two have the same."""

from __future__ import annotations

import shutil
import uuid
from contextlib import closing
from pathlib import Path

import pytest
from kafka.admin import KafkaAdminClient

from jobquest.log import NewRecord, Partition, Subscription
from jobquest.log.kafka.membership import FILE, InstanceName
from tests.kafka_broker import KafkaBroker
from tests.logs import KAFKA_PARTITIONS, OnKafka
from tests.service import wait_for


def test_a_name_outlives_its_process_and_belongs_to_one_at_a_time(tmp_path: Path) -> None:
    first, second = InstanceName(tmp_path), InstanceName(tmp_path)
    name = first.acquire()
    assert name is not None
    assert second.acquire() is None
    first.release()
    assert second.acquire() == name
    assert InstanceName(tmp_path / "other").acquire() not in (name, None)


@pytest.mark.parametrize("kept", [b"", b"\xff", b"../..", b"x" * 300])
def test_a_damaged_file_is_replaced(tmp_path: Path, kept: bytes) -> None:
    (tmp_path / FILE).write_bytes(kept)
    instance = InstanceName(tmp_path)
    name = instance.acquire()
    assert name is not None
    assert name.isprintable()
    instance.release()
    assert instance.acquire() == name


def test_without_a_folder_for_it_there_is_no_name(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert InstanceName(tmp_path / "file").acquire() is None


@pytest.fixture
def place(kafka_broker: KafkaBroker) -> OnKafka:
    return OnKafka(kafka_broker.bootstrap, [f"t-{uuid.uuid4().hex[:12]}"])


def names_in(place: OnKafka, group: str) -> list[str | None]:
    with KafkaAdminClient(bootstrap_servers=place.bootstrap, api_version=(4, 0)) as admin:
        members = admin.describe_groups([group])[group]["members"]
    return [member["group_instance_id"] for member in members]


@pytest.mark.kafka
def test_a_member_leaves_at_once_when_it_stops_and_keeps_its_name(
    place: OnKafka, tmp_path: Path
) -> None:
    group, seen = uuid.uuid4().hex, []
    with closing(place.open(folder=tmp_path)) as log:
        for _ in range(2):
            with closing(log.subscribe(place.topics, group, lambda origins: {})) as subscription:
                wait_for(lambda one=subscription: one.poll(0.1, 1) or one.assignment(), 20)  # type: ignore[misc]
                seen += names_in(place, group)
            assert names_in(place, group) == []
    assert len(seen) == 2
    assert len({*seen} - {None}) == 1


@pytest.mark.kafka
def test_of_two_copies_of_a_folder_one_goes_on_without_the_name(
    place: OnKafka, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    group = uuid.uuid4().hex
    one = InstanceName(first)
    assert one.acquire()
    one.release()
    shutil.copytree(first, second)
    with (
        closing(place.open(folder=first)) as log,
        closing(place.open(folder=second)) as copy,
        closing(log.subscribe(place.topics, group, lambda origins: {})) as original,
        closing(copy.subscribe(place.topics, group, lambda origins: {})) as other,
    ):

        def share() -> bool:
            log.append([NewRecord(place.topics[0], uuid.uuid4().bytes, b"x")])
            for subscription in (original, other):
                read(subscription)
            both = [len(subscription.assignment()) for subscription in (original, other)]
            return 0 not in both and sum(both) == KAFKA_PARTITIONS

        wait_for(share, 40)
        names = names_in(place, group)
        assert len(names) == 2
        assert None in names


def read(subscription: Subscription) -> None:
    """Read what is there, and commit it."""
    records = subscription.poll(0.1, 100)
    ends = {Partition(one.topic, one.partition): one.offset + 1 for one in records}
    subscription.commit(ends)
