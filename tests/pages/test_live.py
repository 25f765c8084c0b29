"""The live page in a real browser, over the real service."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from jobquest.clock import now_ms
from jobquest.events import format_time
from tests.load import Flood
from tests.pages.conftest import Visit
from tests.pages.looks import (
    HOSTILE,
    button,
    faults,
    looks,
    overflow,
    publish,
    publish_as_anybody,
    streaks,
    switch_demo,
    write,
)
from tests.samples import SAMPLES
from tests.service import Service, wait_for
from tests.signed_in import ProtectedService
from tests.template import ForkedService
from tests.test_foreign_events import AS_TEXT, NUMBERS, from_elsewhere

pytestmark = pytest.mark.browser

OpenPage = Callable[..., Page]


@pytest.fixture
def open_page(visit: Visit) -> OpenPage:
    """Opens the live page, with a query if you like, and waits until it is live."""

    def open_it(width: int = 1440, live: bool = True, query: str = "", **options: Any) -> Page:
        page = visit("/" + query, width, **options)
        if live:
            expect(connection(page)).to_have_text("live")
        return page

    return open_it


def connection(page: Page) -> Any:
    return page.locator("#live strong")


def state(page: Page) -> Any:
    return page.locator("#state .word")


def rows(page: Page) -> Any:
    return page.locator("#events tbody tr")


def row(page: Page, id: str) -> Any:
    return page.locator(f'#events tr[data-id="{id}"]')


# --- as it is served ---


def test_rows_are_there_without_javascript(service: Service, open_page: OpenPage) -> None:
    id = publish(service, "mission.completed", user_id="ada")
    service.wait_until_caught_up()
    page = open_page(live=False, java_script_enabled=False)
    expect(row(page, id)).to_contain_text("mission.completed")
    expect(row(page, id)).to_contain_text("ada")
    expect(row(page, id)).to_contain_text("processed")
    row(page, id).locator("summary").click()
    expect(row(page, id).locator("pre")).to_contain_text('"missionId"')
    # Scripts are off for the page, but its parser does not know: <noscript> stays unrendered.
    assert "needs JavaScript" in page.content()
    expect(connection(page)).to_have_text("offline")
    expect(button(page, "Start")).to_be_disabled()
    expect(button(page, "Stop")).to_be_disabled()


def test_an_empty_page_shows_a_command_that_works(service: Service, open_page: OpenPage) -> None:
    page = open_page()
    expect(page.get_by_text("No events yet")).to_be_visible()
    command = page.locator("#empty pre").inner_text()
    words = shlex.split(command.replace("\\\n", ""))
    assert words[:3] == ["curl", "-X", "POST"]
    assert words[3] == f"{service.url}/api/kafka/events"
    assert words[4:6] == ["-H", "Content-Type: application/json"]
    assert words[6:8] == ["-H", "Authorization: Bearer YOUR_KEY"]
    answer = service.request("POST", "/api/kafka/events", words[9].encode())
    assert answer.code == 201
    expect(row(page, answer.json["data"]["id"])).to_contain_text("Tailor my CV")
    expect(page.get_by_text("No events yet")).to_be_hidden()


@pytest.mark.parametrize("java_script", [True, False])
def test_personal_data_is_masked(service: Service, open_page: OpenPage, java_script: bool) -> None:
    secrets = {"userEmail": "ada@example.org", "userAgent": "Mozilla/9", "ipAddress": "192.0.2.77"}
    page = open_page() if java_script else None
    id = publish(service, "user.login", data=secrets, metadata={"seen": [secrets]})
    if page is None:
        service.wait_until_caught_up()
        page = open_page(live=False, java_script_enabled=False)
    expect(row(page, id)).to_contain_text("userEmail: [masked]")
    assert not [secret for secret in secrets.values() if secret in page.content()]


@pytest.mark.parametrize("live", [True, False], ids=["live", "served"])
def test_personal_data_is_shown_where_the_view_asks_for_it(
    service: Service, open_page: OpenPage, live: bool
) -> None:
    page = open_page(query="?personal=shown") if live else None
    id = publish(service, "user.login", data={"ipAddress": "192.0.2.77"})
    if page is None:
        service.wait_until_caught_up()
        page = open_page(query="?personal=shown")
    expect(row(page, id)).to_contain_text("ipAddress: 192.0.2.77")
    row(page, id).locator("summary").click()
    expect(row(page, id).locator("pre")).to_contain_text('"192.0.2.77"')
    row(page, id).get_by_role("link", name="Only this type").click()
    expect(page).to_have_url(f"{service.url}/?personal=shown&type=user.login")
    page.get_by_role("link", name="Mask personal data").click()
    expect(row(page, id)).to_contain_text("ipAddress: [masked]")
    expect(page).to_have_url(f"{service.url}/?type=user.login")


def test_the_page_says_why_the_events_cannot_be_read(
    tmp_path: Path, browser: Browser, request: pytest.FixtureRequest
) -> None:
    (tmp_path / "away").mkdir()
    nowhere = "postgresql+psycopg://nobody@127.0.0.1:1/none"
    service = ForkedService(tmp_path / "away", DATABASE_URL=nowhere, JOBQUEST_AUTH="proxy")
    request.addfinalizer(service.kill)
    page = browser.new_page()
    request.addfinalizer(page.close)
    answer = page.goto(service.start().url)
    assert answer
    assert answer.status == 503
    expect(state(page)).to_have_text("Disconnected")
    expect(page.get_by_text("The events can't be read now")).to_be_visible()
    expect(page.get_by_text("No events yet")).to_be_hidden()


# --- live ---


def test_a_new_event_appears_without_reload(service: Service, open_page: OpenPage) -> None:
    page = open_page()
    first, second = publish(service, user_id="ada"), publish(service, user_id="bob")
    expect(rows(page)).to_have_count(2)
    assert [one.get_attribute("data-id") for one in rows(page).all()] == [second, first]
    expect(row(page, first)).to_contain_text("ada")


def test_a_live_row_is_the_one_that_the_server_renders(
    service: Service, open_page: OpenPage
) -> None:
    page = open_page()
    ids = [publish(service, name) for name in SAMPLES]
    ids += [
        publish(
            service, "mission.started", data={**SAMPLES["mission.started"], "missionName": text}
        )
        for text in HOSTILE
    ]
    ids += [
        publish(
            service, "learning.completed", data={**SAMPLES["learning.completed"], "progress": n}
        )
        for n in (50.0, 0.5, 99.999, 0)
    ]
    more = {"nested": {"a": [1.0, None, True, {"ipAddress": "x"}]}, "empty": [{}, []], "é": "é"}
    ids.append(publish(service, metadata=more))
    write(service, [b"no JSON"])
    expect(page.locator('tr[data-outcome="dead"]')).to_have_count(1)
    for id in ids:
        expect(row(page, id)).to_have_count(1)
    service.wait_until_caught_up()
    stored = service.get("/api/events?limit=500").json["data"]["events"]
    expect(rows(page)).to_have_count(len(stored))  # a row that comes later would stay closed
    open_all = "document.querySelectorAll('#events details').forEach(one => one.open = true)"
    page.evaluate(open_all)
    expect(rows(page).locator("pre").first).to_contain_text("{")
    html = "all => Object.fromEntries(all.map(one => [one.dataset.id, one.outerHTML]))"
    came = rows(page).evaluate_all(html)
    page.reload()
    page.evaluate(open_all)
    served = rows(page).evaluate_all(html)
    assert len(served) == len(stored) > len(ids)
    assert {id: came[id] for id in served} == served


BROKEN = """
from pathlib import Path

