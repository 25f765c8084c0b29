"""A read side that is lost or new beside a group with committed offsets, on both logs: what the
group has done is not done again, and what it has not done is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jobquest.config import load
from jobquest.errors import NotRetryable
from jobquest.events import Event
from jobquest.read.retry_topic import TOPIC
from jobquest.runtime import Runtime
from tests.test_consumer import stats
from tests.test_retries import Failing, publish

Make = Callable[..., Runtime]


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def make(request: pytest.FixtureRequest, tmp_path: Path, made_read_side: None) -> Iterator[Make]:
    """Makes runtimes, one after the other, over one log and one folder."""
    settings = {
        "JOBQUEST_DATA_DIR": str(tmp_path),
        "JOBQUEST_CONSUMER_AUTOSTART": "false",
        "JOBQUEST_RETRY_BASE_SECONDS": "50",
        "KAFKA_PARTITIONS": "2",
    }
    if request.param == "kafka":
        settings["KAFKA_BROKER"] = request.getfixturevalue("empty_kafka")
    made: list[Runtime] = []

    def make_one(**more: str) -> Runtime:
        made.append(Runtime(load(settings | more)))
        return made[-1]

    yield make_one
    for one in made:
        end(one)


def end(runtime: Runtime) -> None:
    runtime.consumer.close()
    runtime.stop()


def lose(runtime: Runtime) -> None:
    """End a process, and delete its read side."""
    end(runtime)
    files = list(Path(runtime.config.data_dir).glob("read.db*"))
    assert files
    for file in files:
        file.unlink()


def consume(runtime: Runtime, done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not done():
        runtime.consumer.step(0.1)
        runtime.relay.step()
        assert time.monotonic() < deadline
    for _ in range(3):
        runtime.consumer.step(0.1)


def outcome(runtime: Runtime, id: str) -> str | None:
    found = runtime.queries.event(id)
    return found and found["outcome"]


def handler_for(runtime: Runtime, handler: Callable[[Event], object]) -> None:
    runtime.consumer.register_event_handler("xp.earned", handler)


def test_handlers_are_not_called_again_for_the_past_of_a_lost_read_side(make: Make) -> None:
    first, handler = make(), Failing()
    handler_for(first, handler)
    for n in range(20):
        publish(first, f"e{n}", f"u{n % 3}")
    consume(first, lambda: len(handler.seen) == 20)
    lose(first)
    again = make()
    handler_for(again, handler)
    publish(again, "new", "u0")
    consume(again, lambda: outcome(again, "new") == "processed")
    assert sorted(handler.seen) == sorted([*(f"e{n}" for n in range(20)), "new"])
    assert sum(stats(again, f"u{n}")["xp"] for n in range(3)) == 210


def test_a_group_that_has_done_nothing_yet_calls_handlers_for_everything(make: Make) -> None:
    first, handler = make(), Failing()
    publish(first, "e", "ada")
    handler_for(first, handler)
    consume(first, lambda: outcome(first, "e") == "processed")
    assert handler.seen == ["e"]


def test_what_waits_outlives_the_read_side_with_its_tries_and_its_handlers(make: Make) -> None:
    first, failing, done = make(), Failing("ada"), Failing()
    for handler in (done, failing):
        handler_for(first, handler)
    for id in ("a1", "a2"):
        publish(first, id, "ada")
    publish(first, "b1", "bob")
    consume(first, lambda: outcome(first, "b1") == "processed" and outcome(first, "a2") is not None)
    lose(first)
    assert sorted(done.seen) == sorted(failing.seen) == ["a1", "b1"]
    again = make()
    for handler in (done, failing):
        handler_for(again, handler)
    failing.users.clear()
    consume(again, lambda: outcome(again, "a2") == "processed")
    assert failing.seen[2:] == ["a1", "a2"], "in order, and at least once"
    assert done.seen[2:] == ["a2"], "not again what had succeeded"
    assert stats(again, "ada")["xp"] == 20


def test_the_rebuild_of_a_lost_read_side_counts_nothing_that_waits(make: Make) -> None:
    first, failing = make(), Failing("ada")
    handler_for(first, failing)
    publish(first, "a1", "ada")
    publish(first, "b1", "bob")
    consume(first, lambda: outcome(first, "b1") == "processed" and outcome(first, "a1") is not None)
    lose(first)
    again = make()
    made = again.rebuild.run()
    assert (made.waiting, outcome(again, "a1"), outcome(again, "b1")) == (
        1,
        "retrying",
        "processed",
    )
    assert again.queries.user("ada") is None
    [waiting] = again.queries.retries()
    assert (waiting["error"], waiting["attempts"]) == ("ValueError: unlucky", 1)


def test_what_waited_and_was_done_is_not_waiting_after_the_loss(make: Make) -> None:
    first, failing = make(), Failing("ada")
    handler_for(first, failing)
    publish(first, "a1", "ada")
    consume(first, lambda: outcome(first, "a1") == "retrying")
    failing.users.clear()
    first.read_side.try_now("a1")
    consume(first, lambda: outcome(first, "a1") == "processed")
    lose(first)
    again = make()
    handler_for(again, failing)
    publish(again, "a2", "ada")
    consume(again, lambda: outcome(again, "a2") == "processed")
    assert failing.seen == ["a1", "a1", "a2"]
    assert stats(again, "ada")["xp"] == 20


def test_a_dead_letter_of_a_lost_read_side_stays_dead(make: Make) -> None:
    first = make()
    handler = Failing("ada", error=lambda: NotRetryable("no such account"))
    handler_for(first, handler)
    publish(first, "a1", "ada")
    publish(first, "b1", "bob")
    consume(first, lambda: outcome(first, "b1") == "processed" and outcome(first, "a1") is not None)
    lose(first)
    again = make()
    handler_for(again, handler)
    publish(again, "b2", "bob")
    consume(again, lambda: outcome(again, "b2") == "processed")
    assert outcome(again, "a1") == "dead"
    assert handler.seen.count("a1") == 1


def test_offsets_are_committed_only_once_the_log_knows_what_waits(make: Make) -> None:
    """A read side that is lost between the transaction and the relay costs no handler its call."""
    first, failing = make(), Failing("ada")
    handler_for(first, failing)
    publish(first, "a1", "ada")
    deadline = time.monotonic() + 30
    while outcome(first, "a1") is None and time.monotonic() < deadline:
        first.consumer.step(0.1)  # no relay
    lose(first)
    again = make()
    handler_for(again, failing)
    failing.users.clear()
    consume(again, lambda: outcome(again, "a1") == "processed")
    assert failing.seen == ["a1", "a1"]


def is_to_relay(runtime: Runtime) -> bool:
    return bool(runtime.queries.outcomes()["followUpsWaiting"])


def test_follow_ups_of_the_past_are_not_published_again(make: Make) -> None:
    first = make()
    first.producer.publish("xp.earned", "ada", {"xpAmount": 500, "totalXp": 500}, id="e")
    consume(first, lambda: records(first) == 3 and not is_to_relay(first))
    lose(first)
    again = make()
    publish(again, "new", "ada")
    consume(again, lambda: outcome(again, "new") == "processed")
    assert records(again) == 4


def test_follow_ups_that_the_log_has_not_yet_come_after_the_loss(make: Make) -> None:
    first = make()
    first.producer.publish("xp.earned", "ada", {"xpAmount": 500, "totalXp": 500}, id="e")
    deadline = time.monotonic() + 30
    while first.queries.user("ada") is None and time.monotonic() < deadline:
        first.consumer.step(0.1)  # no relay
    assert records(first) == 1
    lose(first)
    again = make()
    consume(again, lambda: again.queries.user("ada") is not None and not is_to_relay(again))
    assert records(again) > 1


def test_a_group_takes_over_nothing_that_another_group_has_left(make: Make, tmp_path: Path) -> None:
    """What died or waits for one group may have been processed by another."""
    urls = {name: f"sqlite:///{tmp_path / name}.db" for name in ("a", "b")}

    def of_group(name: str, *users: str, **options: Any) -> Runtime:
        made = make(KAFKA_GROUP_ID=name, DATABASE_URL=urls[name])
        handler_for(made, Failing(*users, **options))
        return made

    one, other = of_group("a"), of_group("b", "ada", "bob")
    publish(one, "waits", "ada")
    consume(one, lambda: outcome(one, "waits") == "processed")
    consume(other, lambda: outcome(other, "waits") == "retrying")
    end(other)
    other = of_group("b", "bob", error=lambda: NotRetryable("no such account"))
    publish(one, "dies", "bob")
    consume(one, lambda: outcome(one, "dies") == "processed")
    consume(other, lambda: outcome(other, "dies") == "dead")
    for group in (one, other):
        end(group)
    for name in urls:
        for file in tmp_path.glob(f"{name}.db*"):
            file.unlink()
    one, other = of_group("a"), of_group("b", "ada", "bob")
    for group, outcomes in ((one, ["processed"] * 2), (other, ["retrying", "dead"])):
        made = group.rebuild.run()
        assert [outcome(group, id) for id in ("waits", "dies")] == outcomes, made


def records(runtime: Runtime) -> int:
    return sum(info.next for info in runtime.log.describe(["achievements", "notifications"]))


@pytest.mark.kafka
def test_the_topic_of_what_waits_is_compacted(empty_kafka: str, tmp_path: Path) -> None:
    from kafka.admin import ConfigFilterType, ConfigResource, ConfigResourceType, KafkaAdminClient

    made = Runtime(load({"JOBQUEST_DATA_DIR": str(tmp_path), "KAFKA_BROKER": empty_kafka}))
    made.log.describe([TOPIC])
    with KafkaAdminClient(bootstrap_servers=empty_kafka, api_version=(4, 0)) as admin:
        wanted = [ConfigResource(ConfigResourceType.TOPIC, TOPIC)]
        found = admin.describe_configs(wanted, config_filter=ConfigFilterType.ALL)
    assert found["topic"][TOPIC]["cleanup.policy"]["value"] == "compact"
    made.stop()
