"""The whole journey: each type from a POST to a row in a real browser, on both logs."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, expect

from tests.samples import SAMPLES, TYPES
from tests.service import Service


@pytest.mark.browser
def test_each_type_goes_from_a_post_to_a_row_in_the_browser(
    service: Service, browser: Browser
) -> None:
    page = browser.new_page()
    page.goto(service.url)
    ids = {}
    for name in TYPES:
        answer = service.post(name, SAMPLES[name], user_id="ada")
        assert answer.code == 201, answer.json
        ids[answer.json["data"]["id"]] = name
    for id, name in ids.items():
        row = page.locator(f'[data-id="{id}"]')
        expect(row).to_contain_text(name, timeout=15_000)
        expect(row).to_contain_text("processed")
        expect(row).to_contain_text("ada")
    page.close()
