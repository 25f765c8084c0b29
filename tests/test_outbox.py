"""The outbox against a real Apache Kafka that is away, killed, frozen, slow or abrupt."""

from __future__ import annotations

import itertools
import json
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from kafka import KafkaProducer

from jobquest.clock import now_ms
from jobquest.config import load
from jobquest.errors import LogUnavailable, RecordRefused
from jobquest.events import TOPICS, from_request
from jobquest.events.event import at_ms
from jobquest.events.requests import Request
from jobquest.log import EventLog, NewRecord
from jobquest.log.outbox import Outbox
from jobquest.log.spool_file import SpoolFile, claim
from jobquest.log.sqlite import SqliteLog
from jobquest.report import HEALTHY
from jobquest.runtime import Runtime
from tests.kafka_broker import KafkaBroker, free_port, why_not
from tests.load import PAUSE_SECONDS
from tests.logs import OnKafka, clock_off, everything
from tests.proxy import Proxy
from tests.service import Answer, Service, wait_for
from tests.test_consumer import outcomes, stats

pytestmark = pytest.mark.kafka

WITHIN = 5.0  # seconds after the broker's answer


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[KafkaBroker, Proxy]]:
    """One broker behind a proxy, for tests that leave both as they were."""
    if reason := why_not():
        pytest.skip(reason)
    with Proxy() as proxy:
        broker = KafkaBroker(advertise=proxy.port).start()
        proxy.target = broker.behind
        yield broker, proxy
        broker.remove()


@dataclass
class Bench:
    """A broker, the proxy before it, a topic of the test's own, and what outboxes are made of."""

    broker: KafkaBroker
    proxy: Proxy
    folder: Path
    topic: str = field(default_factory=lambda: f"t-{uuid.uuid4().hex[:12]}")
    refused: list[bytes | None] = field(default_factory=list)
    made: list[Callable[[], None]] = field(default_factory=list)

    def log(self, **configs: str) -> EventLog:
        place = OnKafka(self.proxy.bootstrap, [self.topic])
        log = place.open(topic_configs={self.topic: configs})
        self.made.append(lambda: log.close(0.5))
        return log

    def outbox(self, log: EventLog, max_events: int = 1_000) -> Outbox:
        outbox = Outbox(log, self.folder, max_events, self.take_refused)
        self.made.append(outbox.stop)
        return outbox

    def take_refused(self, record: NewRecord, _error: RecordRefused) -> None:
        self.refused.append(record.value)

    def record(self, n: int, user: str = "ada") -> NewRecord:
        return NewRecord(self.topic, user.encode(), b"%d" % n, (("h", b"\xff"),))

    def arrived(self) -> list[bytes | None]:
        """First copies of the values in the log, in order."""
        values = [record.value for record in everything(self.broker.bootstrap, [self.topic])]
        return list(dict.fromkeys(values))

    def copies(self) -> Counter[bytes | None]:
        return Counter(r.value for r in everything(self.broker.bootstrap, [self.topic]))


@pytest.fixture
def bench(shared: tuple[KafkaBroker, Proxy], tmp_path: Path) -> Iterator[Bench]:
    broker, proxy = shared
    made = Bench(broker, proxy, tmp_path)
    yield made
    proxy.pass_on()
    for close in reversed(made.made):
        close()


def drained(outbox: Outbox) -> Callable[[], bool]:
    return lambda: outbox.waiting().events == 0


def accepts(outbox: Outbox, record: NewRecord) -> Callable[[], bool]:
    """Whether the log itself has the next one again."""
    return lambda: outbox.append([record])[0].result(3) is not None


def numbers(*values: int) -> list[bytes]:
    return [b"%d" % n for n in values]


