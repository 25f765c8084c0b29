"""Cursors: where a list goes on. A rebuild gives changes new numbers, and nothing else."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Generator, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from flask.testing import FlaskClient, FlaskCliRunner

from jobquest import create_app
from jobquest.events import from_request
from jobquest.log import NewRecord
from jobquest.producer import record_of
from jobquest.read import numbers, queries
from jobquest.read.portions import Row
from jobquest.runtime import Runtime
from tests.test_http import consume, data_of, error_of, runtime_of
from tests.test_retries import Failing

PAGES = ("/", "/users/ada")
LISTS = ("/api/events", "/api/users/ada/events")
MOVED_BY = 1_000  # how much higher the numbers are before the rebuild


@pytest.fixture
def client(settings: dict[str, str], database: dict[str, str]) -> Iterator[FlaskClient]:
    """An application on each database, with four events, of which two wait, and two dead letters.
    The numbers of its changes are higher than those that a rebuild gives."""
    app = create_app(settings | database | {"JOBQUEST_RETRY_BASE_SECONDS": "60"})
    runtime: Runtime = app.extensions["jobquest"]
    with runtime.database.writing() as connection:
        numbers.begin_after(connection, MOVED_BY)
    runtime.consumer.register_event_handler("achievement.unlocked", Failing("eve"))
    for n, user in enumerate(("ada", "bob", "eve", "ada", "eve")):
        append(runtime, f"e{n}", user)
    for value in (b"{", b"["):
        runtime.log.append([NewRecord("achievements", b"k", value)])[0].result(5)
    client = app.test_client()
    consume(client)
    yield client
    runtime.consumer.close()
    runtime.stop()


def append(runtime: Runtime, id: str, user: str) -> None:
    event = from_request("achievement.unlocked", user, achievement(id), id=id)
    runtime.log.append([record_of(event)])[0].result(5)


def achievement(id: str) -> dict[str, Any]:
    return {"achievementId": id, "achievementName": id, "xpAmount": 1}


def ids_of(data: dict[str, Any]) -> list[str]:
    return [item["event"]["id"] for item in data["events"]]


def test_a_place_from_before_a_rebuild_is_refused_with_what_to_do(client: FlaskClient) -> None:
    before = {path: data_of(client.get(f"{path}?limit=1")) for path in LISTS}
    for path, data in before.items():
        assert data_of(client.get(f"{path}?limit=1&after={data['next']}"))["events"]
    runtime_of(client).rebuild.run()
    again = "Begin again without it: the rebuild has given all changes new numbers."
    for path, data in before.items():
        for name in ("after", "since"):
            error = error_of(client.get(f"{path}?{name}={data['next']}"), 400)
            assert error["message"] == "This place in the list is from before a rebuild."
            assert error["errors"] == {name: [again]}
        assert data_of(client.get(f"{path}?limit=1"))["next"] != data["next"]


def test_a_page_of_older_events_leads_to_the_newest_after_a_rebuild(client: FlaskClient) -> None:
    place = data_of(client.get("/api/events?limit=1"))["next"]
    runtime_of(client).rebuild.run()
    for path in PAGES:
        page = client.get(f"{path}?type=x&after={place}", headers={"Accept": "text/html"})
        assert page.status_code == 400
        assert "This place in the list is from before a rebuild." in page.text
        assert f'<a href="{path}?type=x">Begin with the newest</a>' in page.text


def test_a_number_alone_means_the_present_epoch(client: FlaskClient) -> None:
    for _ in range(2):
        found = data_of(client.get("/api/events"))
        third = found["events"][2]["seq"]
        assert ids_of(data_of(client.get(f"/api/events?after={third}"))) == ids_of(found)[3:]
        assert ids_of(data_of(client.get(f"/api/events?since={third}"))) == ids_of(found)[:2]
        runtime_of(client).rebuild.run()


@pytest.mark.parametrize("place", ["x", ".", ".epoch", "1.", "-1", "1e3", "9" * 30, "²"])
def test_a_place_that_is_none_is_refused_by_name(shared_client: FlaskClient, place: str) -> None:
    for name in ("after", "since"):
        errors = error_of(shared_client.get(f"/api/events?{name}={place}"), 400)["errors"]
        assert list(errors) == [name]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/api/users", "users"),
        ("/api/users/ada/achievements", "achievements"),
        ("/api/kafka/retries", "retries"),
        ("/api/kafka/dead-letters", "deadLetters"),
    ],
)
def test_other_lists_go_on_after_a_rebuild(client: FlaskClient, path: str, name: str) -> None:
    whole = data_of(client.get(path))[name]
    first = data_of(client.get(f"{path}?limit=1"))
    runtime_of(client).rebuild.run()
    rest = data_of(client.get(f"{path}?after={first['next']}"))[name]
    assert len(whole) > 1
    assert first[name] + rest == whole


def test_a_list_that_is_read_during_a_rebuild_is_of_one_epoch(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else numbers of the new tables would be given as places of the old ones."""
    runtime, find = runtime_of(client), queries.event_rows
    before = data_of(client.get("/api/events?limit=2"))
    rebuilding = threading.Thread(target=runtime.rebuild.run)

    def rows_after_a_rebuild(*arguments: Any) -> Generator[Row]:
        rebuilding.start()
        rebuilding.join(1.5)  # on PostgreSQL it waits for this list to be read
        yield from find(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(queries, "event_rows", rows_after_a_rebuild)
        assert data_of(client.get("/api/events?limit=2")) == before
    rebuilding.join(30)
    assert data_of(client.get("/api/events?limit=2")) != before


def test_events_tail_goes_on_with_new_events_after_a_rebuild(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = runtime_of(client)

    def happen() -> None:
        runtime.rebuild.run()

    def go_on() -> None:
        append(runtime, "new", "bob")
        consume(client)

    looks = iter((happen, go_on))

    def look(_seconds: float) -> None:
        step = next(looks, None)
        if step is None:
            raise KeyboardInterrupt
        step()

    monkeypatch.setattr(sys.modules["jobquest.cli.events"], "time", SimpleNamespace(sleep=look))
    result = FlaskCliRunner(client.application).invoke(args=["events", "tail", "-n", "1"])
    assert "The read side was rebuilt" in result.stderr
    shown = [json.loads(line) for line in result.stdout.splitlines()]
    assert [event["type"] for event in shown[1:]] == ["achievement.unlocked", "notification.sent"]
    assert shown[1]["id"] == "new", "no event is repeated"
