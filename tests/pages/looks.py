"""What tests of pages do again and again: make events, look at a page as a whole."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import product
from typing import Any, Literal

from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Page

from jobquest.clock import now_ms
from jobquest.events import CATALOGUE, TOPICS, format_time, new_id
from jobquest.events.fields import unseen_in
from jobquest.log import NewRecord
from jobquest.log.sqlite import SqliteLog
from tests import failing_handler
from tests.samples import SAMPLES
from tests.service import Service

HOSTILE = [
    "<img src=x onerror=\"document.title='hacked'\">",
    "</script><script>document.title='hacked'</script>",
    "</td></tr></table><h1>hacked</h1>",
    '"><svg onload=document.title="hacked">',
    "{{ 7 * 7 }} ${7 * 7} javascript:document.title='hacked'",
    "\u202eright to left\u202c \u2066isolated\u2069 \u200b\ufeff\u0085",
    "a\nb\tc  d",
    "W" * 500,
    "😀" * 250,
    "Zażółć שלום العربية",
]


ColorScheme = Literal["light", "dark"]
SCHEMES: tuple[ColorScheme, ...] = ("light", "dark")
# A chart draws itself again, for a window of another width, before the second frame.
DRAWN = "new Promise((tell) => requestAnimationFrame(() => requestAnimationFrame(tell)))"


def publish(service: Service, event_type: str = "streak.milestone", **more: Any) -> str:
    """Publish a sample; the event's id."""
    answer = service.post(event_type, more.pop("data", SAMPLES[event_type]), **more)
    assert answer.code == 201, answer.json
    id: str = answer.json["data"]["id"]
    return id


def publish_as_anybody(
    service: Service, event_type: str, user_id: str, data: Any, metadata: Any
) -> str:
    """Publish, or write as another producer what only the API refuses: a user id with something in
    it that nobody can see. The event's id."""
    if not unseen_in(user_id):
        return publish(service, event_type, data=data, user_id=user_id, metadata=metadata)
    event = {"id": new_id(), "type": event_type, "userId": user_id, "metadata": metadata}
    event |= {"timestamp": format_time(now_ms()), "data": data}
    write(service, [json.dumps(event).encode()], CATALOGUE[event_type].topic)
    return str(event["id"])


def write(service: Service, values: list[bytes], topic: str = "achievements") -> None:
    """Append to the service's log directly, as another producer would."""
    log = SqliteLog(service.folder / "log.db", TOPICS)
    try:
        for future in log.append([NewRecord(topic, b"u", value) for value in values]):
            future.result(10)
    finally:
        log.close()


def streaks(count: int, prefix: str = "s") -> list[bytes]:
    """Records of that many events, with the ids `prefix`0, `prefix`1, …"""
    event = {"type": "streak.milestone", "userId": "u", "timestamp": "2026-11-24T06:00:00.000Z"}
    event |= {"metadata": {}, "data": {"streakDays": 7}}
    return [json.dumps({**event, "id": f"{prefix}{number}"}).encode() for number in range(count)]


def switch_demo(service: Service, failing: bool) -> None:
    """Have events with `metadata={"demo": "fail"}` or `"refuse"` fail, or not any more."""
    file = service.folder / failing_handler.FILE
    if failing:
        file.touch()
    else:
        file.unlink(missing_ok=True)


def button(page: Page, name: str) -> Any:
    return page.get_by_role("button", name=name, exact=True)


def overflow(page: Page) -> int:
    """By how many pixels the page is wider than its window."""
    width: int = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    return width


def looks(
    page: Page, widths: Iterable[int] = (390, 1440), schemes: Iterable[ColorScheme] = SCHEMES
) -> Iterator[str]:
    """Show the loaded page in windows of these widths, in light and dark; says which look it is.
    That takes less time than to load it for each."""
    for width, scheme in product(widths, schemes):
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=scheme)
        page.evaluate(DRAWN)
        yield f"{width} px, {scheme}"


def faults(page: Page) -> list[str]:
    """What axe-core finds that is serious or worse: rule and element."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE_SCRIPT)
    found = page.evaluate("axe.run({ resultTypes: ['violations'] })")["violations"]
    return [
        f"{rule['id']}: {node['html'][:200]}"
        for rule in found
        if rule["impact"] in ("serious", "critical")
        for node in rule["nodes"]
    ]