def test_what_the_log_does_not_confirm_is_kept_in_order_and_delivered(bench: Bench) -> None:
    outbox = bench.outbox(bench.log())
    outbox.start()
    [first] = outbox.append([bench.record(0)])
    assert first.result(5) is not None
    bench.proxy.black_hole()
    began = time.monotonic()
    futures = outbox.append([bench.record(n) for n in range(1, 50)])
    assert [future.result(3) for future in futures] == [None] * 49
    assert time.monotonic() - began < 2
    for n in range(50, 60):  # behind them, and none waits
        began = time.monotonic()
        assert outbox.append([bench.record(n)])[0].result(3) is None
        assert time.monotonic() - began < 0.2
    waiting = outbox.waiting()
    assert (waiting.events, waiting.seconds > 0) == (59, True)
    bench.proxy.pass_on()
    wait_for(drained(outbox), WITHIN)
    assert outbox.waiting() == (0, 0)
    wait_for(accepts(outbox, bench.record(60)), WITHIN)
    assert bench.arrived() == numbers(*range(61))
    headers = {r.headers for r in everything(bench.broker.bootstrap, [bench.topic])}
    assert headers == {(("h", b"\xff"),)}


def test_the_circuit_stays_open_until_nothing_can_be_overtaken(bench: Bench) -> None:
    """Events keep coming while it drains; it closes all the same, and nothing is overtaken."""
    outbox = bench.outbox(bench.log(), max_events=100_000)
    outbox.start()
    outbox.append([bench.record(0)])[0].result(5)
    stop = threading.Event()
    answers = []

    def publish() -> None:
        for n in itertools.count(1):
            if stop.is_set():
                return
            answers.append(outbox.append([bench.record(n)])[0].result(5))
            time.sleep(0.001)  # at full speed it may be quicker than a slow machine drains

    publisher = threading.Thread(target=publish)
    publisher.start()
    for _ in range(3):
        bench.proxy.black_hole()
        count = len(answers)
        wait_for(lambda count=count: None in answers[count:], 5)  # type: ignore[misc]
        bench.proxy.pass_on()
        wait_for(lambda: answers[-1] is not None, WITHIN)
    stop.set()
    publisher.join()
    assert None in answers
    assert bench.arrived() == numbers(*range(len(answers) + 1))


@pytest.mark.parametrize("seconds", [0.3, 2.0])
def test_a_slow_broker_gets_everything_without_being_flooded_with_copies(
    bench: Bench, seconds: float
) -> None:
    outbox = bench.outbox(bench.log())
    outbox.start()
    outbox.append([bench.record(0)])[0].result(5)
    bench.proxy.delay(seconds)
    for n in range(1, 30):
        began = time.monotonic()
        outbox.append([bench.record(n)])[0].result(3)
        assert time.monotonic() - began < (2 if n == 1 or seconds < 1 else 0.2)
    wait_for(drained(outbox), 40)
    assert bench.arrived() == numbers(*range(30))
    assert max(bench.copies().values()) <= 2
    if seconds > 1:  # the next one need not find out that it is slow
        assert outbox.append([bench.record(30)])[0].result(0.5) is None
    bench.proxy.pass_on()
    wait_for(accepts(outbox, bench.record(31)), WITHIN)


def test_connections_that_break_in_the_middle_of_answers_lose_nothing(bench: Bench) -> None:
    outbox = bench.outbox(bench.log())
    outbox.start()
    outbox.append([bench.record(0)])[0].result(5)
    for n in range(1, 40):
        bench.proxy.reset_after(20 + n) if n % 10 == 5 else None
        bench.proxy.pass_on() if n % 10 == 9 else None
        outbox.append([bench.record(n)])[0].result(3)
    bench.proxy.pass_on()
    wait_for(drained(outbox), 20)
    assert bench.arrived() == numbers(*range(40))


