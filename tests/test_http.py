"""The API over HTTP: codes, the one shape of answers, and nothing hostile past the door."""

from __future__ import annotations

import json
import threading
from dataclasses import asdict
from typing import Any

import orjson
import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from jobquest import create_app
from jobquest.consumer import Snapshot
from jobquest.events import CATALOGUE
from jobquest.read.service_state import ServiceState
from jobquest.runtime import Runtime
from tests.samples import SAMPLES, TYPES
from tests.service import wait_for
from tests.test_strict_json import HOSTILE

EVENTS = "/api/kafka/events"
LOGIN: dict[str, Any] = {"eventType": "user.login", "data": {}}


def runtime_of(client: FlaskClient) -> Runtime:
    runtime: Runtime = client.application.extensions["jobquest"]
    return runtime


def consume(client: FlaskClient) -> None:
    runtime = runtime_of(client)
    while runtime.consumer.step() + runtime.relay.step():
        pass


def data_of(response: TestResponse, code: int = 200) -> Any:
    assert response.status_code == code, response.text
    body = response.json  # it is read again by each use of the name
    assert body is not None
    assert body["status"] == "success"
    return body["data"]


def error_of(response: TestResponse, code: int) -> dict[str, Any]:
    """The body of an error, which must be in the one shape."""
    assert response.status_code == code, response.text
    body = response.json
    assert body is not None
    assert body["status"] == "error"
    assert isinstance(body["message"], str)
    assert body["message"]
    assert set(body) <= {"status", "message", "errors", "data"}
    return body


@pytest.mark.parametrize("name", TYPES)
def test_each_type_is_taken(client: FlaskClient, name: str) -> None:
    body = {"eventType": name, "userId": "ada", "data": SAMPLES[name], "metadata": {"a": 1}}
    answer = client.post(EVENTS, json=body)
    taken = data_of(answer, 201)
    assert answer.json
    assert answer.json["message"]
    assert set(taken) == {
        "id",
        "eventType",
        "userId",
        "timestamp",
        "topic",
        "partition",
        "offset",
        "result",
    }
    assert (taken["eventType"], taken["userId"], taken["result"]) == (name, "ada", "accepted")
    assert (taken["topic"], taken["offset"]) == (CATALOGUE[name].topic, 0)


def test_the_catalogue_is_told_and_its_examples_pass(shared_client: FlaskClient) -> None:
    types = data_of(shared_client.get(EVENTS))["eventTypes"]
    assert set(types) == set(TYPES)
    for name, row in types.items():
        assert set(row) == {"required", "optional", "topic", "description", "example"}
        data_of(shared_client.post(EVENTS, json={"eventType": name, "data": row["example"]}), 201)


def test_without_a_user_it_is_the_demo_user(shared_client: FlaskClient) -> None:
    assert data_of(shared_client.post(EVENTS, json=LOGIN), 201)["userId"] == "demo-user"


def test_an_invalid_event_is_told_all_its_errors(shared_client: FlaskClient) -> None:
    body = {"eventType": "job.applied", "data": {"jobId": 1, "x": 1}, "userId": None, "extra": 1}
    errors = error_of(shared_client.post(EVENTS, json=body), 400)["errors"]
    expected = {"userId", "extra", "data.jobId", "data.companyName", "data.position", "data.x"}
    assert set(errors) == expected
    assert all(isinstance(line, str) for lines in errors.values() for line in lines)


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_bodies_get_400_and_the_next_good_event_goes_through(
    shared_client: FlaskClient, body: bytes
) -> None:
    code = 413 if len(body) > 64 * 1024 else 400
    error_of(shared_client.post(EVENTS, data=body, content_type="application/json"), code)
    inside = b'{"eventType": "user.login", "data": {}, "metadata": {"a": ' + body + b"}}"
    error_of(shared_client.post(EVENTS, data=inside, content_type="application/json"), code)
    data_of(shared_client.post(EVENTS, json=LOGIN), 201)


@pytest.mark.parametrize("document", [[], None, 1, "text", {}, {"eventType": []}, {"data": 1}])
def test_json_that_is_no_event_gets_400(shared_client: FlaskClient, document: Any) -> None:
    body = json.dumps(document)
    error_of(shared_client.post(EVENTS, data=body, content_type="application/json"), 400)


