"""The audit trail: who did what."""

from __future__ import annotations

import json
import os
import pwd
from collections.abc import Mapping
from typing import Any
from urllib.request import urlopen

import pytest
from click import Group
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from jobquest import audit, create_app
from jobquest.cli.dead_letters import dead_letters
from jobquest.cli.keys import keys
from jobquest.cli.operators import operators
from jobquest.config import load
from jobquest.errors import LogUnavailable, RecordRefused
from jobquest.events import CATALOGUE
from jobquest.log import Found, NewRecord, Origin, Partition, PartitionInfo, Record
from jobquest.log.pending import Pending
from jobquest.obstacles import _needed
from jobquest.read.dead_letters import DeadLetterFilter
from jobquest.runtime import Runtime, _outbox
from jobquest.web.audited import declared
from jobquest.web.pages.audit import WORDS
from jobquest.web.pages.sign_in import FORM_COOKIE
from tests.service import Service
from tests.test_consumer import consume, write

PASSWORD = "a long enough password"
READS = {"GET", "HEAD", "OPTIONS"}


def runtime_of(client: FlaskClient) -> Runtime:
    found: Runtime = client.application.extensions["jobquest"]
    return found


def trail(client: FlaskClient) -> list[dict[str, Any]]:
    entries, _ = runtime_of(client).audit.latest(None, None, 100)
    return entries


def acts(client: FlaskClient) -> list[tuple[str, str, str]]:
    """Who did what, oldest first."""
    return [(one["name"], one["action"], one["object"]) for one in reversed(trail(client))]


def dead_letter(client: FlaskClient) -> int:
    """The id of a new dead letter."""
    runtime = runtime_of(client)
    event = {"id": "e1", "type": "level.up", "userId": "ada", "metadata": {}, "data": {}}
    value = json.dumps({**event, "timestamp": "2026-11-24T06:00:00.000Z"}).encode()
    [pending] = runtime.log.append([NewRecord("achievements", b"ada", value)])
    pending.result(5)
    consume(runtime)
    [found] = runtime.queries.dead_letters(DeadLetterFilter(), None, 1)["deadLetters"]
    return int(found["id"])


# --- what is recorded ---


def test_every_route_that_does_more_than_read_declares_what_it_records(
    client: FlaskClient,
) -> None:
    app = client.application
    for rule in app.url_map.iter_rules():
        if (rule.methods or set()) - READS:
            actions = declared(app, rule.endpoint)
            assert actions is not None, f"{rule.rule} declares neither audited nor unaudited"
            assert actions <= set(audit.ACTIONS), rule.rule
    assert set(WORDS) == set(audit.ACTIONS)


def test_discarding_is_recorded_with_who_what_and_from_where(client: FlaskClient) -> None:
    id = dead_letter(client)
    path = f"/api/kafka/dead-letters/{id}/discard"
    assert client.post(path, json={"reason": "a test"}).status_code == 200
    [entry] = trail(client)
    assert entry["name"] == "local"
    assert (entry["action"], entry["object"]) == ("discard", f"dead letter {id}")
    assert entry["details"] == {"reason": "a test"}
    assert entry["address"] == "127.0.0.1"


def test_editing_is_recorded_but_not_a_dry_run(client: FlaskClient) -> None:
    id = dead_letter(client)
    data = {"newLevel": 3, "totalXp": 350}
    value = {"id": "e1", "type": "level.up", "userId": "ada", "metadata": {}, "data": data}
    body = {"value": {**value, "timestamp": "2026-11-24T06:00:00.000Z"}}
    path = f"/api/kafka/dead-letters/{id}"
    assert client.patch(f"{path}?dryRun=1", json=body).status_code == 200
    assert acts(client) == []
    assert client.patch(path, json=body).status_code == 200
    assert acts(client) == [("local", "edit", f"dead letter {id}")]
    assert client.post("/api/kafka/dead-letters/redrive", json={"ids": [id]}).status_code == 200
    assert trail(client)[0]["details"] == {"redriven": [id], "refused": 0}


