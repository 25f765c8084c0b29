"""Retries and dead letters in a real browser: from a failure to the proof that it is edited."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from tests.pages.conftest import Visit
from tests.pages.looks import button, publish, switch_demo, write
from tests.samples import SAMPLES
from tests.service import Service, wait_for
from tests.signed_in import ProtectedService

pytestmark = pytest.mark.browser

LOGIN = {"userEmail": "ada@example.org", "userAgent": "Mozilla/9", "ipAddress": "192.0.2.77"}


@pytest.fixture
def service(tmp_path: Path, handlers: str) -> Iterator[Service]:
    """One whose failing events wait for long, and that many failures don't pause."""
    settings = {"JOBQUEST_RETRY_BASE_SECONDS": "60", "JOBQUEST_RETRY_MAX_ATTEMPTS": "3"}
    settings["JOBQUEST_HANDLERS"] = handlers
    made = ProtectedService(tmp_path, JOBQUEST_BRAKE_FAILURES="1000", **settings).start()
    yield made
    made.kill()


def refused(service: Service, count: int, event_type: str = "streak.milestone") -> list[str]:
    """That many dead letters by the demo's handler, which stays on: the events' ids."""
    switch_demo(service, True)
    before = service.status()["deadLetters"]
    wish = {"demo": "refuse"}
    ids = [publish(service, event_type, user_id="ada", metadata=wish) for _ in range(count)]
    wait_for(lambda: service.status()["deadLetters"] == before + count, 30, service.tail)
    return ids


def unreadable(service: Service, values: list[bytes]) -> None:
    """That many dead letters of records that are no events."""
    before = service.status()["deadLetters"]
    write(service, values)
    wait_for(lambda: service.status()["deadLetters"] == before + len(values), 30, service.tail)


def broken(id: str = "s1", **data: Any) -> bytes:
    """A record of a known type whose data break its schema."""
    event = {"id": id, "type": "streak.milestone", "userId": "ada", "data": data}
    return json.dumps(event | {"timestamp": "2026-11-24T06:00:00.000Z"}).encode()


def outcome(service: Service, id: str) -> str:
    found: str = service.get(f"/api/events/{id}").json["data"]["outcome"]
    return found


def row(page: Page, table: str, key: str | int) -> Any:
    return page.locator(f'table.{table} tr[data-key="{key}"]')


def rows(page: Page, table: str) -> Any:
    return page.locator(f"table.{table} tbody tr")


def words(page: Page) -> Any:
    return page.locator("#work-words")


def came(page: Page) -> Any:
    return page.locator("#work-outcome")


# --- what waits ---


def test_what_waits_is_tried_now_and_its_row_says_what_came_of_it(
    service: Service, visit: Visit
) -> None:
    switch_demo(service, True)
    first = publish(service, user_id="ada", metadata={"demo": "fail"})
    second = publish(service, user_id="ada")
    other = publish(service, user_id="bob", metadata={"demo": "fail"})
    wait_for(lambda: service.status()["retrying"] == 3, 30, service.tail)
    page = visit("/failures")
    head = row(page, "retries", first)
    expect(head).to_contain_text("DemoFailure: The demo handler fails")
    expect(head).to_contain_text("1 of 3")
    expect(head.locator("[data-due]")).to_contain_text("in ")
    expect(head.get_by_role("link", name=first)).to_have_attribute("href", f"/events/{first}")
    waits = row(page, "retries", second)
    expect(waits).to_contain_text(f"Not tried yet: waits behind {first}")
    expect(waits.get_by_role("button")).to_have_count(0)
    expect(page.locator("#retries-note")).to_have_text("3 events.")

    button(page, f"Try now: {first}").click()
    expect(head).to_contain_text("Failed again: try 2 of 3")
    expect(head.locator('[data-label="Tries"]')).to_have_text("2 of 3")
    button(page, f"Try now: {first}").click()
    expect(head).to_contain_text("dead")
    expect(head.get_by_role("link", name="Dead letter 1")).to_have_attribute(
        "href", "/dead-letters/1"
    )
    expect(waits).to_have_count(0)
    expect(row(page, "dead-letters", 1)).to_be_visible()
    assert outcome(service, second) == "processed"

    switch_demo(service, False)
    button(page, f"Try now: {other}").click()
    expect(row(page, "retries", other)).to_contain_text("processed")
    expect(row(page, "retries", other).get_by_role("button")).to_have_count(0)
    assert outcome(service, other) == "processed"