def test_too_large_a_body_gets_413(shared_client: FlaskClient) -> None:
    error_of(shared_client.post(EVENTS, json={**LOGIN, "metadata": {"a": "x" * 70_000}}), 413)
    data_of(shared_client.post(EVENTS, json=LOGIN), 201)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_what_is_not_declared_json_gets_415(shared_client: FlaskClient, kind: str) -> None:
    """A page of another site can send these without asking first."""
    for path in (EVENTS, "/api/kafka/status"):
        error_of(shared_client.post(path, data=json.dumps(LOGIN), content_type=kind), 415)


def test_an_id_that_is_processed_is_a_duplicate_and_other_content_a_conflict(
    client: FlaskClient,
) -> None:
    body = {**LOGIN, "id": "mine", "data": {"userEmail": "a@b.c"}}
    first = data_of(client.post(EVENTS, json=body), 201)
    consume(client)
    again = data_of(client.post(EVENTS, json=body), 200)
    assert again == {**first, "result": "duplicate"}
    error_of(client.post(EVENTS, json={**body, "data": {"userEmail": "x@y.z"}}), 409)
    error_of(client.post(EVENTS, json={**body, "userId": "other"}), 409)


def test_fifty_clients_with_one_id_make_one_effect(client: FlaskClient) -> None:
    body = {"eventType": "xp.earned", "userId": "u", "id": "one", "data": SAMPLES["xp.earned"]}
    codes: list[int] = []

    def post() -> None:
        codes.append(client.application.test_client().post(EVENTS, json=body).status_code)

    threads = [threading.Thread(target=post) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    consume(client)
    assert set(codes) <= {200, 201}
    assert data_of(client.get("/api/users/u"))["xp"] == 100


def test_unknown_paths_and_methods_get_the_one_shape(shared_client: FlaskClient) -> None:
    error_of(shared_client.get("/nope"), 404)
    error_of(shared_client.get("/static/nope.css"), 404)
    answer = shared_client.delete(EVENTS)
    error_of(answer, 405)
    assert "POST" in answer.headers["Allow"]


def test_events_are_listed_newest_first_by_filter_and_page(client: FlaskClient) -> None:
    for n in range(5):
        kind = "user.login" if n % 2 else "user.logout"
        at = f"2026-01-0{n + 1}T00:00:00Z"
        body = {"eventType": kind, "userId": f"u{n}", "data": {}, "id": f"e{n}", "timestamp": at}
        data_of(client.post(EVENTS, json=body), 201)
    consume(client)

    def ids(query: str = "") -> list[str]:
        found = data_of(client.get(f"/api/events?{query}"))
        return [item["event"]["id"] for item in found["events"]]

    assert ids() == ["e4", "e3", "e2", "e1", "e0"]
    assert ids("type=user.login") == ["e3", "e1"]
    assert ids("userId=u0&userId=u4") == ["e4", "e0"]
    assert ids("topic=achievements") == []
    assert ids("outcome=dead") == []
    assert ids("outcome=dead&outcome=processed&userId=u0") == ["e0"]
    assert ids("notUserId=u0&notUserId=u1&notUserId=u2") == ["e4", "e3"]
    assert ids("notTopic=system-events") == ids("notOutcome=processed") == []
    assert ids("notType=user.logout&limit=1") == ["e3"]
    assert ids("since=3") == ["e4", "e3"]
    assert ids("from=2026-01-02T00:00:00Z&to=2026-01-04T00:00:00Z") == ["e2", "e1"]
    page = data_of(client.get("/api/events?limit=2"))
    assert [item["event"]["id"] for item in page["events"]] == ["e4", "e3"]
    assert ids(f"limit=2&after={page['next']}") == ["e2", "e1"]
    last = data_of(client.get("/api/events?limit=3&after=4"))
    assert last["next"] is None
    item = last["events"][0]
    assert set(item) == {"seq", "topic", "partition", "offset", "outcome", "event"}


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=501",
        "limit=x",
        "limit=%C2%B2",
        "after=-1",
        "since=x",
        "from=today",
        "outcome=lost",
        "notOutcome=lost",
    ],
)
def test_a_wrong_parameter_gets_400_by_name(shared_client: FlaskClient, query: str) -> None:
    errors = error_of(shared_client.get(f"/api/events?{query}"), 400)["errors"]
    assert list(errors) == [query.split("=")[0]]


