"""The users' pages in a real browser, over the real service."""

from __future__ import annotations

import json
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.pages.conftest import Visit
from tests.pages.looks import button, faults, overflow, publish, streaks, switch_demo, write
from tests.samples import SAMPLES
from tests.service import Service

pytestmark = pytest.mark.browser

ODD = [
    "a/b",
    "/",
    "a//b/",
    "x/events",
    ".",
    "..",
    "../..",
    "a\\b",
    "50% off?#1&q=2",
    "%2F",
    'it\'s "quoted" <b>',
    " spaced out ",
    "żółć שלום 😀",
    "W" * 128,
]


def heading(page: Page) -> Any:
    return page.get_by_role("heading", level=1)


def rows(page: Page) -> Any:
    return page.locator("main tbody tr")


def events_of(users: list[str]) -> list[bytes]:
    """One event of each."""
    one = json.loads(streaks(1)[0])
    return [
        json.dumps({**one, "id": f"e{number}", "userId": user}).encode()
        for number, user in enumerate(users)
    ]


# --- the search ---


def test_users_are_found_by_a_part_of_their_id(service: Service, visit: Visit) -> None:
    page = visit("/users")
    expect(page.get_by_text("No users yet")).to_be_visible()
    publish(service, "mission.completed", user_id="ada")
    publish(service, "job.applied", user_id="grace")
    service.wait_until_caught_up()
    page.get_by_role("link", name="Users").click()
    expect(rows(page)).to_have_count(2)
    assert rows(page).first.locator("td").all_inner_texts()[:6] == ["ada", "50", "1", "1", "0", "1"]
    expect(page.locator("#users-note")).to_have_text("2 users.")
    page.get_by_label("Part of the user's ID").fill("rac")
    button(page, "Search").click()
    expect(rows(page)).to_have_count(1)
    assert page.url.endswith("/users?q=rac")
    expect(page.get_by_role("link", name="As JSON")).to_have_attribute(
        "href", "/api/users?q=rac&limit=100"
    )
    page.get_by_label("Part of the user's ID").fill("nobody%")
    page.keyboard.press("Enter")
    expect(page.get_by_text("No user's ID contains this text")).to_be_visible()
    page.get_by_role("link", name="All users").click()
    expect(rows(page)).to_have_count(2)


def test_a_list_that_is_cut_says_so(service: Service, visit: Visit) -> None:
    write(service, events_of([f"user-{number}" for number in range(101)]))
    service.wait_until_caught_up()
    page = visit("/users", 390)
    expect(rows(page)).to_have_count(100)
    expect(page.locator("#users-note")).to_contain_text("The first 100; more match")
    assert (overflow(page), faults(page)) == (0, [])


def test_every_user_id_is_reachable(service: Service, visit: Visit) -> None:
    write(service, events_of(ODD))
    service.wait_until_caught_up()
    page = visit("/users")
    found = page.locator("main tbody a").all()
    links = {link.text_content(): link.get_attribute("href") for link in found}
    assert links.keys() == set(ODD)
    for user, address in links.items():
        page.goto(service.url + str(address))
        assert heading(page).text_content() == user
        expect(page.locator(".timeline tbody tr")).to_have_count(1)


# --- one user ---


