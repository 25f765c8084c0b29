"""Lines that are written together look like lines that were written one by one."""

from __future__ import annotations

import logging

import pytest

from jobquest.log_lines import log_lines
from jobquest.runtime import Runtime
from jobquest.server import LOG_FORMAT, OneLine

logger = logging.getLogger("tests.log_lines")


def shown(caplog: pytest.LogCaptureFixture) -> list[str]:
    formatter = OneLine(LOG_FORMAT, datefmt="now")
    return "\n".join(map(formatter.format, caplog.records)).split("\n")


def test_each_line_has_its_prefix_and_no_control_characters(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    log_lines(logger, logging.INFO, ["first", "second\nnow INFO other: forged\x1b[1m", "100 %s"])
    log_lines(logger, logging.INFO, [])
    prefix = "now INFO tests.log_lines: "
    assert shown(caplog) == [
        f"{prefix}first",
        f"{prefix}second\\nnow INFO other: forged\\x1b[1m",
        f"{prefix}100 %s",
    ]


def test_an_events_line_stands_before_what_its_handler_says(
    runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    runtime.consumer.register_event_handler("user.login", lambda event: logger.info("handler"))
    for kind in ("user.logout", "user.login", "user.logout"):
        runtime.producer.publish(kind, "ada", {})
    caplog.clear()
    assert runtime.consumer.step() == 3
    of_types = [f"Processing event: user.{kind} for user: ada" for kind in ("logout", "login")]
    said = [line for record in caplog.records for line in record.getMessage().split("\n")]
    assert [line for line in said if line == "handler" or "Processing" in line] == [
        *of_types,
        "handler",
        of_types[0],
    ]
