"""What keeps a consumer that works from processing everything: rights that are missing, clients of
others in our group, partitions that nobody reads. Asked by the supervisor; changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from jobquest.errors import LogUnavailable
from jobquest.log import EventLog, Member, missing_right
from jobquest.read.dead_letters import TOPIC as DEAD_LETTERS

LOOK_SECONDS = 2.0  # from one look to the next
AWAY_SECONDS = 5.0  # the same while the log does not answer: the supervisor has other things to do
# A member that was killed keeps its partitions for 10 s, and others take a moment to take over.
PATIENCE_SECONDS = 15.0
MAX_NAMED = 60  # partitions
_OURS = "jobquest:"


def member_name(process_id: str) -> str:
    """What a process of ours calls itself in the group."""
    return f"{_OURS}{process_id}"


class Obstacles:
    """For one thread: the supervisor's, which says in its heartbeat what it finds."""

    def __init__(self, log: EventLog, group: str) -> None:
        self._log = log
        self._group = group
        self._look_at = 0.0
        self._missing: Mapping[str, Sequence[str]] = {}
        self._members: Sequence[Member] = ()
        self._since: dict[str, float] = {}  # when what may pass by itself was seen first

    def lines(
        self, processes: Sequence[Mapping[str, Any]], partitions: Collection[str]
    ) -> list[str]:
        """One line for each obstacle, given the processes that live and the partitions that are to
        be read (`topic/number`)."""
        self._look()
        missing = {t: r for t, rights in self._missing.items() if (r := _needed(t, rights))}
        unread = set(partitions).difference(*(one["assignment"] for one in processes))
        strangers = self._strangers(processes, unread)
        unread.difference_update(*strangers.values())
        unread = {place for place in unread if place.rpartition("/")[0] not in missing}
        doubtful = {client for client in strangers if client.startswith(_OURS)}
        lasting = self._lasting(unread | doubtful)
        for client in doubtful - lasting:  # a process of ours that has just ended, as a rule
            del strangers[client]
        unread &= lasting
        return [
            *_of_rights(missing),
            *_of_outboxes(processes, missing),
            *_of_strangers(strangers),
            *([f"No process reads {_named(unread)}."] if unread else ()),
        ]

    def _look(self) -> None:
        if time.monotonic() < self._look_at:
            return
        try:
            self._missing = self._log.missing_rights()
            self._members = self._log.members(self._group)
        except LogUnavailable:  # the consumer says so
            self._members = ()
            self._look_at = time.monotonic() + AWAY_SECONDS
        else:
            self._look_at = time.monotonic() + LOOK_SECONDS

    def _strangers(
        self, processes: Iterable[Mapping[str, Any]], unread: Collection[str]
    ) -> dict[str, list[str]]:
        """Members that are no process of ours, each with those that it reads of the partitions that
        none of ours does."""
        ours = {member_name(process["id"]) for process in processes}
        found: dict[str, list[str]] = {}
        for client, host, assigned in self._members:
            places = [f"{topic}/{number}" for topic, number in assigned]
            taken = [place for place in places if place in unread]
            if client not in ours and taken:
                found.setdefault(f"{client} at {host.lstrip('/')}", []).extend(taken)
        return found

    def _lasting(self, seen: Iterable[str]) -> set[str]:
        """Which of these, that are seen now, have been seen for long."""
        now = time.monotonic()
        self._since = {one: self._since.get(one, now) for one in seen}
        return {one for one, at in self._since.items() if now - at > PATIENCE_SECONDS}


def _needed(topic: str, rights: Sequence[str]) -> list[str]:
    """Nothing waits for being read from the topic of the dead letters."""
    return [right for right in rights if not (topic == DEAD_LETTERS and right == "READ")]


def _of_rights(missing: Mapping[str, Sequence[str]]) -> Iterator[str]:
    for topic, rights in sorted(missing.items()):
        yield from (missing_right(right, topic) for right in rights)


def _of_outboxes(processes: Iterable[Mapping[str, Any]], missing: Collection[str]) -> Iterator[str]:
    barred: dict[str, str] = {}
    for process in processes:
        barred |= process.get("outbox", {}).get("barred", {})
    for topic, why in sorted(barred.items()):
        if topic not in missing:
            yield f"Events of topic {topic} wait in the outbox: {why}"


def _of_strangers(strangers: Mapping[str, Sequence[str]]) -> Iterator[str]:
    for client, places in sorted(strangers.items()):
        yield (
            f"Another client of the group, {client}, reads {_named(places)}: what it reads is not"
            " processed here."
        )


def _named(places: Collection[str]) -> str:
    shown = sorted(places)[:MAX_NAMED]
    more = len(places) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
