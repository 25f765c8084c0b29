"""The catalogue in a real browser, over the real service."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from jobquest.events import CATALOGUE
from tests.pages.conftest import Visit
from tests.pages.looks import button, faults, overflow
from tests.service import Service
from tests.template import ForkedService

pytestmark = pytest.mark.browser


def card(page: Page, name: str) -> Any:
    return page.get_by_role("article", name=name, exact=True)


def row(page: Page, name: str, field: str) -> Any:
    return card(page, name).locator("tbody tr", has=page.get_by_text(field, exact=True))


def test_every_type_is_there_with_an_example_that_passes(service: Service, visit: Visit) -> None:
    page = visit("/catalogue", java_script_enabled=False)
    expect(page.get_by_role("article")).to_have_count(len(CATALOGUE))
    for name, kind in CATALOGUE.items():
        expect(card(page, name)).to_contain_text(kind.description)
        assert card(page, name).locator("tbody code").all_inner_texts() == list(kind.fields)
        example = json.loads(card(page, name).locator("pre").inner_text())
        assert service.post(name, example).code == 201
    service.wait_until_caught_up()
    page.reload()
    counts = service.get("/api/analytics?window=hour").json["data"]["windows"]
    for name in CATALOGUE:
        count = sum(window["counts"].get(name, 0) for window in counts)
        assert count >= 1
        expect(card(page, name)).to_contain_text(f"{count} in the last hour")


def test_fields_are_told_in_words_and_links_lead_on(service: Service, visit: Visit) -> None:
    page = visit("/catalogue")
    for name, field, words in [
        ("mission.completed", "xpEarned", ["whole number", "0 to 1,000,000,000", "required", "XP"]),
        ("mission.failed", "reason", ["text", "1 to 500 characters", "optional"]),
        ("learning.completed", "progress", ["percent", "0 to 100"]),
        ("notebook.entry.created", "tags", ["list of texts", "at most 100 texts, each 1 to 500"]),
        ("user.login", "userEmail", ["personal", "optional"]),
    ]:
        for word in words:
            expect(row(page, name, field)).to_contain_text(word)
    expect(row(page, "mission.failed", "missionId")).not_to_contain_text("personal")
    for word, address in {
        "Publish one (job.applied)": "/publish?type=job.applied",
        "See them live (job.applied)": "/?type=job.applied",
        "Analytics of job.applied": "/analytics?type=job.applied",
    }.items():
        link = card(page, "job.applied").get_by_role("link", name=word)
        expect(link).to_have_attribute("href", address)
    records = page.get_by_role("link", name="Records of job-applications")
    expect(records).to_have_attribute("href", "/topics/job-applications")
    page.get_by_role("navigation", name="Types by topic").get_by_text("job.applied").click()
    assert page.url.endswith("#job.applied")
    expect(card(page, "job.applied")).to_be_in_viewport()
    assert faults(page) == []


def test_types_are_found_by_what_they_say(service: Service, visit: Visit) -> None:
    page = visit("/catalogue", 390)
    assert overflow(page) == 0
    page.get_by_label("Type, topic or field containing").fill("USEREmail")
    button(page, "Filter").click()
    assert "q=USEREmail" in page.url
    names = [one.inner_text() for one in page.locator("article h3").all()]
    assert names == ["user.registered", "user.login", "user.logout"]
    page.get_by_label("Type, topic or field containing").fill("<h1>none")
    button(page, "Filter").click()
    expect(page.get_by_text("No type contains “<h1>none”")).to_be_visible()
    page.get_by_role("link", name="Show all").click()
    expect(page.get_by_role("article")).to_have_count(len(CATALOGUE))


def test_types_are_shown_while_counts_cannot_be_read(
    tmp_path: Path, browser: Browser, request: pytest.FixtureRequest
) -> None:
    nowhere = "postgresql+psycopg://nobody@127.0.0.1:1/none"
    service = ForkedService(tmp_path, DATABASE_URL=nowhere, JOBQUEST_AUTH="proxy")
    request.addfinalizer(service.kill)
    page = browser.new_page()
    request.addfinalizer(page.close)
    page.goto(service.start().url + "/catalogue")
    expect(page.get_by_text("How often they come can't be read now")).to_be_visible()
    expect(page.get_by_role("article")).to_have_count(len(CATALOGUE))
    expect(page.get_by_text("in the last hour")).to_have_count(0)
