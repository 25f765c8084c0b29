"""Lists over HTTP: bounded in bytes as in rows, and whoever follows `next` loses and repeats
nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import insert

from jobquest import create_app
from jobquest.events import CATALOGUE, Event
from jobquest.log import NewRecord
from jobquest.log.sqlite import SqliteLog
from jobquest.read import tables
from jobquest.read.dead_letters import now_ms
from jobquest.read.portions import Portion, fill
from jobquest.read.projections import minute_counts
from tests.load import forget_peak, peak_memory_of, worker_of
from tests.samples import SAMPLES
from tests.service import Service
from tests.test_http import consume, data_of, error_of, runtime_of

MAX_BYTES = 2_000_000
COUNT = 520
NOON = "2026-11-24T12:00:00.000Z"
MINUTE_MS = 60_000
LONG = "é" * 499
DAYS = "from=2026-01-01T00:00:00Z&to=2026-01-03T18:00:00Z"
# Each list: its address, its name in the answer, what names an item in it, how many there are.
LISTS = (
    ("/api/events?", "events", ("event", "id"), None),
    ("/api/events?userId=ada&", "events", ("event", "id"), None),
    ("/api/users/ada/events?", "events", ("event", "id"), None),
    ("/api/users?", "users", ("userId",), None),
    ("/api/users?q=u&", "users", ("userId",), COUNT),
    ("/api/users/ada/applications?", "applications", ("jobId",), COUNT),
    ("/api/users/ada/notifications?", "notifications", ("notificationId",), None),
    ("/api/users/ada/achievements?", "achievements", ("achievementId",), COUNT),
    ("/api/users/ada/challenges?", "challenges", ("challengeId",), COUNT),
    ("/api/users/ada/learning?", "learning", ("resourceId",), COUNT),
    ("/api/kafka/retries?", "retries", ("id",), COUNT),
    ("/api/kafka/dead-letters?", "deadLetters", ("id",), COUNT),
    (
        "/api/analytics?from=2026-01-01T00:00:00Z&to=2026-01-06T00:00:00Z&",
        "windows",
        ("start",),
        3_960,
    ),
    ("/api/analytics/minutes?count=10000&", "minutes", ("minuteAt",), None),
)
OF_USER = {
    "job.applied": ("jobId", "companyName"),
    "notification.sent": ("notificationId", "message"),
    "achievement.unlocked": ("achievementId", "achievementName"),
    "daily.challenge.completed": ("challengeId", "challengeDescription"),
    "learning.completed": ("resourceId", "resourceTitle"),
}


def spelled(kind: str, id: str, user: str = "ada", **data: Any) -> bytes:
    """An event of one time, as another producer would write it."""
    document = {"id": id, "type": kind, "userId": user, "timestamp": NOON, "metadata": {}}
    return json.dumps({**document, "data": SAMPLES[kind] | data}, ensure_ascii=False).encode()


def append(log: Any, topic: str, values: list[bytes], key: bytes | None = None) -> None:
    for at in range(0, len(values), 50):
        records = [NewRecord(topic, key or value[7:24], value) for value in values[at : at + 50]]
        for future in log.append(records):
            future.result(30)


def stock(client: FlaskClient) -> None:
    """More of everything than one answer holds."""
    runtime = runtime_of(client)
    for kind, (id, text) in OF_USER.items():
        long = "é" * 4_999 if text in ("message", "challengeDescription") else LONG
        values = [
            spelled(kind, f"{kind}-{n}", **{id: f"{n:04}é", text: long}) for n in range(COUNT)
        ]
        append(runtime.log, CATALOGUE[kind].topic, values, b"ada")
    logins = [spelled("user.login", f"login-{n}", f"u{n}") for n in range(COUNT)]
    poison = [b"no event " + "é".encode() * 20_000 for _ in range(COUNT)]
    append(runtime.log, "system-events", logins + poison)
    consume(client)
    runtime.consumer.register_event_handler("streak.milestone", fail)
    append(
        runtime.log,
        "achievements",
        [spelled("streak.milestone", f"streak-{n}", f"f{n}") for n in range(COUNT)],
    )
    consume(client)
    rows = [
        {"minute_ms": 1_767_225_600_000 + n * MINUTE_MS, "type": name, "count": 10**15}
        for n in range(3_960)
        for name in CATALOGUE
    ]
    now = now_ms() // MINUTE_MS * MINUTE_MS
    done = {"processed": 10**18, "retrying": 10**18, "dead": 10**18, "lag_messages": 10**18}
    minutes = [
        {"minute_ms": now - n * MINUTE_MS, "lag_seconds": 1 / 3, **done} for n in range(5, 9_990)
    ]
    with runtime.database.writing() as connection:
        connection.execute(insert(minute_counts), rows)
        connection.execute(insert(tables.minutes), minutes)


def fail(_event: Event) -> None:
    raise ValueError("é" * 4_000)


@pytest.fixture(
    scope="module", params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]
)
def stocked(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FlaskClient]:
    settings = {
        "JOBQUEST_DATA_DIR": str(tmp_path_factory.mktemp("stocked")),
        "JOBQUEST_CONSUMER_AUTOSTART": "false",
        "JOBQUEST_BRAKE_FAILURES": "100000",
        "JOBQUEST_RETRY_BASE_SECONDS": "60",
    }
    if request.param == "postgres":
        settings["DATABASE_URL"] = request.getfixturevalue("postgres_server").new_database()
    app = create_app(settings)
    client = app.test_client()
    stock(client)
    yield client
    app.extensions["jobquest"].stop()


def walked(client: FlaskClient, address: str, name: str, limit: int | None) -> list[list[Any]]:
    """A list's portions, by following `next` to the end."""
    portions: list[list[Any]] = []
    query: dict[str, Any] = {} if limit is None else {"limit": limit}
    while True:
        answer = client.get(address + "&".join(f"{key}={value}" for key, value in query.items()))
        data = data_of(answer)
        assert len(answer.data) <= MAX_BYTES, (len(answer.data), address)
        portions.append(data[name])
        if data["next"] is None:
            return portions
        assert data[name], "An answer that is not the last one has an item."
        query["after"] = data["next"]


