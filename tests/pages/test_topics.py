"""The topics and their records in a real browser, over the real service."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from jobquest.browse import MAX_SCANNED
from jobquest.events import TOPICS
from tests.pages.conftest import Visit
from tests.pages.looks import HOSTILE, button, faults, looks, overflow, publish, streaks, write
from tests.samples import SAMPLES
from tests.service import Service, wait_for
from tests.signed_in import ProtectedService

pytestmark = pytest.mark.browser

SECRETS = {"userEmail": "ada@example.org", "userAgent": "Mozilla/9", "ipAddress": "192.0.2.77"}


def line(page: Page, name: str) -> Any:
    """A topic's row, or a partition's (`topic/number`)."""
    return page.locator(f'[data-row="{name}"]')


def cell(page: Page, name: str, part: str) -> Any:
    return line(page, name).locator(f'[data-part="{part}"]')


def record(page: Page, offset: int) -> Any:
    return page.locator(f'.record[data-offset="{offset}"]')


def offsets(page: Page) -> list[int]:
    return [int(one.get_attribute("data-offset") or "") for one in page.locator(".record").all()]


# --- every topic ---


def test_topics_say_how_far_they_are_read_and_by_whom(service: Service, visit: Visit) -> None:
    write(service, streaks(1_200))
    service.wait_until_caught_up()
    page = visit("/topics", java_script_enabled=False)
    expect(page.locator("[data-row]")).to_have_count(len(TOPICS) + 1)
    for part, text in {
        "records": "1,200",
        "first": "0",
        "next": "1,200",
        "position": "1,200",
        "lag": "0",
        "reader": f"pid {service.status()['processes'][0]['pid']}",
    }.items():
        expect(cell(page, "achievements", part)).to_have_text(text)
    expect(cell(page, "notifications", "position")).to_have_text("none")
    process = page.locator("[data-process]")
    for name in ("host", "version"):
        expect(process).to_contain_text(service.status()["processes"][0][name])
    expect(process.locator('[data-part="lag"]')).to_have_text("0")
    expect(process.locator('[data-part="assignment"]')).to_contain_text("achievements/0")
    href = cell(page, "achievements", "reader").locator("a").get_attribute("href")
    assert href == f"#{process.get_attribute('id')}"
    line(page, "achievements").get_by_role("link", name="achievements").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("achievements")


def test_numbers_stay_fresh_and_a_service_that_is_away_is_said(
    service: Service, visit: Visit
) -> None:
    wait_for(lambda: service.status()["processes"], 10, service.tail)
    page = visit("/topics")
    expect(cell(page, "achievements", "next")).to_have_text("0")
    service.switch("stop")
    write(service, streaks(3))
    expect(cell(page, "achievements", "lag")).to_have_text("3", timeout=15_000)
    expect(line(page, "achievements")).to_have_attribute("data-behind", "")
    expect(cell(page, "achievements", "reader")).to_have_text("nobody")
    expect(page.locator('[data-process] [data-part="lag"]')).to_have_text("–")
    expect(page.locator('[data-process] [data-part="state"]')).to_have_text("stopped")
    service.switch("start")
    expect(cell(page, "achievements", "position")).to_have_text("3", timeout=15_000)
    expect(cell(page, "achievements", "rate")).not_to_have_text("0.0")
    expect(cell(page, "achievements", "reader")).to_contain_text("pid ")
    service.kill()
    problem = page.locator("#problem")
    expect(problem).to_have_text(
        "These numbers are out of date. The service can't be reached; try again.", timeout=15_000
    )
    expect(problem).to_be_visible()
    expect(cell(page, "achievements", "position")).to_have_text("3")
    service.start()
    expect(problem).to_be_hidden(timeout=15_000)
    expect(page.locator("#changed")).to_be_visible()  # it is another process


def test_a_reader_is_named_with_its_host_if_there_are_several(
    service: Service, visit: Visit
) -> None:
    """In containers, processes of different hosts often have the same pid."""
    service.wait_until_caught_up()
    with sqlite3.connect(service.folder / "read.db") as other:
        other.execute(
            "INSERT INTO processes SELECT 'other', 'elsewhere', pid, heartbeat_ms,"
            " json_set(consumer, '$.assignment', json('[]')) FROM processes"
        )
    process = next(one for one in service.status()["processes"] if one["assignment"])
    name = f"{process['host']}, pid {process['pid']}"
    page = visit("/topics")
    expect(cell(page, "achievements", "reader")).to_have_text(name)
    with sqlite3.connect(service.folder / "read.db") as other:
        other.execute("DELETE FROM processes WHERE id = 'other'")
    page.reload()
    expect(cell(page, "achievements", "reader")).to_have_text(f"pid {process['pid']}")


def test_a_fresh_row_is_the_one_that_the_server_renders(service: Service, visit: Visit) -> None:
    write(service, streaks(1_234))
    service.wait_until_caught_up()
    page = visit("/topics")
    expect(cell(page, "achievements", "rate")).to_have_text("0.0")  # it sinks for ten seconds
    as_of = page.locator(".list-head time").get_attribute("datetime")
    page.wait_for_function(
        "was => document.querySelector('.list-head time').dateTime !== was", arg=as_of
    )
    texts = "all => all.map(one => one.innerText)"
    rows = "[data-row], [data-process] :is([data-part=lag], [data-part=assignment])"
    came = page.locator(rows).evaluate_all(texts)
    page.reload()
    assert page.locator(rows).evaluate_all(texts) == came


def test_a_page_whose_partitions_have_changed_says_so(service: Service, visit: Visit) -> None:
    page = visit("/topics")
    expect(cell(page, "achievements", "records")).to_have_text("0")

    def split(route: Route) -> None:
        """The log as it were with another partition."""
        answer = route.fetch()
        topics = answer.json()
        found = topics["data"]["topics"][0]["partitions"]
        found.append({**found[0], "partition": 1})
        route.fulfill(response=answer, json=topics)

    page.route("**/api/kafka/topics", split)
    changed = page.locator("#changed")
    expect(changed).to_be_visible(timeout=15_000)
    page.unroute_all()
    changed.get_by_role("link", name="Reload the page").click()
    expect(changed).to_be_hidden()


@pytest.mark.kafka
def test_on_kafka_each_partition_has_its_row_reader_and_records(
    empty_kafka: str, tmp_path: Path, browser: Browser, request: pytest.FixtureRequest
) -> None:
    settings = {"KAFKA_BROKER": empty_kafka, "KAFKA_PARTITIONS": "2", "JOBQUEST_WORKERS": "1"}
    service = ProtectedService(tmp_path, **settings)
    request.addfinalizer(service.kill)
    page = browser.new_page()
    request.addfinalizer(page.close)
    service.start()
    assert service.post("user.login", SECRETS, user_id="ada").code in (201, 202)
    wait_for(lambda: service.get("/api/events").json["data"]["events"], 60, service.tail)
    partition = service.get("/api/events").json["data"]["events"][0]["partition"]
    page.goto(service.url + "/topics")
    expect(page.locator("[data-row]")).to_have_count(3 * (len(TOPICS) + 1))
    here, other = (f"system-events/{number}" for number in (partition, 1 - partition))
    expect(cell(page, here, "records")).to_have_text("1")
    expect(cell(page, here, "reader")).to_contain_text("pid ", timeout=15_000)
    expect(cell(page, other, "records")).to_have_text("0")
    expect(cell(page, "system-events", "records")).to_have_text("1")
    assert service.post("user.login", SECRETS, user_id="ada").code in (201, 202)
    expect(cell(page, here, "next")).to_have_text("2", timeout=15_000)
    expect(cell(page, "system-events", "records")).to_have_text("2")
    line(page, here).get_by_role("link", name=f"system-events, partition {here[-1]}").click()
    assert offsets(page) == [0, 1]
    expect(page.get_by_label("Partition")).to_have_value(here[-1])
    page.get_by_label("Partition").select_option(other[-1])
    button(page, "Show").click()
    expect(page.get_by_text("No records yet")).to_be_visible()
    page.goto(f"{service.url}/topics/system-events?partition={here[-1]}&timestamp=2999-01-01T00:00")
    expect(page.get_by_text("No record at offset 2 or later")).to_be_visible()


def test_a_log_that_is_away_is_said_and_seen_to_come_back(
    tmp_path: Path, browser: Browser, request: pytest.FixtureRequest
) -> None:
    service = ProtectedService(tmp_path, KAFKA_BROKER="127.0.0.1:1", JOBQUEST_WORKERS="1")
    request.addfinalizer(service.kill)
    page = browser.new_page()
    request.addfinalizer(page.close)
    service.start()
    wait_for(lambda: len(service.status()["processes"]) == 2, 30, service.tail)
    answer = page.goto(service.url + "/topics")
    assert answer
    assert answer.status == 503
    expect(page.get_by_role("heading", name="The topics can't be read now")).to_be_visible()
    expect(page.get_by_role("link", name="Try again")).to_be_visible()
    expect(page.locator("[data-process]")).to_have_count(2)  # it serves, and one that consumes
    assert faults(page) == []
    answer = page.goto(service.url + "/topics/achievements")
    assert answer
    assert answer.status == 503
    expect(page.get_by_role("link", name="Try again")).to_be_visible()
    page.goto(service.url + "/topics")
    expect(page.locator("html.scripted")).to_be_attached()
    service.kill()
    del service.settings["KAFKA_BROKER"]
    service.start()
    expect(line(page, "achievements")).to_be_visible(timeout=15_000)


# --- a topic's records ---


def test_records_are_shown_raw_and_decoded(service: Service, visit: Visit) -> None:
    id = publish(service, "mission.completed", user_id="ada")
    write(service, [b"no JSON", b"\xff\xfe", b'{"a": 1}'], "mission-events")
    page = visit("/topics/mission-events")
    assert offsets(page) == [0, 1, 2, 3]
    expect(page.locator(".scanned")).to_have_text("Offsets 0–3 (end of partition)")
    first = record(page, 0)
    expect(first.locator(".key")).to_have_text("key ada")
    expect(first.locator(".key a")).to_have_attribute("href", "/users/ada")
    expect(first.get_by_role("link", name="mission.completed")).to_have_attribute(
        "href", f"/events/{id}"
    )
    first.locator("summary").click()
    decoded, raw = first.locator("pre").all()
    assert json.loads(decoded.inner_text())["data"] == SAMPLES["mission.completed"]
    assert json.loads(raw.inner_text()) == json.loads(decoded.inner_text())
    assert "\n" not in raw.inner_text()
    expect(first.locator(".headers tr", has_text="ce_id")).to_contain_text(id)
    expect(record(page, 1)).to_contain_text("not an event")
    record(page, 1).locator("summary").click()
    expect(record(page, 1)).to_contain_text("This record is not an event: The body is not JSON")
    expect(record(page, 1).locator("pre")).to_have_text("no JSON")
    expect(record(page, 1)).to_contain_text("This record has no headers.")
    record(page, 2).locator("summary").click()
    expect(record(page, 2).locator("pre")).to_have_text("//4=")
    expect(record(page, 2)).to_contain_text("shown in base64")
    expect(record(page, 3).locator("summary")).to_contain_text("data: Missing.")
    record(page, 3).get_by_role("link", name="Offset 3").click()
    assert offsets(page) == [3]
    expect(record(page, 3).locator("pre")).to_be_visible()  # one alone is open


def test_a_look_goes_on_back_and_says_why_it_stopped(service: Service, visit: Visit) -> None:
    write(service, streaks(30))
    page = visit("/topics/achievements?limit=10")
    assert offsets(page) == list(range(20, 30))
    page.get_by_role("link", name="Earlier records, from 10").first.click()
    assert offsets(page) == list(range(10, 20))
    expect(page.locator(".scanned")).to_have_text("Offsets 10–19 (limit reached)")
    page.get_by_role("link", name="Continue from 20").first.click()
    assert offsets(page) == list(range(20, 30))
    page.get_by_label("From offset").fill("3")
    page.get_by_label("Containing").fill('"S1')
    button(page, "Show").click()
    assert offsets(page) == list(range(10, 20))
    assert "offset=3" in page.url
    assert "timestamp" not in page.url  # what is empty is not sent
    expect(page.get_by_label("Containing")).to_have_value('"S1')
    expect(page.get_by_role("heading", level=2)).to_contain_text("10 records with")
    page.get_by_label("Containing").fill("nowhere")
    button(page, "Show").click()
    expect(page.get_by_text("No record contains this text")).to_be_visible()
    expect(page.locator(".scanned")).to_contain_text("Offsets 3–29")
    page.get_by_role("link", name="Newer records, from 30").first.click()
    expect(page.get_by_text("No record at offset 30 or later")).to_be_visible()
    write(service, streaks(1, "nowhere"))
    page.reload()
    assert offsets(page) == [30]
    page.get_by_role("link", name="Latest records").click()
    assert len(offsets(page)) == 31


def test_a_search_says_where_it_gave_up(service: Service, visit: Visit) -> None:
    write(service, streaks(MAX_SCANNED + 5))
    page = visit("/topics/achievements?offset=2&q=nowhere", java_script_enabled=False)
    expect(page.locator(".scanned")).to_contain_text("reached)")
    stopped = page.locator(".scanned").inner_text()
    if "seconds reached" not in stopped:  # a slow machine
        assert stopped == "Offsets 2–20,001 (limit of 20,000 searched records reached)"
        page.get_by_role("link", name="Continue from 20,002").first.click()
        expect(page.locator(".scanned")).to_contain_text("Offsets 20,002–20,004")


def test_a_time_is_chosen_in_the_zone_that_is_shown(service: Service, visit: Visit) -> None:
    publish(service)
    found = service.get("/api/kafka/topics/achievements/records").json["data"]["records"][0]
    later = found["timestamp"]
    wait_for(lambda: publish(service) and newest(service) > later, 10)
    page = visit("/topics/achievements", timezone_id="America/New_York")
    page.get_by_label("or from time (UTC)").fill(newest(service)[:-1])
    button(page, "Show").click()
    count = len(offsets(page))
    assert count >= 1
    assert 0 not in offsets(page)
    button(page, "Times: UTC").click()
    shown = page.get_by_label("or from time (local)").input_value()
    assert shown[:10] <= newest(service)[:10]
    assert shown[11:13] != newest(service)[11:13]
    button(page, "Show").click()
    assert len(offsets(page)) == count
    # As a browser sends it that ran no script: minutes, without a zone.
    answer = page.goto(f"{service.url}/topics/achievements?offset=&timestamp=2020-01-01T00:00&q=")
    assert answer
    assert answer.ok
    assert 0 in offsets(page)
    page.goto(f"{service.url}/topics/achievements?timestamp=2999-01-01T00:00")
    expect(page.get_by_text("end of partition")).to_be_visible()


def newest(service: Service) -> str:
    path = "/api/kafka/topics/achievements/records?limit=1"
    timestamp: str = service.get(path).json["data"]["records"][0]["timestamp"]
    return timestamp


WRONG = [
    ("offset=x", "From offset", "Must be a whole number"),
    ("timestamp=noon", "or from time (UTC)", "Not an RFC 3339 time"),
    ("offset=1&timestamp=2026-01-01T00:00", "or from time (UTC)", "not both"),
    ("limit=501", "At most", "from 1 to 500"),
    ("partition=x", "Partition", "Must be a whole number"),
]


def test_what_is_wrong_is_said_at_its_field(service: Service, visit: Visit) -> None:
    page = visit("/topics/achievements")
    for query, label, said in WRONG:
        answer = page.goto(f"{service.url}/topics/achievements?q=kept&{query}")
        assert answer
        assert answer.status == 400
        field = page.get_by_label(label)
        expect(field).to_have_attribute("aria-invalid", "true")
        expect(page.locator(f"#{field.get_attribute('aria-describedby')}")).to_contain_text(said)
        expect(page.get_by_label("Containing")).to_have_value("kept")
        expect(page.get_by_text("Nothing to show")).to_be_visible()
    assert faults(page) == []


def test_there_is_no_page_for_what_is_not_there(service: Service, visit: Visit) -> None:
    page = visit("/topics")
    for path, said in {
        "nowhere": "There is no such topic.",
        "achievements?partition=7": "There is no such partition.",
    }.items():
        answer = page.goto(f"{service.url}/topics/{path}")
        assert answer
        assert answer.status == 404
        expect(page.get_by_role("heading", level=1)).to_have_text(said)
    page.goto(f"{service.url}/topics/achievements")
    expect(page.get_by_text("No records yet")).to_be_visible()


def test_personal_data_is_masked_unless_it_is_asked_for(service: Service, visit: Visit) -> None:
    publish(service, "user.login", data=SECRETS)
    broken = json.dumps({"data": SECRETS}).encode()
    write(service, [broken, broken[:-1], b"\xff" + broken], "system-events")
    service.wait_until_caught_up()
    page = visit("/topics/system-events")
    expect(page.locator(".record")).to_have_count(4)
    content = page.content()
    assert not [secret for secret in SECRETS.values() if secret in content]
    assert "/3si" not in content  # of the base64 of the last one
    expect(record(page, 0).locator("summary")).to_contain_text("userEmail: [masked]")
    page.get_by_label("At most").select_option("10")
    page.get_by_role("link", name="Show personal data").click()
    expect(record(page, 0).locator("summary")).to_contain_text("ada@example.org")
    assert page.locator("pre", has_text="ada@example.org").count() == 4
    button(page, "Show").click()
    assert "personal=shown" in page.url
    page.goto(f"{service.url}/topics/dead-letters")
    expect(page.locator(".record")).to_have_count(3)
    content = page.content()
    assert not [secret for secret in SECRETS.values() if secret in content]
    page.locator(".record summary").first.click()
    expect(page.locator(".record .headers").first).to_contain_text("__dlq.errors.topic")


def test_hostile_records_are_inert_and_fit(service: Service, visit: Visit) -> None:
    values = [json.dumps({text: text}).encode() for text in HOSTILE]
    write(service, [*values, *(text.encode() for text in HOSTILE)])
    data = {"missionId": HOSTILE[7], "missionName": HOSTILE[0], "missionType": HOSTILE[8]}
    publish(service, "mission.started", data=data, user_id="W" * 128)
    page = visit("/topics/achievements")
    expect(page.locator(".record")).to_have_count(2 * len(HOSTILE))
    for path in ("/topics/achievements?q=%3Cimg", "/topics/mission-events", "/topics"):
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        assert page.title() != "hacked"
        assert page.locator("main :is(img, svg, script)").count() == 0
        for look in looks(page, schemes=["light"]):
            assert overflow(page) == 0, look
            assert faults(page) == [], look
        page.goto(service.url + path)