def call(event):
    if Path("broken").exists():
        raise ConnectionError("The mail server is away")

def register(consumer):
    consumer.register_event_handler("job.applied", call)
"""


def test_an_event_that_waits_is_one_row_until_it_goes_through_and_the_breaker_says_why(
    tmp_path: Path, browser: Browser, request: pytest.FixtureRequest
) -> None:
    (tmp_path / "mail.py").write_text(BROKEN)
    (tmp_path / "broken").touch()
    service = ProtectedService(tmp_path, JOBQUEST_HANDLERS="mail", JOBQUEST_BRAKE_FAILURES="2")
    service.python_path.append(str(tmp_path))
    request.addfinalizer(service.kill)
    page = browser.new_page()
    request.addfinalizer(page.close)
    page.goto(service.start().url)
    expect(connection(page)).to_have_text("live")
    first = publish(service, "job.applied", user_id="ada")
    expect(row(page, first)).to_have_attribute("data-outcome", "retrying")
    publish(service, "job.applied", user_id="bob")
    expect(state(page)).to_have_text("Paused")
    expect(page.locator("#service-now .banner")).to_contain_text("The mail server is away")
    expect(page.locator("#retrying dd")).to_have_text("2")
    (tmp_path / "broken").unlink()
    button(page, "Start").click()
    expect(row(page, first)).to_have_attribute("data-outcome", "processed", timeout=15_000)
    expect(page.locator("#retrying dd")).to_have_text("0", timeout=15_000)
    expect(rows(page)).to_have_count(2)
    expect(page.locator("#outbox")).to_have_text("empty")


def say(page: Page, service: Service, frames: list[dict[str, Any]]) -> None:
    """Load the page again with a live connection that says only this, later than the page."""
    later = format_time(now_ms() + 60_000)
    epoch = page.locator("#dashboard").get_attribute("data-epoch")
    hello = {"kind": "hello", "seq": 0, "epoch": epoch, "status": service.status()}

    def talk(socket: Any) -> None:
        for frame in [hello, *frames]:
            late = {"timestamp": later} if frame["kind"] == "status" else {}
            socket.send(json.dumps(frame | late))

    page.route_web_socket("**/ws/events*", talk)
    page.reload()
    expect(connection(page)).to_have_text("live")


def test_the_page_tells_the_socket_of_which_epoch_its_number_is(
    service: Service, open_page: OpenPage
) -> None:
    page = open_page()
    publish(service)
    expect(rows(page)).to_have_count(1)
    with page.expect_websocket() as opened:
        page.reload()
    dashboard = page.locator("#dashboard")
    epoch, seq = (dashboard.get_attribute(f"data-{name}") for name in ("epoch", "since"))
    assert opened.value.url.endswith(f"since={seq}.{epoch}")
    expect(connection(page)).to_have_text("live")


def test_the_list_is_bounded_and_says_so(service: Service, open_page: OpenPage) -> None:
    page = open_page()
    write(service, streaks(700))
    expect(row(page, "s699")).to_have_count(1)
    expect(rows(page)).to_have_count(500, timeout=20_000)
    expect(page.locator("#list-note")).to_contain_text("Showing the latest 500 events, the limit")
    page.reload()
    expect(rows(page)).to_have_count(50)
    expect(page.locator("#list-note")).to_contain_text("Showing the latest 50 events")


WATCH_TASKS = """() => {
  window.longTasks = [];
  new PerformanceObserver((list) => window.longTasks.push(...list.getEntries().map(
    ({ duration }) => duration))).observe({ type: 'longtask' });
}"""
# The trace that tells a task's processor time, and no other: Chromium adds all the usual ones, two
# hundred megabytes in a minute.
TASKS = ["-*", "disabled-by-default-devtools.timeline"]


def longest_task(trace: bytes) -> float:
    """Of the page's main threads: the most processor time that a task took, in milliseconds."""
    events = json.loads(trace)["traceEvents"]
    threads = {
        (event["pid"], event["tid"])
        for event in events
        if event["name"] == "thread_name" and event["args"]["name"] == "CrRendererMain"
    }
    took = [
        event["tdur"] / 1_000
        for event in events
        if event["name"] == "RunTask"
        and (event["pid"], event["tid"]) in threads
        and "tdur" in event  # not where it began before the trace
    ]
    assert len(took) > 1_000
    return max(took)


