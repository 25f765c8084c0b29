"""Brokers that give their clients an address that these can't use."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import kafka
import pytest
from flask.testing import FlaskCliRunner

from jobquest import create_app
from jobquest.errors import LogUnavailable
from tests.kafka_broker import KafkaBroker, free_port, why_not
from tests.logs import UNTRIED, OnKafka
from tests.service import Service, wait_for

pytestmark = pytest.mark.kafka

NOBODY = "kafka-inner.invalid"  # a name as container networks have; .invalid never resolves


@pytest.fixture(scope="module")
def refused() -> int:
    """A port that nobody listens on."""
    return free_port()


@pytest.fixture(scope="module")
def broker(refused: int) -> Iterator[KafkaBroker]:
    """It answers on two ports, and says on either that it is somewhere else."""
    if reason := why_not():
        pytest.skip(reason)
    advertised = f"PLAINTEXT://{NOBODY}:9092,PROXIED://127.0.0.1:{refused}"
    started = KafkaBroker(advertise=refused, **{"advertised.listeners": advertised}).start()
    yield started
    started.remove()


@pytest.mark.parametrize("version", [kafka.__version__, UNTRIED])
def test_an_address_that_cannot_be_used_is_named_with_what_to_do(
    broker: KafkaBroker, refused: int, version: str
) -> None:
    for bootstrap, advertised in (
        (broker.bootstrap, f"{NOBODY}:9092"),
        (f"127.0.0.1:{broker.behind}", f"127.0.0.1:{refused}"),
    ):
        with (
            closing(OnKafka(bootstrap, ["t"], version).open()) as log,
            pytest.raises(LogUnavailable, match=re.escape(advertised)) as raised,
        ):
            log.describe(["t"])
        assert "advertised.listeners" in str(raised.value)


@pytest.mark.parametrize("version", [kafka.__version__, UNTRIED])
def test_a_broker_that_is_away_is_named_without_advice_that_does_not_help(version: str) -> None:
    bootstrap = f"127.0.0.1:{free_port()}"
    with (
        closing(OnKafka(bootstrap, ["t"], version).open()) as log,
        pytest.raises(LogUnavailable, match=re.escape(bootstrap)) as raised,
    ):
        log.describe(["t"])
    assert "advertised.listeners" not in str(raised.value)


def test_state_doctor_and_log_name_the_address_and_the_log_does_not_repeat_itself(
    broker: KafkaBroker, tmp_path: Path
) -> None:
    service = Service(tmp_path, KAFKA_BROKER=broker.bootstrap, JOBQUEST_WORKERS="1")
    try:
        service.start()
        wait_for(lambda: NOBODY in str(service.status()["reason"]), 20, service.tail)
        assert NOBODY in str(service.get("/readyz").json)
        checked = FlaskCliRunner(create_app(service.settings)).invoke(args=["kafka", "doctor"])
        assert f"{NOBODY}:9092" in checked.output
        assert "advertised.listeners" in checked.output

        def told_how_many() -> bool:  # after ten seconds
            return any("more since the last one" in line for line in service.output)

        wait_for(told_how_many, 20, service.tail)
        lines = [line.split(" ", 3)[2:] for line in service.output if " kafka." in line]
        often = Counter(re.sub(r"\d+|\(.* since .*", "", str(line)) for line in lines)
        assert max(often.values()) <= 2 * 2, often  # in each of two processes, at first and now
        assert any(f"{NOBODY}:9092" in str(line) for line in lines)
    finally:
        service.stop()
