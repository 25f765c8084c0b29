"""What pages say about now: the header's line and banner on every page, and no two sentences of a
page that contradict each other."""

from __future__ import annotations

import json
import re
import uuid
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from jobquest.clock import now_ms
from jobquest.events import format_time
from jobquest.report import WORST_FIRST
from jobquest.web.pages.now import STATES
from tests.pages.conftest import Visit
from tests.pages.looks import button, faults, looks, overflow, publish, switch_demo
from tests.pages.test_every_page import INSIDE, furnish, settle
from tests.service import Service, wait_for
from tests.template import ForkedService

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

NOT_AT_WORK = ("stopped", "paused", "stalled", "crashed", "disconnected", "degraded")


def line(page: Page) -> Any:
    return page.locator("#service-now .now")


def banner(page: Page) -> Any:
    return page.locator("#service-now .banner")


def pretend(page: Page, service: Service, **status: Any) -> None:
    """Have the page be answered with this status from now on."""
    told = service.status() | {"timestamp": format_time(now_ms() + 60_000)} | status
    answer = {"status": "success", "data": told}
    page.route("**/api/kafka/status", lambda route: route.fulfill(json=answer))


# --- the header ---


@pytest.mark.parametrize("java_script", [True, False])
def test_every_page_says_what_the_service_is_doing_and_what_to_do(
    service: Service, visit: Visit, java_script: bool
) -> None:
    ids = furnish(service)
    service.switch("stop")
    page = visit("/", 390, java_script_enabled=java_script)
    for path in INSIDE:
        page.goto(service.url + path.format(**ids))
        expect(line(page)).to_contain_text("Stopped")
        expect(line(page)).to_contain_text("2 open dead letters")
        expect(line(page)).to_contain_text("Lag:")
        expect(banner(page)).to_contain_text("The consumer is stopped. No event is processed")
        assert overflow(page) <= 0, path
    banner(page).get_by_role("link").click()
    expect(button(page, "Start")).to_be_visible()
    service.switch("start")
    page.goto(f"{service.url}/users")
    expect(banner(page)).to_be_hidden()


def test_the_header_keeps_up_with_the_service_without_a_reload(
    service: Service, visit: Visit
) -> None:
    """On pages that ask, that refresh themselves and that have the live connection."""
    switch_demo(service, True)
    paths = ("/catalogue", "/failures", "/topics", "/", "/nowhere")
    pages = [visit(path) for path in paths]
    service.switch("stop")
    publish(service)
    for page in pages:
        expect(line(page)).to_contain_text("Stopped")
        expect(line(page)).to_contain_text("1 message, ")
        expect(banner(page)).to_contain_text("presses Start")
    service.switch("start")
    publish(service, metadata={"demo": "refuse"})
    for page in pages:
        expect(line(page)).to_contain_text("1 open dead letter")
        expect(line(page)).to_contain_text("caught up")
        expect(banner(page)).to_be_hidden()
    service.stop()
    expect(line(pages[0])).to_contain_text("The service can't be reached. Last known at")


def test_each_state_that_needs_somebody_has_a_reason_and_a_next_step(
    service: Service, visit: Visit
) -> None:
    pages = {state: visit("/users", color_scheme="dark") for state in NOT_AT_WORK}
    for state, page in pages.items():  # all ask at the same time, which none has to wait for alone
        works = state == "degraded"
        pretend(page, service, state=state, reason="the reason", consumerRunning=works)
    for state, page in pages.items():
        expect(banner(page)).to_contain_text(f"The consumer is {state}: the reason")
        expect(banner(page)).to_contain_text(STATES[state].next)
        href = banner(page).get_by_role("link").get_attribute("href")
        assert href, state
        works = "true" if state == "degraded" else "false"
        expect(page.locator("#service-now")).to_have_attribute("data-works", works)
        expect(page.locator("#announcer")).to_contain_text(f"Consumer: {state.capitalize()}")
        assert faults(page) == [], state
        page.goto(service.url + href)
        expect(page.locator(f"#{href.split('#')[1]}")).to_be_visible()


