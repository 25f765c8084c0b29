"""Numbers and times from outside: whatever is sent to whichever route, the answer is quick, small
and no failure of ours."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from jobquest import create_app
from jobquest.errors import InvalidEvent
from jobquest.events import format_time, from_record
from jobquest.log import NewRecord
from tests.load import forget_peak, peak_memory_of, worker_of
from tests.service import Service
from tests.test_http import EVENTS, LOGIN, consume, error_of, runtime_of

MAX_SECONDS = 3.0  # a look through a topic may take two
MAX_BYTES = 2_000_000
NUMBERS = (
    "0",
    "-1",
    "2147483648",
    "100000000000",
    "9007199254740992",
    "9223372036854775807",
    "9223372036854775808",
    "9" * 400,
    "NaN",
    "٣",
)
TIMES = (
    "0001-01-01T00:00:00Z",
    "0001-01-01T00:00:00+23:59",
    "1969-12-31T23:59:59.999Z",
    "2026-11-24T06:00:00Z",
    "9999-12-31T23:59:59.999Z",
    "9999-12-31T23:59:59.999999999-23:59",
    "9999-12-31T00:00:00+23:59",
    "2026-02-30T00:00:00Z",
    "10000-01-01T00:00:00Z",
)
NUMBERED = ("after", "since", "offset", "limit", "count", "last", "partition")
TIMED = ("from", "to", "timestamp", "after")
PATHS = {"user_id": "ada", "topic": "system-events"}
QUERIES = (
    *(f"{name}={value}" for name in NUMBERED for value in NUMBERS),
    *(f"{name}={value.replace('+', '%2B')}" for name in TIMED for value in TIMES),
    *(f"from={TIMES[0]}&to={end}&window={size}" for end in TIMES for size in ("minute", "day")),
    f"from={TIMES[4]}&to={TIMES[0]}",
    "after=100000000000&userId=ada&userId=bob",
    f"after={2**53}&userId=ada&since={2**53}",
)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def stocked(request: pytest.FixtureRequest, settings: dict[str, str]) -> Iterator[FlaskClient]:
    """An application with events, a dead letter and a foreign record, on each database."""
    if request.param == "postgres":
        server = request.getfixturevalue("postgres_server")
        settings["DATABASE_URL"] = server.new_database()
    app = create_app(settings)
    client = app.test_client()
    for user in ("ada", "bob"):
        client.post(EVENTS, json={**LOGIN, "userId": user})
    [poison] = runtime_of(client).log.append([NewRecord("system-events", b"k", b"no event")])
    poison.result(10)
    consume(client)
    yield client
    app.extensions["jobquest"].stop()


def routes(client: FlaskClient) -> list[str]:
    """Every GET route's address, numbers in paths left open as `{}`."""
    found = []
    for rule in client.application.url_map.iter_rules():
        if "GET" not in (rule.methods or ()) or rule.rule.startswith(("/static/", "/chart/")):
            continue
        path = rule.rule
        for name in rule.arguments:
            start, end = path.index("<"), path.index(">") + 1
            value = "{}" if path[start:end].startswith("<int:") else PATHS.get(name, "an-event")
            path = path[:start] + value + path[end:]
        found.append(path)
    return found


def ask(client: FlaskClient, path: str) -> None:
    began = time.monotonic()
    answer = client.get(path)
    took = time.monotonic() - began
    # 503 says that no consumer runs here; nothing else is ours to fail.
    fine = answer.status_code < 500 or path.startswith("/readyz")
    assert fine, (answer.status_code, path, answer.text[:300])
    assert took < MAX_SECONDS, (took, path)
    assert len(answer.data) < MAX_BYTES, (len(answer.data), path)


@pytest.mark.slow
def test_no_number_or_time_in_a_query_makes_any_route_fail(stocked: FlaskClient) -> None:
    paths = routes(stocked)
    assert len(paths) > 25
    if runtime_of(stocked).config.database_url:  # pages ask the same questions
        paths = [path for path in paths if path.startswith("/api/")]
    for path in paths:
        for query in QUERIES:
            ask(stocked, f"{path.format(1)}?{query}")


def test_no_number_in_a_path_makes_any_route_fail(stocked: FlaskClient) -> None:
    paths = [path for path in routes(stocked) if "{}" in path]
    assert paths
    for path in paths:
        for number in (*NUMBERS, "9" * 5_000):
            ask(stocked, path.format(number))


@pytest.mark.slow
def test_a_place_beyond_the_last_change_costs_nothing(tmp_path: Path) -> None:
    """It took one variable of SQL and some memory for each 100,000 numbers in between."""
    service = Service(tmp_path, JOBQUEST_CONSUMER_AUTOSTART="false").start()
    try:
        worker = worker_of(service)
        assert service.get("/api/events?userId=x").json["data"]["events"] == []
        before = forget_peak(worker)
        for place in (10**11, 2**53):
            for _ in range(20):
                answer = service.get(f"/api/events?userId=x&after={place}")
                assert (answer.code, answer.json["data"]["events"]) == (200, [])
        assert peak_memory_of(worker) - before < 20 * 2**20
    finally:
        service.kill()


def test_a_record_of_any_time_is_read_and_shown() -> None:
    """Other producers choose their records' times: what no calendar holds ends no consumer."""
    value = b'{"id":"a","type":"user.login","userId":"u","timestamp":"2026-01-01T00:00:00.000Z",'
    validation = value + b'"metadata":{},"data":{},"\\u0061":1}'
    for appended_ms in (2**63 - 1, 10**15):
        assert from_record(validation, appended_ms).id == "a"
        assert format_time(appended_ms).startswith("9999-12-31")
    for appended_ms in (-(2**63), -1, 0):
        with pytest.raises(InvalidEvent, match="5 minutes ahead"):
            from_record(validation, appended_ms)


def test_refused_numbers_are_told_with_their_bounds(client: FlaskClient) -> None:
    errors = error_of(client.get("/api/events?after=9007199254740993"), 400)["errors"]
    assert errors == {
        "after": [
            "Must be the `next` of a list, `seq.epoch` of the live view, or a whole number to"
            " 9007199254740992."
        ]
    }
    records = "/api/kafka/topics/system-events/records"
    assert client.get(f"{records}?offset=9223372036854775807").status_code == 200
    error_of(client.get(f"{records}?offset=9223372036854775808"), 400)
