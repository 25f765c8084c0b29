"""A selector that makes fewer system calls.

kafka-python registers what it waits for before each wait, and unregisters it afterwards: three
system calls for each record that is sent alone, and each gives Python's lock to another thread.
"""

from __future__ import annotations

import selectors
from collections.abc import Mapping
from selectors import SelectorKey
from typing import Any


class LazySelector(selectors.BaseSelector):
    """Registers with the system's own selector only what has changed by the next wait. For one
    thread: what another thread registers has no effect before the next wait."""

    def __init__(self) -> None:
        self._keys: dict[int, SelectorKey] = {}  # by file descriptor: what is wanted
        self._registered: dict[int, tuple[Any, int]] = {}  # the same, as the system has it
        self._changed: set[int] = set()
        self._system = selectors.DefaultSelector()

    def register(self, fileobj: Any, events: int, data: Any = None) -> SelectorKey:
        """See `BaseSelector.register`."""
        number = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        if number < 0:
            raise ValueError("The file is closed.")
        if number in self._keys:
            raise KeyError("The file is registered already.")
        return self._want(SelectorKey(fileobj, number, events, data))

    def modify(self, fileobj: Any, events: int, data: Any = None) -> SelectorKey:
        """See `BaseSelector.modify`."""
        return self._want(self.get_key(fileobj)._replace(events=events, data=data))

    def unregister(self, fileobj: Any) -> SelectorKey:
        """See `BaseSelector.unregister`."""
        key = self.get_key(fileobj)
        del self._keys[key.fd]
        self._changed.add(key.fd)
        return key

    def get_key(self, fileobj: Any) -> SelectorKey:
        """See `BaseSelector.get_key`. Its error does not describe the file: the library often asks
        for one that is not registered, and a socket's text takes two system calls."""
        number = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        key = self._keys.get(number)
        if key is None and number < 0:  # closed since
            key = next((one for one in self._keys.values() if one.fileobj is fileobj), None)
        if key is None:
            raise KeyError("The file is not registered.")
        return key

    def get_map(self) -> Mapping[Any, SelectorKey]:
        """See `BaseSelector.get_map`; by file descriptor."""
        return self._keys

    def select(self, timeout: float | None = None) -> list[tuple[SelectorKey, int]]:
        """See `BaseSelector.select`."""
        while self._changed:
            self._update(self._changed.pop())
        ready = self._system.select(timeout)
        return [(self._keys[key.fd], events) for key, events in ready if key.fd in self._keys]

    def close(self) -> None:
        """See `BaseSelector.close`."""
        self._system.close()
        self._keys.clear()
        self._registered.clear()

    def _want(self, key: SelectorKey) -> SelectorKey:
        self._keys[key.fd] = key
        self._changed.add(key.fd)
        return key

    def _update(self, number: int) -> None:
        key, registered = self._keys.get(number), self._registered.get(number)
        wanted = (key.fileobj, key.events) if key else None
        if wanted == registered:
            return
        if registered and wanted and registered[0] is wanted[0]:
            self._system.modify(number, wanted[1])
        else:  # another file may have the number of one that was closed
            if registered:
                self._system.unregister(number)
            if wanted:
                self._system.register(number, wanted[1])
        if wanted:
            self._registered[number] = wanted
        else:
            del self._registered[number]
