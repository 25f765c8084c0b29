"""Analytics in a real browser, over the real service."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from jobquest.clock import now_ms
from jobquest.events import format_time, parse_time
from tests.pages.conftest import Visit
from tests.pages.looks import button, faults, looks, overflow, publish
from tests.samples import SAMPLES
from tests.service import Service

pytestmark = pytest.mark.browser

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


def at(time: str) -> int:
    return int(parse_time(time).timestamp()) * 1000


def rows(page: Page, table: str) -> list[list[str]]:
    """The texts of a table's body; those of links for screen readers left out."""
    found = page.get_by_role("table", name=table, exact=True).locator("tbody tr").all()
    return [[text.strip() for text in one.locator("th, td").all_inner_texts()] for one in found]


def chart(page: Page, label: str) -> dict[int, int]:
    """What a chart draws: Unix seconds → value."""
    text = page.locator(f'[data-label="{label}"][data-chart]').get_attribute("data-chart")
    data = json.loads(text or "")
    assert {b - a for a, b in zip(data["times"], data["times"][1:], strict=False)} <= {data["step"]}
    return dict(zip(data["times"], data["values"], strict=True))


def heading(page: Page) -> Any:
    return page.locator("#counts-title")


def test_an_empty_service_says_so_in_each_part(service: Service, visit: Visit) -> None:
    page = visit("/analytics", 390)
    for text in (
        "No events in this period",
        "No XP was earned",
        "No application yet.",
        "No user yet.",
        "Nothing was started yet.",
    ):
        expect(page.get_by_text(text)).to_be_visible()
    assert overflow(page) == 0
    assert faults(page) == []


def test_events_are_counted_where_they_happened(service: Service, visit: Visit) -> None:
    times = ["2026-03-01T10:15:20Z", "2026-03-01T10:15:59Z", "2026-03-01T12:00:00Z"]
    for time in times:
        publish(service, "mission.started", timestamp=time)
    publish(service, "job.applied", timestamp="2026-03-01T10:17:00Z")
    publish(service, "job.applied", timestamp="2026-03-02T09:00:00Z")
    service.wait_until_caught_up()
    page = visit("/analytics?from=2026-03-01T10:00&to=2026-03-01T13:00Z")
    expect(page.locator("#wrong-to")).to_contain_text("Not an RFC 3339 time")
    page.get_by_label("To (UTC)").fill("2026-03-01T13:00")
    button(page, "Show").click()
    expect(heading(page)).to_have_text("4 events, by minute")
    expect(page.locator(".chart svg")).to_have_count(1)  # no XP in these days
    drawn = chart(page, "Events")
    assert len(drawn) == 180
    assert {time: value for time, value in drawn.items() if value} == {
        at(time) // 1000: value
        for time, value in {
            "2026-03-01T10:15:00Z": 2,
            "2026-03-01T10:17:00Z": 1,
            "2026-03-01T12:00:00Z": 1,
        }.items()
    }
    assert [row[:2] for row in rows(page, "Events by type")] == [
        ["mission.started", "3"],
        ["job.applied", "1"],
    ]
    expect(page.get_by_text("75.0 %")).to_be_visible()
    page.get_by_label("Per", exact=True).select_option("hour")
    button(page, "Show").click()
    page.get_by_text("Each hour as a table").click()
    assert rows(page, "Events by hour") == [
        ["2026-03-01 12:00:00.000", "1", "1", "0"],
        ["2026-03-01 10:00:00.000", "3", "2", "1"],
    ]
    address = page.get_by_role("link", name="As JSON").get_attribute("href") or ""
    found = service.get(address).json["data"]["windows"]
    assert [window["total"] for window in found] == [3, 1]
    page.get_by_role("link", name="Only this (job.applied)").click()
    expect(heading(page)).to_have_text("1 event, by hour")
    assert "from=" in page.url
    expect(page.get_by_label("job.applied", exact=True)).to_be_checked()
    expect(page.get_by_label("From (UTC)")).to_have_value("2026-03-01T10:00")
    page.get_by_role("link", name="Show all types").click()
    expect(heading(page)).to_have_text("4 events, by hour")


