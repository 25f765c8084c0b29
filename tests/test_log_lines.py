"""Lines that are written together look like lines that were written one by one."""

from __future__ import annotations

import io
import itertools
import json
import logging
import os
import threading
import time
from logging.handlers import QueueHandler, QueueListener
from pathlib import Path
from typing import Any

import pytest

from jobquest.log_lines import MAX_KINDS, MAX_WAITING, Seldom, finish, log_lines, write_behind
from jobquest.runtime import Runtime
from jobquest.server import LOG_FORMAT, OneLine
from tests.service import Service, wait_for

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


Behind = tuple[logging.Logger, QueueListener]


def behind(stream: Any) -> Behind:
    """A logger of its own whose lines are written to `stream` by a thread."""
    found = logging.Logger("behind")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(OneLine("%(levelname)s %(message)s"))
    found.addHandler(handler)
    return found, write_behind(found, handler)


def test_lines_are_written_soon_in_their_order_and_the_last_ones_at_the_end() -> None:
    stream = io.StringIO()
    log, listener = behind(stream)
    log.info("first")
    log.warning("%s\nforged", "second")
    wait_for(lambda: stream.getvalue() == "INFO first\nWARNING second\\nforged\n", 5)
    for number in range(1_000):
        log.info("%d", number)
    finish(listener, 5)
    assert stream.getvalue().splitlines()[2:] == [f"INFO {number}" for number in range(1_000)]


def test_a_traceback_keeps_its_lines_and_comes_once() -> None:
    stream = io.StringIO()
    log, listener = behind(stream)
    try:
        raise ValueError("no luck")
    except ValueError:
        log.exception("It failed")
    finish(listener, 5)
    said = stream.getvalue()
    assert said.startswith("ERROR It failed\nTraceback (most recent call last):\n")
    assert said.count("ValueError: no luck\n") == 1


def test_a_line_says_what_was_so_when_it_was_logged() -> None:
    stream, states = io.StringIO(), ["first"]
    log, listener = behind(stream)
    log.info("%s", states)
    states.append("second")
    finish(listener, 5)
    assert stream.getvalue() == "INFO ['first']\n"


def test_a_stream_that_is_gone_stops_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    log, listener = behind(stream)
    stream.close()
    for _ in range(100):
        log.warning("lost")
    finish(listener, 5)
    assert "closed file" in capsys.readouterr().err


def test_a_reader_that_has_stopped_costs_no_caller_and_no_memory() -> None:
    """A pipe that is full: with a write in the caller, every request would hang."""
    reading, writing = os.pipe()
    log, listener = behind(open(writing, "w"))  # noqa: SIM115 (closed with the thread's last line)
    for _ in range(3 * MAX_WAITING):
        log.warning("x" * 100)
    [front] = log.handlers
    assert isinstance(front, QueueHandler)
    assert MAX_WAITING / 2 < front.queue.qsize() <= MAX_WAITING  # type: ignore[attr-defined]
    began = time.monotonic()
    finish(listener, 0.2)
    assert time.monotonic() - began < 5
    with open(reading) as pipe:  # read on: what waited is there
        assert sum(1 for _ in itertools.islice(pipe, MAX_WAITING // 2)) == MAX_WAITING // 2
        threading.Thread(target=pipe.read, daemon=True).start()
        wait_for(lambda: listener._thread is None, 20)  # type: ignore[attr-defined]
        front.close()
        listener.handlers[0].stream.close()  # type: ignore[attr-defined]


@pytest.mark.slow
def test_lines_of_a_service_that_is_told_to_end_are_all_there(tmp_path: Path) -> None:
    service = Service(tmp_path, JOBQUEST_CONSUMER_AUTOSTART="false").start()
    event = {"eventType": "user.login", "data": {}}
    body = json.dumps({"events": [event] * 1_000}).encode()
    for _ in range(3):
        assert service.request("POST", "/api/kafka/events/batch", body).code == 201
    assert service.stop() == 0
    told = [line for line in service.output if "Published event user.login" in line]
    assert len(told) == 3_000


def test_a_line_that_a_library_repeats_is_shown_seldom_with_how_often_it_was_left_out() -> None:
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.addFilter(Seldom("tests.library", seconds=0.3))
    ours, theirs = logging.getLogger("tests.libraryish"), logging.getLogger("tests.library.net")
    for one in (ours, theirs):
        one.addHandler(handler)
        one.propagate = False
    for n in range(5):
        ours.warning("ours")
        theirs.warning("not ready; waiting %.2f s", n / 7)
        theirs.warning("another line")
    until = time.monotonic() + 0.3
    wait_for(lambda: time.monotonic() > until, 5)
    theirs.warning("not ready; waiting 9 s")
    theirs.warning("not ready; waiting 9 s")
    assert written.getvalue().splitlines() == [
        "ours",
        "not ready; waiting 0.00 s",
        "another line",
        *["ours"] * 4,
        "not ready; waiting 9 s (4 more since the last one)",
    ]
    for n in range(MAX_KINDS * 2):  # what is remembered is bounded: the first may come again
        theirs.warning("line " + chr(0x4E00 + n))
    assert len(written.getvalue().splitlines()) == 8 + MAX_KINDS * 2
    theirs.warning("another line")
    assert written.getvalue().endswith("another line\n")
    theirs.error("a broken connection", exc_info=ConnectionResetError("reset"))
    socket: Any = None
    with pytest.raises(AttributeError) as closed:
        socket.recv(1)
    theirs.error("a closed connection", exc_info=closed.value)
    theirs.error("a bug", exc_info=ValueError("bug"))
    assert written.getvalue().splitlines()[-4:] == [
        "a broken connection",
        "a closed connection",
        "a bug",
        "ValueError: bug",
    ]
