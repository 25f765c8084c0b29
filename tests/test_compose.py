"""docker-compose.kafka.yml, as far as it can be checked without an engine."""

from __future__ import annotations

import shutil
import subprocess
from typing import Any

import pytest
import yaml

from jobquest.compose import COMPOSE_FILE

SERVICES: dict[str, Any] = yaml.safe_load(COMPOSE_FILE.read_text())["services"]
BROKER: dict[str, Any] = SERVICES["job-quest-kafka"]
UI: dict[str, Any] = SERVICES["job-quest-kafka-ui"]


def listeners(name: str) -> dict[str, str]:
    """Listener name → host:port."""
    pairs = (listener.split("://") for listener in BROKER["environment"][name].split(","))
    return dict(pairs)


def compose_command() -> list[str] | None:
    """How compose is called on this machine; None if it is not there."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]):
            asked = subprocess.run([*command, "version"], capture_output=True)
            if asked.returncode == 0:
                return command
    return None


@pytest.mark.slow
def test_the_file_fits_the_compose_schema() -> None:
    if (compose := compose_command()) is None:
        pytest.skip("no docker compose on this machine")
    done = subprocess.run(
        [*compose, "-f", str(COMPOSE_FILE), "config", "-q"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_broker_and_ui_have_their_names_and_ports_on_loopback_only() -> None:
    assert BROKER["container_name"] == "job-quest-kafka"
    assert BROKER["ports"] == ["127.0.0.1:9092:9092"]
    assert UI["ports"] == ["127.0.0.1:8080:8080"]


def test_images_are_pinned() -> None:
    assert all(service["image"].split(":")[1][0] in "v0123456789" for service in SERVICES.values())


def test_both_have_health_checks_and_the_ui_waits_for_the_broker() -> None:
    assert all(service["healthcheck"]["test"][0] == "CMD" for service in SERVICES.values())
    assert UI["depends_on"] == {"job-quest-kafka": {"condition": "service_healthy"}}


def test_kafkas_data_is_in_a_named_volume() -> None:
    [mount] = BROKER["volumes"]
    volume, folder = mount.split(":")
    assert volume in yaml.safe_load(COMPOSE_FILE.read_text())["volumes"]
    assert folder == BROKER["environment"]["KAFKA_LOG_DIRS"]


def test_the_kraft_settings_agree_with_each_other() -> None:
    environment = BROKER["environment"]
    bound, told = listeners("KAFKA_LISTENERS"), listeners("KAFKA_ADVERTISED_LISTENERS")
    node, _, address = environment["KAFKA_CONTROLLER_QUORUM_VOTERS"].partition("@")
    controller = environment["KAFKA_CONTROLLER_LISTENER_NAMES"]
    assert int(node) == environment["KAFKA_NODE_ID"]
    assert address == f"{BROKER['hostname']}{bound[controller]}"
    assert set(told) == set(bound) - {controller}
    assert told["HOST"] == "localhost:9092"
    assert all(told[name].endswith(bound[name]) for name in told)
    protocols = environment["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(",")
    assert {pair.split(":")[0] for pair in protocols} == set(bound)
    assert environment["KAFKA_INTER_BROKER_LISTENER_NAME"] in told
    assert UI["environment"]["KAFKA_CLUSTERS_0_BOOTSTRAPSERVERS"] == told["INNER"]
    assert len(environment["CLUSTER_ID"]) == 22  # 16 bytes in URL-safe base64
