"""Fixtures for the pages: a real browser over the real service on the embedded log. The service is
protected, and an operator has signed in, unless a test says otherwise."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect

from tests import failing_handler, signed_in
from tests.browser import SharedBrowser
from tests.service import Service
from tests.signed_in import ProtectedService
from tests.template import ForkedService

Visit = Callable[..., Page]

expect.set_options(timeout=30_000)  # a busy machine is slow, not wrong

# A service that is away or refuses is the test's doing; at its end its good-bye may cross the
# page's.
_EXPECTED = ("net::ERR_", "Failed to load resource", "Close received after close")


@pytest.fixture
def handlers() -> str:
    """The modules of JOBQUEST_HANDLERS; a test may name others by a parameter of this name."""
    return failing_handler.MODULE


@pytest.fixture
def kind() -> type[ForkedService]:
    """The kind of service; a test may name one without credentials by a parameter of this name."""
    return ProtectedService


@pytest.fixture
def browser(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> Browser:
    """Every page of it is the operator's."""
    for name in ("new_context", "new_page"):
        opens = partial(getattr(browser, name), storage_state=signed_in.cookies())
        monkeypatch.setattr(browser, name, opens)
    return browser


@pytest.fixture
def service(tmp_path: Path, handlers: str, kind: type[ForkedService]) -> Iterator[Service]:
    """A running service of this test's own."""
    made = kind(tmp_path, JOBQUEST_HANDLERS=handlers).start()
    yield made
    made.kill()


@pytest.fixture
def visit(browser: Browser, service: Service, shared_browser: SharedBrowser) -> Iterator[Visit]:
    """Opens one of the service's pages: path, then the window's width (900 high) and a context's
    other options; where it may run scripts, they have come. Whatever the page's console complains
    of fails the test."""
    complaints = []

    def listen(message: ConsoleMessage) -> None:
        bad = message.type in ("error", "warning")
        if bad and not any(line in message.text for line in _EXPECTED):
            complaints.append(message.text)

    def open_it(path: str = "/", width: int = 1440, **options: Any) -> Page:
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        page = context.new_page()
        page.on("console", listen)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(service.url + path)
        if options.get("java_script_enabled", True):
            expect(page.locator("html.scripted")).to_be_attached()
        return page

    yield open_it
    shared_browser.close_contexts()  # what the pages still have to say comes before that returns
    assert complaints == []


# --- a page of another origin ---


class FrontEnd(BaseHTTPRequestHandler):
    """Serves an empty page."""

    def do_GET(self) -> None:
        body = b"<!doctype html><title>A front end</title>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Where the front end is served, under any name of loopback."""
    with ThreadingHTTPServer(("127.0.0.1", 0), FrontEnd) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()
