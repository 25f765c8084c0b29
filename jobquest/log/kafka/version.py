"""The one check of kafka-python's version: its insides are used if this one was tried, else what it
documents.

The log makes it at its start. The fast path is not even imported on another version: the modules
that it needs may have moved.
"""

from __future__ import annotations

import logging

from jobquest.log.kafka.documented import DocumentedLibrary
from jobquest.log.kafka.library import Library

logger = logging.getLogger(__name__)

# What `fast_path` was tried with. Before a version is added here, tests/test_log_contract.py and
# tests/test_log_kafka*.py pass on it.
TRIED = frozenset({"3.0.12"})


def library_of(version: str) -> Library:
    """The way to use kafka-python of this version."""
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
