"""One event's page in a real browser, over the real service."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from tests import three_handlers
from tests.pages.conftest import Visit
from tests.pages.looks import button, faults, overflow, publish, switch_demo, write
from tests.service import Service, wait_for
from tests.signed_in import ProtectedService

pytestmark = pytest.mark.browser

FAILING = {"demo": "fail", "source": "mobile app"}


@pytest.fixture
def service(tmp_path: Path, handlers: str) -> Iterator[Service]:
    """One whose events wait a minute for their second try, which is their last."""
    waits = {"JOBQUEST_RETRY_BASE_SECONDS": "60", "JOBQUEST_RETRY_MAX_ATTEMPTS": "2"}
    made = ProtectedService(tmp_path, JOBQUEST_HANDLERS=handlers, **waits).start()
    wait_until_running(made)
    yield made
    made.kill()


def wait_until_running(service: Service) -> None:
    """Before that, nobody is there yet to be switched."""
    wait_for(lambda: service.status()["consumerRunning"], 20, service.tail)


def life(service: Service, id: str) -> dict[str, Any]:
    answer = service.get(f"/api/events/{id}")
    return answer.json["data"] if answer.code == 200 else {"outcome": None}


def wait_until(service: Service, id: str, outcome: str) -> dict[str, Any]:
    wait_for(lambda: life(service, id)["outcome"] == outcome, 20, service.tail)
    return life(service, id)


def steps(page: Page) -> Any:
    return page.locator(".story > li")


def titles(page: Page) -> list[str]:
    return page.locator(".story h3").all_inner_texts()


def changes(page: Page) -> dict[tuple[str, str], list[str]]:
    """Row and column → what the event did, how it is now."""
    found = {}
    for group in page.locator(".effects tbody").all():
        title = group.locator("strong").first.inner_text()
        for row in group.locator("tr").all()[1:]:
            found[title, row.locator("th").inner_text()] = row.locator("td").all_inner_texts()
    return found


# --- as it is served ---


def test_a_processed_event_tells_what_it_changed_and_caused(service: Service, visit: Visit) -> None:
    id = publish(service, "achievement.unlocked", user_id="ada", metadata={"source": "mobile app"})
    publish(service, "xp.earned", user_id="ada")
    service.wait_until_caught_up()
    page = visit(f"/events/{id}", 390, java_script_enabled=False)
    expect(page.get_by_role("heading", level=1)).to_have_text("achievement.unlocked")
    expect(page.locator(".page-head .badge")).to_have_text("processed")
    assert titles(page) == ["Happened", "Received", "Processed"]
    facts = page.get_by_role("region", name="The event", exact=True)
    expect(facts).to_contain_text("mobile app")
    expect(facts.get_by_role("link", name="ada")).to_have_attribute("href", "/users/ada")
    place = life(service, id)
    query = f"partition={place['partition']}&offset={place['offset']}"
    link = facts.get_by_role("link", name="achievements")
    expect(link).to_have_attribute("href", f"/topics/achievements?{query}")
    found = changes(page)
    assert found["Statistics of the user", "XP"] == ["+100", "200"]
    assert found["Achievement", "achievement name"] == ["First application"] * 2
    assert found["Events per minute", "count"] == ["+1", "1"]
    caused = page.locator(".caused tbody tr")
    expect(caused).to_have_count(2)
    caused.get_by_role("link", name="level.up").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("level.up")
    expect(page.get_by_text("This service, because of another event")).to_be_visible()
    page.get_by_role("link", name=id).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("achievement.unlocked")


def test_the_whole_event_is_masked_unless_asked_for(service: Service, visit: Visit) -> None:
    secrets = {"userEmail": "ada@example.org", "userAgent": "Mozilla/9", "ipAddress": "192.0.2.77"}
    id = publish(service, "user.login", data=secrets, metadata={"source": "<b>web</b>"})
    wait_until(service, id, "processed")
    page = visit(f"/events/{id}")
    whole = page.get_by_role("group", name="The whole event as JSON")
    expect(whole).to_contain_text('"userEmail": "[masked]"')
    assert not [secret for secret in secrets.values() if secret in page.content()]
    expect(page.get_by_text("<b>web</b>", exact=True)).to_be_visible()
    page.get_by_role("link", name="Show personal data").click()
    expect(whole).to_contain_text("ada@example.org")
    expect(button(page, "Copy: The whole event as JSON")).to_be_visible()
    page.get_by_role("link", name="As JSON").click()
    assert json.loads(page.locator("body").inner_text())["data"]["event"]["id"] == id


def test_every_id_is_reachable(service: Service, visit: Visit) -> None:
    ids = [".", "..", "a:b", "-._:Z" * 20]
    for id in ids:
        publish(service, id=id)
    write(service, [b"no <b>JSON</b>"])
    service.wait_until_caught_up()
    page = visit("/")
    for id in ids:
        page.goto(service.url + "/")
        page.locator("#events tr", has_text=f'"id": "{id}"').locator("td.type a").click()
        expect(page.locator("dd code").first).to_have_text(id)
        expect(steps(page).last).to_contain_text("Processed")
    page.goto(service.url + "/")
    page.get_by_role("link", name="unreadable").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Unreadable record")
    expect(page.locator(".block pre")).to_have_text("no <b>JSON</b>")
    assert titles(page) == ["Received", "Dead letter after 1 try"]


# --- failing, dying, coming back ---


def test_try_now_is_followed_to_the_outcome(service: Service, visit: Visit) -> None:
    switch_demo(service, True)
    id = publish(service, "mission.completed", user_id="ada", metadata=FAILING)
    wait_until(service, id, "retrying")
    behind = publish(service, "mission.started", user_id="ada")
    wait_until(service, behind, "retrying")
    page = visit(f"/events/{behind}")
    expect(steps(page).last).to_contain_text("Waiting behind another event")
    page.goto(f"{service.url}/events/{id}")
    expect(page.locator(".page-head .badge")).to_have_text("retrying")
    assert titles(page) == ["Happened", "Received", "Try 1 failed", "Waiting for try 2"]
    failed = page.locator(".story > li", has_text="Try 1 failed")
    expect(failed).to_contain_text("DemoFailure: The demo handler fails")
    expect(failed).to_contain_text("demo.py:")
    expect(steps(page).last.locator(".age")).to_contain_text("in ")
    assert faults(page) == []
    switch_demo(service, False)
    button(page, "Try now").click()
    expect(page.locator(".page-head .badge")).to_have_text("processed", timeout=20_000)
    assert titles(page) == ["Happened", "Received", "Try 1 failed", "Processed"]
    expect(page.locator(".effects")).to_contain_text("+50")
    assert page.title().startswith("Processed")


def test_a_try_that_cannot_be_made_is_said(service: Service, visit: Visit) -> None:
    switch_demo(service, True)
    id = publish(service, metadata=FAILING)
    wait_until(service, id, "retrying")
    page = visit(f"/events/{id}")
    refusal = {"status": "error", "message": "It waits behind another."}
    page.route("**/now", lambda route: route.fulfill(status=409, json=refusal))
    button(page, "Try now").click()
    alert = page.get_by_role("alert")
    expect(alert).to_have_text("It could not be tried now. It waits behind another.")
    expect(button(page, "Try now")).to_be_enabled()
    service.stop()
    expect(page.locator("#news")).to_contain_text("The service can't be reached", timeout=10_000)


def test_a_dead_event_leads_to_its_dead_letter_and_comes_back(
    service: Service, visit: Visit
) -> None:
    switch_demo(service, True)
    id = publish(service, "mission.completed", metadata={"demo": "refuse"})
    dead_letter = wait_until(service, id, "dead")["deadLetter"]["id"]
    page = visit(f"/events/{id}", 390)
    last = steps(page).last
    expect(last).to_contain_text("Dead letter after 1 try")
    expect(last).to_contain_text("DemoRefusal")
    expect(last.get_by_role("link")).to_have_attribute("href", f"/dead-letters/{dead_letter}")
    expect(page.get_by_text("Nothing: it was not processed")).to_be_visible()
    assert (overflow(page), faults(page)) == (0, [])
    switch_demo(service, False)
    service.switch("stop")
    body = json.dumps({"ids": [dead_letter]}).encode()
    service.request("POST", "/api/kafka/dead-letters/redrive", body)
    page.reload()
    expect(steps(page).last).to_contain_text("Redriven")
    expect(page.get_by_text("This page updates until the event")).to_be_visible()
    service.switch("start")
    expect(page.locator(".page-head .badge")).to_have_text("processed", timeout=20_000)
    again = ["Dead letter after 1 try", "Received again after a redrive", "Processed"]
    assert titles(page) == ["Happened", *again]
    expect(page.locator(".story .badge")).to_have_text("redriven")


def test_a_discarded_and_edited_dead_letter_says_so(service: Service, visit: Visit) -> None:
    switch_demo(service, True)
    id = publish(service, metadata={"demo": "refuse"})
    dead_letter = wait_until(service, id, "dead")["deadLetter"]
    path = f"/api/kafka/dead-letters/{dead_letter['id']}"
    edited = json.dumps({"value": json.loads(dead_letter["value"])}).encode()
    assert service.request("PATCH", path, edited).code == 200
    reason = json.dumps({"reason": "A <test>"}).encode()
    assert service.request("POST", f"{path}/discard", reason).code == 200
    last = steps(visit(f"/events/{id}")).last
    expect(last).to_contain_text("It was discarded: A <test>. Its value is edited.")


def test_a_page_that_is_read_is_not_loaded_anew(service: Service, visit: Visit) -> None:
    switch_demo(service, True)
    id = publish(service, metadata=FAILING)
    wait_until(service, id, "retrying")
    page = visit(f"/events/{id}")
    page.locator(".story .error").select_text()
    switch_demo(service, False)
    assert service.request("POST", f"/api/kafka/retries/{id}/now", b"{}").code == 200
    expect(page.locator("#news")).to_contain_text("This event has changed.", timeout=20_000)
    expect(page.locator("#announcer")).to_have_text("This event has changed.")
    expect(page.locator(".page-head .badge")).to_have_text("retrying")
    page.get_by_role("link", name="Show the changes").click()
    expect(page.locator(".page-head .badge")).to_have_text("processed")


# --- not known ---


def test_a_page_waits_for_an_event_that_was_just_published(service: Service, visit: Visit) -> None:
    service.switch("stop")
    id = publish(service, user_id="ada")
    page = visit(f"/events/{id}?new=1&topic=achievements&partition=0&offset=0&personal=shown", 390)
    waiting = page.get_by_role("region", name="In the log; not processed yet")
    expect(waiting).to_contain_text("achievements")
    expect(page.locator("#service-now .banner")).to_contain_text("The consumer is stopped")
    assert (overflow(page), faults(page)) == (0, [])
    service.switch("start")
    expect(page.get_by_role("heading", level=1)).to_have_text("streak.milestone", timeout=20_000)
    assert page.url == f"{service.url}/events/{id}?personal=shown"


def test_a_page_that_waits_says_that_nobody_answers(service: Service, visit: Visit) -> None:
    page = visit("/events/later?new=1&topic=achievements")
    expect(page.get_by_role("heading", level=1)).to_contain_text("Stored until Kafka answers")
    service.stop()
    expect(page.get_by_role("alert")).to_contain_text("can't be reached", timeout=10_000)
    service.start()
    expect(page.get_by_role("alert")).to_be_hidden(timeout=10_000)


def test_an_event_that_nobody_knows_is_not_found(service: Service, visit: Visit) -> None:
    html = {"Accept": "text/html"}
    for path in ("/events/nothing", "/events?id=a%2Fb", "/events"):
        assert service.get(path, **html).code == 404
    page = visit("/events/nothing")
    expect(page.get_by_role("heading", level=1)).to_have_text("There is no event with this ID")
    expect(page.get_by_text("nothing", exact=True)).to_be_visible()
    page.goto(f"{service.url}/events")
    expect(page.get_by_role("heading", level=1)).to_contain_text("Which event?")


def test_news_do_not_keep_who_is_on_the_way_to_another_page(service: Service, visit: Visit) -> None:
    switch_demo(service, True)
    id = publish(service, user_id="ada", metadata=FAILING)
    wait_until(service, id, "retrying")
    page = visit(f"/events/{id}")
    held: list[Route] = []
    page.route("**/users", lambda route: held.append(route))
    with page.expect_request("**/users"):
        page.get_by_role("link", name="Users", exact=True).click(no_wait_after=True)
    switch_demo(service, False)
    assert service.request("POST", f"/api/kafka/retries/{id}/now", b"{}").code == 200
    wait_until(service, id, "processed")
    for _ in range(2):  # the page sees it
        with page.expect_response(f"**/api/events/{id}"):
            pass
    held[0].continue_()
    page.wait_for_url("**/users")


@pytest.mark.parametrize("handlers", [three_handlers.MODULE])
def test_each_handler_of_an_event_that_waits_tells_what_it_did(
    service: Service, visit: Visit
) -> None:
    id = publish(service, "user.login", user_id="ada")
    wait_until(service, id, "retrying")
    page = visit(f"/events/{id}", 390)
    expect(page.locator(".handlers li")).to_have_text(
        [
            "tests.three_handlers.greet succeeded, not called again",
            "tests.three_handlers.pay failed",
            "tests.three_handlers.log not called yet",
        ]
    )
    tried = steps(page).filter(has_text="Try 1 failed")
    expect(tried.locator(".error")).to_have_text("KeyError: 'salary'")
    expect(tried).to_contain_text("in the handler tests.three_handlers.pay")
    trace = tried.locator("details")
    expect(trace.locator("pre")).to_be_hidden()
    trace.locator("summary").click()
    expect(trace.locator("pre")).to_contain_text('event.data["salary"]')
    assert overflow(page) == 0
    assert faults(page) == []