def test_the_page_is_kept_fresh_under_the_operators_hands(service: Service, visit: Visit) -> None:
    [dead_letter, _] = refused(service, 2)
    first = publish(service, user_id="bob", metadata={"demo": "fail"})
    page = visit("/failures")
    page.evaluate("document.documentElement.dataset.loaded = 'once'")
    page.get_by_label("Select dead letter 1", exact=True).check()
    expect(page.locator("#picked")).to_have_text("1 dead letter selected.")
    button(page, f"Try now: {first}").focus()
    second = publish(service, user_id="joan", metadata={"demo": "fail"})
    expect(row(page, "retries", second)).to_be_visible()
    expect(button(page, f"Try now: {first}")).to_be_focused()
    expect(page.get_by_label("Select dead letter 1", exact=True)).to_be_checked()
    switch_demo(service, False)
    service.request("POST", "/api/kafka/dead-letters/redrive", b'{"ids": [2]}')
    service.request("POST", f"/api/kafka/retries/{first}/now", b"{}")
    expect(row(page, "dead-letters", 2)).to_have_count(0)
    wait_for(lambda: outcome(service, first) == "processed", 30)
    expect(button(page, f"Try now: {first}")).to_be_focused()  # gone, were it not in use
    expect(row(page, "dead-letters", 1)).to_contain_text(dead_letter)
    page.keyboard.press("Enter")
    expect(row(page, "retries", first)).to_contain_text("processed")
    assert page.evaluate("document.documentElement.dataset.loaded") == "once"


def test_a_service_that_is_away_is_said_and_so_is_a_consumer_that_does_not_run(
    service: Service, visit: Visit
) -> None:
    switch_demo(service, True)
    id = publish(service, metadata={"demo": "fail"})
    wait_for(lambda: service.status()["retrying"] == 1, 30, service.tail)
    service.switch("stop")
    page = visit("/failures")
    expect(page.get_by_text("The consumer is stopped")).to_be_visible()
    service.stop()
    expect(page.locator("#stale")).to_contain_text("Showing the state at")
    button(page, f"Try now: {id}").click()
    expect(row(page, "retries", id)).to_contain_text("The service can't be reached")
    service.start()
    service.switch("start")
    expect(page.locator("#stale")).to_be_hidden(timeout=30_000)
    expect(page.get_by_text("The consumer is stopped")).to_have_count(0)


def test_more_than_are_listed_is_said_and_they_can_be(service: Service, visit: Visit) -> None:
    switch_demo(service, True)
    for number in range(30):
        publish(service, user_id=f"u{number}", metadata={"demo": "fail"})
    wait_for(lambda: service.status()["retrying"] == 30, 30, service.tail)
    page = visit("/failures")
    expect(rows(page, "retries")).to_have_count(25)
    expect(page.locator("#retries-note")).to_contain_text("The first 25 of 30.")
    page.get_by_role("link", name="List 30").click()
    expect(rows(page, "retries")).to_have_count(30)


# --- dead letters: found ---


def test_dead_letters_are_grouped_by_error_filtered_and_paged(
    service: Service, visit: Visit
) -> None:
    unreadable(service, [b"no JSON"] * 55 + [broken(streakDays="many")])
    page = visit("/failures?personal=shown")
    expect(page.locator("#dead-letters-note")).to_have_text("56 dead letters open.")
    expect(rows(page, "groups")).to_have_count(2)
    expect(rows(page, "groups").first).to_contain_text("55")
    expect(rows(page, "dead-letters")).to_have_count(50)
    expect(rows(page, "dead-letters").first).to_contain_text("#56")
    page.get_by_role("link", name="Older dead letters").click()
    expect(rows(page, "dead-letters")).to_have_count(6)
    page.get_by_role("link", name="Newest dead letters").click()
    rows(page, "groups").nth(1).get_by_role("link").first.click()
    expect(rows(page, "dead-letters")).to_have_count(1)
    expect(page.get_by_label("Error class")).to_have_value("InvalidEvent")
    assert "personal=shown" in page.url
    page.get_by_label("State").select_option("discarded")
    button(page, "Filter").click()
    expect(page.get_by_text("No dead letter matches")).to_be_visible()
    assert "topic=achievements" in page.url
    assert "userId" not in page.url
    page.get_by_role("link", name="Clear").click()
    expect(rows(page, "dead-letters")).to_have_count(50)
    as_json = page.get_by_role("link", name="As JSON").first.get_attribute("href")
    assert service.get(str(as_json)).json["data"]["groups"][0]["count"] == 55
    assert service.get("/failures?state=lost", Accept="text/html").code == 400


