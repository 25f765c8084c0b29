"""The page of keys, operators and sessions, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.oidc_provider import OidcProvider
from tests.pages.conftest import Visit
from tests.pages.looks import button, faults, looks, overflow, write
from tests.pages.test_sign_in import PASSWORD, add_operator
from tests.service import Service, wait_for
from tests.template import ForkedService

pytestmark = pytest.mark.browser

WIDTHS = (320, 390, 820, 1024, 1440)
VIEWER = "vic" * 33


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """A protected service with an operator and a viewer. (Nobody asks for its provider.)"""
    made = ForkedService(tmp_path, **OidcProvider().settings).start()
    add_operator(made)
    add_operator(made, VIEWER, "viewer")
    yield made
    made.kill()


def sign_in(visit: Visit, width: int = 1440, **options: Any) -> Page:
    page = visit("/access", width, **options)
    page.get_by_label("Name").fill("ada")
    page.get_by_label("Password").fill(PASSWORD)
    button(page, "Sign in").click()
    expect(page.get_by_role("heading", name="Access")).to_be_visible()
    return page


def create_key(page: Page, name: str) -> str:
    """Create a key; its value."""
    page.get_by_label("New key, named for its user").fill(name)
    page.get_by_label("events:read").check()
    button(page, "Create").click()
    return page.get_by_role("group", name="The new key").inner_text()


def test_a_key_is_created_copied_used_and_revoked(service: Service, visit: Visit) -> None:
    page = sign_in(visit, permissions=["clipboard-read", "clipboard-write"])
    key = create_key(page, "checkout")
    button(page, "Copy: The new key").click()
    expect(page.get_by_text("Copied").last).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == key
    bearer = {"Authorization": f"Bearer {key}"}
    assert service.get("/api/events", **bearer).code == 200
    page.reload()
    expect(page.get_by_text(key)).to_have_count(0)
    page.locator("summary", has_text="Revoke").click()
    button(page, "Revoke checkout").click()
    expect(page.get_by_role("status").filter(has_text="Key checkout is revoked.")).to_be_visible()
    wait_for(lambda: service.get("/api/events", **bearer).code == 401, 5, service.tail)


def test_an_operator_works_without_scripts(service: Service, visit: Visit) -> None:
    page = sign_in(visit, java_script_enabled=False)
    assert create_key(page, "ci").startswith("jq_")
    page.get_by_role("button", name="Make operator").click()
    expect(page.get_by_role("status").filter(has_text="is operator now")).to_be_visible()
    page.locator("summary", has_text="End").click()
    button(page, "End session of ada").click()
    wait_for(lambda: "/sign-in" in (page.reload() or page).url, 5, service.tail)


def test_a_form_that_is_refused_says_so_beside_it(service: Service, visit: Visit) -> None:
    page = sign_in(visit)
    create_key(page, "ci")
    page.get_by_label("New key, named for its user").fill("ci")
    page.get_by_label("events:read").check()
    button(page, "Create").click()
    keys = page.get_by_role("region", name="API keys")
    expect(keys.get_by_role("alert")).to_contain_text("There is a key ci already")
    expect(page.get_by_label("New key, named for its user")).to_have_value("ci")


def test_nobody_is_shut_out_of_the_page_and_nothing_is_cut_off(
    service: Service, visit: Visit
) -> None:
    page = sign_in(visit, 390)
    create_key(page, "k" * 100)
    wrong = {}
    for state in ("new key", "opened"):
        if state == "opened":
            page.goto(service.url + "/access")
            page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        for look in looks(page, WIDTHS):
            too_wide = [f"{overflow(page)} px too wide"] if overflow(page) > 0 else []
            if found := faults(page) + too_wide:
                wrong[state, look] = found
    assert wrong == {}


def test_the_button_to_sign_out_leaves_the_top_in_one_line(service: Service, visit: Visit) -> None:
    page = sign_in(visit, 390)
    for path in ("/", "/topics", "/access"):
        page.goto(service.url + path)
        boxes = [
            one.bounding_box()
            for one in (page.locator(".brand"), button(page, "Sign out"), page.locator("#zone"))
        ]
        middles = [box["y"] + box["height"] / 2 for box in boxes if box]
        assert len(middles) == 3
        assert max(middles) - min(middles) < 8, path


def test_a_viewer_is_offered_nothing_that_would_be_refused(service: Service, visit: Visit) -> None:
    write(service, [b"no JSON"])
    page = visit("/failures")
    page.get_by_label("Name").fill(VIEWER)
    page.get_by_label("Password").fill(PASSWORD)
    button(page, "Sign in").click()
    link = page.get_by_role("link", name="#1").last
    expect(link).to_be_visible()
    assert page.locator("main :is(button, input[type=checkbox]):visible").all_inner_texts() == [
        "Filter"
    ]
    expect(page.get_by_role("link", name="Edit")).to_have_count(0)
    link.click()
    expect(page.get_by_role("heading", name="Why it died")).to_be_visible()
    expect(page.get_by_role("button", name="Copy").first).to_be_visible()  # the script has run
    assert set(page.locator("main button:visible").all_inner_texts()) == {"Copy"}
    expect(page.locator("main textarea:visible")).to_have_count(0)
