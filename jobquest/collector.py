"""How often Python looks for garbage that refers to itself. Called where a process begins that
reads many events: the server and `flask events rebuild`.
"""

from __future__ import annotations

import gc

_NEW_OBJECTS, _OF_YOUNG, _OF_MIDDLE = 50_000, 20, 20


def collect_seldom() -> None:
    """Look after 50,000 new objects instead of 700.

    A batch of events makes 60,000 that all end with it and of which none refers to itself: a fifth
    of the consumer's time went into looking.
    """
    gc.set_threshold(_NEW_OBJECTS, _OF_YOUNG, _OF_MIDDLE)
