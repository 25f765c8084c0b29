"""Events of other producers: clocks that are slow, and numbers that only their producer knows. They
are processed, kept and told as they came."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from kafka import KafkaProducer

from jobquest.clock import now_ms
from jobquest.config import load
from jobquest.errors import InvalidEvent
from jobquest.events import format_time, from_record, requests
from jobquest.events.exact_json import dumps, loads
from jobquest.log import NewRecord
from jobquest.runtime import Runtime
from tests.logs import delete_topics
from tests.samples import SAMPLES
from tests.service import wait_for
from tests.test_consumer import consume, outcomes, stats, write

MINUTES = 60_000
# Beyond 2^53, beyond 2^63, beyond 64 bits, beyond a double, and one that a double would round.
NUMBERS = (
    "9007199254740993",
    "9223372036854775807",
    "-9223372036854775809",
    "123456789012345678901234567890",
    "1E+400",
    "-1.5E+309",
    "12345678901234567890.5",
)
AS_TEXT = f"[{','.join(NUMBERS)}]"


def from_elsewhere(id: str, *, ahead_ms: int = 0, numbers: str = "[]") -> bytes:
    """A record's value whose `numbers` stand in a field, in an object, in metadata and on top."""
    moment = format_time(now_ms() + ahead_ms)
    return (
        f'{{"id":"{id}","type":"xp.earned","userId":"u","timestamp":"{moment}",'
        f'"metadata":{{"theirs":{numbers}}},'
        f'"data":{{"xpAmount":5,"totalXp":5,"theirs":{numbers},"deep":{{"er":[{numbers}]}}}},'
        f'"theirs":{numbers}}}'
    ).encode()


# --- clocks ---


def set_record_times(folder: Path, change_ms: int) -> None:
    with closing(sqlite3.connect(folder / "log.db")) as connection, connection:
        connection.execute("UPDATE records SET timestamp_ms = timestamp_ms + ?", (change_ms,))


@pytest.mark.parametrize("change_ms", [-10 * MINUTES, 10 * MINUTES])
def test_a_record_of_a_wrong_clock_does_not_kill_its_event(
    runtime: Runtime, tmp_path: Path, change_ms: int
) -> None:
    """Neither at first, nor in a rebuild, nor in what its page tells."""
    write(runtime, "achievements", from_elsewhere("right", ahead_ms=max(0, change_ms)))
    set_record_times(tmp_path, change_ms)
    consume(runtime)
    assert outcomes(runtime) == [("processed", "xp.earned")]
    life = runtime.queries.event("right")
    assert life
    assert life["effects"]
    runtime.rebuild.run()
    assert stats(runtime)["xp"] == 5


def test_follow_ups_of_an_event_of_a_fast_clock_do_not_die(
    runtime: Runtime, tmp_path: Path
) -> None:
    """They have its time, and get a record of the right one."""
    event = from_elsewhere("right", ahead_ms=10 * MINUTES)
    write(runtime, "achievements", event.replace(b'"xpAmount":5,', b'"xpAmount":150,'))
    set_record_times(tmp_path, 10 * MINUTES)
    consume(runtime)
    runtime.relay.step()
    consume(runtime)
    assert outcomes(runtime)[:2] == [("processed", "xp.earned"), ("processed", "level.up")]
    assert {outcome for outcome, _ in outcomes(runtime)} == {"processed"}


