"""A process of the service on a machine whose clock is wrong.

`python -m tests.skewed_process SECONDS` with a service's settings in the environment: it consumes
until its input ends, then tells the states of all processes as it sees them. With `leave` as a
second argument it applies one event with a follow-up, publishes nothing, and ends like a crash.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

_real = time.time_ns


def _skewed() -> int:
    return _real() + int(sys.argv[1]) * 1_000_000_000


def main() -> None:
    # Before anything of the service has it by name.
    setattr(time, "time_ns", _skewed)  # noqa: B010
    from jobquest.config import load
    from jobquest.runtime import Runtime

    runtime: Any = Runtime(load())
    if "leave" in sys.argv:
        runtime.producer.publish("xp.earned", "ada", {"xpAmount": 150, "totalXp": 150})
        while not runtime.consumer.step(0.2):
            pass
        os._exit(0)
    runtime.start()
    print("started", flush=True)
    sys.stdin.read()
    print([one["state"] for one in runtime.report.processes()], flush=True)
    runtime.stop()


if __name__ == "__main__":
    main()
