"""The browser that tests share: a test that breaks it costs the next one nothing."""

from __future__ import annotations

import os
import signal
import time

import pytest
from playwright.sync_api import Browser

from tests.browser import SharedBrowser


@pytest.mark.browser
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_browser_that_has_ended_or_hangs_is_replaced(
    browser: Browser, shared_browser: SharedBrowser, number: signal.Signals
) -> None:
    browser.new_page()
    assert shared_browser.get() is browser
    began = time.monotonic()
    os.kill(shared_browser.pid, number)
    shared_browser.close_contexts(seconds=0.5)
    other = shared_browser.get()
    assert other is not browser
    assert other.new_page().evaluate("1 + 1") == 2
    shared_browser.close_contexts()
    assert other.contexts == []
    assert shared_browser.get() is other
    assert time.monotonic() - began < 20
