"""A Kafka that asks who its clients are, by each way to tell it, and grants what docs/security.md
says: the error names the cause and what to look at, and contains no password."""

from __future__ import annotations

import base64
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, quote_plus

import kafka
import pytest
from click.testing import Result
from flask.testing import FlaskCliRunner
from kafka.admin import ResourceType

from jobquest import create_app
from jobquest.config import load
from jobquest.errors import LogUnavailable, TopicUnavailable
from jobquest.events import CATALOGUE
from jobquest.log import EventLog, NewRecord, Partition
from jobquest.log.kafka import KafkaLog, causes
from jobquest.report import HEALTHY, LOG_TOPICS
from jobquest.start_checks import check
from tests import certificates, kafka_broker
from tests.documented_rights import rights, topics
from tests.kafka_rights import PASSWORD, USER, SecureBroker
from tests.logs import UNTRIED, delete_topics
from tests.service import READ_SIDE, ROOT, Service, wait_for
from tests.template import ForkedService

pytestmark = pytest.mark.kafka

KEY_PASSWORD, WRONG = "key: p/w %41", "wr0ng: p/w %41"
SECRETS = (PASSWORD, KEY_PASSWORD, WRONG)
TOPICS = tuple(dict.fromkeys([*LOG_TOPICS, "operator-audit"]))
GROUP = "job-quest-consumer"
WAYS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "certificate")
VERSIONS = (kafka.__version__, UNTRIED)
Ways = Mapping[str, Mapping[str, str]]


@pytest.fixture(scope="module")
def broker() -> Iterator[SecureBroker]:
    """`USER` has the documented rights."""
    if reason := kafka_broker.why_not() or certificates.why_not():
        pytest.skip(reason)
    made = SecureBroker().start()
    made.allow(rights())
    yield made
    made.remove()


@pytest.fixture(autouse=True)
def _forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    """One test's refusal explains nothing of the next one's, in this process, where the doctor
    runs. Services are processes of their own."""
    monkeypatch.setattr(causes, "_REFUSED_SECONDS", 0.0)


@pytest.fixture(scope="module")
def ways(broker: SecureBroker) -> Ways:
    return broker.ways(KEY_PASSWORD)


def forms(secret: str) -> set[str]:
    """How a secret may be written: as it is, in a URL, in Python's notation, as hexadecimal digits,
    in base64 alone and as SASL sends it."""
    sent = (secret, f"\0{USER}\0{secret}", f"{USER}\0{USER}\0{secret}")
    coded = {base64.b64encode(one.encode()).decode().rstrip("=") for one in sent}
    in_urls = {quote(secret), quote(secret, safe=""), quote_plus(secret)}
    return {secret, repr(secret)[1:-1], secret.encode().hex()} | in_urls | coded


def assert_no_secret(text: str) -> None:
    for secret in SECRETS:
        assert not [form for form in forms(secret) if form in text], text


def open_log(settings: Mapping[str, str], version: str, topics: Sequence[str] = TOPICS) -> EventLog:
    config = load(settings)
    check(config)
    return KafkaLog(
        bootstrap=config.kafka_broker,
        client_id="tests",
        partitions=1,
        replication_factor=1,
        security=config.kafka_security(),
        topics=topics,
        version=version,
    )


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """As which kafka-python is used."""
    monkeypatch.chdir(tmp_path)  # no .env of a developer's is found there
    return str(request.param)


def write(log: EventLog, topic: str) -> None:
    log.append([NewRecord(topic, b"ada", b"{}")], 20)[0].result(20)


# --- the ways in ---