def test_every_state_has_its_words() -> None:
    assert set(WORST_FIRST) <= STATES.keys()
    assert {name for name, state in STATES.items() if state.next} == set(NOT_AT_WORK)


def test_a_database_that_is_away_is_said_on_every_page(
    tmp_path: Path, browser: Browser, request: pytest.FixtureRequest
) -> None:
    nowhere = "postgresql+psycopg://nobody@127.0.0.1:1/none"
    service = ForkedService(tmp_path, DATABASE_URL=nowhere, JOBQUEST_AUTH="proxy")
    request.addfinalizer(service.kill)
    page = browser.new_page()
    service.start()
    for path in ("/", "/users", "/catalogue", "/nowhere"):
        page.goto(service.url + path)
        expect(banner(page)).to_contain_text("The database can't be reached: ")
        expect(banner(page)).to_contain_text("Start the database")
        expect(line(page)).to_contain_text("dead letters not known")


# --- no two sentences contradict each other ---


def test_nothing_is_promised_while_the_consumer_does_not_run(
    service: Service, visit: Visit
) -> None:
    switch_demo(service, True)
    id = publish(service, metadata={"demo": "fail"})
    wait_for(lambda: service.status()["retrying"] == 1, 30, service.tail)
    for java_script in (True, False):
        service.switch("stop")
        page = visit("/failures", java_script_enabled=java_script)
        due = page.locator("#retries-table .due")
        expect(due.last).to_be_visible()
        assert due.locator("visible=true").all_inner_texts() == ["when it runs"]
        page.goto(f"{service.url}/events/{id}")
        expect(page.locator(".story > li h3").last).to_contain_text("when the consumer runs")
        expect(page.locator(".story > li").last.locator(".age")).to_be_hidden()
        page.goto(f"{service.url}/failures")
        service.switch("start")
        if java_script:
            expect(due.first).to_contain_text(re.compile("in |now"))
            expect(due.last).to_be_hidden()
    page = visit("/")
    expect(page.locator("#live strong")).to_have_text("live")
    lag = {"messages": 20, "seconds": 5.0, "caughtUpIn": 33.0}
    paused = {"state": "paused", "reason": "r", "consumerRunning": False, "lag": lag}
    page.route_web_socket("**/ws/events*", lambda socket: socket.close())
    page.add_init_script("delete window.WebSocket")
    pretend(page, service, **paused)
    page.reload()
    expect(page.locator("#state .word")).to_have_text("Paused")
    expect(page.locator("#lag")).to_have_text("20 messages, 5.0 s behind")
    expect(page.locator("#caught-up")).to_be_hidden()


def test_a_switch_that_takes_too_long_names_no_state_of_its_own(
    service: Service, visit: Visit
) -> None:
    page = visit("/")
    expect(page.locator("#live strong")).to_have_text("live")
    service.switch("stop")
    expect(page.locator("#state .word")).to_have_text("Stopped")
    told = service.status() | {"state": "paused", "reason": "20 failures"}
    told["timestamp"] = format_time(now_ms() + 60_000)
    late = {"status": "error", "message": "It is not running after 15 s: it is stopped."}
    page.route(
        "**/api/kafka/status", lambda route: route.fulfill(status=504, json={**late, "data": told})
    )
    button(page, "Start").click()
    problem = page.locator("#switch-problem")
    expect(problem).to_contain_text("Could not start the consumer. This takes longer than expected")
    expect(problem).not_to_contain_text("stopped")
    expect(page.locator("#state .word")).to_have_text("Paused")
    page.unroute_all()
    service.switch("start")
    expect(page.locator("#state .word")).to_have_text(re.compile("Idle|Running"))
    expect(problem).to_be_hidden()


