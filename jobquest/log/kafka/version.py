"""The only check of kafka-python's version. A tried version is used through its internals, any
other only through its documented interface.

The log calls it when it is built. On another version the fast path is not even imported, because
the modules that it needs may have moved.
"""

from __future__ import annotations

import logging

from jobquest.log.kafka.documented import DocumentedLibrary
from jobquest.log.kafka.library import Library

logger = logging.getLogger(__name__)

# The versions that `fast_path` was tried with. Before a version is added here,
# tests/test_log_contract.py and tests/test_log_kafka*.py must pass on it.
TRIED = frozenset({"3.0.12"})


def library_of(version: str) -> Library:
    """The way to use this version of kafka-python."""
    if version in TRIED:
        from jobquest.log.kafka.fast_path import FastLibrary

        return FastLibrary()
    logger.warning(
        "kafka-python %s was not tried with this service: only its documented interface is used,"
        " which is slower. Install kafka-python==%s for the fast path.",
        version,
        max(TRIED),
    )
    return DocumentedLibrary()
