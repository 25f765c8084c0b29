"""The audience: who is connected to this process, and who is shown which change.

Viewers with the same filter are one group, and a group whose filter names one user is found by that
user. So a change costs what the groups that may be shown it cost, however many viewers there are.
This module knows no lock, no socket and no frame: the feed does.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jobquest.errors import JobQuestError
from jobquest.read.event_filter import EventFilter
from jobquest.viewer import Viewer


class NoSeat(JobQuestError):
    """The process has as many viewers as it may have."""


class NoSeatForOwner(NoSeat):
    """This viewer's owner has as many sockets as it may have."""


@dataclass(frozen=True, slots=True)
class Item:
    """A changed event in the ring: the fields that filters need, and its JSON, with personal data
    masked and as it is (the same bytes if there is none)."""

    seq: int
    type: str | None
    topic: str
    user: str | None
    json: bytes
    unmasked: bytes

    def passes(self, wanted: EventFilter) -> bool:
        return wanted.matches(self.type, self.topic, self.user)


class Audience:
    """Viewers who have a seat, and those among them who are `present`: they are sent what happens.
    At most `most` have a seat."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.seated: set[Viewer] = set()
        self.present: set[Viewer] = set()
        self._owners: Counter[str] = Counter()
        self._groups: dict[EventFilter, set[Viewer]] = {}
        self._of_user: defaultdict[str, set[EventFilter]] = defaultdict(set)
        self._of_nobody: set[EventFilter] = set()  # filters that name no single user

    def admit(self, viewer: Viewer, most: int) -> None:
        """Give a viewer a seat, if fewer than `most` are taken. Raises NoSeat, NoSeatForOwner."""
        most = min(most, self.most)
        if len(self.seated) >= most:
            raise NoSeat(f"{most} viewers are connected already.")
        if viewer.most is not None and self._owners[viewer.owner] >= viewer.most:
            raise NoSeatForOwner(f"You have {viewer.most} sockets open already.")
        self.seated.add(viewer)
        self._owners[viewer.owner] += 1

    def show(self, viewer: Viewer) -> None:
        """From now on, a viewer with a seat is sent what happens."""
        self.present.add(viewer)
        group = self._groups.get(viewer.filter)
        if group is None:
            group = self._groups[viewer.filter] = set()
            self._filters_like(viewer.filter).add(viewer.filter)
        group.add(viewer)

    def remove(self, viewer: Viewer) -> None:
        """Take a viewer's seat back, if it has one."""
        if viewer in self.seated:
            self.seated.remove(viewer)
            self._owners[viewer.owner] -= 1
            if not self._owners[viewer.owner]:
                del self._owners[viewer.owner]
        if viewer in self.present:
            self.present.remove(viewer)
            group = self._groups[viewer.filter]
            group.remove(viewer)
            if not group:
                self._forget(viewer.filter)

    def addressed(self, items: Sequence[Item]) -> Iterator[tuple[list[Viewer], list[Item]]]:
        """The viewers who are shown some of these items, and which."""
        yield from self._shown(self._of_nobody, items)
        by_user: defaultdict[str, list[Item]] = defaultdict(list)
        for item in items:
            if item.user is not None and item.user in self._of_user:
                by_user[item.user].append(item)
        for user, own in by_user.items():
            yield from self._shown(self._of_user[user], own)

    def _shown(
        self, filters: set[EventFilter], items: Sequence[Item]
    ) -> Iterator[tuple[list[Viewer], list[Item]]]:
        for wanted in filters:
            if chosen := [item for item in items if item.passes(wanted)]:
                yield list(self._groups[wanted]), chosen

    def _filters_like(self, wanted: EventFilter) -> set[EventFilter]:
        if len(wanted.users) == 1:
            [user] = wanted.users
            return self._of_user[user]
        return self._of_nobody

    def _forget(self, wanted: EventFilter) -> None:
        del self._groups[wanted]
        filters = self._filters_like(wanted)
        filters.remove(wanted)
        if not filters and filters is not self._of_nobody:
            [user] = wanted.users
            del self._of_user[user]