@pytest.mark.parametrize("way", WAYS)
def test_each_way_in_is_open(
    ways: Ways, version: str, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with closing(open_log(ways[way], version)) as log:
        write(log, TOPICS[0])
        with closing(log.subscribe(TOPICS, GROUP, lambda origins: {})) as subscription:
            wait_for(lambda: subscription.poll(0.2, 100), 20)
    assert "kafka." in caplog.text  # even at DEBUG, which writes settings and requests
    assert_no_secret(caplog.text)


def test_a_certificate_for_another_name_is_accepted_if_the_settings_say_so(
    broker: SecureBroker, ways: Ways, version: str
) -> None:
    named = {"KAFKA_BROKER": elsewhere(broker), "KAFKA_SSL_CHECK_HOSTNAME": "false"}
    with closing(open_log({**ways["PLAIN"], **named}, version)) as log:
        write(log, TOPICS[0])


def elsewhere(broker: SecureBroker) -> str:
    """The broker by a name that its certificate does not have."""
    return f"localhost:{broker.secure.rpartition(':')[2]}"


def test_certificates_that_are_renewed_need_no_restart(
    broker: SecureBroker, ways: Ways, version: str, tmp_path: Path
) -> None:
    trusted = tmp_path / "authority.pem"
    shutil.copy(broker.authority.file, trusted)
    with closing(open_log({**ways["PLAIN"], "KAFKA_SSL_CAFILE": str(trusted)}, version)) as log:
        trusted.unlink()
        with pytest.raises(LogUnavailable, match="Check the files KAFKA_SSL_CAFILE"):
            log.describe(TOPICS[:1])
        shutil.copy(broker.authority.file, trusted)

        def is_open() -> bool:
            try:
                return bool(log.describe(TOPICS[:1]))
            except LogUnavailable:
                return False

        wait_for(is_open, 10)


# --- who is kept out ---

NO_TLS = {"KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT", "KAFKA_SSL_CAFILE": ""}
NOTHING = {"KAFKA_SECURITY_PROTOCOL": "", "KAFKA_SASL_MECHANISM": "", "KAFKA_SASL_USERNAME": ""}
NOTHING |= {"KAFKA_SASL_PASSWORD": "", "KAFKA_SSL_CAFILE": ""}
KEEPS_OUT: dict[str, tuple[str, Callable[[SecureBroker], dict[str, str]], str]] = {
    "password": (
        "PLAIN",
        lambda broker: {"KAFKA_SASL_PASSWORD": WRONG},
        "Check KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD",
    ),
    "password of SCRAM": (
        "SCRAM-SHA-512",
        lambda broker: {"KAFKA_SASL_PASSWORD": WRONG},
        "Check KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD",
    ),
    "password in plain text": (
        "PLAIN",
        lambda broker: {**NO_TLS, "KAFKA_BROKER": broker.guarded, "KAFKA_SASL_PASSWORD": WRONG},
        "KAFKA_SASL_PASSWORD",
    ),
    "user": (
        "SCRAM-SHA-256",
        lambda broker: {"KAFKA_SASL_USERNAME": "nobody"},
        "Check KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD",
    ),
    "mechanism": (
        "SCRAM-SHA-256",
        lambda broker: {**NO_TLS, "KAFKA_BROKER": broker.guarded},
        "KAFKA_SASL_MECHANISM must match",
    ),
    "nothing": (
        "PLAIN",
        lambda broker: {**NOTHING, "KAFKA_BROKER": broker.guarded},
        "KAFKA_SECURITY_PROTOCOL",
    ),
    "plain text": ("PLAIN", lambda broker: NO_TLS, "KAFKA_SECURITY_PROTOCOL"),
    "TLS": (
        "PLAIN",
        lambda broker: {"KAFKA_BROKER": broker.guarded},
        "KAFKA_SECURITY_PROTOCOL must match its listener there",
    ),
    "expired certificate": (
        "PLAIN",
        lambda broker: {"KAFKA_BROKER": broker.expired},
        "must be valid now",
    ),
    "certificate for another name": (
        "SCRAM-SHA-512",
        lambda broker: {"KAFKA_BROKER": elsewhere(broker)},
        "The broker's certificate is for other names: KAFKA_BROKER",
    ),
    "unknown authority": (
        "PLAIN",
        lambda broker: {"KAFKA_SSL_CAFILE": str(broker.stranger.file)},
        "KAFKA_SSL_CAFILE must have the authority",
    ),
    "authority that this machine does not know": (
        "PLAIN",
        lambda broker: {"KAFKA_SSL_CAFILE": ""},
        "KAFKA_SSL_CAFILE must have the authority",
    ),
    "no certificate of ours": (
        "certificate",
        lambda broker: dict.fromkeys(("KAFKA_SSL_CERTFILE", "KAFKA_SSL_KEYFILE"), ""),
        "check KAFKA_SSL_CERTFILE and KAFKA_SSL_KEYFILE",
    ),
    "certificate of another authority": (
        "certificate",
        lambda broker: own(broker.stranger.issue(USER)),
        "check KAFKA_SSL_CERTFILE and KAFKA_SSL_KEYFILE",
    ),
    "expired certificate of ours": (
        "certificate",
        lambda broker: own(broker.authority.issue(USER, days=certificates.EXPIRED)),
        "check KAFKA_SSL_CERTFILE and KAFKA_SSL_KEYFILE",
    ),
    "unknown host": (
        "PLAIN",
        lambda broker: {"KAFKA_BROKER": "no-such-host.invalid:9092"},
        "can't resolve that name",
    ),
    "nobody there": (
        "PLAIN",
        lambda broker: {"KAFKA_BROKER": "127.0.0.1:1"},
        "Nothing listens there",
    ),
}
# One of each kind, for the other way to use kafka-python.
SOME = ("password", "nothing", "expired certificate", "no certificate of ours", "nobody there")


def own(certificate: certificates.Certificate) -> dict[str, str]:
    key = certificate.encrypted_key(KEY_PASSWORD)
    return {"KAFKA_SSL_CERTFILE": str(certificate.file), "KAFKA_SSL_KEYFILE": str(key)}


@pytest.mark.parametrize(
    ("program", "what"),
    [("app.py", what) for what in KEEPS_OUT] + [("tests/untried_app.py", what) for what in SOME],
)
def test_whoever_is_kept_out_is_told_why_and_what_to_look_at(
    broker: SecureBroker, ways: Ways, tmp_path: Path, program: str, what: str
) -> None:
    way, changed, says = KEEPS_OUT[what]
    settings = {**ways[way], **changed(broker), "JOBQUEST_WORKERS": "1"}
    service = ForkedService(tmp_path, ROOT / program, **settings)
    try:
        service.start()
        begins = f"Kafka does not answer at {settings['KAFKA_BROKER']}: "

        def is_told() -> bool:
            """On a busy machine its two seconds may pass before the broker says what is wrong."""
            reason, ready = str(service.status()["reason"]), service.get("/readyz")
            assert ready.code == 503
            told = [reason, *ready.json["errors"]["log"]]
            return all(line.startswith(begins) and says in line for line in told)

        wait_for(is_told, 60, lambda: f"{service.status()}\n{service.tail()}")
        status, ready = service.status(), service.get("/readyz")
        assert (status["state"], status["consumerRunning"]) == ("disconnected", False)
        assert service.post("user.login", {}).code == 202
        lines = [line for line in service.output if " jobquest." in line]
        assert any(begins in line and says in line for line in lines), service.tail()
        assert "Traceback" not in "".join(service.output), service.tail()
        assert_no_secret("".join([*service.output, str(status), str(ready.json)]))
    finally:
        service.kill()
    if program == "app.py":

        def is_told_by_the_doctor() -> bool:
            checked = doctor(service)
            assert checked.exit_code == 1
            assert_no_secret(checked.output)
            [line] = [one for one in checked.output.splitlines() if "Kafka at " in one]
            assert line.startswith(f"problem  Kafka at {settings['KAFKA_BROKER']}: {begins}")
            return says in line

        wait_for(is_told_by_the_doctor, 60)


# --- the rights ---


def of_topics(operation: str) -> list[str]:
    """The topics on which the page grants this."""
    return [
        one.resource_pattern.resource_name
        for one in rights()
        if one.resource_pattern.resource_type == ResourceType.TOPIC
        and one.operation.name == operation
    ]


def test_the_page_grants_the_same_on_every_topic() -> None:
    for operation in ("READ", "WRITE", "DESCRIBE_CONFIGS", "CREATE"):
        assert sorted(of_topics(operation)) == sorted(TOPICS)
    assert len(rights()) == 4 * len(TOPICS) + 1
    assert {one.principal for one in rights()} == {f"User:{USER}"}


@pytest.fixture
def no_topics(broker: SecureBroker) -> None:
    delete_topics(broker.bootstrap, TOPICS)


@pytest.fixture
def log(ways: Ways, version: str) -> Iterator[EventLog]:
    with closing(open_log(ways["SCRAM-SHA-512"], version)) as made:
        yield made


@pytest.mark.usefixtures("no_topics")
def test_each_right_to_create_is_needed_and_no_other(broker: SecureBroker, log: EventLog) -> None:
    broker.withdraw(TOPICS, "CREATE")
    try:
        wait_for(lambda: log.missing_rights() == dict.fromkeys(TOPICS, ("CREATE",)), 10)
    finally:
        broker.grant(TOPICS, "CREATE")
    wait_for(lambda: log.missing_rights() == {}, 10)
    assert {info.origin.topic for info in log.describe(TOPICS)} == set(TOPICS)


@pytest.mark.parametrize("operation", ["READ", "WRITE"])
def test_each_right_to_read_and_to_write_is_needed(
    broker: SecureBroker, log: EventLog, operation: str
) -> None:
    for topic in TOPICS:
        write(log, topic)
    broker.withdraw(TOPICS, operation)
    try:
        wait_for(lambda: log.missing_rights() == dict.fromkeys(TOPICS, (operation,)), 10)
        for topic in TOPICS:
            with pytest.raises(TopicUnavailable, match=f"{operation} on topic {topic} is missing"):
                log.read(Partition(topic, 0), 0, 1) if operation == "READ" else write(log, topic)
    finally:
        broker.grant(TOPICS, operation)
    wait_for(lambda: log.missing_rights() == {}, 10)


def test_each_right_to_describe_settings_is_needed(
    broker: SecureBroker, log: EventLog, caplog: pytest.LogCaptureFixture
) -> None:
    log.describe(TOPICS)
    broker.withdraw(TOPICS, "DESCRIBE_CONFIGS")
    try:
        log.subscribe(TOPICS, GROUP, lambda origins: {}).close()
    finally:
        broker.grant(TOPICS, "DESCRIBE_CONFIGS")
    [line] = [one for one in caplog.messages if "DESCRIBE_CONFIGS" in one]
    assert f"unknown for {', '.join(sorted(TOPICS))}: the right" in line


def test_the_right_on_the_group_is_needed(broker: SecureBroker, log: EventLog) -> None:
    [right] = [o for o in rights() if o.resource_pattern.resource_type == ResourceType.GROUP]
    assert (right.resource_pattern.resource_name, right.operation.name) == (GROUP, "READ")
    broker.forbid([right])
    try:
        with pytest.raises(LogUnavailable, match=f"READ on the group {GROUP} is missing"):
            log.committed(GROUP, TOPICS)
    finally:
        broker.allow([right])


def test_a_right_that_is_missing_is_named_by_state_log_and_doctor(
    broker: SecureBroker, ways: Ways, tmp_path: Path
) -> None:
    """The group's, and one of which the state says nothing: no event needs it."""
    service = ForkedService(tmp_path, **ways["PLAIN"], JOBQUEST_WORKERS="1")
    on_group, on_topic = f"READ on the group {GROUP} is missing", "READ on topic dead-letters is"
    group = [o for o in rights() if o.resource_pattern.resource_type == ResourceType.GROUP]
    try:
        service.start()
        wait_for(lambda: service.status()["state"] in HEALTHY, 30, service.tail)
        broker.withdraw(["dead-letters"], "READ")
        wait_for(lambda: on_topic in doctor(service).output, 10)
        broker.forbid(group)
        wait_for(lambda: on_group in str(service.status()["reason"]), 20, service.tail)
        assert service.status()["state"] == "disconnected"
        assert any(on_group in line for line in service.output)
        wait_for(lambda: on_group in doctor(service).output, 10)
        broker.allow(group)
        wait_for(lambda: service.status()["state"] in HEALTHY, 30, service.tail)
    finally:
        service.kill()
        broker.allow(rights())


# --- the service with just these rights ---


@pytest.fixture
def documented_topics(broker: SecureBroker, no_topics: None) -> None:
    """The topics as the page makes them, but with one copy."""
    found = topics()
    assert sorted(found) == sorted(TOPICS)
    for topic, configs in found.items():
        assert configs.pop("copies") == "3"
        partitions = int(configs.pop("partitions"))
        broker.make([topic], partitions, {**configs, "min.insync.replicas": "1"})


@pytest.mark.usefixtures("documented_topics")
def test_with_the_documented_rights_and_topics_everything_works(
    broker: SecureBroker, ways: Ways, tmp_path: Path
) -> None:
    """Nothing is created, so the right to create is taken away."""
    broker.withdraw(TOPICS, "CREATE")
    settings = {**ways["SCRAM-SHA-512"], "JOBQUEST_HANDLERS": "jobquest.demo"}
    settings |= {"JOBQUEST_WORKERS": "1", "JOBQUEST_RETRY_BASE_SECONDS": "50"}
    service = ForkedService(tmp_path, **settings)
    written: list[str] = []
    try:
        expected = [one for one in rights() if one.operation.name != "CREATE"]
        assert sorted(map(str, broker.allowed)) == sorted(map(str, expected))
        service.start()
        use(service)
        assert (doctor(service).exit_code, doctor(service).output.count("problem")) == (0, 0)
        before = counts(service)
        service.stop()
        written += service.output
        for file in tmp_path.glob(f"{READ_SIDE}*"):
            file.unlink()
        service.start()
        wait_for(lambda: counts(service) == before, 30, service.tail)
        written += service.output
    finally:
        service.kill()
        broker.grant(TOPICS, "CREATE")
    complaints = ("missing", "other settings")
    assert not [one for one in written if any(word in one for word in complaints)], written
    assert_no_secret("".join(written))


def doctor(service: Service) -> Result:
    return FlaskCliRunner(create_app(service.settings)).invoke(args=["kafka", "doctor"])


def use(service: Service) -> None:
    """Publish each type, one event that waits for a retry and one that dies; look at each topic."""
    wait_for(lambda: service.post("user.login", {}, "first").code == 201, 30, service.tail)
    for kind, row in CATALOGUE.items():
        assert service.post(kind, row.example, "ada").code == 201, kind
    for wish in ("fail", "refuse"):
        answer = service.post("user.login", {}, f"who-{wish}", metadata={"demo": wish})
        assert answer.code == 201
    wait_for(lambda: counts(service)[1:] == (1, 1), 30, service.tail)
    service.wait_until_caught_up()
    for topic in LOG_TOPICS:
        answer = service.get(f"/api/kafka/topics/{topic}/records?partition=0")
        assert answer.code == 200, (topic, answer.json)
        assert service.get(f"/topics/{topic}").code == 200


def counts(service: Service) -> tuple[int, int, int]:
    """How many events are processed, wait and are dead."""
    found = [
        service.get("/api/events?outcome=processed&limit=500").json["data"]["events"],
        service.get("/api/kafka/retries").json["data"]["retries"],
        service.get("/api/kafka/dead-letters").json["data"]["deadLetters"],
    ]
    return len(found[0]), len(found[1]), len(found[2])
