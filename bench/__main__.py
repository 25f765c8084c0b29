"""Compares the service with its usual alternatives, and checks that it is fast enough.

    python -m bench                      # everything, into bench/RESULTS.md
    python -m bench --only single        # one measure, only printed

It starts a real Kafka, the service, the floors and the peer, runs them in turn, and checks that
every answered event is on its topic. Exit code 1 if a goal is missed or a measure fails.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from bench import consuming, http_load, posting, steady, viewing
from bench.goals import GOALS
from bench.machine import description
from bench.plan import MeasureFailed, Plan
from bench.report import Results, write_section
from tests import kafka_broker

MEASURES: dict[str, Callable[[Plan, Results], None]] = {
    "single": posting.single,
    "latency": posting.latency,
    "batch": posting.batch,
    "realistic": posting.realistic,
    "realistic-batch": posting.realistic_batch,
    "steady": steady.steady,
    "end-to-end": steady.end_to_end,
    "embedded": posting.embedded,
    "consume": consuming.consume,
    "store": consuming.store,
    "rebuild": consuming.rebuild,
    "viewers": viewing.viewers,
    "stalled": viewing.stalled,
}


def main() -> None:
    options = _options()
    if reason := http_load.why_not() or kafka_broker.why_not():
        sys.exit(f"error: {reason}")
    results = Results()
    for name in options.only or MEASURES:
        try:
            MEASURES[name](Plan(options.rounds, options.seconds), results)
        except (MeasureFailed, AssertionError) as error:  # an AssertionError: it did not start
            results.fail(name, error)
    text = "\n\n".join([results.table(GOALS), *results.failed])
    print(f"\n{text}\n")
    if not options.only:
        command = f"python -m bench --rounds {options.rounds} --seconds {options.seconds:g}"
        write_section("Against the goals", f"{description(command)}\n\n{text}")
        write_section("Every figure", results.all_medians())
    missed = results.missed(GOALS)
    print("\n".join(missed))
    sys.exit(1 if missed or results.failed else 0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure, compare, write bench/RESULTS.md.")
    rounds = "of each contender (7); slow measures have fewer"
    parser.add_argument("--rounds", type=int, default=7, help=rounds)
    parser.add_argument("--seconds", type=float, default=8, help="of one run over HTTP (8)")
    parser.add_argument(
        "--only", action="append", choices=MEASURES, help="run only this measure; writes no file"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