# --- dead letters: redriven ---


def test_one_dead_letter_is_redriven_until_it_is_seen_to_work(
    service: Service, visit: Visit
) -> None:
    [id] = refused(service, 1)
    page = visit("/failures")
    button(page, "Redrive dead letter 1").click()
    expect(words(page)).to_have_text("1 of 1 redriven.")
    expect(came(page)).to_contain_text("It is dead again.")
    expect(page.locator("#work-list")).to_contain_text("Dead letter 2 is dead again: DemoRefusal")
    expect(button(page, "Close")).to_be_focused()
    expect(row(page, "dead-letters", 1)).to_have_count(0)
    switch_demo(service, False)
    button(page, "Redrive dead letter 2").click()
    expect(came(page)).to_contain_text("It is processed.")
    expect(came(page)).to_contain_text("It changed ")
    expect(came(page).get_by_role("link")).to_have_attribute("href", f"/events/{id}")
    expect(page.get_by_text("Nothing has failed")).to_be_visible()
    button(page, "Close").click()
    expect(page.locator("#work")).to_be_hidden()
    assert outcome(service, id) == "processed"


def test_the_selected_a_group_and_all_that_match_are_redriven(
    service: Service, visit: Visit
) -> None:
    streaks, missions = refused(service, 30), refused(service, 30, "mission.started")
    switch_demo(service, False)
    page = visit("/failures")
    expect(button(page, "Redrive the selected")).to_have_attribute("aria-disabled", "true")
    for number in (60, 59):
        page.get_by_label(f"Select dead letter {number}", exact=True).check()
    button(page, "Redrive the selected").click()
    expect(words(page)).to_have_text("2 of 2 redriven.")
    expect(came(page)).to_have_text("Results: 2 processed.")
    assert [outcome(service, id) for id in missions[-3:]] == ["dead", "processed", "processed"]
    expect(page.locator("#dead-letters-note")).to_have_text("58 dead letters open.")

    button(page, "Redrive the group of 30 dead letters: DemoRefusal").click()
    expect(words(page)).to_have_text("30 of 30 redriven.")
    expect(came(page)).to_have_text("Results: 30 processed.")
    assert {outcome(service, id) for id in streaks} == {"processed"}

    page.get_by_label("User").fill("ada")
    button(page, "Filter").click()
    button(page, "Redrive all 28 that match").click()
    expect(words(page)).to_have_text("28 of 28 redriven.")
    expect(came(page)).to_have_text("Results: 28 processed.")
    assert {outcome(service, id) for id in missions} == {"processed"}
    assert service.status()["deadLetters"] == 0


def test_a_run_shows_how_far_it_is_and_stops_between_two_parts(
    service: Service, visit: Visit
) -> None:
    ids = refused(service, 60)
    switch_demo(service, False)
    page = visit("/failures")
    held: list[Route] = []

    def hold(route: Route) -> None:
        """The second part waits for the operator."""
        held.append(route)
        if len(held) == 1:
            route.continue_()

    page.route("**/dead-letters/redrive", hold)
    button(page, "Redrive all 60 that match").click()
    expect(words(page)).to_have_text("25 of 60 redriven.")
    wait_for(lambda: page.evaluate("1") and len(held) == 2, 20)
    expect(page.locator("#work-progress")).to_have_attribute("value", "25")
    button(page, "Stop").click()
    held[1].continue_()
    expect(words(page)).to_have_text("Stopped: 50 of 60 redriven.")
    expect(came(page)).to_have_text("Results: 50 processed.")
    assert len(held) == 2, "no part is asked for after the stop"
    assert [outcome(service, ids[at]) for at in (0, 49, 50)] == ["processed", "processed", "dead"]
    page.unroute_all()
    page.route("**/dead-letters/redrive", lambda route: route.abort())
    button(page, "Redrive dead letter 60").click()
    expect(page.locator("#work-problem")).to_contain_text("The service can't be reached")


