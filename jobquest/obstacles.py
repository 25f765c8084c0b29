"""Why a working consumer does not process everything: missing rights, foreign clients in our group,
partitions that nobody reads, an outbox that cannot deliver. Called by the runtime's reporter;
changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from jobquest.audit import TOPIC as AUDIT
from jobquest.errors import LogUnavailable
from jobquest.log import EventLog, Member, missing_right
from jobquest.read.dead_letters import TOPIC as DEAD_LETTERS

LOOK_SECONDS = 2.0  # between two looks
AWAY_SECONDS = 5.0  # the same while the log does not answer, so that its thread can do other tasks
PATIENCE_SECONDS = 15.0  # for new partitions to get a reader, and for a rebalance to end
GHOST_SECONDS = 1.5  # for the successor of a process that has ended to take over its place
MAX_NAMED = 60  # partitions in one line
_OURS = "jobquest:"


def member_name(process_id: str) -> str:
    """The name of one of our processes in the group."""
    return f"{_OURS}{process_id}"


class Obstacles:
    """For one thread: the one that writes the findings into this process's heartbeat."""

    def __init__(self, log: EventLog, group: str) -> None:
        self._log = log
        self._group = group
        self._look_at = 0.0
        self._missing: Mapping[str, Sequence[str]] = {}
        self._members: Sequence[Member] = ()
        self._since: dict[str, float] = {}  # for each partition without a reader
        self._late: set[str] = set()  # those of them that have been named

    def lines(
        self, processes: Sequence[Mapping[str, Any]], partitions: Collection[str]
    ) -> list[str]:
        """One line for each obstacle, from the processes that are alive and the partitions that
        should be read (`topic/number`)."""
        self._look()
        missing = {t: r for t, rights in self._missing.items() if (r := _needed(t, rights))}
        unread = set(partitions).difference(*(process["assignment"] for process in processes))
        strangers = self._strangers(processes, unread)
        ghosts = {name: strangers.pop(name) for name in [*strangers] if name.startswith(_OURS)}
        if ghosts:  # who left in order is not in the group any more, at a new look
            self._look_at = 0.0
        unread.difference_update(*strangers.values())
        unread = {place for place in unread if place.rpartition("/")[0] not in missing}
        late = self._overdue(unread, {place for held in ghosts.values() for place in held})
        return [
            *_of_rights(missing),
            *_of_outboxes(processes, missing),
            *_of_strangers(strangers),
            *_of_unread(late, ghosts),
        ]

    def _look(self) -> None:
        if time.monotonic() < self._look_at:
            return
        try:
            self._missing = self._log.missing_rights()
            self._members = self._log.members(self._group)
        except LogUnavailable:  # the consumer reports it
            self._members = ()
            self._look_at = time.monotonic() + AWAY_SECONDS
        else:
            self._look_at = time.monotonic() + LOOK_SECONDS

    def _strangers(
        self, processes: Iterable[Mapping[str, Any]], unread: Collection[str]
    ) -> dict[str, list[str]]:
        """Members that are not processes of ours, each with those of the `unread` partitions that
        it reads."""
        ours = {member_name(process["id"]) for process in processes}
        found: dict[str, list[str]] = {}
        for client, host, assigned in self._members:
            places = [f"{topic}/{number}" for topic, number in assigned]
            others = [place for place in places if place in unread]
            if client not in ours and others:
                found.setdefault(f"{client} at {host.lstrip('/')}", []).extend(others)
        return found

    def _overdue(self, unread: Iterable[str], held: Collection[str]) -> set[str]:
        """Those of the `unread` partitions that should have a reader by now; a ghost has `held`.
        They stay overdue until somebody reads them, also while the group hands them over."""
        now = time.monotonic()
        self._since = {place: self._since.get(place, now) for place in unread}
        self._late = {
            place
            for place, at in self._since.items()
            if place in self._late
            or now - at > (GHOST_SECONDS if place in held else PATIENCE_SECONDS)
        }
        return self._late


def _needed(topic: str, rights: Sequence[str]) -> list[str]:
    """The rights on a topic without those that processing does not need: it reads neither dead
    letters there nor the audit trail."""
    return [r for r in rights if not (topic in (DEAD_LETTERS, AUDIT) and r == "READ")]


def _of_rights(missing: Mapping[str, Sequence[str]]) -> Iterator[str]:
    for topic, rights in sorted(missing.items()):
        yield from (missing_right(right, topic) for right in rights)


def _of_outboxes(processes: Iterable[Mapping[str, Any]], missing: Collection[str]) -> Iterator[str]:
    barred: dict[str, str] = {}
    stuck: set[str] = set()
    for process in processes:
        outbox = process.get("outbox", {})
        barred |= outbox.get("barred", {})
        stuck |= {outbox["stuck"]} if outbox.get("events") and outbox.get("stuck") else set()
    yield from (f"Events wait in the outbox: {reason}" for reason in sorted(stuck))
    topics: dict[str, list[str]] = {}
    for topic, reason in sorted(barred.items()):
        if topic not in missing:
            topics.setdefault(reason, []).append(topic)
    for reason, alike in topics.items():
        yield f"Records for topic {', '.join(alike)} wait: {reason}"


def _of_strangers(strangers: Mapping[str, Sequence[str]]) -> Iterator[str]:
    for client, places in sorted(strangers.items()):
        yield (
            f"Another client of the group, {client}, reads {_named(places)}: the service does not"
            " process those events."
        )


def _of_unread(late: Collection[str], ghosts: Mapping[str, Collection[str]]) -> Iterator[str]:
    """`ghosts`: members with our names whose processes are not on the list, which have ended or
    belong to another database."""
    left = set(late)
    for client, held in sorted(ghosts.items()):
        if places := left.intersection(held):
            left -= places
            yield (
                f"No process of this service reads {_named(places)}: Kafka assigns them to"
                f" {client}, and to others once it has been silent for 10 s."
            )
    if left:
        yield f"No process reads {_named(left)}."


def _named(places: Collection[str]) -> str:
    shown = sorted(places)[:MAX_NAMED]
    more = len(places) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