def test_a_refused_record_stops_nobody_and_is_handed_over_until_somebody_has_it(
    bench: Bench,
) -> None:
    log = bench.log(**{"max.message.bytes": "2000"})
    failures = [OSError("no database"), OSError("still none")]

    def take(record: NewRecord, error: RecordRefused) -> None:
        if failures:
            raise failures.pop()
        bench.take_refused(record, error)

    outbox = Outbox(log, bench.folder, 1_000, take)
    bench.made.append(outbox.stop)
    outbox.start()
    large = NewRecord(bench.topic, b"ada", b"x" * 5_000)
    direct, good = outbox.append([large, bench.record(0)])
    with pytest.raises(RecordRefused):  # whoever waits for the answer learns it there
        direct.result(5)
    assert good.result(5)
    bench.proxy.black_hole()
    queued = outbox.append([bench.record(1), large, bench.record(2)])
    assert [future.result(3) for future in queued] == [None] * 3
    bench.proxy.pass_on()
    wait_for(lambda: bench.arrived() == numbers(0, 1, 2), WITHIN)
    wait_for(accepts(outbox, bench.record(3)), WITHIN)
    assert (bench.refused, outbox.waiting().events) == ([], 1)
    wait_for(lambda: bench.refused == [large.value], 15)
    wait_for(drained(outbox), 2)


def test_a_full_outbox_refuses_and_goes_on_when_it_is_drained(bench: Bench) -> None:
    outbox = bench.outbox(bench.log(), max_events=5)
    outbox.start()
    outbox.append([bench.record(0)])[0].result(5)
    bench.proxy.black_hole()
    kept = outbox.append([bench.record(n) for n in range(1, 9)])
    assert [future.result(3) for future in kept[:5]] == [None] * 5
    for future in kept[5:] + outbox.append([bench.record(9)]):
        with pytest.raises(LogUnavailable, match="outbox is full: it keeps 5"):
            future.result(3)
    bench.proxy.pass_on()
    wait_for(drained(outbox), WITHIN)
    wait_for(accepts(outbox, bench.record(10)), WITHIN)
    assert set(numbers(*range(6), 10)) <= set(bench.arrived())


def test_stopping_keeps_what_is_unconfirmed_and_the_next_process_delivers_it(
    bench: Bench,
) -> None:
    first = bench.outbox(bench.log())
    first.start()
    first.append([bench.record(0)])[0].result(5)
    bench.proxy.black_hole()
    futures = first.append([bench.record(n) for n in range(1, 20)])
    began = time.monotonic()
    first.stop()
    assert time.monotonic() - began < 2
    assert [future.result(0) for future in futures] == [None] * 19
    with pytest.raises(LogUnavailable, match="closed"):
        first.append([bench.record(99)])[0].result(0)
    bench.proxy.pass_on()
    second = bench.outbox(bench.log())
    second.start()
    futures = second.append([bench.record(20)])
    assert futures[0].result(3) is None, "it overtook what waits"
    wait_for(drained(second), WITHIN)
    assert bench.arrived() == numbers(*range(21))


