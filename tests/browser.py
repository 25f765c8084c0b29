"""The system's own Chromium for the browser tests, driven by Playwright, which downloads none."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer

from playwright.sync_api import Browser, Error, Playwright, sync_playwright

# Chromium without its windows, what Playwright takes where it brings its own. It renders and runs
# scripts as the whole browser of the same version does, and starts in a third of the time.
HEADLESS_SHELL = "chromium-headless-shell"
_WHOLE = ("chromium", "chromium-browser", "google-chrome")
_CLOSE_SECONDS = 30.0
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


def whole_program() -> str | None:
    """The path of a browser with windows, None where there is none."""
    return next((found for name in _WHOLE if (found := shutil.which(name))), None)


def program() -> str | None:
    """The path of the browser that tests use, None where there is none."""
    return shutil.which(HEADLESS_SHELL) or whole_program()


def why_not() -> str | None:
    """Why no browser can run here; None where one can."""
    names = ", ".join((HEADLESS_SHELL, *_WHOLE))
    return None if program() else f"none of {names} on this machine"


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


class SharedBrowser:
    """One browser for many tests, each with contexts of its own: these share nothing, and a
    browser takes longer to start than most tests take. A browser that has ended is replaced."""

    def __init__(self, playwright: Playwright) -> None:
        self._playwright = playwright
        self._browser: Browser | None = None
        self.pid = 0

    def get(self) -> Browser:
        """The browser, without any context."""
        if self._browser is None or not self._browser.is_connected():
            self._browser = launch(self._playwright)
            session = self._browser.new_browser_cdp_session()
            processes = session.send("SystemInfo.getProcessInfo")["processInfo"]
            self.pid = next(one["id"] for one in processes if one["type"] == "browser")
            session.detach()
        return self._browser

    def close_contexts(self, seconds: float = _CLOSE_SECONDS) -> None:
        """Close what a test opened. A page may hang when it is closed, and Playwright waits for it
        without end: the whole browser is killed then."""
        if self._browser is None:
            return
        killer = Timer(seconds, os.kill, (self.pid, signal.SIGKILL))
        killer.start()
        try:
            for context in self._browser.contexts:
                context.close()
        except Error:  # it has ended, by the killer or by the test
            if self._browser.is_connected():
                raise
        finally:
            killer.cancel()

    def close(self) -> None:
        if self._browser is not None:
            self._browser.close()