def named(portions: list[list[Any]], path: tuple[str, ...]) -> list[Any]:
    found = []
    for item in (item for portion in portions for item in portion):
        for name in path:
            item = item[name]
        found.append(item)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("address", "name", "path", "count"), LISTS)
def test_who_follows_next_gets_every_item_once(
    stocked: FlaskClient, address: str, name: str, path: tuple[str, ...], count: int | None
) -> None:
    has_limit = not address.startswith("/api/analytics")
    large = walked(stocked, address, name, 500 if has_limit else None)
    found = named(large, path)
    assert len(found) == len(set(found))
    assert len(found) >= (count or COUNT)
    if count:
        assert len(found) == count
    assert len(large) > 1, "The test has to have more than one answer holds."
    if has_limit:
        small = walked(stocked, address, name, 83)
        assert named(small, path) == found
        assert all(len(portion) <= 83 for portion in small)


@pytest.mark.slow
def test_every_list_of_the_api_says_where_it_goes_on(stocked: FlaskClient) -> None:
    """A list without an end is found here: its answer has neither `next` nor a reason."""
    walks = {address.split("?")[0] for address, *_ in LISTS}
    bounded_by_nature = {
        "/api/kafka/events",  # the catalogue
        "/api/kafka/status",  # one entry for each process
        "/api/kafka/topics",  # topics are ours
        "/api/analytics/overview",  # days of 27 years, ten users, 50 of each other
    }
    of_one_thing = {"/api/events/<id>", "/api/users/ada", "/api/kafka/dead-letters/<int:id>"}
    records = {"/api/kafka/topics/<topic>/records"}  # go on by offset: see below
    trail = {"/api/audit", "/api/audit.jsonl"}  # in pages, and as a stream: see test_audit.py
    rules = {
        rule.rule
        for rule in stocked.application.url_map.iter_rules()
        if "GET" in (rule.methods or ()) and rule.rule.startswith("/api/")
    }
    spelled_out = {
        rule.split("<")[0] + "ada" + rule.split(">", 1)[1] if "user_id>" in rule else rule
        for rule in rules
    }
    assert spelled_out == walks | bounded_by_nature | of_one_thing | records | trail
    for address in bounded_by_nature:
        assert len(stocked.get(address).data) < MAX_BYTES


