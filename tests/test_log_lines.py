"""Lines that are written together look like lines that were written one by one."""

from __future__ import annotations

import io
import logging
import subprocess
import sys

import pytest

from jobquest.log_lines import PatientHandler, log_lines
from jobquest.runtime import Runtime
from jobquest.server import LOG_FORMAT, OneLine
from tests.service import ROOT, wait_for

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


def patient(stream: io.StringIO) -> logging.Logger:
    """A logger of its own that writes to `stream`."""
    found = logging.Logger("patient")
    found.addHandler(PatientHandler(stream))
    return found


def test_lines_are_written_soon_and_a_warning_at_once_with_all_before_it() -> None:
    stream = io.StringIO()
    log = patient(stream)
    log.info("first")
    log.info("second")
    wait_for(lambda: stream.getvalue() == "first\nsecond\n", 5)
    log.info("third")
    log.warning("fourth")
    assert stream.getvalue() == "first\nsecond\nthird\nfourth\n"


def test_lines_are_written_together() -> None:
    writes: list[str] = []

    class Counting(io.StringIO):
        def write(self, text: str) -> int:
            writes.append(text)
            return len(text)

    log = patient(Counting())
    for number in range(1_000):
        log.info("%d", number)
    wait_for(lambda: "".join(writes).count("\n") == 1_000, 5)
    assert len(writes) < 100


def test_a_stream_that_nobody_reads_holds_up_nobody() -> None:
    stream = io.StringIO()
    log = patient(stream)
    stream.close()
    [handler] = log.handlers
    assert isinstance(handler, PatientHandler)
    for _ in range(3):  # each time that some have come together
        for _ in range(100):
            log.info("lost")
        wait_for(lambda: not handler._texts, 5)


def test_what_waits_at_a_fork_is_written_once() -> None:
    script = """
import logging, os, sys
from jobquest.log_lines import PatientHandler
logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[PatientHandler(sys.stderr)])
logging.info("before")
child = os.fork()
logging.info("of the %s", "parent" if child else "child")
if child:
    os.waitpid(child, 0)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert sorted(done.stderr.splitlines()) == ["before", "of the child", "of the parent"]
