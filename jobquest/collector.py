"""How often Python's garbage collector runs. Called at the start of the processes that read many
events: the server and `flask events rebuild`.
"""

from __future__ import annotations

import gc

_NEW_OBJECTS, _OF_YOUNG, _OF_MIDDLE = 50_000, 20, 20


def collect_seldom() -> None:
    """Collect after 50,000 new objects instead of 700.

    A batch of events creates 60,000 objects that all end with it, and none of them is in a cycle:
    a fifth of the consumer's time was spent on collections.
    """
    gc.set_threshold(_NEW_OBJECTS, _OF_YOUNG, _OF_MIDDLE)