def test_one_events_life_is_told(client: FlaskClient) -> None:
    taken = data_of(client.post(EVENTS, json=LOGIN), 201)
    error_of(client.get(f"/api/events/{taken['id']}"), 404)
    consume(client)
    life = data_of(client.get(f"/api/events/{taken['id']}"))
    assert (life["outcome"], life["offset"], life["deadLetter"]) == ("processed", 0, None)
    assert life["received"]


def test_a_user_is_found_with_everything_below(client: FlaskClient) -> None:
    user = "a/b c?d"
    for name in TYPES:
        client.post(EVENTS, json={"eventType": name, "userId": user, "data": SAMPLES[name]})
    consume(client)
    path = "/api/users/a%2Fb%20c%3Fd"
    assert data_of(client.get(path))["userId"] == user
    for below, count in (
        ("applications", 1),
        ("achievements", 1),
        ("challenges", 1),
        ("learning", 1),
    ):
        assert len(data_of(client.get(f"{path}/{below}"))[below]) == count
    kinds = {
        n["notificationType"] for n in data_of(client.get(f"{path}/notifications"))["notifications"]
    }
    assert kinds == {"achievement", "challenge", "level_up"}
    assert len(data_of(client.get(f"{path}/events?limit=500"))["events"]) >= len(TYPES)
    assert [found["userId"] for found in data_of(client.get("/api/users?q=b%20c"))["users"]] == [
        user
    ]
    assert data_of(client.get("/api/users?q=%25"))["users"] == []
    error_of(client.get("/api/users/nobody"), 404)
    error_of(client.get("/api/users/nobody/events"), 404)


def test_analytics_are_told_by_window(client: FlaskClient) -> None:
    client.post(EVENTS, json={**LOGIN, "timestamp": "2026-01-01T10:30:00Z"})
    client.post(EVENTS, json=LOGIN)
    consume(client)
    query = "window=day&from=2026-01-01T00:00:00Z&to=2026-01-02T00:00:00%2B00:00"
    found = data_of(client.get(f"/api/analytics?{query}"))
    assert found["windows"] == [
        {"start": "2026-01-01T00:00:00.000Z", "total": 1, "counts": {"user.login": 1}}
    ]
    assert data_of(client.get("/api/analytics"))["windows"][0]["total"] == 1
    error_of(client.get("/api/analytics?window=week"), 400)


def test_analytics_tell_of_users_applications_and_learning(client: FlaskClient) -> None:
    job = {"jobId": "j1", "companyName": "Acme", "position": "Developer"}
    moved = {"newStatus": "interview", "previousStatus": "applied"}
    course = {"resourceId": "r1", "resourceTitle": "Interviewing", "resourceType": "course"}
    for event_type, user, data in (
        ("job.applied", "ada", job),
        ("job.applied", "grace", job),
        ("job.status.updated", "ada", {**job, **moved}),
        ("xp.earned", "ada", {"xpAmount": 70, "totalXp": 0}),
        ("xp.earned", "grace", {"xpAmount": 20, "totalXp": 0}),
        ("learning.started", "ada", course),
        ("learning.completed", "ada", {**course, "progress": 80}),
    ):
        body = {"eventType": event_type, "userId": user, "data": data}
        body["timestamp"] = "2026-01-05T10:00:00Z"
        assert client.post(EVENTS, json=body).status_code == 201
    late = {"eventType": "xp.earned", "userId": "ada", "timestamp": "2026-01-03T23:59:59Z"}
    client.post(EVENTS, json={**late, "data": {"xpAmount": 5, "totalXp": 0}})
    consume(client)
    query = "from=2026-01-03T00:00:00Z&to=2026-01-06T00:00:00Z"
    found = data_of(client.get(f"/api/analytics/overview?{query}"))
    assert found["applications"] == [
        {"status": "applied", "count": 1},
        {"status": "interview", "count": 1},
    ]
    assert found["xpPerDay"] == [
        {"day": "2026-01-03T00:00:00.000Z", "xp": 5},
        {"day": "2026-01-05T00:00:00.000Z", "xp": 90},
    ]
    assert [(user["userId"], user["xp"]) for user in found["topUsers"]] == [
        ("ada", 75),
        ("grace", 20),
    ]
    assert found["learning"] == [{"resourceType": "course", "started": 1, "completed": 1}]


