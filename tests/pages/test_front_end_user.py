"""A user of a front end on another origin, in a real Chromium, by the code that docs/api.md offers:
their token lets them do what is theirs, and nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.identity_provider import SECRET, token
from tests.service import ROOT, Service, wait_for
from tests.template import ForkedService

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

ADA, BOB = (token(sub=user, exp=4_000_000_000) for user in ("ada", "bob"))
EVENT = {"eventType": "user.login", "data": {}}
OPENS = """(address) => new Promise((tell) => {
    const socket = new WebSocket(address);
    socket.onopen = () => tell(true);
    socket.onerror = () => tell(false);
})"""
WATCH = """() => watch((event) => came.push([event.userId, event.id])).then((socket) =>
    new Promise((tell) => socket.addEventListener("message", () => tell(), { once: true })))"""
PUBLISH_AT_THE_END = """() =>
    addEventListener("pagehide", () => publish({ ...event, id: "last" }))"""


@pytest.fixture
def service(port: int, tmp_path: Path) -> Iterator[Service]:
    """It knows the tokens of the users of a front end at `front.localhost`."""
    origin = f"http://front.localhost:{port}"
    settings = {"JOBQUEST_CORS_ORIGINS": origin, "JOBQUEST_JWT_SECRET": SECRET}
    made = ForkedService(tmp_path, **settings)
    yield made.start()
    made.kill()


@pytest.fixture
def page(service: Service, browser: Browser, port: int) -> Page:
    """Ada's, with the code of the documentation."""
    made = browser.new_context().new_page()
    made.goto(f"http://front.localhost:{port}/")
    guide = (ROOT / "docs" / "api.md").read_text()
    code, _beacon = re.findall(r"```js\n(.*?)```", guide, re.DOTALL)
    given = {"service": service.url, "token": ADA, "event": EVENT, "came": []}
    made.evaluate("(given) => Object.assign(window, given)", given)
    made.add_script_tag(content=code)
    return made


def ask(page: Page, *sent: Any) -> tuple[int, Any]:
    """The code and the `data` of an answer to the page."""
    script = "(sent) => ask(...sent).then(async (one) => [one.status, (await one.json()).data])"
    code, data = page.evaluate(script, list(sent))
    return code, data


def publish(service: Service, bearer: str, id: str) -> None:
    """Publish an event of another device of the token's user."""
    body = json.dumps(EVENT | {"id": id}).encode()
    headers = {"Authorization": f"Bearer {bearer}"}
    assert service.request("POST", "/api/kafka/events", body, headers).code == 201


def has_arrived(service: Service, id: str) -> bool:
    answer = service.get("/api/users/me/events", Authorization=f"Bearer {ADA}")
    return answer.code == 200 and f'"{id}"' in json.dumps(answer.json)


def test_a_user_publishes_reads_and_sees_live_what_is_theirs_alone(
    service: Service, page: Page
) -> None:
    asked: list[str] = []
    sockets: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("websocket", lambda socket: sockets.append(socket.url))
    page.evaluate(WATCH)
    publish(service, BOB, "of-bob")
    publish(service, ADA, "elsewhere")
    assert page.evaluate("publish({ ...event, id: 'here' }).then(({ status }) => status)") == 201
    assert ask(page, "POST", "/api/kafka/events", {**EVENT, "userId": "bob"})[0] == 403
    wait_for(lambda: len(page.evaluate("came")) >= 2, 30, service.tail)
    assert sorted(page.evaluate("came")) == [["ada", "elsewhere"], ["ada", "here"]]
    code, me = ask(page, "GET", "/api/users/me")
    assert (code, me["userId"]) == (200, "ada")
    assert ask(page, "GET", "/api/users/bob")[0] == 403
    assert ask(page, "GET", "/api/events")[0] == 403
    assert page.evaluate(OPENS, sockets[0]) is False  # the ticket is used
    assert not [address for address in (*asked, *sockets) if ADA in address]


@pytest.mark.parametrize("end", ["closed", "left"])
def test_what_a_page_publishes_in_its_last_moment_arrives(
    service: Service, page: Page, end: str
) -> None:
    page.evaluate(PUBLISH_AT_THE_END)
    if end == "closed":
        page.close(run_before_unload=True)  # as its user does; else it may be ended at once
    else:
        page.goto("about:blank")
    wait_for(lambda: has_arrived(service, "last"), 30, service.tail)