def test_what_is_refused_is_not_recorded(client: FlaskClient) -> None:
    for path, body in (
        ("/api/kafka/dead-letters/7/discard", {"reason": "x"}),
        ("/api/kafka/dead-letters/redrive", {"action": "edit"}),
        ("/api/kafka/retries/x/now", {}),
        ("/api/kafka/status", {"action": "explode"}),
    ):
        assert client.post(path, json=body).status_code in (400, 404), path
    assert acts(client) == []


@pytest.mark.parametrize("path", ["/sign-in", "/api/kafka/status", "/access/keys"])
def test_a_body_that_is_not_read_is_not_recorded(client: FlaskClient, path: str) -> None:
    """Nothing limits these, and the trail is kept for ever."""
    packed, form = {"Content-Encoding": "gzip"}, "application/x-www-form-urlencoded"
    answers = [
        client.post(path, content_type=form, headers=packed),
        client.post(path, content_type=form, data=b" " * (2 << 20)),
        client.post(path, content_type="application/json", data=b" " * (2 << 20)),
    ]
    assert {413} <= {answer.status_code for answer in answers} <= {403, 409, 413, 415}
    assert acts(client) == []


def test_a_wish_that_is_not_reached_in_time_is_recorded_too(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobquest.runtime.CHANGE_SECONDS", 0.0)
    assert client.post("/api/kafka/status", json={"action": "start"}).status_code == 504
    [entry] = trail(client)
    assert (entry["action"], entry["object"]) == ("start", "consumer")
    assert entry["details"] == {"failed": "StateNotReached"}


def sign_in(client: FlaskClient, name: str, password: str) -> TestResponse:
    client.get("/sign-in")
    cookie = client.get_cookie(FORM_COOKIE)
    assert cookie
    token = client.application.extensions["jobquest.csrf"].token(cookie.value)
    form = {"name": name, "password": password, "csrf_token": token}
    return client.post("/sign-in", data=form)


def test_sessions_and_failed_sign_ins_are_recorded(client: FlaskClient) -> None:
    runtime_of(client).access.operators.add("ada", PASSWORD, "operator")
    assert sign_in(client, "ada", "not the password").status_code == 401
    assert sign_in(client, "my secret by mistake", PASSWORD).status_code == 401
    assert sign_in(client, "ada", PASSWORD).status_code == 303
    page = client.get("/audit")
    assert page.status_code == 200
    assert "my secret by mistake" not in page.text
    token = page.text.partition('name="csrf_token" value="')[2].partition('"')[0]
    assert client.post("/sign-out", data={"csrf_token": token}).status_code == 303
    assert acts(client) == [
        ("ada", "sign-in.failed", ""),
        ("unknown", "sign-in.failed", ""),
        ("ada", "session.begun", ""),
        ("ada", "session.ended", ""),
    ]


COMMANDS = (
    ("key.created", "keys create --name shop --scope events:write"),
    ("key.rotated", "keys rotate shop"),
    ("key.revoked", "keys revoke shop"),
    ("operator.added", f"operators add ada --role viewer --password {PASSWORD!r}"),
    ("operator.changed", "operators role ada operator"),
    ("operator.changed", f"operators password ada --password {PASSWORD!r}"),
    ("operator.removed", "operators remove ada"),
    ("discard", "events dead-letters discard 1 --reason old"),
    ("redrive", "events dead-letters redrive --all"),
)


def test_commands_are_recorded_with_the_user_of_the_machine(
    client: FlaskClient, settings: dict[str, str]
) -> None:
    dead_letter(client)
    for _, command in COMMANDS:
        result = create_app(settings).test_cli_runner().invoke(args=command)
        assert result.exit_code == 0, result.output
    me = f"cli:{pwd.getpwuid(os.getuid()).pw_name}"
    found = [(name, action) for name, action, _ in acts(client)]
    assert found == [(me, action) for action, _ in COMMANDS]
    assert PASSWORD not in json.dumps(trail(client))


@pytest.mark.parametrize(
    ("command", "what"),
    [
        ("events tail --once", "flask events tail"),
        ("events dead-letters show 1", "dead letter 1"),
    ],
)
def test_commands_mask_personal_data_unless_they_are_asked(
    client: FlaskClient, settings: dict[str, str], command: str, what: str
) -> None:
    runtime = runtime_of(client)
    runtime.producer.publish("user.login", "ada", {"ipAddress": "203.0.113.77"}, id="e")
    write(runtime, "system-events", b'{"id": "e", "data": {"ipAddress": "203.0.113.77"}}')
    consume(runtime)
    run = create_app(settings).test_cli_runner().invoke
    assert "203.0.113.77" not in run(args=command).output
    assert acts(client) == []
    assert "203.0.113.77" in run(args=f"{command} --personal").output
    assert [(action, object) for _, action, object in acts(client)] == [("reveal", what)]


@pytest.mark.parametrize("group", [keys, operators, dead_letters])
def test_every_command_that_does_more_than_read_is_among_these(group: Group) -> None:
    tried = {word for _, command in COMMANDS for word in command.split()}
    assert group.commands.keys() - tried <= {"list", "show"}


# --- how it is kept ---


def test_a_record_is_an_event_of_a_type_that_nobody_can_publish(client: FlaskClient) -> None:
    runtime = runtime_of(client)
    runtime.audit.record("ada", "redrive", "dead letters", {"ids": [1]}, "192.0.2.1")
    [record] = runtime.log.read(Partition(audit.TOPIC, 0), 0, 10)
    event = json.loads(record.value or b"")
    assert record.key == b"jq:operator:ada"
    assert event["id"].startswith("jq:")
    assert (event["type"], event["userId"]) == ("operator.acted", "jq:operator:ada")
    assert set(event["data"]) == {"action", "object", "details", "address"}
    assert audit.TYPE not in CATALOGUE
    body = {"eventType": audit.TYPE, "userId": "jq:operator:ada", "data": event["data"]}
    assert client.post("/api/kafka/events", json=body).status_code == 400
    assert client.post("/api/kafka/events?dryRun=1", json=body).status_code == 400
    answer = client.post("/api/kafka/events/batch", json={"events": [body]})
    assert answer.status_code == 400


def test_it_never_enters_what_shows_users_events(client: FlaskClient) -> None:
    runtime = runtime_of(client)
    runtime.audit.record("ada", "redrive", "dead letters")
    runtime.producer.publish("user.login", "grace", {})
    consume(runtime)
    assert [e["event"]["userId"] for e in runtime.queries.events()["events"]] == ["grace"]
    assert [user["userId"] for user in runtime.queries.users()] == ["grace"]
    assert runtime.queries.outcomes()["deadLetters"] == 0
    assert [change[3] for change in runtime.queries.changes(0, 10)] == ["grace"]


class Away:
    """A log that accepts nothing."""

    def append(self, records: list[NewRecord]) -> list[Pending[Any]]:
        pending: Pending[Any] = Pending()
        pending.fail(LogUnavailable("The log is away."))
        return [pending]


class Raising:
    def append(self, records: list[NewRecord]) -> list[Pending[Any]]:
        raise RuntimeError("broken")


class Slow:
    def append(self, records: list[NewRecord]) -> list[Pending[Any]]:
        return [Pending()]


@pytest.mark.parametrize("log", [Away(), Raising()])
def test_what_cannot_be_kept_is_in_the_log_and_harms_nobody(
    log: Any, caplog: pytest.LogCaptureFixture
) -> None:
    audit.Audit(log, None).record("ada", "discard", "dead letter 7")
    [line] = [one.getMessage() for one in caplog.records if one.levelname == "ERROR"]
    assert line.startswith("Not in the audit trail: ")
    assert "jq:operator:ada" in line
    assert "dead letter 7" in line


def test_an_action_waits_for_its_record_only_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "KEPT_SECONDS", 0.05)
    audit.Audit(Slow(), None).record("ada", "stop")  # type: ignore[arg-type]