def test_a_user_page_shows_what_the_user_has(service: Service, visit: Visit) -> None:
    publish(service, "mission.completed", user_id="ada")
    publish(service, "achievement.unlocked", user_id="ada")
    publish(service, "daily.challenge.completed", user_id="ada")
    learnt = {**SAMPLES["learning.completed"], "progress": 40.5}
    publish(service, "learning.completed", data=learnt, user_id="ada")
    publish(service, "notification.sent", user_id="ada")
    publish(service, "notification.read", user_id="ada")
    publish(service, "job.applied", user_id="ada")
    publish(service, "job.applied", data={**SAMPLES["job.applied"], "jobId": "2"}, user_id="ada")
    moved = {**SAMPLES["job.status.updated"], "jobId": "2", "newStatus": "ghosted"}
    publish(service, "job.status.updated", data=moved, user_id="ada")
    service.wait_until_caught_up()
    page = visit("/users/ada", 390, java_script_enabled=False)
    level = page.get_by_role("region", name="Level 2")
    expect(level).to_contain_text("225 XP · 75 more to level 3, which begins at 300")
    progress = level.get_by_role("progressbar", name="Progress from level 2 to level 3")
    assert progress.evaluate("e => [e.value, e.max]") == [125, 200]
    expect(page.locator("#reported")).to_be_hidden()
    tiles = dict(line.split("\n")[:2] for line in page.locator(".tiles > div").all_inner_texts())
    assert (tiles["Applications"], tiles["Focus minutes"]) == ("2", "25")
    columns = page.locator(".column h3")
    assert columns.all_inner_texts() == ["applied 1", "ghosted 1"]
    expect(page.locator(".column").last).to_contain_text("Acme")
    inbox = page.get_by_role("region", name="Inbox").locator("li")
    expect(inbox.filter(has_text="Well done")).to_contain_text("read")
    expect(inbox.filter(has_text="Daily challenge completed")).to_contain_text("unread")
    expect(page.get_by_role("region", name="Achievements")).to_contain_text("First application +")
    expect(page.get_by_role("region", name="Daily challenges")).to_contain_text("finished")
    learning = page.get_by_role("region", name="Learning")
    expect(learning).to_contain_text("40.5 %")
    assert overflow(page) == 0


def test_another_total_that_was_reported_is_shown(service: Service, visit: Visit) -> None:
    data = {**SAMPLES["xp.earned"], "xpAmount": 100, "totalXp": 1_350}
    publish(service, "xp.earned", data=data, user_id="ada")
    service.wait_until_caught_up()
    page = visit("/users/ada")
    expect(page.locator("#reported")).to_contain_text("reported 1,350 XP")
    expect(page.locator("#reported")).to_contain_text("1,250 more than the events here come to")
    assert faults(page) == []


def test_the_timeline_says_what_gave_xp(service: Service, visit: Visit) -> None:
    mission = publish(service, "mission.completed", user_id="ada")
    switch_demo(service, True)
    dead = publish(service, "xp.earned", user_id="ada", metadata={"demo": "refuse"})
    service.wait_until_caught_up()  # the timeline has them in the order of their processing
    write(service, [one.replace(b'"u"', b'"ada"') for one in streaks(60)])
    service.wait_until_caught_up()
    page = visit("/users/ada")
    timeline = page.locator(".timeline tbody tr")
    expect(timeline).to_have_count(50)
    expect(page.locator("#timeline")).to_contain_text("50 events; older ones follow.")
    page.get_by_role("link", name="Older").click()
    expect(timeline).to_have_count(12)
    gave = timeline.filter(has_text="mission.completed")
    expect(gave.locator(".xp")).to_have_text("+50")
    expect(gave.locator(".outcome")).to_have_text("processed")
    page.get_by_role("link", name="Newest").click()
    expect(timeline).to_have_count(50)
    page.get_by_role("link", name="Those that give XP").click()
    expect(timeline).to_have_count(2)
    refused = timeline.filter(has_text="xp.earned")
    expect(refused.locator(".outcome")).to_have_text("dead")
    expect(refused.locator(".xp")).to_have_text("–")
    expect(refused.get_by_role("link")).to_have_attribute("href", f"/events/{dead}")
    timeline.get_by_role("link", name="mission.completed").click()
    assert page.url == f"{service.url}/events/{mission}"


def test_a_user_without_a_processed_event_has_a_timeline(service: Service, visit: Visit) -> None:
    service.wait_until_caught_up()
    switch_demo(service, True)
    publish(service, user_id="ada", metadata={"demo": "refuse"})
    service.wait_until_caught_up()
    page = visit("/users/ada")
    expect(page.get_by_text("No event of this user is processed yet")).to_be_visible()
    expect(page.locator(".timeline tbody tr")).to_have_count(1)
    assert faults(page) == []
    page.goto(f"{service.url}/users/nobody")
    expect(heading(page)).to_have_text("Nothing is known of this user.")
    assert service.get("/users/nobody").code == 404
    assert service.get("/users/ada?only=coins").code == 400
