"""Personal data: masked in every form, unless somebody who may see it asks for it."""

from __future__ import annotations

import base64
import json
import logging
import re
from typing import Any
from urllib.parse import quote

import pytest
from flask.testing import FlaskClient

from jobquest.access.caller import LOCAL, ROLES, Caller, of_user
from jobquest.errors import NotRetryable
from jobquest.events import PERSONAL_FIELDS, Event, from_request
from jobquest.events.personal import MASK, masked, masked_json, masked_text, without_personal
from jobquest.log import NewRecord
from jobquest.read.dead_letters import DeadLetterFilter
from jobquest.read.failures import Failure
from jobquest.runtime import Runtime
from jobquest.web import personal
from jobquest.web.answers import CALLER
from jobquest.web.current import runtime as current
from jobquest.web.pages.words import shown, shown_text
from tests.test_consumer import consume

SECRETS = {
    "userEmail": "zqx-ada+7@secret.example",
    "userAgent": 'Unmistakable/7 "quoted" \\ é',
    "ipAddress": "203.0.113.77",
}
FOREIGN = {"name": "x", **SECRETS}
# A part of each, which no spelling changes.
TRACES = ("zqx-ada", "unmistakable/7", "unmistakable%2f7", "203.0.113.77")


def runtime_of(client: FlaskClient) -> Runtime:
    found: Runtime = client.application.extensions["jobquest"]
    return found


