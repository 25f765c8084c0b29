"""Scripts wait until a page is seen, come all the same where it is not, and are not missed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.pages.conftest import Visit
from tests.service import Service

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

SCRIPTS = """() => performance.getEntriesByType("resource")
    .filter((one) => one.name.endsWith(".js"))
    .map((one) => [one.name.split("/").at(-1), one.startTime])"""
FIRST_PAINT = """() => performance.getEntriesByName("first-contentful-paint")[0].startTime"""
# However late a busy machine paints.
PATIENT = "window.setTimeout = () => 0"
UNPAINTED = "PerformanceObserver.prototype.observe = () => undefined"


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with closing(browser.new_page()) as made:
        yield made


def arrive(page: Page) -> None:
    expect(page.locator("html.scripted")).to_be_attached()


@pytest.mark.parametrize("path", ["/", "/analytics", "/failures", "/publish", "/topics"])
def test_only_what_brings_the_scripts_is_asked_for_before_the_first_paint(
    service: Service, page: Page, path: str
) -> None:
    page.add_init_script(PATIENT)
    page.goto(service.url + path)
    arrive(page)
    painted = page.evaluate(FIRST_PAINT)
    asked: list[Any] = page.evaluate(SCRIPTS)
    assert [name for name, at in asked if at < painted] == ["start.js"]
    assert "common.js" in [name for name, _ in asked]


def test_a_page_that_is_not_painted_gets_its_scripts_all_the_same(
    service: Service, page: Page
) -> None:
    page.add_init_script(UNPAINTED)
    page.goto(service.url)
    arrive(page)
    expect(page.locator("#live")).to_have_attribute("data-live", "live")
    expect(page.locator("#chart svg")).to_be_visible()


def test_a_connection_is_not_called_offline_before_it_was_tried(
    service: Service, page: Page
) -> None:
    page.add_init_script(f"{UNPAINTED}; {PATIENT}")
    page.goto(service.url)
    expect(page.locator("#live")).to_be_visible()
    expect(page.locator("#live strong")).to_be_hidden()


@pytest.mark.parametrize("path", ["/", "/analytics", "/publish?type=mission.completed"])
def test_what_needs_scripts_takes_no_room_where_none_may_run(
    service: Service, visit: Visit, path: str
) -> None:
    page = visit(path, java_script_enabled=False)
    needing = page.locator(".needs-script").all()
    assert needing
    assert [found for found in needing if found.bounding_box()] == []
