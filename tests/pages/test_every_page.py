"""What holds on every page: nobody is shut out, nothing is cut off, what events say is inert."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

import pytest
from flask import Flask
from flask.testing import FlaskClient
from playwright.sync_api import Page, expect
from werkzeug.routing import Rule

from jobquest.events import CATALOGUE, PERSONAL_FIELDS
from jobquest.web.pages import pages
from jobquest.web.paths import Segment
from tests.pages.conftest import Visit
from tests.pages.looks import (
    HOSTILE,
    faults,
    looks,
    overflow,
    publish,
    publish_as_anybody,
    switch_demo,
    write,
)
from tests.samples import SAMPLES
from tests.service import Service, wait_for

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

# A page's rule → addresses to visit; `{event}` and the like are ids, see `furnish`. Pages without
# parameters need no row: they are visited as they are.
EXAMPLES = {
    "/events": ("/events?id=..",),
    "/events/<segment:id>": (
        "/events/{event}",
        "/events/{retrying}",
        "/events/{dead}",
        "/events/not-there",
        "/events/not-there?new=1&topic=achievements&partition=0&offset=9",
    ),
    "/users/<segment:user_id>": ("/users/ada",),
    "/topics/<topic>": (
        "/topics/mission-events",
        "/topics/dead-letters",
        "/topics/mission-events?q=nothing-like-this",
    ),
    "/dead-letters/<int:id>": (
        "/dead-letters/{dead_letter}?personal=shown",
        "/dead-letters/{unreadable}",
    ),
}
# Other views of pages, and an address that is none.
VIEWS = (
    "/?type=mission.completed&notUserId=bob&outcome=processed",
    "/?type=nothing.like.this",
    "/users?q=nobody-like-this",
    "/failures?state=discarded",
    "/analytics?window=day",
    "/publish?type=mission.completed",
    "/nowhere",
)


def served_pages() -> list[str]:
    """The rules of all pages, from an application's URL map."""
    app = Flask(__name__)
    app.url_map.converters["segment"] = Segment
    app.register_blueprint(pages)
    return [rule.rule for rule in app.url_map.iter_rules() if is_page(rule)]


def is_page(rule: Rule) -> bool:
    return rule.endpoint.startswith("pages.") and "GET" in (rule.methods or ())


def addresses_of(rules: Iterable[str]) -> list[str]:
    """Addresses of all these pages."""
    found: list[str] = []
    for rule in rules:
        if "<" in rule and rule not in EXAMPLES:
            raise LookupError(f"Add an address of the page {rule} to EXAMPLES in {__name__}.")
        found += EXAMPLES.get(rule, (rule,))
    return found


PATHS = (*addresses_of(served_pages()), *VIEWS)
# Without those that know nobody yet: no header, and the first field has the focus.
INSIDE = tuple(path for path in PATHS if not path.startswith("/sign-in"))
SECRETS = {"userEmail": "secret@example.org", "userAgent": "SecretAgent", "ipAddress": "192.0.2.99"}

# How far content was moved, and how much of it: https://web.dev/articles/cls
MOVED = """() => new Promise((tell) => {
    let sum = 0;
    new PerformanceObserver((list) => list.getEntries().forEach((one) => (sum += one.value)))
        .observe({ type: "layout-shift", buffered: true });
    setTimeout(() => tell(sum), 300);
})"""
MOVED_TOO_MUCH = 0.1


def furnish(service: Service) -> dict[str, str]:
    """Some of everything that pages show; the names in PATHS and what they stand for."""
    switch_demo(service, True)
    for event_type in SAMPLES:
        publish(service, event_type, user_id="ada")
    found = {"event": publish(service, "mission.completed", user_id="ada")}
    found["retrying"] = publish(service, user_id="bob", metadata={"demo": "fail"})
    found["dead"] = publish(service, "job.applied", user_id="cy", metadata={"demo": "refuse"})
    write(service, [b"no JSON"])

    def dead_letters() -> list[dict[str, Any]]:
        answer = service.get("/api/kafka/dead-letters").json["data"]["deadLetters"]
        return sorted(answer, key=lambda dead_letter: dead_letter["type"] or "")

    wait_for(lambda: len(dead_letters()) == 2, 20, service.tail)
    wait_for(lambda: service.status()["retrying"] == 1, 20, service.tail)
    found["unreadable"], found["dead_letter"] = (
        str(dead_letter["id"]) for dead_letter in dead_letters()
    )
    return found


def settle(page: Page) -> None:
    """Until what scripts load has come."""
    expect(page.locator("html.scripted")).to_be_attached()
    for chart in page.locator(".chart").all():
        expect(chart.locator("svg")).to_be_visible()


