"""The handler registry: which functions are called for which event type."""

from __future__ import annotations

import importlib
import threading
import traceback
from collections.abc import Callable, Collection, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

from jobquest.errors import SettingsError
from jobquest.events import CATALOGUE, Event

if TYPE_CHECKING:
    from jobquest.consumer import Consumer

Handler = Callable[[Event], object]
MAX_NAME = 200


class NamedHandler(NamedTuple):
    """A handler and the name under which failures and parked events refer to it. The name is the
    same after a restart, and unique within the event type."""

    name: str
    handler: Handler


class Handlers:
    """Handlers by event type, called in the order in which they were registered."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_type: dict[str, tuple[NamedHandler, ...]] = {}

    def register(self, event_type: str, handler: Handler) -> None:
        """Add a handler. Adding it twice does nothing. Raises ValueError for an unknown type."""
        if event_type not in CATALOGUE:
            raise ValueError(f"{event_type!r} is not an event type. Known: {', '.join(CATALOGUE)}.")
        with self._lock:
            known = self._by_type.get(event_type, ())
            if not any(one.handler == handler for one in known):
                name = _free_name(handler, {one.name for one in known})
                self._by_type[event_type] = (*known, NamedHandler(name, handler))

    def unregister(self, event_type: str, handler: Handler) -> None:
        """Remove a handler; does nothing if it is not registered."""
        with self._lock:
            known = self._by_type.get(event_type, ())
            self._by_type[event_type] = tuple(one for one in known if one.handler != handler)

    def of(self, event_type: str) -> tuple[NamedHandler, ...]:
        """The handlers of an event type."""
        return self._by_type.get(event_type, ())


def _free_name(handler: Handler, used: Collection[str]) -> str:
    """`module.function`; a second handler of the same name is called `module.function#2`."""
    named: Any = getattr(handler, "func", handler)  # the function of a functools.partial
    if not hasattr(named, "__qualname__"):  # an object that can be called
        named = type(named)
    name = f"{named.__module__}.{named.__qualname__}"[:MAX_NAME]
    return next(
        free
        for number in count(1)
        if (free := name if number == 1 else f"{name}#{number}") not in used
    )


def load_handlers(modules: Sequence[str], consumer: Consumer) -> None:
    """Import each module of JOBQUEST_HANDLERS and call its `register(consumer)`."""
    for name in modules:
        try:
            module = importlib.import_module(name)
        except Exception as error:  # a user's module may raise anything
            raise _unusable(name, "can't be imported", error) from error
        if not callable(getattr(module, "register", None)):
            raise SettingsError(f"JOBQUEST_HANDLERS: {name} has no register(consumer) function.")
        try:
            module.register(consumer)
        except Exception as error:
            raise _unusable(name, "did not register", error) from error


def _unusable(name: str, problem: str, error: Exception) -> SettingsError:
    *_, last = traceback.extract_tb(error.__traceback__)
    place = "" if last.filename.startswith("<") else f" ({last.filename}:{last.lineno})"
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return SettingsError(f"JOBQUEST_HANDLERS: {name} {problem}: {reason}{place}.")
