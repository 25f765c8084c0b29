"""How often callers may do what costs us, or what others could guess by: the limits that we have.

The counters are shared by the processes of one machine (`limits.py`); several machines multiply
them. A stranger can't lock an operator out: a name is counted for each address by itself.
"""

from __future__ import annotations

import ipaddress
import logging
from math import ceil
from pathlib import Path

from jobquest.access.caller import Caller
from jobquest.access.limits import Limits
from jobquest.errors import TooMany

logger = logging.getLogger(__name__)

SIGN_INS = 10  # a minute: for each address, for each name there, and for each step elsewhere
REDRIVES = 60  # a minute, for each caller
_IPV6_PREFIX = 64  # one customer has so many addresses at least


class Bounds:
    """The limits, by the settings. If the file can't be used, nobody is limited."""

    def __init__(self, folder: Path, user_events_per_second: int) -> None:
        self._folder = folder
        self._events = user_events_per_second
        self._opened: Limits | None = None

    def publish(self, caller: Caller, events: int) -> float:
        """Count events that a user publishes; 0: only ask whether one is allowed. Returns the
        seconds until that is allowed; then nothing was counted."""
        if caller.user is None:
            return 0.0
        rate, ask = self._events, not events
        return self._take("publish", caller.user, rate, rate, events or 1, ask=ask)

    def forget_publish(self, caller: Caller, events: int) -> None:
        """Take back that events were counted: somebody else will count them."""
        if caller.user is not None:
            self._take("publish", caller.user, self._events, self._events, -events)

    def refuse_publish(self, caller: Caller, events: int = 0) -> None:
        """The same; raises TooMany."""
        if wait := self.publish(caller, events):
            line = f"This user publishes more than {self._events} events a second; try again later."
            raise TooMany(line, wait)

    def sign_in(self, name: str, address: str) -> None:
        """Count a sign-in. Raises TooMany."""
        place = _network(address)
        by_name = self._take("sign-in", f"{name} {place}", SIGN_INS / 60, SIGN_INS)
        if wait := max(by_name, self._take("sign-in from", place, SIGN_INS / 60, SIGN_INS)):
            line = f"Too many sign-ins from your address: try again in {ceil(wait)} s."
            raise TooMany(line, wait)

    def sign_in_at_provider(self, step: str, address: str) -> None:
        """Count a step of a sign-in at the identity provider, which we ask then. Raises TooMany."""
        place = _network(address)
        if wait := self._take(f"sign-in {step} provider", place, SIGN_INS / 60, SIGN_INS):
            raise TooMany("Too many sign-ins; try again later.", wait)

    def redrive(self, caller: Caller) -> None:
        """Count a redrive. Raises TooMany."""
        name = f"{caller.kind} {caller.name}"
        if wait := self._take("redrive", name, REDRIVES / 60, REDRIVES):
            raise TooMany("Too many redrives; try again later.", wait)

    def close(self) -> None:
        """Close the file."""
        if self._opened:
            self._opened.close()
            self._opened = None

    def _take(
        self, kind: str, name: str, rate: float, burst: float, n: int = 1, *, ask: bool = False
    ) -> float:
        try:
            if self._opened is None:
                self._opened = Limits(self._folder)
            return self._opened.take(kind, name, rate, burst, n, ask=ask)
        except OSError as error:
            logger.warning("Nobody is limited: the counters can't be used (%s).", error.strerror)
            return 0.0


def _network(address: str) -> str:
    """What is counted as one address."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if found.version == 6:
        return str(ipaddress.ip_network((found, _IPV6_PREFIX), strict=False))
    return address