def test_nobody_is_shut_out_and_nothing_is_cut_off(service: Service, visit: Visit) -> None:
    ids = furnish(service)
    page = visit("/", 390)
    wrong: dict[tuple[str, str], Any] = {}
    for path in PATHS:
        page.goto(service.url + path.format(**ids))
        settle(page)
        expect(page.get_by_role("heading", level=1)).to_have_count(1)
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        for look in looks(page):
            too_wide = [f"{overflow(page)} px too wide"] if overflow(page) > 0 else []
            if found := faults(page) + too_wide:
                wrong[path, look] = found
        for look in looks(page, (820,), ["light"]):  # one of the narrowest with tables
            if overflow(page) > 0:
                wrong[path, look] = f"{overflow(page)} px too wide"
    assert wrong == {}


def test_a_page_stays_where_it_is_when_its_scripts_come(service: Service, visit: Visit) -> None:
    ids = furnish(service)
    page = visit("/", 390)
    moved = {}
    for path in PATHS:
        page.goto(service.url + path.format(**ids))
        settle(page)
        moved[path] = page.evaluate(MOVED)
    assert {path: sum for path, sum in moved.items() if sum > MOVED_TOO_MUCH} == {}


def test_a_page_of_nothing_says_so(service: Service, visit: Visit) -> None:
    page = visit("/")
    for path in ("/", "/users", "/topics", "/failures", "/analytics", "/publish", "/catalogue"):
        page.goto(service.url + path)
        settle(page)
        for look in looks(page, schemes=["light"]):
            assert overflow(page) <= 0, (path, look)
            assert faults(page) == [], (path, look)


def test_the_keyboard_reaches_controls_and_is_seen_where_it_is(
    service: Service, visit: Visit
) -> None:
    ids = furnish(service)
    page = visit("/", 390)
    for path in INSIDE:
        page.goto(service.url + path.format(**ids))
        settle(page)
        page.keyboard.press("Tab")
        assert page.locator(":focus").inner_text() == "Skip to the content", path
        reached = set()
        for _ in range(30):
            page.keyboard.press("Tab")
            here = page.evaluate(FOCUS)
            if here is None:
                break  # the end of the page
            assert here["seen"], (path, here)
            assert here["name"], (path, here)
            reached.add(here["tag"])
        assert "A" in reached, path
        assert "BUTTON" in reached, path


FOCUS = """() => {
  const here = document.activeElement;
  if (here === document.body) return null;
  const { outlineWidth, outlineStyle } = getComputedStyle(here);
  const name = here.innerText || here.labels?.[0]?.innerText || here.ariaLabel || here.title;
  const seen = parseFloat(outlineWidth) >= 2 && outlineStyle !== "none";
  return { tag: here.tagName, name, seen, html: here.outerHTML.slice(0, 200) };
}"""


def attacks(event_type: str) -> list[dict[str, Any]]:
    """Data of this type, each with one attack in every text."""
    fields = CATALOGUE[event_type].example

    def attacked(value: Any, text: str) -> Any:
        if isinstance(value, list):
            return [text]
        return text if isinstance(value, str) else value

    return [{name: attacked(value, text) for name, value in fields.items()} for text in HOSTILE]


def attackers() -> list[str]:
    """Users' ids that attack; no control characters pass the door."""
    found = (text.replace("\n", "").replace("\t", "").replace("\u0085", "") for text in HOSTILE)
    return [text[:128] for text in found]


MARKUP = """() => [
  document.title === "hacked" && "the title",
  window.hacked && "a script",
  ...[...document.querySelectorAll("img[src=x], svg[onload], [onerror], [onload]")]
    .map((one) => one.outerHTML),
  ...[...document.querySelectorAll("script:not([src])")].map((one) => one.outerHTML),
  ...[...document.querySelectorAll("[href^='javascript:' i]")].map((one) => one.outerHTML),
  ...[...document.querySelectorAll("h1")].map((one) => one.textContent)
    .filter((one) => one === "hacked"),
  ...(document.body.innerText.match(/[\\u202a-\\u202e\\u2066-\\u2069\\u200b\\ufeff]/g) ?? []),
].filter(Boolean)"""


