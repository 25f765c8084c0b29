"""Dead letters in a real browser, over the service on Kafka."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests import failing_handler
from tests.pages.conftest import Visit
from tests.pages.looks import button, publish, switch_demo
from tests.service import Service, wait_for
from tests.signed_in import ProtectedService

pytestmark = [pytest.mark.browser, pytest.mark.kafka]

PATIENCE_MS = 40_000


@pytest.fixture
def service(empty_kafka: str, tmp_path: Path) -> Iterator[Service]:
    """A service of two web workers and a consumer on Kafka."""
    more = {"JOBQUEST_WORKERS": "2", "JOBQUEST_HANDLERS": failing_handler.MODULE}
    made = ProtectedService(tmp_path, KAFKA_BROKER=empty_kafka, **more).start()

    def is_whole() -> bool:
        status = made.status()
        return status["consumerRunning"] and len(status["processes"]) == 3

    wait_for(is_whole, 60, made.tail)
    yield made
    made.kill()


def test_refused_events_are_edited_or_redriven_and_processed_on_kafka(
    service: Service, visit: Visit
) -> None:
    switch_demo(service, True)
    wish = {"demo": "refuse"}
    ids = [publish(service, user_id=user, metadata=wish) for user in ("ada", "bob")]
    wait_for(lambda: service.status()["deadLetters"] == 2, 40, service.tail)
    page = visit("/failures")
    dead_letters = page.locator("table.dead-letters tbody tr")
    expect(dead_letters).to_have_count(2)

    first = dead_letters.last.get_attribute("data-event")
    page.get_by_role("link", name="Edit dead letter 1").click()
    page.get_by_role("link", name="Edit as text").click()
    button(page, "streak.milestone").click()
    button(page, "Save and redrive").click()
    came = page.locator("#work-outcome")
    expect(came).to_contain_text("It is processed. It changed", timeout=PATIENCE_MS)

    page.goto(f"{service.url}/failures")
    switch_demo(service, False)
    button(page, "Redrive all 1 that match").click()
    expect(page.locator("#work-words")).to_have_text("1 of 1 redriven.", timeout=PATIENCE_MS)
    expect(came).to_contain_text("It is processed.", timeout=PATIENCE_MS)
    expect(page.get_by_text("Nothing has failed")).to_be_visible(timeout=PATIENCE_MS)
    assert first in ids
    lives = [service.get(f"/api/events/{id}").json["data"] for id in ids]
    assert [life["outcome"] for life in lives] == ["processed", "processed"]