def test_while_the_log_is_away_the_outbox_has_it(client: FlaskClient) -> None:
    outbox: Any = Recording()
    audit.Audit(Raising(), outbox).record("ada", "stop")  # type: ignore[arg-type]
    assert [record.topic for record in outbox.records] == [audit.TOPIC]


def test_a_record_that_kafka_refuses_for_good_is_an_error_line(
    client: FlaskClient, settings: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    runtime = runtime_of(client)
    kafka = load({**settings, "KAFKA_BROKER": "localhost:1"})
    outbox = _outbox(kafka, runtime.log, runtime.read_side)
    assert outbox
    event = audit._event("ada", "discard", "dead letter 7", {}, "")
    record = NewRecord(audit.TOPIC, b"jq:operator:ada", event.to_json(), event.headers())
    outbox._refused(record, RecordRefused("Too large."))
    assert "Not in the audit trail: " in caplog.text
    assert "dead letter 7" in caplog.text
    assert runtime.queries.outcomes()["deadLetters"] == 0


def test_the_consumer_is_not_degraded_because_the_trail_may_not_be_read() -> None:
    assert _needed(audit.TOPIC, ("READ", "WRITE")) == ["WRITE"]


class Recording:
    def __init__(self) -> None:
        self.records: list[NewRecord] = []

    def append(self, records: list[NewRecord]) -> list[Pending[Any]]:
        self.records += records
        pending: Pending[Any] = Pending()
        pending.resolve(None)
        return [pending]


# --- how it is read ---


def test_the_trail_is_read_in_portions_of_one_person_or_of_all(client: FlaskClient) -> None:
    runtime = runtime_of(client)
    for number in range(7):
        runtime.audit.record("ada" if number % 2 else "grace", "discard", f"dead letter {number}")
    path, found = "/api/audit?limit=3", []
    while path:
        data = client.get(path).get_json()["data"]
        found += [one["object"] for one in data["audit"]]
        path = f"/api/audit?limit=3&after={data['next']}" if data["next"] else ""
    assert found == [f"dead letter {number}" for number in range(6, -1, -1)]
    data = client.get("/api/audit?name=ada&limit=2").get_json()["data"]
    assert [one["object"] for one in data["audit"]] == ["dead letter 5", "dead letter 3"]
    rest = client.get(f"/api/audit?name=ada&after={data['next']}").get_json()["data"]
    assert [one["object"] for one in rest["audit"]] == ["dead letter 1"]
    assert rest["next"] is None
    for wrong in ("x", "0:1-", f"0:{'9' * 5_000}", "0:-1", "٠:١"):
        assert client.get(f"/api/audit?after={wrong}").status_code == 400, wrong
    lines = client.get("/api/audit.jsonl?name=grace").text.splitlines()
    assert [json.loads(line)["object"][-1] for line in lines] == ["6", "4", "2", "0"]


def test_a_record_of_somebody_else_is_shown_as_unreadable(client: FlaskClient) -> None:
    runtime = runtime_of(client)
    for value in (b"\xff", b"[]", b'{"id":1}', None):
        [pending] = runtime.log.append([NewRecord(audit.TOPIC, b"x", value)])
        pending.result(5)
    assert [one["action"] for one in trail(client)] == ["unreadable"] * 4
    assert client.get("/audit").status_code == 200


def test_several_partitions_are_merged_by_time() -> None:
    log = Partitioned()
    found = [entry["object"] for entry, _ in audit.Audit(log, None).entries()]  # type: ignore[arg-type]
    assert found == [f"{number:04}" for number in range(Partitioned.COUNT - 1, -1, -1)]
    portions, after = [], None
    while True:
        entries, after = audit.Audit(log, None).latest(None, after, 700)  # type: ignore[arg-type]
        portions += [entry["object"] for entry in entries]
        if after is None:
            break
    assert portions == found
    assert log.most <= audit.READ_RECORDS


class Partitioned:
    """A log whose topic has three partitions; it notes the most records that it gave at once."""

    COUNT = 2_000

    def __init__(self) -> None:
        self.most = 0
        self._records: dict[int, list[Record]] = {0: [], 1: [], 2: []}
        for number in range(self.COUNT):
            event = audit._event("ada", "edit", f"{number:04}", {}, "").to_dict()
            event["timestamp"] = f"2026-11-24T06:{number // 60:02}:{number % 60:02}.000Z"
            mine = self._records[number * 7 % 3]
            value = json.dumps(event).encode()
            mine.append(Record(audit.TOPIC, number * 7 % 3, len(mine), b"", value, (), number))
        self._infos = [
            PartitionInfo(Origin(audit.TOPIC, n, "x"), 0, len(mine))
            for n, mine in self._records.items()
        ]

    def describe(self, topics: Any) -> list[Any]:
        return self._infos

    def missing_rights(self) -> dict[str, list[str]]:
        return {}

    def read_each(self, spans: Mapping[Partition, tuple[int, int]], limit: int) -> dict[Any, Any]:
        [(place, (start, end))] = spans.items()
        found = self._records[place.number][start : min(end, start + limit // 2)]
        self.most = max(self.most, len(found))
        return {place: Found(found, found[-1].offset + 1)}


# --- who may see it ---


def key_of(client: FlaskClient) -> dict[str, str]:
    """The header of a new key that may do all that keys may do."""
    access = runtime_of(client).access
    secret = access.keys.create("all", ("events:read", "events:write", "operate"), None)
    access._look()
    return {"Authorization": f"Bearer {secret}"}


@pytest.mark.parametrize("path", ["/audit", "/api/audit", "/api/audit.jsonl"])
def test_no_key_reads_the_trail(client: FlaskClient, path: str) -> None:
    assert client.get(path).status_code == 200
    key = key_of(client)
    assert client.get(path, headers=key).status_code == 403
    assert client.get(path).status_code in (401, 303)


@pytest.mark.parametrize(
    "path", ["/topics/operator-audit", "/api/kafka/topics/operator-audit/records"]
)
def test_its_topic_is_there_only_for_those_who_manage(client: FlaskClient, path: str) -> None:
    assert client.get(path).status_code == 200
    topics = client.get("/api/kafka/topics").get_json()["data"]["topics"]
    assert topics[-1]["name"] == audit.TOPIC
    assert (topics[-1]["lag"], topics[-1]["partitions"][0]["process"]) == (0, None)
    key = key_of(client)
    other = path.replace("operator-audit", "no-such-topic")
    [mine, unknown] = [client.get(one, headers=key) for one in (path, other)]
    assert (mine.status_code, mine.text) == (404, unknown.text)
    assert audit.TOPIC not in client.get("/api/kafka/topics", headers=key).text
    assert audit.TOPIC not in client.get("/topics", headers=key).text
    assert "/audit" not in client.get("/topics", headers=key).text


# --- the whole service ---


def test_the_service_keeps_the_trail_on_each_log(service: Service) -> None:
    for action in ("stop", "start"):
        assert service.switch(action).code == 200
    found = service.get("/api/audit").json["data"]
    assert [(one["name"], one["action"]) for one in found["audit"]] == [
        ("local", "start"),
        ("local", "stop"),
    ]
    assert found["next"] is None
    with urlopen(f"{service.url}/api/audit.jsonl", timeout=10) as lines:
        assert [json.loads(line)["action"] for line in lines] == ["start", "stop"]
    assert service.get("/api/events").json["data"]["events"] == []