@pytest.mark.slow
def test_pages_of_lists_are_bounded_too(stocked: FlaskClient) -> None:
    for page in (
        "/",
        "/users",
        "/users/ada",
        "/failures?retries=all&state=any",
        f"/analytics?{DAYS}",
        "/topics/system-events?limit=500",
        "/topics/notifications?limit=500",
    ):
        assert len(stocked.get(page).data) < 2 * MAX_BYTES, page


@pytest.mark.slow
def test_a_place_that_no_answer_gave_is_refused(stocked: FlaskClient) -> None:
    user = data_of(stocked.get("/api/users?limit=1"))["next"]
    for after in ("x", "bnVsbA", "WzFd", "WyJhIiwxXQ", user, "%ff", "W3RydWUsImEiXQ", "é"):
        for path in ("/api/kafka/retries", "/api/users/ada/learning"):
            if after != user or path.endswith("retries"):
                error_of(stocked.get(f"{path}?after={after}"), 400)
    alien = {"after": ["Must be the `next` of an answer to the same question."]}
    assert error_of(stocked.get("/api/users?after=x"), 400)["errors"] == alien


@pytest.fixture
def large(tmp_path: Path) -> Iterator[Service]:
    """A service whose log has 200 events of 57 kB and 12 of 1 MB, all processed."""
    log = SqliteLog(tmp_path / "log.db", tuple({row.topic for row in CATALOGUE.values()}))
    for topic, kind, size, count in (
        ("system-events", "user.login", 57_000, 200),
        ("user-activities", "notebook.entry.created", 1_000_000, 12),
    ):
        values = [spelled(kind, f"{topic}-{n}", blob='"' * (size // 2)) for n in range(count)]
        append(log, topic, values, b"ada")
    log.close()
    service = Service(tmp_path).start()
    service.wait_until_caught_up(60)
    yield service
    service.kill()


@pytest.mark.slow
def test_large_records_fill_neither_answers_nor_memory(large: Service) -> None:
    """Eight clients at a time; pages of such a topic took 1.2 GB."""
    worker = worker_of(large)
    paths = (
        "/api/events?limit=500",
        "/api/events?userId=ada&limit=500",
        "/api/users/ada/events?limit=500",
        "/api/kafka/topics/system-events/records?limit=500",
        "/api/kafka/topics/user-activities/records?limit=500",
        "/topics/system-events?limit=500",
        "/topics/user-activities?limit=500",
        "/",
        "/users/ada",
    )
    large.get("/")
    before = forget_peak(worker)
    for path in paths:
        with ThreadPoolExecutor(8) as clients:
            sizes = list(clients.map(lambda path: size_of(large, path), [path] * 8))
        assert max(sizes) <= MAX_BYTES, path
    assert peak_memory_of(worker) - before < 150 * 2**20


def size_of(service: Service, path: str) -> int:
    answer = service.get(path)
    assert answer.code == 200
    return int(answer.headers["Content-Length"])


@pytest.mark.slow
def test_records_go_on_from_next_until_their_end(large: Service) -> None:
    for topic, count in (("system-events", 200), ("user-activities", 12)):
        offset, found, stopped = 0, [], "size"
        while stopped != "end":
            path = f"/api/kafka/topics/{topic}/records?limit=500&offset={offset}"
            data = large.get(path).json["data"]
            found += [record["offset"] for record in data["records"]]
            offset, stopped = data["next"], data["stopped"]
        assert found == list(range(count))


@pytest.mark.slow
def test_events_of_any_size_are_all_listed(large: Service) -> None:
    found: list[str] = []
    after = ""
    while True:
        data = large.get(f"/api/events?limit=500{after}").json["data"]
        found += [item["event"]["id"] for item in data["events"]]
        if data["next"] is None:
            break
        after = f"&after={data['next']}"
    assert len(found) == len(set(found)) == 212


def test_an_item_that_alone_is_too_large_is_given_all_the_same() -> None:
    rows = [{"id": n, "text": "x" * size} for n, size in enumerate((5, 5_000, 5, 5))]

    def portion(after: int) -> Portion:
        return fill(rows[after:], dict, 500, 100, lambda row: row["id"] + 1)

    assert [(len(portion(n)), portion(n).next) for n in (0, 1, 2)] == [(1, 1), (1, 2), (2, None)]
