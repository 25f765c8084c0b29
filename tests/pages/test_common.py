"""What all pages have in common: errors as pages, times, ages, copying, links."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient
from playwright.sync_api import expect

from jobquest.access.caller import LOCAL
from jobquest.clock import now_ms
from jobquest.events import format_time
from jobquest.web.current import CALLER
from jobquest.web.pages.words import event_url, shown_text, user_url
from tests.pages.conftest import Visit
from tests.pages.looks import HOSTILE, button, publish
from tests.service import Service

pytestmark = pytest.mark.browser

ODD_IDS = [
    "ada",
    "a b",
    ".",
    "..",
    "a/b",
    "/",
    "a\\b",
    "a?b#c&d=e",
    "%2e",
    "'()*~!",
    "é😀",
    *HOSTILE,
]


def test_an_error_is_a_page_for_a_person_and_json_for_a_program(
    service: Service, visit: Visit
) -> None:
    page = visit("/nowhere")
    expect(page.get_by_role("heading", level=1)).to_have_text("There is nothing here.")
    page.get_by_role("link", name="Back to the live page").click()
    expect(page).to_have_url(service.url + "/")
    assert service.get("/nowhere").json["message"] == "There is nothing here."
    page.goto(service.url + "/api/events?limit=x")  # an API stays one, whoever asks
    expect(page.locator("body")).to_contain_text('"status":"error"')


def test_times_turn_to_local_with_one_switch_and_stay_so(service: Service, visit: Visit) -> None:
    publish(service, timestamp="2026-11-24T20:00:00.123Z")
    service.wait_until_caught_up()
    page = visit("/", timezone_id="Asia/Kolkata")  # 5:30 ahead
    time = page.locator("#events tbody time").first
    heading = page.locator("#events th.time")
    expect(time).to_have_text("20:00:00.123 2026-11-24")
    expect(heading).to_have_text("Time (UTC)")
    expect(page.locator('[data-part="now-state"]')).to_have_text("Idle")  # else that is announced
    button(page, "Times: UTC").click()
    expect(time).to_have_text("01:30:00.123 2026-11-25")
    expect(heading).to_have_text("Time (local)")
    page.reload()
    expect(time).to_have_text("01:30:00.123 2026-11-25")
    expect(page.locator("#announcer")).to_have_text("")
    button(page, "Times: local").click()
    expect(time).to_have_text("20:00:00.123 2026-11-24")
    expect(page.locator("#announcer")).to_have_text("Times are UTC.")


def test_a_time_says_on_hover_how_long_ago_it_was(service: Service, visit: Visit) -> None:
    moment = format_time(now_ms() - (2 * 60 + 5) * 60_000 - 20_000)
    publish(service, timestamp=moment)
    service.wait_until_caught_up()
    page = visit("/")
    time = page.locator("#events tbody time").first
    time.hover()
    expect(time).to_have_attribute("title", f"2 h 5 min ago · {moment}")


def test_an_event_is_copied_as_it_is_shown(service: Service, visit: Visit) -> None:
    publish(service, "user.login", data={"userEmail": "ada@example.org"})
    service.wait_until_caught_up()
    page = visit("/", permissions=["clipboard-read", "clipboard-write"])
    page.locator("#events summary").first.click()
    page.locator("#events .copy").first.click()
    expect(page.locator("#events .copy").first).to_have_text("Copied")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert '"userEmail": "[masked]"' in copied
    assert copied == page.locator("#events pre").first.text_content()


def test_links_are_the_same_from_the_server_and_from_scripts(
    client: FlaskClient, service: Service, visit: Visit
) -> None:
    page = visit("/")
    script = """async (ids) => {
      const { eventUrl, userUrl } = await import("/static/common.js");
      return ids.map((id) => [eventUrl(id), userUrl(id)]);
    }"""
    with client.application.test_request_context("/"):
        assert page.evaluate(script, ODD_IDS) == [[event_url(id), user_url(id)] for id in ODD_IDS]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"userId":"ada"}', '{"userId":"ada"}'),
        ('{"userEmail":"a@b.org"}', '{\n  "userEmail": "[masked]"\n}'),
        ('{"\\u0075serEmail":"a@b.org"}', '{\n  "userEmail": "[masked]"\n}'),
    ],
)
def test_a_raw_value_is_masked_where_it_holds_personal_data(
    client: FlaskClient, text: str, told: str
) -> None:
    with client.application.test_request_context("/"):
        assert shown_text(text) == told
    caller = {CALLER: LOCAL}
    with client.application.test_request_context("/?personal=shown", environ_overrides=caller):
        assert shown_text(text) == text


def test_a_raw_value_that_is_no_json_is_masked_whole(client: FlaskClient) -> None:
    with client.application.test_request_context("/"):
        assert "a@b.org" not in shown_text('{"userEmail":"a@b.org"')
        assert shown_text("no JSON") == "no JSON"
