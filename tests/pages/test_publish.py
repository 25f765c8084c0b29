"""The page that publishes, in a real browser: the form made from a type's schema, its check as it
is typed, publishing, the same as code, the demo's handler."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from flask import render_template_string
from playwright.sync_api import Browser, Page, Route, expect

from jobquest import create_app
from jobquest.access.caller import WRITE
from jobquest.config import load
from jobquest.runtime import Runtime
from jobquest.web.pages.event_form import event_form
from tests.pages.conftest import Visit
from tests.pages.looks import HOSTILE, button, faults, looks, overflow, publish
from tests.samples import SAMPLES, TYPES
from tests.service import Service, wait_for
from tests.signed_in import ProtectedService
from tests.template import ForkedService

pytestmark = pytest.mark.browser


def field(page: Page, name: str) -> Any:
    """The input with this label, with what its label says more."""
    return page.locator(".event-form .field", has=page.locator(f'code:text-is("{name}")')).locator(
        "[data-part=input]"
    )


def wrong(page: Page, name: str) -> Any:
    """What is said to be wrong with a field."""
    return page.locator(f"#{field(page, name).get_attribute('id')}-wrong")


def verdict(page: Page) -> Any:
    return page.locator("#verdict")


def problem(page: Page) -> Any:
    return page.locator("#problem")


def landed(page: Page) -> tuple[str, dict[str, list[str]]]:
    """Where publishing led to: path and query."""
    page.wait_for_url("**/events/*")
    parts = urlsplit(page.url)
    return parts.path, parse_qs(parts.query)


# --- picking a type, its form ---


@pytest.mark.parametrize("java_script", [True, False])
def test_a_type_is_picked_with_the_mouse(service: Service, visit: Visit, java_script: bool) -> None:
    page = visit("/publish", java_script_enabled=java_script)
    expect(page.get_by_text("An application moved on.")).to_be_visible()
    page.get_by_role("link", name="job.status.updated").click()
    expect(field(page, "newStatus")).to_have_value("interview")
    page.get_by_label("Event type").select_option("notebook.entry.created")
    button(page, "Choose").click()
    assert page.url.endswith("/publish?type=notebook.entry.created")
    expect(field(page, "tags")).to_have_value("interview\nnotes")
    expect(field(page, "wordCount")).to_have_attribute("max", "1000000000")
    expect(button(page, "Publish")).to_be_visible(visible=java_script)
    page.goto(f"{service.url}/publish?type=<b>")
    expect(page.get_by_role("alert")).to_have_text("There is no event type <b>.")
    assert service.get("/publish?type=x", Accept="text/html").code == 404


def test_each_example_is_valid_and_its_code_is_what_was_served(
    service: Service, visit: Visit
) -> None:
    page, served = visit("/publish"), visit("/publish", java_script_enabled=False)
    for name in TYPES:
        for one in (page, served):
            one.goto(f"{service.url}/publish?type={name}")
        expect(verdict(page)).to_have_text("Valid")
        expect(page.locator("#key")).to_have_text("demo-user")
        codes = [one.locator(".code pre").all_text_contents() for one in (page, served)]
        assert codes[0] == codes[1]
        assert name in codes[0][2]


# Events as dead letters may hold them, with what their inputs must not lose.
ODD: list[tuple[str, dict[str, Any]]] = [
    *((name, {"userId": "ada", "data": data}) for name, data in SAMPLES.items()),
    *(("mission.started", {"data": {"missionName": text}}) for text in HOSTILE),
    *(
        ("mission.completed", {"userId": odd, "data": {"xpEarned": odd, "missionName": odd}})
        for odd in (5, -1.5, "5", None, True, [], {}, [None, "a"], {"a": {"__proto__": "b"}}, " ")
    ),
    *(
        ("notebook.entry.created", {"data": {"tags": odd}})
        for odd in ([], ["a", ""], ["a\nb"], [" a "], [1], "a", ["\u202e"], ["a", "b"])
    ),
    *(
        ("streak.milestone", {"timestamp": odd, "data": {}})
        for odd in (
            "2026-11-24T06:00:00.000Z",
            "2026-11-24T06:00:00.123456Z",
            "2026-99-99T06:00:00Z",
            "yesterday",
            5,
            None,
        )
    ),
    ("streak.milestone", {"data": ["no object"], "metadata": "none", "id": 7}),
    ("streak.milestone", {"data": None, "metadata": None, "id": None, "userId": None}),
    ("nobody.knows", {"data": {"a": "b", "a.b": 1, "__proto__": 2}, "more": [1], "__proto__": 3}),
    ("streak.milestone", {"data": {"\ud800\x00 \"'<": "\ud800\x00\r\n", "é": "\n\ntext\n"}}),
]


def test_whatever_an_event_says_is_read_back_as_it_was(
    service: Service, visit: Visit, settings: dict[str, str]
) -> None:
    page = visit("/publish?type=level.up")
    app = create_app(settings)
    template = '{% from "_event_form.html" import event_fields %}{{ event_fields(form) }}'
    read = """async (html) => {
      const { readEvent } = await import("/static/event_form.js");
      const form = document.createElement("form");
      form.innerHTML = html;
      return JSON.stringify(readEvent(form));
    }"""
    for event_type, event in ODD:
        with app.test_request_context():
            form = event_form(event_type, event, as_request=False)
            html = render_template_string(template, form=form)
        html.encode()  # no half of a character stands in it
        expected = {"type": event_type, **event}
        assert json.loads(page.evaluate(read, html)) == expected
    app.extensions["jobquest"].stop()


# --- checked as it is typed ---


def test_errors_come_and_go_as_it_is_typed(service: Service, visit: Visit) -> None:
    page = visit("/publish?type=notebook.entry.created")
    announcer = page.locator("#announcer")
    expect(verdict(page)).to_have_text("Valid")
    field(page, "wordCount").fill("1.5")
    expect(wrong(page, "wordCount")).to_have_text("Not a whole number.")
    expect(field(page, "wordCount")).to_have_attribute("aria-invalid", "true")
    expect(field(page, "wordCount")).to_have_accessible_description(
        "whole number, 0 to 1,000,000,000 Not a whole number."
    )
    expect(verdict(page)).to_have_text("1 error; see the form.")
    expect(announcer).to_have_text("1 error in the form.")
    field(page, "wordCount").fill("")
    expect(wrong(page, "wordCount")).to_have_text("Missing data for required field.")
    field(page, "wordCount").press_sequentially("-")  # no number, but something
    expect(wrong(page, "wordCount")).to_have_text("Not a whole number.")
    field(page, "tags").fill(f"a\n\n{'b' * 501}")
    expect(wrong(page, "tags")).to_have_text("Entry 2: Longer than 500 characters.")
    expect(announcer).to_have_text("2 errors in the form.")
    assert faults(page) == []
    field(page, "wordCount").fill("15")
    field(page, "tags").fill("")
    expect(wrong(page, "wordCount")).to_be_hidden()
    expect(wrong(page, "tags")).to_be_hidden()
    expect(verdict(page)).to_have_text("Valid")
    expect(announcer).to_have_text("No errors.")


@pytest.mark.parametrize("handlers", ["jobquest.demo"])
def test_errors_of_the_envelope_open_their_part(
    service: Service, visit: Visit, handlers: str
) -> None:
    page = visit("/publish?type=streak.milestone")
    more = page.locator("summary")
    more.click()
    field(page, "metadata").fill('{"a": 1')
    field(page, "timestamp").fill("1999-01-01T00:00")
    expect(wrong(page, "metadata")).to_have_text("Not an object.")
    expect(wrong(page, "timestamp")).to_have_text("Lies before the year 2000.")
    expect(page.locator("#fate")).to_be_disabled()
    expect(page.locator("#fate-note")).to_have_text("The metadata are not an object.")
    more.click()
    expect(field(page, "metadata")).to_be_hidden()
    button(page, "Publish").click()
    expect(field(page, "metadata")).to_be_focused()
    page.route("**/api/kafka/events?dryRun=1", lambda route: route.abort())
    field(page, "id").fill("jq:mine")
    more.click()
    page.unroute_all()
    button(page, "Publish").click()
    expect(wrong(page, "id")).to_have_text("Must not begin with jq:.")
    button(page, "Example").click()
    expect(verdict(page)).to_have_text("Valid")
    expect(page.locator("#fate")).to_be_enabled()
    button(page, "Clear").click()
    expect(wrong(page, "streakDays")).to_have_text("Missing data for required field.")
    expect(field(page, "userId")).to_have_value("demo-user")


# Every other word that the check comes to say.
RECORD = """() => {
  window.seen = [];
  const verdict = document.getElementById("verdict");
  new MutationObserver(() => window.seen.push(verdict.textContent))
    .observe(verdict, { childList: true });
}"""


def test_an_older_answer_never_replaces_a_newer_one(service: Service, visit: Visit) -> None:
    page = visit("/publish?type=streak.milestone")
    expect(verdict(page)).to_have_text("Valid")
    page.evaluate(RECORD)
    held: list[Route] = []
    page.route("**/api/kafka/events?dryRun=1", lambda route: held.append(route))
    for text in ("-1", "8"):
        with page.expect_request("**/api/kafka/events?dryRun=1"):
            field(page, "streakDays").fill(text)
    wait_for(lambda: page.title() and len(held) == 2, 10)  # the driver is listened to meanwhile
    for route in reversed(held):
        with page.expect_response("**/api/kafka/events?dryRun=1") as answered:
            route.continue_()
        answered.value.finished()
    page.unroute_all()
    field(page, "userId").fill("ada")  # asked and answered after both
    expect(page.locator("#key")).to_have_text("ada")
    assert page.evaluate("window.seen") == []


# --- publishing ---


def test_publishing_lands_on_the_page_of_the_event(service: Service, visit: Visit) -> None:
    page = visit("/publish?type=mission.completed")
    field(page, "missionName").fill("Call <b>Ada</b>")
    field(page, "duration").fill("0.5")
    field(page, "userId").fill("grace")
    expect(page.locator("#key")).to_have_text("grace")
    button(page, "Publish").click()
    path, query = landed(page)
    assert query == {
        "new": ["1"],
        "topic": ["mission-events"],
        "partition": query["partition"],
        "offset": ["0"],
    }
    service.wait_until_caught_up()
    event = service.get(f"/api{path}").json["data"]["event"]
    example = SAMPLES["mission.completed"]
    assert event["data"] == {**example, "missionName": "Call <b>Ada</b>", "duration": 0.5}
    assert event["userId"] == "grace"


def test_what_is_wrong_is_not_published(service: Service, visit: Visit) -> None:
    page = visit("/publish?type=xp.earned")
    expect(verdict(page)).to_have_text("Valid")
    page.route("**/api/kafka/events?dryRun=1", lambda route: route.abort())
    field(page, "totalXp").fill("-5")
    page.keyboard.press("Enter")
    expect(problem(page)).to_have_text("Not published: correct the errors in the form.")
    expect(wrong(page, "totalXp")).to_contain_text("Must lie between 0 and")
    expect(field(page, "totalXp")).to_be_focused()
    service.wait_until_caught_up()
    assert service.get("/api/events").json["data"]["events"] == []


def test_what_is_known_already_is_said(service: Service, visit: Visit) -> None:
    publish(service, "streak.milestone", id="s1", user_id="demo-user")
    service.wait_until_caught_up()
    page = visit("/publish?type=streak.milestone")
    page.locator("summary").click()
    field(page, "id").fill("s1")
    button(page, "Publish").click()
    expect(page.locator("#outcome")).to_contain_text("Not published again")
    expect(page.locator("#outcome a")).to_have_attribute("href", "/events/s1")
    field(page, "streakDays").fill("8")
    expect(page.locator("#outcome")).to_be_hidden()
    button(page, "Publish").click()
    expect(problem(page)).to_contain_text("Choose another id, or leave it empty.")
    expect(wrong(page, "id")).not_to_have_text("")
    expect(field(page, "id")).to_be_focused()
    field(page, "id").fill("s2")
    button(page, "Publish").click()
    assert landed(page)[0] == "/events/s2"


def test_what_nobody_confirmed_is_published_again_and_counts_once(
    service: Service, visit: Visit
) -> None:
    page = visit("/publish?type=streak.milestone")
    expect(verdict(page)).to_have_text("Valid")

    def lose(route: Route) -> None:
        """The event is taken, but the answer gets lost."""
        route.fetch()
        line = "The log did not confirm the record."
        route.fulfill(status=503, json={"status": "error", "message": line})

    page.route("**/api/kafka/events", lose)
    button(page, "Publish").click()
    expect(problem(page)).to_contain_text("Not confirmed. The log did not confirm the record.")
    id = field(page, "id").input_value()
    expect(problem(page)).to_contain_text(f"Publish it again with the id {id}")
    page.unroute_all()
    service.kill()
    button(page, "Publish").click()
    expect(problem(page)).to_contain_text("The service can't be reached; try again.")
    field(page, "streakDays").fill("7")
    expect(verdict(page)).to_contain_text("It could not be checked. The service can't be reached")
    service.start()
    service.wait_until_caught_up()
    button(page, "Publish").click()
    expect(page.locator("#outcome")).to_contain_text("Not published again")
    assert [one["event"]["id"] for one in service.get("/api/events").json["data"]["events"]] == [id]


def test_an_event_that_waits_for_kafka_is_said_to(
    tmp_path: Path, browser: Browser, request: pytest.FixtureRequest
) -> None:
    service = ProtectedService(tmp_path, KAFKA_BROKER="127.0.0.1:1", JOBQUEST_WORKERS="1")
    request.addfinalizer(service.kill)
    page = browser.new_page()
    request.addfinalizer(page.close)
    page.goto(f"{service.start().url}/publish?type=streak.milestone")
    button(page, "Publish").click()
    outcome = page.locator("#outcome")
    expect(outcome).to_contain_text("Queued: Kafka can't be reached.", timeout=20_000)
    expect(page.locator("#outcome a")).to_have_text("Show the event")


# --- the same as code ---

QUOTES = "it's \"quoted\" $HOME `id` \\n \\' !! true null %s \u202e \u2028 \U0001f600 </script>"
MORE = {"a\nb": [QUOTES, None, True, False, 0.5, {}], "__proto__": {"x": "'; id #"}}


@pytest.mark.parametrize("kind", [ForkedService, ProtectedService])
@pytest.mark.parametrize("language", ["curl", "python", "typescript"])
def test_the_code_publishes_the_event(
    service: Service, visit: Visit, language: str, kind: type[ForkedService]
) -> None:
    page = visit(
        "/publish?type=notification.sent", permissions=["clipboard-read", "clipboard-write"]
    )
    field(page, "title").fill(QUOTES)
    field(page, "message").fill(f"{QUOTES}\nand more")
    page.locator("summary").click()
    field(page, "metadata").fill(json.dumps(MORE))
    expect(verdict(page)).to_have_text("Valid")
    page.locator(f'[name=language][value="{language}"]').check()
    expect(page.locator(".code .block:visible")).to_have_count(1)
    page.locator(".code .copy:visible").click()
    code = page.evaluate("navigator.clipboard.readText()")
    assert ("YOUR_KEY" in code) == (kind is ProtectedService)
    if kind is ProtectedService:
        code = code.replace("YOUR_KEY", key_of(service))
    run(page, language, code)
    service.wait_until_caught_up()
    events = service.get("/api/users/demo-user/events").json["data"]["events"]
    event = events[0]["event"]
    example = SAMPLES["notification.sent"]
    assert event["data"] == {**example, "title": QUOTES, "message": f"{QUOTES}\nand more"}
    assert event["metadata"] == MORE
    assert len(events) == 1


def key_of(service: Service) -> str:
    """A new key that publishes."""
    access = Runtime(load(service.settings)).access
    try:
        return access.keys.create("code", [WRITE], None)
    finally:
        access.close()


def run(page: Page, language: str, code: str) -> None:
    """As a person would: in a shell, in Python, in a module of scripts."""
    if language == "typescript":  # its types taken off, as a compiler does
        script = code[code.index("const event") :].replace(" as Answer", "")
        page.evaluate(f"async () => {{ {script} }}")
        return
    command = [sys.executable, "-c", code] if language == "python" else ["sh", "-ec", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    assert "accepted" in done.stdout


# --- break one on purpose ---


@pytest.mark.parametrize("handlers", ["jobquest.demo"])
def test_one_is_broken_on_purpose_with_the_mouse(
    service: Service, visit: Visit, handlers: str
) -> None:
    page = visit("/publish?type=streak.milestone")
    fate, note = page.locator("#fate"), page.locator("#fate-note")
    expect(note).to_have_text("")
    choices = {"retrying": "fails and is retried", "dead": "becomes a dead letter"}
    for outcome, choice in choices.items():
        page.goto(f"{service.url}/publish?type=streak.milestone")
        value = {"retrying": "fail", "dead": "refuse"}[outcome]
        assert choice in fate.locator(f'[value="{value}"]').inner_text()
        fate.select_option(value)
        expect(note).to_have_text("The metadata request this.")
        field(page, "userId").fill(outcome)
        button(page, "Publish").click()
        path, _ = landed(page)
        wait_for(lambda path=path, outcome=outcome: outcome == outcome_of(service, path), 10)


def test_where_no_handler_breaks_events_the_page_says_how_to_have_one(
    service: Service, visit: Visit
) -> None:
    for path in ("/publish?type=streak.milestone", "/failures"):
        page = visit(path)
        expect(page.get_by_text("JOBQUEST_HANDLERS=jobquest.demo")).to_be_visible()
    page = visit("/publish?type=streak.milestone")
    expect(page.locator("#fate")).to_have_count(0)
    button(page, "Publish").click()
    path, _ = landed(page)
    wait_for(lambda: outcome_of(service, path) == "processed", 10)


def outcome_of(service: Service, path: str) -> Any:
    found = service.get(f"/api{path}").json
    return found.get("data", {}).get("outcome")


@pytest.mark.parametrize("handlers", ["jobquest.demo"])
def test_the_choice_and_the_metadata_say_the_same(
    service: Service, visit: Visit, handlers: str
) -> None:
    page = visit("/publish?type=streak.milestone")
    page.locator("summary").click()
    metadata, fate = field(page, "metadata"), page.locator("#fate")
    metadata.fill('{"source": "me", "demo": "refuse"}')
    expect(fate).to_have_value("refuse")
    fate.select_option("fail")
    assert json.loads(metadata.input_value()) == {"source": "me", "demo": "fail"}
    fate.select_option("")
    assert json.loads(metadata.input_value()) == {"source": "me"}
    expect(page.locator(".code pre").first).not_to_contain_text('"demo":')


# --- how it looks ---


def test_it_fits_and_can_be_used_by_all(service: Service, visit: Visit) -> None:
    page = visit("/publish")

    def look_at_it() -> None:
        for look in looks(page):
            assert faults(page) == [], look
            assert overflow(page) == 0, look

    look_at_it()
    page.goto(f"{service.url}/publish?type=user.login")
    page.locator("summary").click()
    field(page, "userAgent").fill("W" * 600)
    field(page, "userId").fill("W" * 128)
    expect(wrong(page, "userAgent")).to_be_visible()
    look_at_it()