@pytest.mark.alone
@pytest.mark.timeout(400)
def test_a_thousand_events_a_second_for_a_minute_leave_the_page_responsive(
    service: Service, open_page: OpenPage, browser: Browser
) -> None:
    page = open_page()
    devtools = page.context.new_cdp_session(page)
    devtools.send("Performance.enable")

    def memory() -> dict[str, int]:
        devtools.send("HeapProfiler.collectGarbage")
        found = devtools.send("Performance.getMetrics")["metrics"]
        return {one["name"]: int(one["value"]) for one in found}

    with Flood(service, rate=1_000) as flood:
        wait_for(lambda: flood.sent >= 5_000, 60)
        before = memory()
        page.evaluate(WATCH_TASKS)
        browser.start_tracing(page=page, categories=TASKS)
        began = time.monotonic()
        wait_for(lambda: flood.sent >= 65_000, 180)
        rate = 60_000 / (time.monotonic() - began)
        seen = page.evaluate("window.longTasks")
        longest = longest_task(browser.stop_tracing())
        assert rows(page).count() <= 500
    service.wait_until_caught_up(120)
    newest = service.get("/api/events?limit=500").json["data"]["events"]
    wait_for(lambda: ids(page) == [item["event"]["id"] for item in newest], 30)
    after = memory()
    grown = after["JSHeapUsedSize"] - before["JSHeapUsedSize"]
    print(
        f"{rate:,.0f} events a second; the longest task took {longest:.0f} ms of"
        f" the processor, {max(seen, default=0)} ms by the clock; {grown:,} B more"
    )
    # Of the processor: by the clock, what else this machine does counts as the page's.
    assert longest <= 200
    assert rate >= 900
    assert grown < 10_000_000
    assert after["Nodes"] < 500 * 100


def test_what_could_not_be_replayed_is_counted(service: Service, open_page: OpenPage) -> None:
    write(service, streaks(1_300))
    service.wait_until_caught_up()
    last = service.get("/api/events?limit=1").json["data"]["events"][0]["seq"]
    page = open_page()

    def age(route: Route) -> None:
        """The page as it was served when there was one change."""
        answer = route.fetch()
        text = answer.text()
        assert f'data-since="{last}"' in text
        route.fulfill(response=answer, body=text.replace(f'data-since="{last}"', 'data-since="1"'))

    page.route(service.url + "/", age)
    page.reload()
    missed = f"{last - 1_000 - 1:,} events not shown"
    expect(page.locator("#gap")).to_contain_text(missed)
    expect(page.locator("#gap").get_by_role("link")).to_be_visible()
    expect(rows(page)).to_have_count(500, timeout=20_000)


