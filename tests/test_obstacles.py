"""When partitions without a reader are named; the rest of the obstacles is tested on real logs, in
`test_group.py` and `test_rights.py`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from jobquest.log import EventLog, Member, Partition
from jobquest.obstacles import LOOK_SECONDS, PATIENCE_SECONDS, Obstacles, member_name

PLACES = ["achievements/0", "achievements/1"]


class Group:
    """A log with a group that two processes share, and the clock; `one` is asked for the lines."""

    def __init__(self) -> None:
        self.now = 100.0
        self.shares = {"one": PLACES[:1], "two": PLACES[1:]}  # by those who are on the list
        self.joined = ["one", "two"]
        self._obstacles = Obstacles(cast(EventLog, self), "group")

    def missing_rights(self) -> dict[str, list[str]]:
        return {}

    def members(self, _group: str) -> list[Member]:
        shares = {"one": 0, "two": 1}
        return [
            Member(member_name(name), "/127.0.0.1", (Partition("achievements", shares[name]),))
            for name in self.joined
        ]

    def lines_after(self, seconds: float) -> list[str]:
        """What is found at the end of so many seconds, if it is asked for ten times in each."""
        found: list[str] = []
        for _ in range(round(seconds * 10)):
            self.now += 0.1
            processes: list[dict[str, Any]] = [
                {"id": name, "assignment": share} for name, share in self.shares.items()
            ]
            found = self._obstacles.lines(processes, PLACES)
        return found


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> Group:
    made = Group()
    monkeypatch.setattr("jobquest.obstacles.time", SimpleNamespace(monotonic=lambda: made.now))
    assert made.lines_after(0.1) == []
    return made


def test_what_a_dead_member_holds_is_named_until_somebody_reads_it(group: Group) -> None:
    del group.shares["two"]
    assert group.lines_after(1.0) == [], "a successor may have its name in the group"
    [line] = group.lines_after(1.0)
    assert "reads achievements/1: Kafka assigns them to jobquest:two at 127.0.0.1" in line
    group.joined.remove("two")
    assert group.lines_after(LOOK_SECONDS) == ["No process reads achievements/1."]
    group.shares["one"] = PLACES
    assert group.lines_after(0.1) == []


def test_what_a_process_read_that_left_in_order_has_time_to_change_hands(group: Group) -> None:
    """It is still in the group as that was at the last look."""
    group.joined.remove("two")
    del group.shares["two"]
    for _ in range(round(PATIENCE_SECONDS * 10)):
        assert group.lines_after(0.1) == []
    assert group.lines_after(0.3) == ["No process reads achievements/1."]