def test_what_would_die_again_is_refused_with_the_reason_and_a_link_to_edit(
    service: Service, visit: Visit
) -> None:
    refused(service, 1)
    switch_demo(service, False)
    unreadable(service, [b"no JSON"])
    page = visit("/failures")
    page.get_by_label("Select all 2 listed").check()
    button(page, "Redrive the selected").click()
    expect(words(page)).to_have_text("1 of 2 redriven, 1 refused.")
    expect(page.locator("#work-list")).to_contain_text("Dead letter 2 refused: It would die again")
    page.get_by_role("link", name="Edit it").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Dead letter 2")
    button(page, "Redrive as it is").click()
    expect(page.locator("#refusal")).to_contain_text("It would die again: edit it first")
    expect(page.locator(".badge").first).to_have_text("open")


# --- dead letters: given up ---


def test_dead_letters_are_discarded_with_a_reason(service: Service, visit: Visit) -> None:
    unreadable(service, [b"no JSON"] * 4)
    page = visit("/failures")
    button(page, "Discard dead letter 4…").click()
    expect(page.get_by_role("dialog", name="Discard dead letter 4")).to_be_visible()
    button(page, "Discard").click()  # the reason is required
    expect(page.get_by_role("dialog")).to_be_visible()
    button(page, "Cancel").click()
    expect(row(page, "dead-letters", 4)).to_be_visible()
    button(page, "Discard dead letter 4…").click()
    page.get_by_label("Reason").fill("   ")
    button(page, "Discard").click()
    expect(page.locator("#discard-problem")).to_contain_text("Must be a text")
    page.get_by_label("Reason").fill("A test of somebody’s")
    button(page, "Discard").click()
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(row(page, "dead-letters", 4)).to_have_count(0)

    for number in (2, 3):
        page.get_by_label(f"Select dead letter {number}", exact=True).check()
    button(page, "Discard the selected…").click()
    page.get_by_label("Reason").fill("These too")
    button(page, "Discard").click()
    expect(rows(page, "dead-letters")).to_have_count(1)
    page.get_by_role("link", name="#1").last.click()
    button(page, "Discard…").click()
    page.get_by_label("Reason").fill("The last one")
    button(page, "Discard").click()
    expect(page.get_by_text("It was discarded: The last one")).to_be_visible()
    expect(page.locator("#edit")).to_have_count(0)
    page.goto(f"{service.url}/failures?state=discarded")
    expect(rows(page, "dead-letters")).to_have_count(4)
    expect(page.get_by_label("Select dead letter 1", exact=True)).to_have_count(0)


# --- dead letters: edited ---


def test_a_dead_letter_is_edited_with_errors_as_it_is_typed_and_redriven(
    service: Service, visit: Visit
) -> None:
    unreadable(service, [broken("s1", streakDays="many")])
    page = visit("/dead-letters/1")
    expect(page.locator(".value pre")).to_contain_text('"streakDays": "many"')
    position = page.get_by_role("link", name="partition 0, offset 0")
    expect(position).to_have_attribute("href", "/topics/achievements?partition=0&offset=0")
    days = page.get_by_role("spinbutton", name="streakDays").or_(
        page.get_by_role("textbox", name="streakDays")
    )
    wrong = page.locator(".field", has=days).locator(".wrong")
    expect(wrong).to_have_text("Not a whole number.")
    expect(page.locator("#edit-verdict")).to_contain_text("It would fail again")
    days.fill("-1")
    expect(wrong).to_contain_text("0")
    button(page, "Save").click()
    expect(days).to_be_focused()
    assert service.get("/api/kafka/dead-letters/1").json["data"]["edited"] is None
    days.fill("8")
    expect(wrong).to_be_hidden()
    expect(page.locator("#edit-verdict")).to_have_text("Valid: it can be saved.")
    button(page, "Save").click()
    expect(page.locator("#edit-verdict")).to_contain_text("Saved.")
    expect(page.locator(".value pre").last).to_contain_text('"streakDays":8')
    expect(page.locator(".badge").nth(1)).to_have_text("edited")
    days.fill("9")
    button(page, "Save and redrive").click()
    expect(came(page)).to_contain_text("It is processed.")
    expect(came(page).get_by_role("link")).to_have_attribute("href", "/events/s1")
    expect(page.locator("#edit")).to_have_count(0)
    expect(page.locator(".badge").first).to_have_text("redriven")
    life = service.get("/api/events/s1").json["data"]
    assert (life["outcome"], life["event"]["data"]) == ("processed", {"streakDays": 9})