def test_an_event_that_is_ahead_of_both_clocks_dies_and_stays_dead(
    runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(runtime, "achievements", from_elsewhere("early", ahead_ms=10 * MINUTES))
    set_record_times(tmp_path, -10 * MINUTES)
    consume(runtime)
    later = now_ms() + 20 * MINUTES
    monkeypatch.setattr("jobquest.events.validation.now_ms", lambda: later)
    runtime.rebuild.run()
    assert outcomes(runtime) == [("dead", None)]
    assert runtime.queries.user("u") is None


@pytest.mark.kafka
def test_a_producer_whose_clock_is_slow_is_heard_on_kafka(
    empty_kafka: str, settings: dict[str, str]
) -> None:
    runtime = Runtime(load({**settings, "KAFKA_BROKER": empty_kafka}))
    runtime.producer.publish("xp.earned", "v", SAMPLES["xp.earned"])  # makes the topics
    producer = KafkaProducer(bootstrap_servers=empty_kafka)
    try:
        value = from_elsewhere("slow", numbers=AS_TEXT)
        slow_ms = now_ms() - 10 * MINUTES
        producer.send("achievements", value, b"u", timestamp_ms=slow_ms).get(20)
        wait_for(lambda: runtime.consumer.step(0.5) < 0 or runtime.queries.event("slow"), 40)
        life = runtime.queries.event("slow")
        assert life
        assert (life["outcome"], life["received"]) == ("processed", format_time(slow_ms))
        assert dumps(life["event"]["data"]["theirs"]).decode() == AS_TEXT
    finally:
        producer.close()
        runtime.consumer.close()
        runtime.stop()
        delete_topics(empty_kafka)


# --- numbers ---


def test_numbers_of_any_size_are_kept_through_a_rebuild(runtime: Runtime) -> None:
    value = from_elsewhere("huge", numbers=AS_TEXT)
    write(runtime, "achievements", value)
    seen = []
    runtime.consumer.register_event_handler("xp.earned", lambda event: seen.append(event.data))
    consume(runtime)
    assert outcomes(runtime) == [("processed", "xp.earned")]
    assert dumps(seen[0]["theirs"]).decode() == AS_TEXT
    runtime.rebuild.run()
    life = runtime.queries.event("huge")
    assert life
    assert dumps(life["event"]).decode().count(AS_TEXT) == 4
    assert stats(runtime)["xp"] == 5


def test_the_api_and_the_pages_tell_numbers_digit_by_digit(client: FlaskClient) -> None:
    runtime: Runtime = client.application.extensions["jobquest"]
    value = from_elsewhere("huge", numbers=AS_TEXT)
    runtime.log.append([NewRecord("achievements", b"u", value)])[0].result(5)
    consume(runtime)
    for address in (
        "/api/events/huge",
        "/api/events",
        "/api/users/u/events",
        "/api/kafka/topics/achievements/records",
    ):
        answer = client.get(address)
        assert (answer.status_code, address) == (200, address)
        assert answer.text.count(AS_TEXT) >= 4, address
    for address in ("/", "/events/huge", "/topics/achievements"):
        page = client.get(address, headers={"Accept": "text/html"})
        assert page.status_code == 200
        assert all(number in page.text for number in NUMBERS), address
    tail = client.application.test_cli_runner().invoke(args=["events", "tail", "--once"])
    assert AS_TEXT in tail.output, tail


def test_an_event_with_huge_numbers_is_tried_again_and_a_repeat_of_it_dropped(
    runtime: Runtime,
) -> None:
    value = from_elsewhere("huge", numbers=AS_TEXT)
    write(runtime, "achievements", value, value)
    consume(runtime)
    assert outcomes(runtime) == [("processed", "xp.earned")]
    write(runtime, "achievements", value.replace(b"678901234567890.5", b"678901234567891.5"))
    consume(runtime)
    assert [outcome for outcome, _ in outcomes(runtime)] == ["processed", "dead"]


@pytest.mark.parametrize("number", NUMBERS[:-1])
def test_the_door_refuses_such_numbers_as_before(number: str) -> None:
    body = (
        '{"eventType":"xp.earned","data":{"xpAmount":5,"totalXp":5},'
        f'"metadata":{{"theirs":{number}}}}}'
    )
    with pytest.raises(InvalidEvent):
        requests.read(body.encode())


@pytest.mark.parametrize("number", ["9007199254740993", "1" + "0" * 5000, "1E+400"])
def test_a_known_field_keeps_its_bounds_on_a_topic(number: str) -> None:
    value = from_elsewhere("known").replace(b'"totalXp":5', f'"totalXp":{number}'.encode())
    with pytest.raises(InvalidEvent) as refused:
        from_record(value)
    assert refused.value.errors == {"data.totalXp": ["Must lie between 0 and 1000000000."]}


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("0.1234567890123456789", "0.12345678901234568"),
        ("1e5", "100000.0"),
        ("1e300", "1e+300"),
        ("18446744073709551615", "18446744073709551615"),
        ("1" + "0" * 5000, "1" + "0" * 5000),
        ('"id 1e999 and 12345678901234567890"', '"id 1e999 and 12345678901234567890"'),
    ],
)
def test_numbers_are_exact_where_a_double_would_change_their_whole_part(
    text: str, kept: str
) -> None:
    assert dumps(loads(f'{{"a":[{text}]}}')).decode() == f'{{"a":[{kept}]}}'


def test_a_number_that_nothing_can_hold_is_refused_in_one_line() -> None:
    with pytest.raises(InvalidEvent, match="A number is too large"):
        from_record(from_elsewhere("no", numbers="[1e99999999999999999999]"))
