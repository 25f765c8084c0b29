"""Signing in and out in a real browser: by password, and at an identity provider."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from jobquest.access import Access
from jobquest.config import load
from jobquest.read.database import Database
from tests.oidc_provider import OidcProvider
from tests.pages.conftest import Visit
from tests.pages.looks import button, faults, looks, overflow
from tests.service import Service, wait_for
from tests.template import ForkedService

pytestmark = pytest.mark.browser

PASSWORD = "correct horse battery"


@pytest.fixture
def oidc() -> Iterator[OidcProvider]:
    with OidcProvider().serving() as made:
        yield made


@pytest.fixture
def service(tmp_path: Path, oidc: OidcProvider) -> Iterator[Service]:
    """A service at which ada signs in with her password, or at the provider."""
    made = ForkedService(tmp_path, **oidc.settings).start()
    add_operator(made)
    yield made
    made.kill()


def add_operator(service: Service, name: str = "ada", role: str = "operator") -> None:
    """Add an operator, and wait until the service knows."""
    config = load(service.settings)
    database = Database(config.read_side_url)
    access = Access(config, database)
    access.operators.add(name, PASSWORD, role)
    access.close()
    database.close()
    wait_for(lambda: service.get("/api/events").code == 401, 10, service.tail)


def test_an_operator_signs_in_at_the_provider_and_works_and_signs_out(
    service: Service, visit: Visit, oidc: OidcProvider
) -> None:
    page = visit("/publish?type=user.login")
    expect(page).to_have_url(re.compile(r"/sign-in\?next=/publish%3Ftype%3Duser.login$"))
    page.get_by_role("link", name=re.compile("Sign in with localhost")).click()
    expect(page).to_have_url(re.compile(f"^{oidc.issuer}/authorize"))
    page.get_by_role("link", name="Continue as Ada").click()
    expect(page).to_have_url(f"{service.url}/publish?type=user.login")
    button(page, "Publish").click()  # a script's request, with the session's token
    expect(page).to_have_url(re.compile(f"^{service.url}/events/"))
    cookies = {one["name"]: one for one in page.context.cookies(service.url)}
    assert cookies.keys() == {"jobquest_session"}
    assert cookies["jobquest_session"]["httpOnly"]
    assert page.evaluate("document.cookie") == ""
    button(page, "Sign out").click()
    expect(page.get_by_role("status").filter(has_text="signed out here")).to_be_visible()
    page.goto(service.url + "/topics")
    expect(page).to_have_url(re.compile("/sign-in"))


def test_who_is_refused_is_told_so_and_may_use_a_password(
    service: Service, visit: Visit, oidc: OidcProvider
) -> None:
    oidc.who = {"email": "eve@example.org", "email_verified": True}
    page = visit("/topics")
    page.get_by_role("link", name=re.compile("Sign in with localhost")).click()
    page.get_by_role("link", name="Continue as Ada").click()
    expect(page.get_by_role("alert")).to_contain_text("as eve@example.org, whom neither")
    page.get_by_label("Name").fill("ada")
    page.get_by_label("Password").fill(PASSWORD)
    button(page, "Sign in").click()
    expect(page).to_have_url(service.url + "/topics")


def test_while_the_provider_is_away_the_page_says_so_and_passwords_work(
    service: Service, visit: Visit, oidc: OidcProvider
) -> None:
    oidc.stop()
    page = visit("/topics")
    page.get_by_role("link", name=re.compile("Sign in with localhost")).click()
    expect(page.get_by_role("alert")).to_contain_text("can't sign you in now")
    page.get_by_label("Name").fill("ada")
    page.get_by_label("Password").fill("something else entirely")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("do not belong together")
    expect(page.get_by_label("Password")).to_be_focused()
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    expect(page).to_have_url(service.url + "/topics")


def test_nobody_is_shut_out_of_the_sign_in_page(service: Service, visit: Visit) -> None:
    page = visit("/sign-in", 390)
    for path in ("/sign-in", "/sign-in?signed-out=1", "/sign-in/callback"):
        page.goto(service.url + path)
        expect(page.get_by_role("heading", level=1)).to_have_count(1)
        for look in looks(page, widths=(320, 390, 1440)):
            assert overflow(page) <= 0, (path, look)
            assert faults(page) == [], (path, look)


def test_signing_in_works_without_scripts(service: Service, visit: Visit) -> None:
    page = visit("/topics", java_script_enabled=False)
    page.get_by_label("Name").fill("ada")
    page.get_by_label("Password").fill(PASSWORD)
    button(page, "Sign in").click()
    expect(page).to_have_url(service.url + "/topics")
    button(page, "Sign out").click()
    expect(page).to_have_url(re.compile("/sign-in"))