def test_too_many_windows_are_refused(shared_client: FlaskClient) -> None:
    error_of(shared_client.get("/api/analytics?from=2000-01-01T00:00:00Z"), 400)


def test_the_consumer_is_started_and_stopped_by_the_api(client: FlaskClient) -> None:
    path = "/api/kafka/status"
    assert data_of(client.get(path))["state"] == "stopped"
    for _ in range(2):
        status = data_of(client.post(path, json={"action": "start"}))
        assert (status["consumerRunning"], status["mode"]) == (True, "embedded")
        assert status["state"] in {"running", "idle"}
    for _ in range(2):
        status = data_of(client.post(path, json={"action": "stop"}))
        assert (status["consumerRunning"], status["state"]) == (False, "stopped")
    error_of(client.post(path, json={"action": "pause"}), 400)


def test_the_topics_are_told_with_their_lag(client: FlaskClient) -> None:
    client.post(EVENTS, json=LOGIN)
    topics = {topic["name"]: topic for topic in data_of(client.get("/api/kafka/topics"))["topics"]}
    assert len(topics) == 9  # with that of the audit trail
    [partition] = topics["system-events"]["partitions"]
    assert (partition["first"], partition["next"], partition["lag"]) == (0, 1, 1)
    # Measured at most once a second, and the supervisor may have looked before the POST.
    wait_for(lambda: data_of(client.get("/api/kafka/status"))["lag"]["messages"] == 1, 5)


def test_health_readiness_and_metrics(client: FlaskClient) -> None:
    data_of(client.get("/healthz"))
    data_of(client.get("/readyz"))
    client.post(EVENTS, json=LOGIN)
    text = client.get("/metrics").text
    assert 'jobquest_consumer_state{state="stopped"} 1.0' in text
    this = f'process="{runtime_of(client).state.process_id}"'
    assert f'{{code="201",method="POST",{this},route="/api/kafka/events"}} 1.0' in text
    assert f"jobquest_viewers{{{this}}} 0.0" in text


def test_two_containers_of_one_host_name_and_pid_have_series_of_their_own(
    client: FlaskClient,
) -> None:
    for _ in range(2):  # with the host and the pid of this process
        twin = ServiceState(runtime_of(client).database)
        twin.beat(orjson.dumps(asdict(Snapshot())))
    lines = client.get("/metrics").text.splitlines()
    series = [line.rpartition(" ")[0] for line in lines if not line.startswith("#")]
    assert len([one for one in series if one.startswith("jobquest_records_dead_total")]) >= 2
    assert len(series) == len(set(series))


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://localhost", "file://"])
def test_pages_of_other_origins_may_not_post(shared_client: FlaskClient, origin: str) -> None:
    for path in (EVENTS, "/api/kafka/status"):
        error_of(shared_client.post(path, json=LOGIN, headers={"Origin": origin}), 403)
    upgrade = {"Origin": origin, "Connection": "Upgrade", "Upgrade": "websocket"}
    error_of(shared_client.get("/ws/events", headers=upgrade), 403)
    assert (
        "Access-Control-Allow-Origin"
        not in shared_client.get(EVENTS, headers={"Origin": origin}).headers
    )


def test_our_own_page_may_post(shared_client: FlaskClient) -> None:
    data_of(shared_client.post(EVENTS, json=LOGIN, headers={"Origin": "http://localhost"}), 201)


def test_the_front_end_that_is_let_in_may_ask_and_post(settings: dict[str, str]) -> None:
    origin = "http://localhost:3000"
    client = create_app({**settings, "JOBQUEST_CORS_ORIGINS": origin}).test_client()
    asked = client.options(
        EVENTS, headers={"Origin": origin, "Access-Control-Request-Method": "POST"}
    )
    assert asked.headers["Access-Control-Allow-Origin"] == origin
    assert "POST" in asked.headers["Access-Control-Allow-Methods"]
    assert "Content-Type" in asked.headers["Access-Control-Allow-Headers"]
    answer = client.post(EVENTS, json=LOGIN, headers={"Origin": origin})
    assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (201, origin)
    other = client.post(EVENTS, json=LOGIN, headers={"Origin": "http://localhost:3001"})
    error_of(other, 403)
    runtime_of(client).stop()


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil"])
def test_other_hosts_are_refused(shared_client: FlaskClient, host: str) -> None:
    """Else a page of a name that resolves to loopback could read everything (DNS rebinding)."""
    error_of(shared_client.get("/api/events", headers={"Host": host}), 400)