def test_what_events_say_is_inert_on_every_page(service: Service, visit: Visit) -> None:
    switch_demo(service, True)
    events: dict[str, str] = {}
    users = attackers()
    for event_type in CATALOGUE:
        for user, text, data in zip(users, HOSTILE, attacks(event_type), strict=True):
            metadata = {text[:50]: text, "source": text, "causedBy": text}
            events[event_type] = publish_as_anybody(service, event_type, user, data, metadata)
    fails = []
    for wish, texts in (
        ("refuse", HOSTILE),
        ("fail", HOSTILE[:4]),
    ):  # more would set the circuit breaker
        for user, text in zip(users, texts, strict=False):
            data = {**SAMPLES["xp.earned"], "source": text}
            metadata = {"demo": wish}
            fails.append(publish_as_anybody(service, "xp.earned", user, data, metadata))
    broken = {"id": "broken", "type": HOSTILE[0], "userId": HOSTILE[3], "timestamp": HOSTILE[1]}
    write(service, [json.dumps({**broken, "data": {HOSTILE[2]: HOSTILE[4]}}).encode()])
    write(service, [text.encode() for text in HOSTILE])
    service.wait_until_caught_up(60)
    dead_letters = service.get("/api/kafka/dead-letters?limit=100").json["data"]["deadLetters"]
    assert len(dead_letters) == 21
    reason = json.dumps({"reason": HOSTILE[0]}).encode()
    service.request("POST", f"/api/kafka/dead-letters/{dead_letters[0]['id']}/discard", reason)
    page = visit("/")
    paths = [path for path in PATHS if "{" not in path]
    paths += [f"/events/{id}?personal=shown" for id in (*events.values(), *fails)]
    paths += [f"/users?id={quote(user)}" for user in users]
    paths += [f"/dead-letters/{dead_letter['id']}?personal=shown" for dead_letter in dead_letters]
    paths += [f"/topics/{topic}?personal=shown" for topic in ("achievements", "dead-letters")]
    paths += ["/failures?state=discarded", f"/?type={quote(HOSTILE[0])}&userId={quote(HOSTILE[3])}"]
    paths += [f"/failures?error={quote(text)}" for text in HOSTILE[:4]]
    paths += [f"/publish?type={quote(HOSTILE[0])}", f"/users?q={quote(HOSTILE[3])}"]
    paths += [f"/topics/achievements?q={quote(HOSTILE[0])}&offset={quote(HOSTILE[3])}"]
    for path in paths:
        page.goto(service.url + path)
        settle(page)
        assert page.evaluate(MARKUP) == [], path
        assert overflow(page) <= 0, path


def test_personal_data_is_masked_until_the_view_is_asked_to_show_it(
    service: Service, visit: Visit
) -> None:
    switch_demo(service, True)
    ids = {"event": publish(service, "user.login", data=SECRETS, user_id="ada")}
    refused = {"user_id": "ada", "metadata": {"demo": "refuse", **SECRETS}}
    ids["dead"] = publish(service, "user.login", data=SECRETS, **refused)
    ids["retrying"] = publish(
        service, "user.login", data=SECRETS, user_id="bob", metadata={"demo": "fail"}
    )
    broken = json.dumps({"id": "x", "type": "user.login", "data": {**SECRETS, "more": 1}})
    write(service, [broken.encode(), broken[:-1].encode()], "system-events")
    service.wait_until_caught_up()
    dead_letters = service.get("/api/kafka/dead-letters").json["data"]["deadLetters"]
    assert len(dead_letters) == 3
    assert set(SECRETS) == PERSONAL_FIELDS
    page = visit("/")
    paths = ["/", "/users", "/users/ada", "/topics/system-events", "/topics/dead-letters"]
    paths += ["/failures", "/catalogue", *(f"/events/{id}" for id in ids.values())]
    paths += [f"/dead-letters/{dead_letter['id']}" for dead_letter in dead_letters]
    for path in paths:
        page.goto(service.url + path)
        settle(page)
        content = page.content()
        assert [secret for secret in SECRETS.values() if secret in content] == [], path
    for path in ("/", f"/events/{ids['event']}", "/topics/system-events", paths[-1]):
        page.goto(f"{service.url}{path}?personal=shown")
        settle(page)
        assert SECRETS["userEmail"] in page.content(), path


def test_a_view_links_only_within_the_service(service: Service, visit: Visit) -> None:
    page = visit("/")
    for path in PATHS:
        if "{" in path:
            continue
        more = "&" if "?" in path else "?"
        page.goto(f"{service.url}{path}{more}_scheme=javascript&_external=1&_anchor=x&endpoint=y")
        hrefs = page.locator("a[href]").evaluate_all("all => all.map(one => one.href)")
        assert [href for href in hrefs if not href.startswith(service.url + "/")] == [], path


def test_a_new_page_is_visited_unless_its_parameters_need_an_example(client: FlaskClient) -> None:
    served = {rule.rule for rule in client.application.url_map.iter_rules() if is_page(rule)}
    assert served == set(served_pages())
    assert served >= EXAMPLES.keys()
    assert addresses_of(["/new", "/users/<segment:user_id>"]) == ["/new", "/users/ada"]
    with pytest.raises(LookupError, match="Add an address of the page /new/<id> to EXAMPLES"):
        addresses_of(["/new/<id>"])