def test_a_paused_list_counts_what_is_new_and_loses_nothing(
    service: Service, open_page: OpenPage
) -> None:
    page = open_page()
    first = publish(service)
    expect(rows(page)).to_have_count(1)
    button(page, "Pause").click()
    expect(button(page, "Resume")).to_be_visible()
    second = publish(service)
    expect(button(page, "Resume, 1 new")).to_be_visible()
    write(service, streaks(300))
    expect(button(page, "Resume, 301 new")).to_be_visible()
    assert [one.get_attribute("data-id") for one in rows(page).all()] == [first]
    button(page, "Resume, 301 new").click()
    expect(rows(page)).to_have_count(302, timeout=20_000)
    expected = [f"s{number}" for number in reversed(range(300))] + [second, first]
    assert rows(page).evaluate_all("all => all.map(one => one.dataset.id)") == expected
    expect(button(page, "Pause")).to_be_visible()


def test_an_open_row_stays_open_and_focused_below_new_ones(
    service: Service, open_page: OpenPage
) -> None:
    page = open_page()
    first = publish(service)
    row(page, first).locator("summary").focus()
    page.keyboard.press("Enter")
    expect(row(page, first).locator("pre")).to_be_visible()
    expect(row(page, publish(service))).to_have_count(1)
    expect(row(page, first).locator("pre")).to_be_visible()
    expect(row(page, first).locator("summary")).to_be_focused()


# --- filters ---


def ids(page: Page) -> list[str]:
    """Of the listed events, newest change first."""
    found: list[str] = rows(page).evaluate_all("all => all.map(one => one.dataset.id)")
    return found


def chips(page: Page) -> Any:
    return page.get_by_role("list", name="Chosen filters").get_by_role("link")


@pytest.mark.parametrize("java_script", [True, False])
def test_the_mouse_alone_filters_by_the_form_and_takes_filters_away(
    service: Service, open_page: OpenPage, java_script: bool
) -> None:
    login = publish(service, "user.login", data={}, user_id="ada")
    started = publish(service, "mission.started", user_id="ada")
    streak = publish(service, "streak.milestone", user_id="bob")
    service.wait_until_caught_up()
    page = open_page(live=java_script, java_script_enabled=java_script)

    def choose(label: str, value: str) -> None:
        page.locator(".filters summary").click()
        page.get_by_label(label, exact=True).select_option(value)
        button(page, "Apply").click()

    choose("Type", "user.login")
    expect(rows(page)).to_have_count(1)
    choose("Type", "mission.started")  # one more
    expect(rows(page)).to_have_count(2)
    assert set(ids(page)) == {started, login}
    choose("Not type", "user.login")
    expect(rows(page)).to_have_count(1)
    expect(chips(page)).to_have_count(3)
    shown = [" ".join(chip.inner_text().split()) for chip in chips(page).all()]
    assert shown[0].startswith("Type: user.login ×")
    chips(page).nth(0).click()
    expect(chips(page)).to_have_count(2)
    page.get_by_role("link", name="As JSON").click()
    found = json.loads(page.locator("pre").first.inner_text())["data"]["events"]
    assert [item["event"]["id"] for item in found] == [started]
    page.go_back()
    page.get_by_role("link", name="Clear all filters").click()
    expect(rows(page)).to_have_count(3)
    choose("Not topic", "system-events")
    expect(rows(page)).to_have_count(2)
    assert set(ids(page)) == {started, streak}
    choose("Outcome", "dead")
    expect(page.get_by_text("No event matches these filters")).to_be_visible()
    expect(page.get_by_text("No events yet")).to_have_count(0)


def test_a_row_filters_by_its_type_and_user_and_news_are_filtered_alike(
    service: Service, open_page: OpenPage
) -> None:
    page = open_page()
    ada = publish(service, user_id="ada~*'()")
    publish(service, user_id="bob")
    expect(rows(page)).to_have_count(2)

    def follow(id: str, name: str) -> None:
        row(page, id).locator("summary").click()
        row(page, id).get_by_role("link", name=name).click()
        expect(connection(page)).to_have_text("live")

    follow(ada, "Only this user")
    expect(rows(page)).to_have_count(1)
    publish(service, user_id="bob")
    came = publish(service, user_id="ada~*'()")
    expect(row(page, came)).to_have_count(1)  # one batch would have them in either order
    login = publish(service, "user.login", data={}, user_id="ada~*'()")
    expect(row(page, login)).to_have_count(1)
    assert ids(page) == [login, came, ada]
    follow(login, "Not this type")
    expect(rows(page)).to_have_count(2)
    publish(service, "user.login", data={}, user_id="ada~*'()")
    last = publish(service, user_id="ada~*'()")
    expect(row(page, last)).to_have_count(1)
    assert ids(page) == [last, came, ada]
    follow(last, "Not this user")
    expect(page.get_by_text("No event matches these filters")).to_be_hidden()
    expect(rows(page)).to_have_count(2)  # bob's