CONTRADICTIONS = """() => {
  window.contradictions = [];
  const look = () => {
    const head = document.querySelector(".dead-letter-head")?.innerText ?? "";
    const came = document.querySelector("#work-outcome")?.innerText ?? "";
    const isOver = came.includes("It is processed");
    if (isOver && !head.includes("processed")) window.contradictions.push([head, came]);
    if (/\\bdead\\b/.test(head) && !came.includes("dead again")) {
      window.contradictions.push([head, came]);
    }
    requestAnimationFrame(look);
  };
  look();
}"""


def test_a_redriven_dead_letter_never_says_two_things_at_once(
    service: Service, visit: Visit
) -> None:
    switch_demo(service, True)
    publish(service, metadata={"demo": "refuse"})
    wait_for(lambda: service.status()["deadLetters"] == 1, 30, service.tail)
    switch_demo(service, False)
    page = visit("/dead-letters/1")
    service.switch("stop")
    expect(line(page)).to_contain_text("Stopped")
    page.evaluate(CONTRADICTIONS)
    button(page, "Redrive as it is").click()
    expect(page.locator(".dead-letter-head")).to_contain_text("its event is not processed yet")
    expect(page.locator("#work-outcome")).to_contain_text("The consumer is not running")
    service.switch("start")
    expect(page.locator("#work-outcome")).to_contain_text("It is processed.")
    expect(page.locator(".dead-letter-head")).to_contain_text("its event is now processed")
    assert page.evaluate("window.contradictions") == []


def test_the_result_of_a_redrive_follows_events_until_they_are_processed_or_dead(
    tmp_path: Path, visit: Visit, service: Service
) -> None:
    switch_demo(service, True)
    ids = [publish(service, user_id=f"u{n}", metadata={"demo": "refuse"}) for n in range(3)]
    wait_for(lambda: service.status()["deadLetters"] == 3, 30, service.tail)
    page = visit("/failures")
    lives: dict[str, str] = {}

    def answer(route: Any) -> None:
        """As the service does, with the outcome that this test wants."""
        life = route.fetch().json()
        outcome = lives.get(route.request.url.rpartition("/")[2], "retrying")
        dead_letters = life["data"]["deadLetters"]
        if outcome == "dead":
            dead_letters = [{**dead_letters[0], "id": dead_letters[0]["id"] + 100}, *dead_letters]
        life["data"] |= {"outcome": outcome, "deadLetters": dead_letters}
        route.fulfill(json=life)

    page.route("**/api/events/*", answer)
    button(page, "Redrive all 3 that match").click()
    came = page.locator("#work-outcome")
    expect(came).to_have_text("Results: 3 failed again and will be retried.")
    expect(button(page, "Close")).to_be_visible()
    lives |= {ids[0]: "dead", ids[1]: "processed"}
    expect(came).to_have_text(
        "Results: 1 processed, 1 failed again and will be retried, 1 dead again."
    )
    lives[ids[2]] = "dead"
    expect(came).to_have_text("Results: 1 processed, 2 dead again.")


# --- numbers, colours ---

BROKEN_NUMBERS = """() => {
  const found = [];
  for (const cell of document.querySelectorAll("td, dd, th, strong")) {
    const walk = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
    for (let text = walk.nextNode(); text; text = walk.nextNode()) {
      if (text.parentElement.closest("code, pre, a, bdi, summary")) continue;
      for (const match of text.data.matchAll(/(?<![\\w.:-])[+]?\\d[\\d,.]*(?![\\w:-])/g)) {
        const range = document.createRange();
        range.setStart(text, match.index);
        range.setEnd(text, match.index + match[0].length);
        const tops = new Set([...range.getClientRects()].map(({ top }) => Math.round(top)));
        if (tops.size > 1) found.push([match[0], cell.className, location.pathname]);
      }
    }
  }
  return found;
}"""