def test_a_value_that_is_no_event_is_edited_as_text(service: Service, visit: Visit) -> None:
    unreadable(service, [b"no\tJSON", b"\xff\xfe"])
    page = visit("/dead-letters/2")
    expect(page.get_by_text("The bytes are not text; they are shown in base64")).to_be_visible()
    expect(page.locator(".value pre")).to_have_text("//4=")
    page = visit("/dead-letters/1")
    text = page.get_by_label("The event as JSON")
    expect(text).to_have_value("no    JSON")
    expect(page.locator("#edit-problems")).to_contain_text("not JSON")
    text.fill(broken("mine", streakDays=-1).decode())
    expect(page.locator("#edit-problems")).to_contain_text("data.streakDays: ")
    expect(text).to_have_attribute("aria-invalid", "true")
    text.fill(broken("mine", streakDays=5).decode())
    expect(page.locator("#edit-verdict")).to_have_text("Valid: it can be saved.")
    expect(page.locator("#edit-problems")).to_be_hidden()
    button(page, "Save and redrive").click()
    expect(came(page)).to_contain_text("It is processed.")
    expect(came(page).get_by_role("link")).to_have_attribute("href", "/events/mine")
    assert outcome(service, "mine") == "processed"


def test_personal_data_is_edited_only_where_it_is_asked_for(service: Service, visit: Visit) -> None:
    switch_demo(service, True)
    publish(service, "user.login", data=LOGIN, metadata={"demo": "refuse"})
    wait_for(lambda: service.status()["deadLetters"] == 1, 30, service.tail)
    page = visit("/dead-letters/1")
    expect(page.locator(".value pre")).to_contain_text("[masked]")
    expect(page.locator("#edit-form")).to_have_count(0)
    assert not [secret for secret in LOGIN.values() if secret in page.content()]
    page.get_by_role("link", name="Show personal data and edit").click()
    expect(page.get_by_label("userEmail")).to_have_value("ada@example.org")
    expect(page.locator(".value pre")).to_contain_text("192.0.2.77")
    page.get_by_role("link", name="Edit as text").click()
    found = service.get("/api/kafka/dead-letters/1?personal=shown").json["data"]["value"]
    whole = json.dumps(json.loads(found), indent=2)
    expect(page.get_by_label("The event as JSON")).to_have_value(whole)
    page.goto(f"{service.url}/dead-letters/1?as=text")
    assert not [secret for secret in LOGIN.values() if secret in page.content()]
    assert page.request.get(f"{service.url}/dead-letters/99").status == 404


# --- the story, with the mouse only ---


@pytest.mark.parametrize("handlers", ["jobquest.demo"])
def test_from_nothing_to_the_proof_with_the_mouse_only(
    service: Service, visit: Visit, handlers: str
) -> None:
    page = visit("/failures")
    expect(page.get_by_text("Nothing has failed")).to_be_visible()
    expect(page.get_by_role("link", name="Publish an event")).to_have_attribute("href", "/publish")
    expect(page.get_by_text("The demo handler is registered")).to_be_visible()
    id = publish(service, user_id="ada", metadata={"demo": "refuse"})
    page.get_by_role("link", name="Edit dead letter 1").click()
    page.get_by_role("link", name="Edit as text").click()
    button(page, "streak.milestone").click()
    expect(page.locator("#edit-verdict")).to_have_text("Valid: it can be saved.")
    button(page, "Save and redrive").click()
    expect(came(page)).to_contain_text("It is processed. It changed")
    example = service.get(f"/api/events/{id}").json["data"]["event"]
    assert (example["data"], example["metadata"]) == (SAMPLES["streak.milestone"], {})
    came(page).get_by_role("link", name="Show the event").click()
    page.wait_for_url(f"**/events/{id}")