def test_an_event_leaves_a_list_of_another_outcome(service: Service, open_page: OpenPage) -> None:
    switch_demo(service, failing=True)
    page = open_page(query="?outcome=retrying")
    publish(service)
    id = publish(service, metadata={"demo": "fail"})
    expect(row(page, id)).to_have_attribute("data-outcome", "retrying")
    expect(rows(page)).to_have_count(1)
    expect(page.locator("#retrying dd")).to_have_text("1")
    switch_demo(service, failing=False)
    assert service.request("POST", f"/api/kafka/retries/{id}/now", b"{}").code in (200, 404, 409)
    expect(page.get_by_text("No event matches these filters")).to_be_visible(timeout=20_000)
    expect(rows(page)).to_have_count(0)
    expect(page.locator("#retrying dd")).to_have_text("0", timeout=15_000)


def test_a_filtered_page_that_fell_far_behind_finds_what_it_missed(
    service: Service, open_page: OpenPage
) -> None:
    page = open_page(query="?userId=ada")
    first = publish(service, user_id="ada")
    expect(row(page, first)).to_have_count(1)
    page.context.set_offline(True)
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    service.stop()
    expect(connection(page)).to_contain_text("reconnecting")
    second = first + "-2"
    event = json.loads(streaks(1)[0]) | {"id": second, "userId": "ada"}
    write(service, [json.dumps(event).encode(), *streaks(1_300)])
    service.start()
    service.wait_until_caught_up()
    page.context.set_offline(False)
    expect(row(page, second)).to_have_count(1, timeout=40_000)
    expect(connection(page)).to_have_text("live")
    expect(page.locator("#gap")).to_be_hidden()
    assert ids(page) == [second, first]


def test_older_events_stand_still_page_by_page(service: Service, open_page: OpenPage) -> None:
    write(service, streaks(120))
    service.wait_until_caught_up()
    page = open_page(query="?type=streak.milestone")
    expect(rows(page)).to_have_count(50)
    came = publish(service)
    expect(row(page, came)).to_have_count(1)
    seen = ids(page)
    page.get_by_role("link", name="Older events").last.click()
    expect(page.get_by_role("heading", name="Older events", level=2)).to_be_visible()
    expect(page.locator("#live")).to_contain_text("off on this page")
    expect(rows(page)).to_have_count(50)
    seen += ids(page)
    page.get_by_role("link", name="Older events").last.click()
    expect(rows(page)).to_have_count(20)
    seen += ids(page)
    assert seen == [came] + [f"s{number}" for number in reversed(range(120))]
    expect(page.get_by_role("link", name="Older events")).to_have_count(0)
    page.get_by_role("link", name="Back to live").first.click()
    expect(connection(page)).to_have_text("live")
    expect(page).to_have_url(f"{service.url}/?type=streak.milestone")


def test_details_are_copied_and_lead_to_the_event(service: Service, open_page: OpenPage) -> None:
    page = open_page(permissions=["clipboard-read", "clipboard-write"])
    id = publish(service)
    row(page, id).locator("summary").click()
    button(page, "Copy the event").click()
    expect(row(page, id).locator(".copy")).to_have_text("Copied")
    copied = json.loads(page.evaluate("navigator.clipboard.readText()"))
    assert copied["id"] == id
    link = row(page, id).get_by_role("link", name="Open the event's page")
    expect(link).to_have_attribute("href", f"/events/{id}")


# --- the last hour ---


def test_the_last_hour_is_drawn_and_listed(service: Service, open_page: OpenPage) -> None:
    publish(service)
    write(service, [b"no JSON"])
    service.wait_until_caught_up()
    page = open_page()
    chart = page.get_by_role("img", name="Each minute of the last hour")
    expect(chart.locator("svg")).to_have_count(1)
    expect(page.locator(".chart-legend")).to_contain_text("Processed 1")
    expect(page.locator(".chart-legend")).to_contain_text("Failed tries 1")
    tones = ["--alarm", "--accent"]
    for number, tone in enumerate(tones):
        bars = chart.locator("svg path[style]").nth(number)
        expect(bars).to_have_attribute("style", f"fill: var({tone});")
        box = bars.bounding_box()
        assert box
        assert box["height"] > 10
    page.get_by_text("As a table").click()
    cells = page.locator("#minutes tbody td.number")
    expect(cells.first).to_be_visible()
    sums = [0, 0, 0]
    for at, text in enumerate(cells.all_inner_texts()):
        sums[at % 3] += int(text)
    assert sums == [1, 1, 1]
    assert faults(page) == []
    publish(service)
    expect(page.locator(".chart-legend")).to_contain_text("Processed 2", timeout=30_000)