def test_the_last_windows_end_now_and_late_events_join_them(service: Service, visit: Visit) -> None:
    now = now_ms()
    publish(service, "streak.milestone")
    publish(service, "streak.milestone", timestamp=format_time(now - 3 * HOUR_MS))
    publish(service, "streak.milestone", timestamp=format_time(now - 9 * DAY_MS))
    service.wait_until_caught_up()
    page = visit("/analytics")
    expect(heading(page)).to_have_text("1 event, by minute")
    expect(page.get_by_role("link", name="Last hour")).to_have_attribute("aria-current", "true")
    assert len(chart(page, "Events")) == 60
    for word, count, bars, said in [
        ("Last 24 hours", 2, 24, "events, by hour"),
        ("Last 7 days", 2, 168, "events, by hour"),
        ("Last 30 days", 3, 30, "events, by day"),
    ]:
        page.get_by_role("link", name=word).click()
        expect(page.get_by_role("link", name=word)).to_have_attribute("aria-current", "true")
        expect(heading(page)).to_have_text(f"{count} {said}")
        drawn = chart(page, "Events")
        assert len(drawn) == bars
        assert sum(drawn.values()) == count
        assert 0 <= now_ms() // 1000 - max(drawn) < 2 * DAY_MS // 1000
    publish(service, "streak.milestone")
    service.wait_until_caught_up()
    page.get_by_role("link", name="Reload").click()
    expect(heading(page)).to_have_text("4 events, by day")


def test_jobs_xp_users_and_learning_are_summed_up(service: Service, visit: Visit) -> None:
    day = "2026-03-05T23:59:59.999Z"
    job = SAMPLES["job.applied"]
    for number, status in enumerate(["offer", "applied", "ghosted", "applied"]):
        data = {**job, "jobId": f"job-{number}", "status": status}
        publish(service, "job.applied", data=data, user_id="ada")
    publish(service, "mission.completed", user_id="bob/<b>", timestamp=day)
    publish(service, "learning.started", user_id="ada")
    publish(service, "learning.completed", user_id="ada")
    publish(service, "learning.started", user_id="bob/<b>")
    service.wait_until_caught_up()
    page = visit("/analytics?window=day&from=2026-03-04T00:00&to=2026-03-08T00:00")
    assert [row[:2] for row in rows(page, "Applications")] == [
        ["applied", "2"],
        ["screening", "0"],
        ["interview", "0"],
        ["offer", "1"],
        ["accepted", "0"],
        ["rejected", "0"],
        ["withdrawn", "0"],
        ["ghosted", "1"],
    ]
    expect(page.get_by_role("meter", name="offer: 1")).to_have_attribute("max", "2")
    xp = SAMPLES["mission.completed"]["xpEarned"]
    expect(page.locator(".chart svg")).to_have_count(2)
    assert list(chart(page, "XP").values()) == [0, xp, 0, 0]
    page.get_by_text("Each day as a table").last.click()
    assert rows(page, "XP per day") == [["2026-03-05", str(xp)]]
    assert rows(page, "Most XP")[0] == ["bob/<b>", str(xp), "1"]
    link = page.get_by_role("link", name="bob/<b>")
    expect(link).to_have_attribute("href", "/users?id=bob%2F%3Cb%3E")
    assert rows(page, "Learning") == [["course", "2", "1"]]
    assert faults(page) == []