def traces_in(text: str) -> list[str]:
    """The secrets that a text has, in base64 too."""
    parts = re.findall(r"[A-Za-z0-9+/]{16,}={0,2}", text)
    decoded = [base64.b64decode(part[: len(part) // 4 * 4]).decode("latin-1") for part in parts]
    everything = " ".join([text, *decoded]).lower()
    return [trace for trace in TRACES if trace in everything]


# --- everything that a service shows ---


def raise_with_secrets(event: Event) -> None:
    """A handler that tells everything in its exceptions."""
    email, agent = event.data.get("userEmail"), event.data.get("userAgent")
    raisers: dict[str, Exception] = {
        "plain": ValueError(f"No mail to {email} of {agent} at {event.data.get('ipAddress')}"),
        "key": KeyError(agent),
        "url": OSError(f"GET /find?q={quote(str(email), safe='')}&{quote(str(agent))}"),
        "json": RuntimeError(json.dumps(dict(event.data))),
        "final": NotRetryable(f"Refused: {str(email).upper()} {event.data!r}"),
    }
    if event.user_id in raisers:
        raise raisers[event.user_id]


@pytest.fixture
def told(client: FlaskClient, caplog: pytest.LogCaptureFixture) -> list[str]:
    """A service that has met the secrets in every way; what it has answered to those who sent
    them."""
    caplog.set_level(logging.DEBUG)
    runtime = runtime_of(client)
    runtime.consumer.register_event_handler("user.login", raise_with_secrets)
    answers = []

    def post(**body: Any) -> None:
        answers.append(client.post("/api/kafka/events", json=body).text)

    login = {"eventType": "user.login", "data": SECRETS}
    for user in ("good", "plain", "key", "url", "json", "final"):
        post(userId=user, id=f"login-{user}", **login)
    post(userId="nested", eventType="user.login", data={}, metadata={"of": [FOREIGN]})
    consume(runtime)
    post(userId="good", id="login-good", eventType="user.login", data={**SECRETS, "userAgent": "x"})
    for wrong in ([SECRETS["userEmail"]], {"x": SECRETS["userEmail"]}, SECRETS["userEmail"] * 50):
        post(userId="bad", eventType="user.login", data={**SECRETS, "userEmail": wrong})
    post(userId="bad", eventType="user.login", data={**SECRETS, "more": 1})
    answers.append(client.post("/api/kafka/events/batch", json={"events": [login, {}]}).text)
    whole = {"id": "login-good", "type": "user.login", "userId": "good", "metadata": {}}
    whole |= {"timestamp": "2026-11-24T06:00:00.000Z", "data": {**SECRETS, "more": 1}}
    invalid = {**whole, "id": "i", "data": {**SECRETS, "userEmail": [SECRETS["userEmail"]]}}
    escaped = json.dumps({**whole, "id": "e"}).replace("userEmail", "user\\u0045mail")
    values = [json.dumps(one).encode() for one in (whole, invalid)]
    values += [escaped.encode(), escaped[:-1].encode(), values[0][:-1], b"\xff" + values[0]]
    headers = tuple((name, value.encode()) for name, value in SECRETS.items())
    for future in runtime.log.append(
        [NewRecord("system-events", b"good", value, headers) for value in values]
    ):
        future.result(5)
    consume(runtime)
    return answers


def addresses(client: FlaskClient) -> list[str]:
    """Every address that can be read, with everything that there is in place of its parameters."""
    queries = runtime_of(client).queries
    ids = [item["event"]["id"] for item in queries.events(limit=100)["events"]]
    dead = queries.dead_letters(DeadLetterFilter(), None, 100)["deadLetters"]
    users = [user["userId"] for user in queries.users()]
    topics = ["system-events", "dead-letters", "retries", "operator-audit"]
    given = {
        "/events/<segment:id>": ids,
        "/api/events/<id>": ids,
        "/users/<segment:user_id>": users,
        "/dead-letters/<int:id>": [one["id"] for one in dead],
        "/topics/<topic>": topics,
    }
    found = ["/api/events?userId=good", "/failures?state=any", "/events?id=login-plain"]
    for rule in client.application.url_map.iter_rules():
        if "GET" not in (rule.methods or set()) or rule.endpoint in ("static", "live"):
            continue
        prefix = re.match(r"[^<]*(?:<[^>]*>)?", rule.rule)
        assert prefix
        fills = next((fill for end, fill in given.items() if prefix[0].endswith(end)), [None])
        assert fills != [None] or "<" not in rule.rule, f"Say what fills {rule.rule}"
        found += [re.sub("<.*?>", str(fill), rule.rule) for fill in fills]
    assert len(dead) >= 6
    assert len(found) > 60
    return found


@pytest.mark.slow
def test_nothing_shows_personal_data_that_nobody_asked_for(
    client: FlaskClient,
    told: list[str],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert len(told) == 13
    for answer in told:
        assert traces_in(answer) == []
    for address in addresses(client):
        answer = client.get(address, headers={"Accept": "text/html"})
        assert answer.status_code != 500, address
        assert traces_in(answer.text) == [], address
    before = "\n".join(map(caplog.handler.format, caplog.get_records("setup")))
    assert "Failed to process event: No mail to [masked] of [masked] at [masked]" in before
    assert traces_in(before + caplog.text) == []
    assert traces_in("".join(capfd.readouterr())) == []
    shown = [address for address in addresses(client) if traces_in(asked(client, address))]
    assert {address.split("/")[1] for address in shown} >= {"events", "topics", "dead-letters"}
    assert {address.split("/")[2] for address in shown if address.startswith("/api")} >= {
        "events",
        "kafka",
        "users",
    }
    assert traces_in(caplog.text) == []
    assert traces_in(client.get("/api/audit.jsonl").text) == []


def asked(client: FlaskClient, address: str) -> str:
    mark = "&" if "?" in address else "?"
    return client.get(f"{address}{mark}personal=shown").text


@pytest.mark.slow
def test_a_search_does_not_find_what_is_masked(client: FlaskClient, told: list[str]) -> None:
    def count(query: str) -> int:
        path = f"/api/kafka/topics/system-events/records?q={query}"
        return len(client.get(path).get_json()["data"]["records"])

    assert count("login-good") > 0
    assert count("zqx-ada") == count("203.0.113.77") == 0
    assert count("zqx-ada&personal=shown") > 5
    assert traces_in(client.get("/api/audit.jsonl").text) == []


# --- who may see it ---


def login(client: FlaskClient) -> str:
    runtime = runtime_of(client)
    runtime.producer.publish("user.login", "ada", SECRETS, id="mine")
    consume(runtime)
    return "/api/events/mine"


def looks(client: FlaskClient) -> list[tuple[str, str, dict[str, Any]]]:
    entries, _ = runtime_of(client).audit.latest(None, None, 100)
    return [(e["name"], e["object"], e["details"]) for e in entries if e["action"] == "reveal"]


def test_each_look_at_personal_data_is_recorded(client: FlaskClient) -> None:
    path = login(client)
    assert client.get(path).get_json()["data"]["event"]["data"] == dict.fromkeys(SECRETS, MASK)
    assert looks(client) == []
    found = client.get(f"{path}?personal=shown").get_json()["data"]["event"]["data"]
    assert found == SECRETS
    assert looks(client) == [("local", path, {})]
    client.get(f"{path}?personal=shown")  # as a page does that follows an event
    assert len(looks(client)) == 1
    client.get("/api/events?personal=shown&userId=ada&limit=5")
    assert looks(client)[0] == ("local", "/api/events", {"userId": "ada", "limit": "5"})
    client.get("/events/mine?personal=shown")
    assert looks(client)[0] == ("local", "/events/mine", {})


def test_a_look_at_what_has_no_personal_data_is_none(client: FlaskClient) -> None:
    login(client)
    for path in ("/topics", "/catalogue", "/api/kafka/status", "/api/kafka/events", "/api/users"):
        assert client.get(f"{path}?personal=shown").status_code == 200
    assert looks(client) == []
    example = client.get("/api/kafka/events").get_json()["data"]["eventTypes"]["user.login"]
    assert example["example"]["userEmail"] == "ada@example.org"


@pytest.mark.parametrize(
    ("caller", "is_shown"),
    [
        (LOCAL, True),
        (Caller("operator", "grace", ROLES["operator"]), True),
        (Caller("operator", "eve", ROLES["viewer"]), False),
        (Caller("key", "shop", frozenset({"events:read", "events:write", "operate"})), False),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_only_who_manages_the_service_sees_it_and_only_where_they_ask(
    client: FlaskClient, caller: Caller, is_shown: bool
) -> None:
    for asks, expected in (
        ("", False),
        ("?personal=hidden", False),
        ("?personal=shown", is_shown),
    ):
        with client.application.test_request_context(f"/{asks}") as context:
            context.request.environ[CALLER] = caller
            assert personal.shown(SECRETS) == (
                SECRETS if expected else dict.fromkeys(SECRETS, MASK)
            )
            assert personal.sees_stream() is expected
    assert len(looks(client)) == is_shown
    assert all(name == caller.name for name, _, _ in looks(client))


def test_users_see_their_own_and_nobody_records_that(client: FlaskClient) -> None:
    with client.application.test_request_context("/api/users/me/events") as context:
        context.request.environ[CALLER] = of_user("ada", "token:x", None)
        assert personal.shown(SECRETS) == SECRETS
        assert personal.sees_stream()
        assert current().audit is runtime_of(client).audit
    assert looks(client) == []


def test_the_reading_end_of_a_socket_gets_what_its_owner_may_see(client: FlaskClient) -> None:
    login(client)
    [(*_, shown, unmasked)] = runtime_of(client).queries.changes(0, 10)
    assert json.loads(shown)["event"]["data"] == dict.fromkeys(SECRETS, MASK)
    assert json.loads(unmasked)["event"]["data"] == SECRETS


def test_what_was_masked_cannot_be_sent_back(client: FlaskClient) -> None:
    runtime = runtime_of(client)
    value = {"id": "e", "type": "user.login", "userId": "ada", "metadata": {}, "data": {}}
    value |= {"timestamp": "2026-11-24T06:00:00.000Z", "data": {**SECRETS, "userAgent": ""}}
    [future] = runtime.log.append([NewRecord("system-events", b"a", json.dumps(value).encode())])
    future.result(5)
    consume(runtime)
    seen = json.loads(client.get("/api/kafka/dead-letters/1").get_json()["data"]["value"])
    seen["data"]["userAgent"] = "a browser"
    answer = client.patch("/api/kafka/dead-letters/1", json={"value": seen})
    assert answer.status_code == 400
    assert set(answer.get_json()["errors"]) == {"value.data.userEmail", "value.data.ipAddress"}


# --- the words ---


def test_every_depth_and_raw_text_is_masked() -> None:
    text = json.dumps({"data": SECRETS})
    raw = base64.b64encode(b"\xff" + text.encode()).decode()
    for value in (
        {"a": [{"b": SECRETS}]},
        {"value": text},
        {"edited": text},
        {"value": text[:-1]},
        {"value": raw, "encoding": "base64"},
        {"value": raw[:-2], "encoding": "base64"},
        {"key": raw, "keyEncoding": "base64"},
        {"headers": [{"name": "userEmail", "value": SECRETS["userEmail"]}]},
        {"headers": [{"name": "x", "value": text}]},
        {"value": text.replace("userEmail", "\\u0075serEmail")},
    ):
        assert traces_in(json.dumps(value)) or "userAgent" in json.dumps(value)
        assert traces_in(json.dumps(masked(value))) == [], value


def test_half_of_a_surrogate_pair_is_no_way_around_it(client: FlaskClient) -> None:
    text = '{"n": 1e400, "half": "\\ud800", "userEmail": "zqx-ada"}'
    assert traces_in(masked_text(text)) == []
    assert traces_in(masked_json(text.encode()).decode()) == []
    with client.application.test_request_context("/"):
        assert traces_in(shown_text(text)) == []
        assert MASK in shown({"half": "\ud800", "userEmail": "zqx-ada"}).values()


def test_other_values_stay_as_they_are() -> None:
    value = {"name": ["x"], "value": "no JSON", "edited": None, "n": [1, 2.5, True, None]}
    assert masked(value) == value
    assert masked_text('{ "a": 1 }') == '{ "a": 1 }'


def test_the_texts_of_others_lose_the_values_in_every_spelling() -> None:
    event = from_request("user.login", "ada", SECRETS, metadata={"ipAddress": [7, "8", 12345]})
    for spelled in SECRETS.values():
        for text in (
            spelled,
            repr(spelled),
            json.dumps(spelled),
            quote(spelled),
            quote(spelled, safe=""),
            spelled.upper(),
        ):
            assert traces_in(without_personal(f"before {text} after", event)) == []
    assert without_personal("error 12345", event) == f"error {MASK}"
    assert without_personal("17 of 8 at 7.", event) == f"17 of {MASK} at {MASK}."
    assert without_personal("error 12345", None) == "error 12345"


def test_a_value_is_not_cut_in_two_before_it_is_masked() -> None:
    event = from_request("user.login", "ada", SECRETS)
    error = ValueError("x" * 4_980 + SECRETS["userEmail"])
    assert traces_in(Failure.of(error, event=event).error) == []
    assert len(PERSONAL_FIELDS) == len(SECRETS)