def test_the_stream_begins_on_the_first_screen(service: Service, open_page: OpenPage) -> None:
    write(service, streaks(60))
    service.wait_until_caught_up()
    page = open_page()
    expect(page.locator("#chart svg")).to_have_count(1)
    box = rows(page).nth(3).bounding_box()
    assert box
    assert box["y"] + box["height"] < 900


def test_the_strip_tells_rates_and_when_it_has_caught_up(
    service: Service, open_page: OpenPage
) -> None:
    page = open_page()
    status = service.status()
    status["rate"] = {"taken": 8.25, "processed": 1234.4}
    status["lag"] = {"messages": 20_000, "seconds": 75.0, "caughtUpIn": 16.3}
    status |= {"deadLetters": 3, "retrying": 1_200}
    say(page, service, [{"kind": "status", **status}])
    expect(page.locator("#taken")).to_have_text("8.3")
    expect(page.locator("#processed")).to_have_text("1,234")
    expect(page.locator("#lag")).to_have_text("20,000 messages, 1 min 15 s behind")
    expect(page.locator("#caught-up")).to_have_text("caught up in about 17 s")
    expect(page.locator("#retrying dd")).to_have_text("1,200")
    link = page.locator("#dead-letters").get_by_role("link", name="3")
    expect(link).to_have_attribute("href", "/failures")


# --- the consumer ---


def test_start_and_stop_change_the_state_and_say_so(service: Service, open_page: OpenPage) -> None:
    page = open_page()
    announcer = page.locator("#announcer")
    expect(button(page, "Start")).to_be_disabled()
    button(page, "Stop").click()
    expect(state(page)).to_have_text("Stopped")
    expect(announcer).to_contain_text("Consumer: Stopped")
    expect(button(page, "Stop")).to_be_disabled()
    assert service.status()["state"] == "stopped"
    id = publish(service)
    expect(page.locator("#lag")).to_contain_text("1 message, ")
    button(page, "Start").click()
    expect(row(page, id)).to_have_count(1)
    expect(announcer).not_to_contain_text("Stopped")
    expect(page.locator("#lag")).to_have_text("caught up")
    expect(button(page, "Start")).to_be_disabled()
    expect(button(page, "Stop")).to_be_enabled()


def test_another_switch_is_seen(service: Service, open_page: OpenPage) -> None:
    page = open_page()
    service.switch("stop")
    expect(state(page)).to_have_text("Stopped")
    write(service, streaks(1_234))
    expect(page.locator("#lag")).to_contain_text("1,234 messages, ")
    page.reload()
    expect(state(page)).to_have_text("Stopped")
    expect(page.locator("#lag")).to_contain_text("1,234 messages, ")


def test_a_switch_that_fails_is_said_in_words(service: Service, open_page: OpenPage) -> None:
    page = open_page()
    page.route(
        "**/api/kafka/status",
        lambda route: route.fulfill(
            status=503,
            json={"status": "error", "message": "The read side is not available."},
        ),
    )
    button(page, "Stop").click()
    alert = page.locator("#switch-problem")
    expect(alert).to_have_text("Could not stop the consumer. The read side is not available.")
    expect(button(page, "Stop")).to_be_enabled()
    page.route("**/api/kafka/status", lambda route: route.fulfill(status=200, body='{"status": "s'))
    button(page, "Stop").click()
    broke_off = "Could not stop the consumer. The service's answer was incomplete; try again."
    expect(alert).to_have_text(broke_off)


def test_the_keyboard_reaches_everything(service: Service, open_page: OpenPage) -> None:
    publish(service)
    service.wait_until_caught_up()
    page = open_page()
    reached: list[str] = []
    while not reached or not reached[-1].startswith("streakDays"):
        assert len(reached) < 40, reached
        page.keyboard.press("Tab")
        focused = page.locator(":focus")
        reached.append(focused.inner_text().split("\n")[0][:20])
        width = focused.evaluate("e => parseFloat(getComputedStyle(e).outlineWidth)")
        assert width >= 2, reached
    assert reached[0] == "Skip to the content"
    places = [reached.index(name) for name in ("Times: UTC", "Start", "Stop", "Pause")]
    assert places == sorted(places)


def test_a_pressed_button_keeps_the_focus(service: Service, open_page: OpenPage) -> None:
    page = open_page()
    button(page, "Stop").focus()
    page.keyboard.press("Enter")
    expect(state(page)).to_have_text("Stopped")
    expect(button(page, "Stop")).to_be_focused()
    page.keyboard.press("Enter")  # does nothing: it is stopped
    expect(page.locator("#switch-problem")).to_be_hidden()