def test_what_is_wrong_is_said_in_the_form_which_is_kept(service: Service, visit: Visit) -> None:
    page = visit("/analytics")
    for query, name, said in [
        ("from=noon", "from", "Not an RFC 3339 time"),
        ("from=2020-01-01T00:00", "from", "More than 10000 windows"),
        ("from=2026-03-01T00:00&to=2026-02-01T00:00", "to", "Must be after the start"),
        ("window=year", "window", "Must be one of minute, hour, day"),
        ("last=0", "last", "Must be a whole number"),
        ("type=nothing", "type", "There is no such type"),
    ]:
        answer = page.goto(f"{service.url}/analytics?type=job.applied&{query}")
        assert answer
        assert answer.status == 400, query
        expect(page.locator(f"#wrong-{name}")).to_contain_text(said)
        expect(page.get_by_label("job.applied", exact=True)).to_be_checked()
        expect(page.get_by_text("Nothing to show")).to_be_visible()
    assert faults(page) == []


def test_a_day_is_named_as_it_is_counted_wherever_its_reader_is(
    service: Service, visit: Visit
) -> None:
    publish(service, timestamp="2026-11-24T06:00:00.000Z")
    service.wait_until_caught_up()
    page = visit("/", timezone_id="America/New_York")  # there, the day began on the 23rd
    button(page, "Times: UTC").click()
    page.goto(
        f"{service.url}/analytics?window=day&from=2026-11-24T00:00:00Z&to=2026-11-25T00:00:00Z"
    )
    plot = page.locator(".chart svg").first
    plot.hover()
    expect(page.locator(".chart .when").first).to_have_text("2026-11-24")


def labels_below(page: Page, number: int = 0) -> list[str]:
    """The words below a chart, from left to right; the second line of each after a blank. None may
    touch another or leave the window."""
    plot = page.locator(".chart svg").nth(number)
    expect(plot).to_be_visible()
    labels = plot.locator(".time").all()
    boxes = [label.bounding_box() or {} for label in labels]
    edges = [edge for box in boxes for edge in (box["x"], box["x"] + box["width"])]
    assert edges == sorted(edges)
    assert edges[-1] <= page.evaluate("innerWidth")
    return [" ".join(label.locator("tspan").all_text_contents()) for label in labels]


PERIODS = {  # query → whether its labels need dates, even if none follows a midnight
    "window=minute&last=60": False,
    "window=minute&from=2026-03-05T23:30&to=2026-03-06T00:30": True,
    "window=minute&from=2026-03-05T10:00&to=2026-03-05T10:02": True,
    "window=minute&from=2026-03-01T10:00&to=2026-03-01T10:02": True,
    "window=hour&last=168": True,
    "window=hour&from=2026-03-05T00:00&to=2026-03-05T03:00": True,
    "window=day&from=2026-03-04T00:00&to=2026-03-06T00:00": True,
    "window=day&from=2025-12-20T00:00&to=2026-03-20T00:00": True,
    "window=day&from=2018-01-01T00:00&to=2026-03-20T00:00": True,
}


def test_the_labels_of_times_say_the_date_where_it_is_needed_and_none_twice(
    service: Service, visit: Visit
) -> None:
    times = ("03-01T10:01", "03-05T10:01", "03-05T23:45", "03-05T01:00")
    for time in times:
        publish(service, timestamp=f"2026-{time}:00.000Z")
    publish(service)
    service.wait_until_caught_up()
    page = visit("/analytics")
    widths = (320, 768, 1440)
    for at_first, (query, dated) in enumerate(PERIODS.items()):
        # A chart is drawn first in a window of another width each time.
        page.set_viewport_size({"width": widths[at_first % 3], "height": 900})
        page.goto(f"{service.url}/analytics?{query}")
        for look in looks(page, [widths[(at_first + more) % 3] for more in range(3)], ["light"]):
            found = labels_below(page)
            assert found, (query, look)
            assert len(set(found)) == len(found), (query, look, found)
            clocks = [label[:5] for label in found]
            needed = dated or clocks != sorted(clocks)  # the last hour may have begun yesterday
            assert bool(re.search(r"\d{4}(-|$)", found[0])) == needed, (query, look, found)