def test_no_number_breaks_inside_its_cell_however_long_the_names_beside_it(
    service: Service, visit: Visit
) -> None:
    switch_demo(service, True)
    users = [str(uuid.uuid4()) for _ in range(3)]
    for user in users:
        for number in range(2):
            data = {"xpAmount": 123_456_789, "totalXp": 1_000_000_000 - number}
            id = publish(service, "xp.earned", data=data, user_id=user)
        publish(service, user_id=user, metadata={"demo": "refuse"})
    publish(service, user_id=str(uuid.uuid4()), metadata={"demo": "fail"})
    service.wait_until_caught_up()
    wait_for(lambda: service.status()["deadLetters"] == 3, 30, service.tail)
    paths = ["/", "/users", f"/users/{users[0]}", "/analytics?window=day", "/topics"]
    paths += ["/failures", "/dead-letters/1", f"/events/{id}", "/topics/achievements", "/audit"]
    reason = json.dumps({"reason": "because-of-" * 20}).encode()  # which the audit trail has
    service.request("POST", "/api/kafka/dead-letters/3/discard", reason)
    page = visit("/")
    for path in paths:
        page.goto(service.url + path)
        settle(page)
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        for look in looks(page, (320, 390, 768, 1024, 1440), ["light"]):
            assert page.evaluate(BROKEN_NUMBERS) == [], (look, path)
            assert overflow(page) <= 0, (look, path)


def test_a_button_that_was_pressed_is_readable_under_the_mouse(
    service: Service, visit: Visit
) -> None:
    service.switch("stop")
    page = visit("/")
    start = button(page, "Start")
    start.click()
    expect(start).to_have_attribute("aria-disabled", "true")
    for look in looks(page, [1440]):
        start.hover()
        assert start.evaluate(CONTRAST) >= 4.5, look


CONTRAST = """(one) => {
  const { color, backgroundColor } = getComputedStyle(one);
  const light = (text) => {
    const [r, g, b] = text.match(/[\\d.]+/g).map((part) => {
      const share = part / 255;
      return share <= 0.03928 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const [low, high] = [light(color), light(backgroundColor)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}"""


def test_the_legend_and_the_current_page_are_seen_in_forced_colours(
    service: Service, visit: Visit
) -> None:
    switch_demo(service, True)
    publish(service)
    publish(service, metadata={"demo": "refuse"})
    service.wait_until_caught_up()
    page = visit("/", forced_colors="active")
    expect(page.locator(".chart-legend .swatch")).to_have_count(2)
    swatches = page.locator(".chart-legend .swatch")
    tones = swatches.evaluate_all("all => all.map(one => getComputedStyle(one).backgroundColor)")
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert len({*tones, ground}) == 3
    for path in ("/", "/analytics", "/users/demo-user"):
        page.goto(service.url + path)
        for one in page.locator("[aria-current]").all():
            assert one.evaluate("one => getComputedStyle(one).outlineStyle") == "solid", path
        for other in page.locator("nav a:not([aria-current])").all():
            assert other.evaluate("one => getComputedStyle(one).outlineStyle") == "none", path


def test_the_script_says_what_the_server_says(service: Service, visit: Visit) -> None:
    wait_for(lambda: service.status()["state"] == "idle", 20, service.tail)
    page = visit("/catalogue")
    served = line(page).inner_text(), banner(page).get_attribute("hidden")
    for status in (
        service.status(),
        service.status() | {"deadLetters": 1, "lag": {"messages": 1, "seconds": 75.5}},
    ):
        status["timestamp"] = format_time(now_ms() + 60_000)
        pretend(page, service, **json.loads(json.dumps(status)))
        with page.expect_response("**/api/kafka/status"):
            pass
        if status["deadLetters"] == 0:
            assert (line(page).inner_text(), banner(page).get_attribute("hidden")) == served
    expect(line(page)).to_contain_text("Lag: 1 message, 1 min 15 s behind")
    expect(line(page)).to_contain_text("1 open dead letter")