# --- the connection ---


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_the_page_reconnects_after_a_restart_and_misses_nothing(
    service: Service, open_page: OpenPage, end: str
) -> None:
    page = open_page()
    page.evaluate("document.documentElement.dataset.loaded = 'once'")
    ids = [publish(service)]
    expect(rows(page)).to_have_count(1)
    getattr(service, end)()
    expect(connection(page)).to_contain_text("reconnecting")
    expect(page.get_by_text("the live connection is down")).to_be_visible()
    write(service, streaks(120))
    service.start()
    ids += [publish(service) for _ in range(3)] + [f"s{number}" for number in range(120)]
    expect(connection(page)).to_have_text("live", timeout=20_000)
    for id in ids:
        expect(row(page, id)).to_have_count(1)
    expect(rows(page)).to_have_count(len(ids))
    expect(page.get_by_text("the live connection is down")).to_be_hidden()
    assert page.evaluate("document.documentElement.dataset.loaded") == "once"


def test_a_service_that_is_away_is_said_in_words(service: Service, open_page: OpenPage) -> None:
    page = open_page()
    service.stop()
    expect(connection(page)).to_contain_text("reconnecting in")
    button(page, "Stop").click()
    expect(page.locator("#switch-problem")).to_contain_text("The service can't be reached")


def test_the_page_loads_anew_where_the_data_is_another(
    service: Service, open_page: OpenPage
) -> None:
    page = open_page()
    publish(service)
    expect(rows(page)).to_have_count(1)
    service.stop()
    for path in service.folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    service.start()
    expect(page.get_by_text("No events yet")).to_be_visible(timeout=30_000)
    expect(connection(page)).to_have_text("live")


@pytest.mark.parametrize("how", ["there are none", "none opens"])
def test_without_a_socket_the_page_asks_and_goes_back_to_it(
    service: Service, open_page: OpenPage, how: str
) -> None:
    page = open_page(live=False, query="?notUserId=bob")
    if how == "there are none":
        page.add_init_script("if (!sessionStorage.there) delete window.WebSocket;")
    else:
        page.route_web_socket("**/ws/events*", lambda socket: socket.close())
    page.reload()
    expect(connection(page)).to_have_text("polling every 3 s", timeout=30_000)
    expect(page.locator("#live")).to_contain_text("last update")
    publish(service, user_id="bob")
    id = publish(service, user_id="ada")
    expect(row(page, id)).to_have_attribute("data-outcome", "processed", timeout=30_000)
    expect(page.get_by_text("the live connection is down")).to_be_hidden()
    write(service, streaks(700))  # more than one answer holds
    expect(row(page, "s699")).to_have_count(1, timeout=30_000)
    expect(rows(page)).to_have_count(500, timeout=30_000)
    assert ids(page) == [f"s{number}" for number in reversed(range(200, 700))]
    service.switch("stop")
    expect(state(page)).to_have_text("Stopped", timeout=30_000)
    if how == "none opens":
        page.unroute_all()
        page.route_web_socket("**/ws/events*", lambda socket: socket.connect_to_server() and None)
        expect(connection(page)).to_have_text("live", timeout=60_000)


def test_the_age_of_the_news_is_said(service: Service, open_page: OpenPage) -> None:
    page = open_page()
    expect(page.locator("#live")).to_contain_text(re.compile(r"last update \d+ s ago"))
    page.route_web_socket("**/ws/events*", lambda socket: None)
    service.kill()
    expect(connection(page)).to_contain_text("reconnecting", timeout=15_000)
    expect(page.locator("#live")).to_contain_text(re.compile(r"last update [3-9] s ago"))


# --- what strangers wrote, and how it looks ---


@pytest.mark.parametrize("socket", [True, False], ids=["socket", "polling"])
def test_the_browser_shows_huge_numbers_digit_by_digit(
    service: Service, open_page: OpenPage, socket: bool
) -> None:
    page = open_page()
    if not socket:
        page.add_init_script("delete window.WebSocket")
        page.reload()
        expect(connection(page)).to_contain_text("polling", timeout=40_000)
    value = from_elsewhere("huge", numbers=AS_TEXT)
    write(service, [value])
    expect(row(page, "huge")).to_contain_text(f"theirs: {AS_TEXT[:100]}")
    row(page, "huge").locator("summary").click()
    opened = row(page, "huge").locator("pre")
    expect(opened).to_contain_text(NUMBERS[-1])  # a script fills it after the click
    document = opened.inner_text()
    for _ in range(2):
        assert [document.count(number) for number in NUMBERS] == [4] * len(NUMBERS)
        page.goto(f"{service.url}/events/huge")
        document = page.get_by_role("group", name="The whole event as JSON").inner_text()


