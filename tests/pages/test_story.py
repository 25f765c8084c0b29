"""What somebody who never read the docs gets to with the mouse alone, on either log."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.service import wait_for
from tests.signed_in import NAME, PASSWORD, ProtectedService

pytestmark = pytest.mark.browser


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def page(request: pytest.FixtureRequest, tmp_path: Path, browser: Browser) -> Iterator[Page]:
    """The first page of a new service, which asks who comes; nothing but clicks and a password may
    follow."""
    settings = {}
    if request.param == "kafka":
        settings["KAFKA_BROKER"] = request.getfixturevalue("empty_kafka")
    service = ProtectedService(tmp_path, **settings)
    context = browser.new_context(viewport={"width": 1440, "height": 900}, storage_state=None)
    try:
        service.settings["JOBQUEST_HANDLERS"] = "jobquest.demo"
        service.start()
        wait_for(lambda: service.status()["consumerRunning"], 40, service.tail)
        opened = context.new_page()
        opened.goto(service.url)
        yield opened
    finally:
        service.kill()


def outcome(page: Page, word: str) -> Locator:
    """The outcome at the head of an event's page."""
    return page.locator(f'.page-head .badge[data-word="{word}"]')


def test_an_event_is_published_found_broken_edited_and_redriven_with_the_mouse(page: Page) -> None:
    # sign in
    page.get_by_label("Name").fill(NAME)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    # publish
    page.get_by_role("link", name="Publish", exact=True).click()
    page.get_by_role("link", name="mission.completed").click()
    page.get_by_role("button", name="Publish", exact=True).click()
    expect(outcome(page, "processed")).to_be_visible()
    expect(page.locator(".added", has_text="+50").first).to_be_visible()
    # find it
    page.get_by_role("link", name="Live", exact=True).click()
    page.locator("#events tbody").get_by_role("link", name="mission.completed").click()
    expect(outcome(page, "processed")).to_be_visible()
    page.get_by_role("link", name="demo-user").first.click()
    expect(page.get_by_text("50 XP", exact=True).first).to_be_visible()
    # break one
    page.get_by_role("link", name="Publish", exact=True).click()
    page.get_by_role("link", name="mission.completed").click()
    page.get_by_label("This event").select_option("refuse")
    page.get_by_role("button", name="Publish", exact=True).click()
    expect(outcome(page, "dead")).to_be_visible()
    # find it among the failures
    page.get_by_role("link", name="Failures", exact=True).click()
    page.get_by_role("link", name="Edit dead letter 1").click()
    expect(page.locator("dd", has_text="The demo handler refuses this event")).to_be_visible()
    # edit and redrive it
    page.get_by_role("link", name="Edit as text").click()
    page.get_by_role("button", name="mission.completed", exact=True).click()
    page.get_by_role("button", name="Save and redrive").click()
    # see that it worked
    expect(page.get_by_text("It is processed. It changed").first).to_be_visible()
    page.get_by_role("link", name="Show the event").click()
    expect(outcome(page, "processed")).to_be_visible()
    expect(page.get_by_text("Received again after a redrive")).to_be_visible()
    page.get_by_role("link", name="demo-user").first.click()
    expect(page.get_by_text("100 XP", exact=True).first).to_be_visible()
    # sign out
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    page.go_back()
    page.reload()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
