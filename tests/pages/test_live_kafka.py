"""The live page over Apache Kafka."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.pages.conftest import Visit
from tests.pages.looks import button, publish
from tests.service import Service, wait_for
from tests.signed_in import ProtectedService

pytestmark = [pytest.mark.browser, pytest.mark.kafka]


@pytest.fixture
def service(tmp_path: Path, empty_kafka: str) -> Iterator[Service]:
    """A running service on Kafka, of this test's own."""
    made = ProtectedService(tmp_path, KAFKA_BROKER=empty_kafka).start()
    wait_for(lambda: made.status()["consumerRunning"], 60, made.tail)
    yield made
    made.kill()


def test_events_lag_and_switch_are_live_on_kafka(service: Service, visit: Visit) -> None:
    page = visit()
    rows = page.locator("#events tbody tr")
    expect(page.locator("#live strong")).to_have_text("live", timeout=30_000)
    expect(page.locator("#mode")).to_have_text("Apache Kafka")
    ids = [publish(service, user_id="ada"), publish(service, "mission.started", user_id="bob")]
    for id in ids:
        expect(page.locator(f'tr[data-id="{id}"]')).to_contain_text("processed", timeout=30_000)
    button(page, "Stop").click()
    expect(page.locator("#state .word")).to_have_text("Stopped", timeout=30_000)
    last = publish(service, user_id="ada")
    expect(page.locator("#lag")).to_contain_text("1 message, ", timeout=30_000)
    expect(rows).to_have_count(2)
    button(page, "Start").click()
    expect(page.locator(f'tr[data-id="{last}"]')).to_have_count(1, timeout=60_000)
    expect(page.locator("#lag")).to_have_text("caught up", timeout=30_000)
    expect(page.locator(".chart-legend")).to_contain_text("Processed 3", timeout=30_000)