@pytest.mark.parametrize("live", [True, False], ids=["live", "served"])
def test_hostile_content_is_inert(service: Service, open_page: OpenPage, live: bool) -> None:
    page = open_page() if live else None
    ids = []
    for text in HOSTILE:
        user = text.replace("\n", "").replace("\t", "").replace("\u0085", "")[:128]
        data = {"entryId": text, "title": text, "tags": [text], "wordCount": 1}
        metadata = {text[:50]: text}
        ids.append(publish_as_anybody(service, "notebook.entry.created", user, data, metadata))
    if page is None:
        service.wait_until_caught_up()
        page = open_page()
    for id in ids:
        expect(row(page, id)).to_have_count(1)
    expect(row(page, ids[0])).to_contain_text(HOSTILE[0])
    expect(row(page, ids[4])).to_contain_text("{{ 7 * 7 }}")
    expect(row(page, ids[5]).locator(".user")).to_contain_text("\\u202eright to left\\u202c")
    assert page.locator("#dashboard :is(img, svg, script, h1):not(#chart *)").count() == 0
    assert page.title() != "hacked"
    shown = page.locator("#events").inner_text()
    assert not set(shown) & set("\u202e\u202c\u2066\u2069\u200b\ufeff\u0085")


def test_nothing_overflows_sideways(service: Service, open_page: OpenPage) -> None:
    widths = (320, 390, 800, 1000, 1200, 1440)
    page = open_page(320)
    for look in looks(page, widths, ["light"]):
        assert overflow(page) == 0, f"empty, {look}"
    for text in HOSTILE:
        data = {"missionId": text, "missionName": text, "missionType": "cv"}
        id = publish(service, "mission.started", data=data, user_id="W" * 128)
        expect(row(page, id)).to_have_count(1)
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    cut = """all => all.filter(one => one.scrollWidth > one.clientWidth + 1
                && getComputedStyle(one).overflowX !== 'auto').map(one => one.className)"""
    for look in looks(page, widths, ["light"]):
        assert overflow(page) == 0, look
        assert page.locator("#events td").evaluate_all(cut) == [], look


# Every text's contrast with what is painted behind it (WCAG 2.2, success criterion 1.4.3).
CONTRASTS = """() => {
  const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => {
    const [r, g, b] = parts(colour).slice(0, 3).map((c) => c / 255)
      .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const colour = getComputedStyle(one).backgroundColor;
      if ((parts(colour)[3] ?? 1) === 1) return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  const found = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !element.checkVisibility()) continue;
    const colour = getComputedStyle(element).color;
    const [low, high] = [light(colour), light(behind(element))].sort((a, b) => a - b);
    found.push([texts.currentNode.data.trim().slice(0, 40), (high + 0.05) / (low + 0.05)]);
  }
  return found;
}"""


def test_texts_stand_out_in_both_themes(service: Service, open_page: OpenPage) -> None:
    page = open_page(390)
    seen: list[tuple[str, str, float]] = []

    def look_at_it() -> None:
        for look in looks(page):
            found = page.evaluate(CONTRASTS)
            assert len(found) > 20, look
            seen.extend((look, text, ratio) for text, ratio in found)

    look_at_it()  # the empty page too
    publish(service)
    write(service, [b"no JSON"])
    expect(page.locator('tr[data-outcome="dead"]')).to_have_count(1)
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    item = service.get("/api/events").json["data"]["events"][0]
    item["event"] |= {"id": "parked", "data": {"a": "b"}}
    retrying = {**item, "seq": 100, "outcome": "retrying"}  # after the gap below
    states = ("running", "starting", "stalled", "stopped")
    status = service.status() | {"reason": "no heartbeat for 7 s"}
    for name in states:
        frames = [{"kind": "gap", "from": 1, "to": 9}, {"kind": "events", "items": [retrying]}]
        say(page, service, [{"kind": "status", **status, "state": name}, *frames])
        expect(row(page, "parked")).to_contain_text("retrying")
        look_at_it()
    service.kill()
    page.unroute_all()
    button(page, "Start").click()
    expect(page.locator("#switch-problem")).to_be_visible()
    look_at_it()
    assert len(seen) > 400
    assert [(*which, round(ratio, 2)) for *which, ratio in seen if ratio < 4.5] == []


def test_each_part_of_the_page_has_a_name(service: Service, open_page: OpenPage) -> None:
    publish(service)
    service.wait_until_caught_up()
    page = open_page(390)
    expect(page.get_by_role("banner")).to_be_visible()
    expect(page.get_by_role("main")).to_be_visible()
    expect(page.get_by_role("region", name="Consumer", exact=True)).to_be_visible()
    table = page.get_by_role("table", name="Latest events")  # a table on narrow screens too
    expect(table.get_by_role("row")).to_have_count(2)
    expect(table.get_by_role("columnheader")).to_have_count(6)
    expect(page.get_by_role("group", name="Start and stop the consumer")).to_be_visible()
    assert page.locator("html").get_attribute("lang") == "en"


def test_a_silent_connection_is_left(service: Service, open_page: OpenPage) -> None:
    page = open_page(live=False)
    page.clock.install()
    page.route_web_socket("**/ws/events*", lambda socket: None)
    page.reload()
    expect(connection(page)).to_have_text("connecting")
    page.clock.run_for(66_000)
    expect(connection(page)).to_contain_text("reconnecting")
    wait_for(lambda: "reconnecting" in connection(page).inner_text(), 5)
