"""Browsers whose clocks are wrong: ages, countdowns and the last hour are told by the service's."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.pages.conftest import Visit
from tests.pages.looks import publish, switch_demo
from tests.service import ROOT, Service, wait_for

HOURS = (-3, 5)
# A clock that is wrong from the start, before any script of the page's.
WRONG = """
  const Right = Date, off = %d * 3_600_000;
  window.Date = class extends Right {
    constructor(...given) { given.length ? super(...given) : super(Right.now() + off); }
    static now() { return Right.now() + off; }
  };
"""
FRESH = re.compile(r"^(just now|in \d\.\d s|\d{1,2}\.\d s ago)$")


def open_wrong(visit: Visit, service: Service, path: str, hours: int) -> Page:
    page = visit("/catalogue")
    page.add_init_script(WRONG % hours)
    page.goto(service.url + path)
    expect(page.locator("html.scripted")).to_be_attached()
    assert abs(page.evaluate("Date.now()") / 1_000 - time.time() - hours * 3_600) < 60
    return page


@pytest.mark.browser
@pytest.mark.parametrize("hours", HOURS)
def test_ages_are_those_of_the_service(visit: Visit, service: Service, hours: int) -> None:
    id = publish(service, user_id="ada")
    wait_for(lambda: service.get("/api/users/ada").code == 200, 20, service.tail)
    for path in (f"/events/{id}", "/users", "/topics"):
        page = open_wrong(visit, service, path, hours)
        ages = page.locator("[data-age]")
        expect(ages.first).to_have_text(FRESH)
        for text in ages.all_inner_texts():
            assert FRESH.match(text), (path, text)


@pytest.mark.browser
@pytest.mark.parametrize("hours", HOURS)
def test_countdowns_are_those_of_the_service(visit: Visit, service: Service, hours: int) -> None:
    switch_demo(service, True)
    service.post("user.login", {}, metadata={"demo": "fail"})
    wait_for(lambda: service.get("/api/kafka/retries").json["data"]["retries"], 20, service.tail)
    page = open_wrong(visit, service, "/failures", hours)
    expect(page.locator(".due").first).to_have_text(re.compile(r"^(now|in \d{1,2} s|in 1 min .*)$"))


@pytest.mark.browser
@pytest.mark.parametrize("hours", HOURS)
def test_the_last_hour_is_that_of_the_service(visit: Visit, service: Service, hours: int) -> None:
    publish(service)
    service.wait_until_caught_up()
    page = open_wrong(visit, service, "/", hours)
    expect(page.locator("#chart svg")).to_be_attached()
    told = page.evaluate(
        "import(document.body.dataset.root + '/static/common.js').then(({ now }) => now())"
    )
    status = service.status()["timestamp"]
    assert abs(told - page.evaluate(f"Date.parse('{status}')")) < 10_000
    shown = page.locator("#live [data-part=news]")
    expect(shown).to_have_text(re.compile(r"last update \d{1,2} s ago"))


def test_no_script_asks_the_browsers_clock_what_time_it_is() -> None:
    """Lengths of time come from `performance.now()`, the time from `now()`."""
    for script in Path(ROOT / "static").glob("*.js"):
        asks = re.findall(r"Date\.now\(\)|new Date\(\)|\bDate\(\)", script.read_text())
        assert asks == [], script.name