@pytest.mark.parametrize("path", ["/", "/api/events", "/nope", "/healthz", "/static/app.css"])
def test_every_answer_has_the_safe_headers(shared_client: FlaskClient, path: str) -> None:
    headers = shared_client.get(path).headers
    assert "default-src 'self'" in headers["Content-Security-Policy"]
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_the_websocket_route_says_what_it_is_to_others(shared_client: FlaskClient) -> None:
    error_of(shared_client.get("/ws/events"), 400)


def test_what_neither_log_nor_outbox_takes_gets_503_with_retry_after(
    settings: dict[str, str],
) -> None:
    away = {"KAFKA_BROKER": "127.0.0.1:1", "JOBQUEST_OUTBOX_MAX_EVENTS": "2"}
    client = create_app({**settings, **away}).test_client()
    for _ in range(2):
        queued = data_of(client.post(EVENTS, json=LOGIN), 202)
        assert (queued["result"], queued["partition"], queued["offset"]) == ("queued", None, None)
        assert queued["topic"] == "system-events"
    answer = client.post(EVENTS, json=LOGIN)
    assert "outbox is full" in error_of(answer, 503)["message"]
    assert int(answer.headers["Retry-After"]) > 0
    assert data_of(client.get("/api/kafka/status"))["consumerRunning"] is False
    assert "log" in error_of(client.get("/readyz"), 503)["errors"]
    data_of(client.get("/healthz"))
    runtime_of(client).stop()


@pytest.mark.parametrize("flag", ["1", "true"])
def test_a_dry_run_says_what_would_be_published_and_publishes_nothing(
    client: FlaskClient, flag: str
) -> None:
    body = {**LOGIN, "userId": "ada", "id": "mine"}
    found = data_of(client.post(f"{EVENTS}?dryRun={flag}", json=body))
    assert found.pop("timestamp")
    assert found == {
        "id": "mine",
        "eventType": "user.login",
        "userId": "ada",
        "topic": "system-events",
        "key": "ada",
        "result": "valid",
    }
    assert runtime_of(client).consumer.step() == 0
    data_of(client.post(f"{EVENTS}?dryRun=0", json=body), 201)


def test_a_dry_run_answers_errors_as_the_real_one_does(client: FlaskClient) -> None:
    dry = f"{EVENTS}?dryRun=true"
    for body in ({**LOGIN, "data": {"x": 1}, "extra": 1}, {"eventType": "no.such", "data": None}):
        assert error_of(client.post(dry, json=body), 400) == error_of(
            client.post(EVENTS, json=body), 400
        )
    error_of(client.post(dry, data="{}", content_type="text/plain"), 415)
    data_of(client.post(EVENTS, json={**LOGIN, "id": "mine"}), 201)
    consume(client)
    error_of(client.post(dry, json={**LOGIN, "id": "mine", "userId": "other"}), 409)
    assert data_of(client.post(dry, json={**LOGIN, "id": "mine"}))["result"] == "valid"


@pytest.mark.parametrize("flag", ["", "yes", "2", "True"])
def test_a_dry_run_is_asked_for_by_0_1_true_or_false(client: FlaskClient, flag: str) -> None:
    errors = error_of(client.post(f"{EVENTS}?dryRun={flag}", json=LOGIN), 400)["errors"]
    assert list(errors) == ["dryRun"]
    assert runtime_of(client).consumer.step() == 0


@pytest.mark.parametrize(
    "path", ["/api/events/a%00b", "/api/users/%00", "/api/users?q=%00", "/api/events?userId=a%00"]
)
def test_an_address_with_nul_is_refused(client: FlaskClient, path: str) -> None:
    assert "NUL" in error_of(client.get(path), 400)["message"]
