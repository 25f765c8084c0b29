"""A front end's page on another origin, in a real Chromium: what `fetch` and `sendBeacon` send
arrives if the origin is listed, and is refused if it is not."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.service import ROOT, Service, wait_for
from tests.template import ForkedService

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

# What tracing libraries and careful clients add, and a token of an identity provider.
HEADERS = {
    "Content-Type": "application/json",
    "Authorization": "Bearer " + "t" * 200,
    "X-Requested-With": "XMLHttpRequest",
    "X-Request-Id": "8f14e45f",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "tracestate": "vendor=1",
    "sentry-trace": "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1",
    "baggage": "sentry-environment=production",
}
FETCH = """async ([url, options]) => {
    try {
        const answer = await fetch(url, options);
        return [answer.status, await answer.json(), answer.headers.get("Retry-After")];
    } catch (error) {
        return [0, String(error), null];
    }
}"""
_, _BEACON = re.findall(r"```js\n(.*?);?\n```", (ROOT / "docs" / "api.md").read_text(), re.DOTALL)
BEACON = f"([service, event]) => {_BEACON}"
BEACON_AT_THE_END = """([url, body]) => addEventListener("pagehide", () =>
    navigator.sendBeacon(url, new Blob([body], { type: "application/json" })))"""
SOCKET = """(url) => new Promise((tell) => {
    const socket = new WebSocket(url);
    socket.onmessage = ({ data }) => tell(JSON.parse(data).kind);
    socket.onclose = () => tell("closed");
})"""


@pytest.fixture(scope="module")
def service(port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """It lists the front end at `front.localhost`, which is another site than its own address;
    written as people write it."""
    listed = f"HTTP://Front.localhost:{port}/"
    made = ForkedService(tmp_path_factory.mktemp("service"), JOBQUEST_CORS_ORIGINS=listed)
    yield made.start()
    made.kill()


Open = Callable[[str], Page]


@pytest.fixture
def open_at(browser: Browser, port: int) -> Open:
    """Opens the front end under a host name."""
    context = browser.new_context()

    def open_it(host: str) -> Page:
        page = context.new_page()
        page.goto(f"http://{host}:{port}/")
        return page

    return open_it


def event(id: str) -> str:
    return f'{{"eventType": "user.login", "data": {{}}, "userId": "ada", "id": "{id}"}}'


def has_arrived(service: Service, id: str) -> bool:
    return service.get(f"/api/events/{id}").code == 200


def publish(page: Page, service: Service, id: str, **options: Any) -> list[Any]:
    sent = {"method": "POST", "headers": HEADERS, "body": event(id), **options}
    answer: list[Any] = page.evaluate(FETCH, [f"{service.url}/api/kafka/events", sent])
    return answer


def test_a_listed_page_publishes_with_the_headers_that_libraries_add(
    service: Service, open_at: Open
) -> None:
    page = open_at("front.localhost")
    code, answer, _ = publish(page, service, "traced")
    assert (code, answer["data"]["result"]) == (201, "accepted")
    code, answer, _ = publish(page, service, "with-credentials", credentials="include")
    assert (code, answer["data"]["result"]) == (201, "accepted")
    wait_for(lambda: has_arrived(service, "with-credentials"), 30, service.tail)


def test_a_listed_page_reads_refusals_too(service: Service, open_at: Open) -> None:
    """Without the headers on an error the page would only learn that something failed."""
    page = open_at("front.localhost")
    code, answer, _ = publish(page, service, "wrong", body="{")
    assert (code, answer["status"]) == (400, "error")
    code, answer, _ = publish(page, service, "wrong", body="x" * 70_000)
    assert (code, answer["status"]) == (413, "error")
    code, answer, _ = page.evaluate(FETCH, [f"{service.url}/api/nothing", {"headers": HEADERS}])
    assert (code, answer["status"]) == (404, "error")


def test_a_listed_page_may_use_every_method(service: Service, open_at: Open) -> None:
    page = open_at("front.localhost")
    asked = [
        ("GET", "/api/kafka/events", None, 200),
        ("POST", "/api/kafka/events/batch", f'{{"events": [{event("batched")}]}}', 201),
        ("POST", "/api/kafka/status", '{"action": "start"}', 200),
        ("PATCH", "/api/kafka/dead-letters/99", '{"value": {}}', 404),
    ]
    for method, path, body, expected in asked:
        options = {"method": method, "headers": HEADERS, "credentials": "include"}
        if body:
            options["body"] = body
        code, answer, _ = page.evaluate(FETCH, [service.url + path, options])
        assert code == expected, (method, path, answer)


def test_a_beacon_of_a_listed_page_arrives(service: Service, open_at: Open) -> None:
    page = open_at("front.localhost")
    assert page.evaluate(BEACON, [service.url, json.loads(event("beacon"))]) is True
    wait_for(lambda: has_arrived(service, "beacon"), 30, service.tail)


def test_a_beacon_that_a_page_sends_as_it_closes_arrives(service: Service, open_at: Open) -> None:
    page = open_at("front.localhost")
    page.evaluate(BEACON_AT_THE_END, [f"{service.url}/api/kafka/events", event("closed")])
    page.close(run_before_unload=True)  # as its user does; else it may be ended at once
    wait_for(lambda: has_arrived(service, "closed"), 30, service.tail)
    page = open_at("front.localhost")
    page.evaluate(BEACON_AT_THE_END, [f"{service.url}/api/kafka/events", event("left")])
    page.goto("about:blank")
    wait_for(lambda: has_arrived(service, "left"), 30, service.tail)


def test_a_socket_of_a_listed_page_opens(service: Service, open_at: Open) -> None:
    address = service.url.replace("http", "ws") + "/ws/events"
    assert open_at("front.localhost").evaluate(SOCKET, address) == "hello"
    assert open_at("other.localhost").evaluate(SOCKET, address) == "closed"


@pytest.mark.parametrize("host", ["other.localhost", "localhost", "127.0.0.1"])
def test_a_page_that_is_not_listed_is_refused(service: Service, open_at: Open, host: str) -> None:
    """The last two are the service's own names, on another port: still another origin."""
    page = open_at(host)
    id = "refused-" + host
    assert publish(page, service, id)[0] == 0
    assert publish(page, service, id, credentials="include")[0] == 0
    plain = {"mode": "no-cors", "headers": {"Content-Type": "text/plain"}}  # without a preflight
    publish(page, service, id, **plain)
    page.evaluate(BEACON, [service.url, json.loads(event(id))])
    status = f"{service.url}/api/kafka/status"
    code, answer, _ = page.evaluate(FETCH, [status, {}])
    assert (code, answer) == (0, "TypeError: Failed to fetch")  # it may not read, either
    accepted = publish(open_at("front.localhost"), service, "after-" + id)
    assert accepted[0] == 201
    wait_for(lambda: has_arrived(service, "after-" + id), 30, service.tail)
    assert not has_arrived(service, id)


def test_a_page_without_an_origin_of_its_own_is_refused(service: Service, open_at: Open) -> None:
    """A sandboxed frame sends `Origin: null`, as local files do."""
    page = open_at("front.localhost")
    page.evaluate(
        """() => new Promise((loaded) => {
            const frame = document.createElement("iframe");
            frame.sandbox = "allow-scripts";
            frame.srcdoc = "<!doctype html><title>A frame</title>";
            frame.onload = loaded;
            document.body.append(frame);
        })"""
    )
    frame = page.frames[1]
    assert frame.evaluate("() => self.origin") == "null"
    sent = {"method": "POST", "headers": HEADERS, "body": event("sandboxed")}
    assert frame.evaluate(FETCH, [f"{service.url}/api/kafka/events", sent])[0] == 0
    assert frame.evaluate(FETCH, [f"{service.url}/api/kafka/status", {}])[0] == 0
    assert publish(page, service, "beside")[0] == 201
    wait_for(lambda: has_arrived(service, "beside"), 30, service.tail)
    assert not has_arrived(service, "sandboxed")