def test_a_damaged_spool_file_is_put_aside_and_the_door_goes_on(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    (bench.folder / "outbox-0.db").write_bytes(b"no database at all" * 1_000)
    log = OnKafka(f"127.0.0.1:{free_port()}", [bench.topic]).open()
    with closing(log):
        outbox = Outbox(log, bench.folder, 1_000, bench.take_refused)
        outbox.start()
        assert outbox.append([bench.record(n) for n in range(300)])[0].result(3) is None
        [aside] = bench.folder.glob("outbox-0.db.damaged-*")
        assert any(str(aside) in line and ".recover" in line for line in caplog.messages)
        outbox.stop()
    whole = (bench.folder / "outbox-0.db").read_bytes()
    assert len(whole) > 3 * 4096
    (bench.folder / "outbox-0.db").write_bytes(whole[:4096] + b"\xa5" * (len(whole) - 4096))
    outbox = bench.outbox(bench.log())
    outbox.start()
    wait_for(accepts(outbox, bench.record(1)), 10)
    wait_for(drained(outbox), WITHIN)
    assert sum(line.startswith("The outbox ") for line in caplog.messages) == 2


def test_what_an_earlier_version_left_in_one_sequence_is_delivered_in_order(bench: Bench) -> None:
    with closing(SqliteLog(bench.folder / "outbox-0.db", ["outbox"])) as mixed:
        for n in range(1_200):
            record = bench.record(n)
            headers = (("jq-topic", record.topic.encode()), *record.headers)
            [kept] = mixed.append([record._replace(topic="outbox", headers=headers)])
        kept.result(5)
    outbox = bench.outbox(bench.log(), max_events=2_000)
    outbox.start()
    assert outbox.waiting().events == 1_200
    assert outbox.append([bench.record(1_200)])[0].result(5) is None, "it overtook what waits"
    wait_for(drained(outbox), WITHIN)
    assert bench.arrived() == numbers(*range(1_201))
    headers = {r.headers for r in everything(bench.broker.bootstrap, [bench.topic])}
    assert headers == {(("h", b"\xff"),)}


def test_each_process_has_a_spool_file_and_a_script_takes_an_empty_one(bench: Bench) -> None:
    log = OnKafka(f"127.0.0.1:{free_port()}", [bench.topic]).open()
    with closing(log):
        first, second, script = (bench.outbox(log) for _ in range(3))
        first.start()
        second.start()
        for outbox in (first, second, script):
            assert outbox.append([bench.record(0)])[0].result(3) is None
        slots = sorted(path.name for path in bench.folder.glob("outbox-*.db"))
        assert slots == ["outbox-0.db", "outbox-1.db", "outbox-2.db"]
        first.stop()
        late = bench.outbox(log)  # not started: it has no time to deliver what others left
        assert late.append([bench.record(0)])[0].result(3) is None
        assert (bench.folder / "outbox-3.db").exists()


# --- the whole service ---


@pytest.fixture
def own_broker() -> Iterator[KafkaBroker]:
    """A broker that is not started yet, and that a test may kill."""
    if reason := why_not():
        pytest.skip(reason)
    broker = KafkaBroker()
    yield broker
    broker.remove()


@pytest.fixture
def service(own_broker: KafkaBroker, tmp_path: Path) -> Iterator[Service]:
    made = Service(tmp_path, KAFKA_BROKER=own_broker.bootstrap, JOBQUEST_WORKERS="1")
    yield made
    made.kill()


def login(service: Service, n: int, user: str = "ada") -> tuple[Answer, float]:
    began = time.monotonic()
    answer = service.post("user.login", {}, user_id=user, id=f"{user}-{n}")
    return answer, time.monotonic() - began


def arrived_ids(broker: KafkaBroker) -> list[str]:
    """First copies, per user in order."""
    found = everything(broker.bootstrap, list(TOPICS))
    ids = [json.loads(record.value or b"")["id"] for record in found]
    return [id for id in dict.fromkeys(ids) if not id.startswith("jq:")]


def test_on_kafka_the_process_that_consumes_has_no_clients(
    settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[bool] = []
    monkeypatch.setattr(Outbox, "start", lambda _self, *, has_clients: told.append(has_clients))
    for consumes in (True, False):
        runtime = Runtime(load({**settings, "KAFKA_BROKER": "127.0.0.1:9"}))
        runtime.start(consumes=consumes)
        runtime.stop()
    assert told == [False, True]


def test_what_a_process_sends_while_its_clock_is_wrong_waits_and_the_status_says_so(
    empty_kafka: str, tmp_path: Path
) -> None:
    runtime = Runtime(load({"JOBQUEST_DATA_DIR": str(tmp_path), "KAFKA_BROKER": empty_kafka}))
    runtime.start()
    counts, status = runtime.queries.outcomes, runtime.report.status
    line = "This machine's clock is ahead of Kafka's, by 240 min more than Kafka accepts"

    def is_told() -> bool:
        return (status()["reason"] or "").startswith(
            f"Records for topic achievements, dead-letters, the audit trail's topic wait: {line}"
        )

    def is_well() -> bool:
        return status()["state"] in HEALTHY

    wait_for(is_well, 20, lambda: str(status()))
    poison, right_ms = KafkaProducer(bootstrap_servers=empty_kafka), now_ms()
    with clock_off(5 * 3_600_000):
        poison.send("achievements", b"no JSON", b"ada", timestamp_ms=right_ms).get(20)
        data = {"xpAmount": 50, "totalXp": 50}
        now = at_ms(now_ms())  # what the events have for their time, too
        events = [from_request("xp.earned", "ada", data, now=now) for _ in range(4)]
        first, *several = [Request(event, False) for event in events]
        answers = [runtime.producer.publish_one(first), *runtime.producer.publish_all(several)]
        assert [one.result for one in answers] == ["queued"] * 4
        runtime.audit.record("ada", "stop")
        wait_for(is_told, 20, lambda: str(status()))
        assert (counts()["followUpsWaiting"], counts()["deadLetters"]) == (1, 1)
    wait_for(is_well, 20, lambda: str(status()))
    wait_for(lambda: not counts()["followUpsWaiting"], 10)
    wait_for(lambda: ("processed", "level.up") in outcomes(runtime), 10)
    poison.close()
    runtime.stop()
    assert len(everything(empty_kafka, ["dead-letters", "operator-audit"])) == 2
    assert counts()["deadLetters"] == 1
    assert stats(runtime, "ada")["xp"] == 200


def kept_by_each(service: Service) -> list[int]:
    return [one["outbox"]["events"] for one in service.status()["processes"]]


def leave_one_record(bench: Bench) -> None:
    """As a process does that ends while Kafka is away."""
    bench.proxy.black_hole()
    ended = bench.outbox(bench.log())
    ended.start()
    assert [future.result(3) for future in ended.append([bench.record(0)])] == [None]
    ended.stop()


def test_a_process_without_clients_that_publishes_at_once_takes_an_empty_file(
    bench: Bench,
) -> None:
    leave_one_record(bench)
    consumer, web = bench.outbox(bench.log()), bench.outbox(bench.log())
    consumer.start(has_clients=False)
    assert consumer.append([bench.record(1, "bob")])[0].result(3) is None
    web.start()
    assert (consumer.waiting().events, web.waiting().events) == (1, 1)


def test_a_process_without_clients_leaves_what_waits_to_one_that_has_some(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that was killed starts a consumer and a web process at the same time."""
    leave_one_record(bench)
    consumer, web = bench.outbox(bench.log()), bench.outbox(bench.log())
    looks: list[bool] = []  # each holds every file for a moment, so that others pass it by

    def look(folder: Path, *, with_records: bool) -> SpoolFile:
        looks.append(with_records)
        return claim(folder, with_records=with_records)

    monkeypatch.setattr("jobquest.log.outbox.claim", look)
    consumer.start(has_clients=False)
    web.start()
    assert looks == [True], "only the one with clients"
    assert (consumer.waiting().events, web.waiting().events) == (0, 1)
    assert web.append([bench.record(1)])[0].result(3) is None
    bench.proxy.pass_on()
    wait_for(drained(web), WITHIN)
    assert bench.arrived() == numbers(0, 1)


def test_kafka_away_at_start_then_kill_9_then_kafka(
    service: Service, own_broker: KafkaBroker
) -> None:
    service.start()
    for n in range(20):
        answer, seconds = login(service, n)
        assert (answer.code, answer.json["data"]["result"]) == (202, "queued"), answer.json
        assert answer.json["data"]["partition"] is answer.json["data"]["offset"] is None
        assert seconds < (2 if n == 0 else 0.2)
    wait_for(lambda: service.status()["outbox"]["events"] == 20, 10)
    assert service.status()["outbox"]["seconds"] > 0
    assert "Published event" not in service.tail()
    service.kill()
    service.start()
    assert login(service, 20)[0].code == 202
    wait_for(lambda: [n for n in kept_by_each(service) if n] == [21], 10, service.tail)
    own_broker.start()
    wait_for(lambda: len(arrived_ids(own_broker)) > 0, WITHIN, service.tail)
    wait_for(lambda: service.status()["outbox"] == {"events": 0, "seconds": 0}, 10, service.tail)
    wait_for(lambda: login(service, 21)[0].code in (200, 201), WITHIN, service.tail)
    assert arrived_ids(own_broker) == [f"ada-{n}" for n in range(22)]


class Publishers:
    """One thread per user, publishing numbered events one after the other; keeps the answers."""

    def __init__(self, service: Service, users: int = 3) -> None:
        self.taken: dict[str, list[tuple[str, int]]] = {f"user{n}": [] for n in range(users)}
        self._service = service
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(user,)) for user in self.taken]
        for thread in self._threads:
            thread.start()

    def _run(self, user: str) -> None:
        for n in itertools.count():
            if self._stop.wait(PAUSE_SECONDS):
                return
            answer, _ = login(self._service, n, user)
            if answer.code in (200, 201, 202):
                self.taken[user].append((f"{user}-{n}", answer.code))

    def count(self, code: int) -> int:
        return sum(found == code for taken in self.taken.values() for _, found in taken)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


@pytest.mark.parametrize("fault", ["killed", "frozen"])
def test_a_broker_that_goes_away_under_load_costs_no_event_and_no_order(
    service: Service, own_broker: KafkaBroker, fault: str
) -> None:
    """Frozen for longer than the library's delivery timeout of 12 s."""
    own_broker.start()
    service.start()
    publishers = Publishers(service)
    wait_for(lambda: publishers.count(201) > 50, 30, service.tail)
    if fault == "killed":
        own_broker.kill()
    else:
        own_broker.freeze()
    frozen = time.monotonic()
    wait_for(lambda: publishers.count(202) > 50, 10, service.tail)
    if fault == "killed":
        own_broker.start()
    else:
        wait_for(lambda: time.monotonic() - frozen > 13, 20)
        own_broker.thaw()
    before, back = publishers.count(201), time.monotonic()
    wait_for(lambda: publishers.count(201) > before, 20, service.tail)
    assert time.monotonic() - back < WITHIN
    wait_for(lambda: publishers.count(201) > before + 20, 10, service.tail)
    publishers.stop()
    wait_for(lambda: service.status()["outbox"]["events"] == 0, 10, service.tail)
    found = arrived_ids(own_broker)
    for user, taken in publishers.taken.items():
        ids = {id for id, _ in taken}
        assert [id for id in found if id in ids] == [id for id, _ in taken], user


def test_what_two_processes_left_is_delivered_by_one(
    own_broker: KafkaBroker, tmp_path: Path
) -> None:
    service = Service(tmp_path, KAFKA_BROKER=own_broker.bootstrap, JOBQUEST_WORKERS="2").start()
    try:
        wait_for(lambda: len(service.status()["processes"]) == 3, 20, service.tail)
        answers = itertools.count()

        def both_have_some() -> bool:
            login(service, next(answers))
            waiting = [process["outbox"]["events"] for process in service.status()["processes"]]
            return sum(map(bool, waiting)) == 2

        wait_for(both_have_some, 30, service.tail)
        service.kill()
        files = len(list(tmp_path.glob("outbox-*.db")))
        assert files in (2, 3), "one for each process with clients; the consumer's comes later"
        service.settings["JOBQUEST_WORKERS"] = "1"
        service.start()
        own_broker.start()
        expected = {f"ada-{n}" for n in range(next(answers))}
        wait_for(lambda: set(arrived_ids(own_broker)) == expected, 20, service.tail)
        wait_for(lambda: service.status()["outbox"]["events"] == 0, 10, service.tail)
    finally:
        service.kill()
