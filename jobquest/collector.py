"""How often Python's garbage collector runs. Called at the start of the processes that read many
events: the server and `flask events rebuild`.
"""

from __future__ import annotations

import gc

_OF_YOUNG, _OF_MIDDLE = 20, 20
OF_A_REBUILD = 1_000_000
"""New objects of a process that only rebuilds: its batches are larger, and it ends soon."""


def collect_seldom(new_objects: int = 50_000) -> None:
    """Collect after this many new objects instead of 700.

    A batch of events creates 60,000 objects that all end with it, and none of them is in a cycle:
    a fifth of the consumer's time was spent on collections.
    """
    gc.set_threshold(new_objects, _OF_YOUNG, _OF_MIDDLE)
