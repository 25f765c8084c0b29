"""The system's own Chromium for the browser tests, driven by Playwright, which downloads none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, Playwright, sync_playwright

# Chromium without its windows, what Playwright takes where it brings its own.
HEADLESS_SHELL = "chromium-headless-shell"
_PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
# Quiet: without these it looks for its maker's servers at every start.
_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    # Else a page that a test answers itself may not open a WebSocket to loopback.
    "--disable-features=LocalNetworkAccessChecks",
]


def program() -> str | None:
    """The browser's path, None where there is none."""
    return next((found for name in _PROGRAMS if (found := shutil.which(name))), None)


def why_not() -> str | None:
    """Why no browser can run here; None where one can."""
    return None if program() else f"none of {', '.join(_PROGRAMS)} on this machine"


def launch(playwright: Playwright, path: str | None = None) -> Browser:
    """A headless browser, the system's where no other is named."""
    return playwright.chromium.launch(executable_path=path or program(), args=_ARGUMENTS)


@contextmanager
def launched(path: str | None = None) -> Iterator[Browser]:
    """The same with a Playwright of its own, closed at the end."""
    with sync_playwright() as playwright:
        browser = launch(playwright, path)
        try:
            yield browser
        finally:
            browser.close()
