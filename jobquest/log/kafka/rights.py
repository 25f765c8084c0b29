"""Reads Kafka's answers about our rights on topics and about the members of a group.

Brokers without an authorizer, or too old for these answers, count as allowing everything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jobquest.log import Member, Partition

FORBIDDEN = 29  # Kafka's code of the error TOPIC_AUTHORIZATION_FAILED
_NEEDED = ("READ", "WRITE")


def missing_rights(topic: Mapping[str, Any]) -> tuple[str, ...]:
    """The rights on a topic that we need but do not have, from an answer about that topic."""
    if topic["error_code"] == FORBIDDEN:
        return ("DESCRIBE",)
    allowed = topic["authorized_operations"] or ()
    if "DESCRIBE" not in allowed:  # the broker does not report rights: it has answered, after all
        return ()
    return tuple(right for right in _NEEDED if right not in allowed)


def member_of(found: Mapping[str, Any]) -> Member:
    """A member of a group, from an answer about the group."""
    assignment = found["member_assignment"]
    # Bytes, if the member does not use the consumer protocol: then it reads nothing.
    assigned = assignment["assigned_partitions"] if isinstance(assignment, Mapping) else ()
    return Member(
        found["client_id"],
        found["client_host"],
        tuple(Partition(topic["topic"], n) for topic in assigned for n in topic["partitions"]),
    )
