"""What Kafka's answers say about our rights on topics and about the members of a group.

Brokers without an authorizer, or older than these answers, allow everything as far as this knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jobquest.log import Member, Partition

FORBIDDEN = 29  # Kafka's code of the error TOPIC_AUTHORIZATION_FAILED
_NEEDED = ("READ", "WRITE")


def missing_rights(topic: Mapping[str, Any]) -> tuple[str, ...]:
    """The rights that we need and have not, by an answer about one topic."""
    if topic["error_code"] == FORBIDDEN:
        return ("DESCRIBE",)
    allowed = topic["authorized_operations"] or ()
    if "DESCRIBE" not in allowed:  # the broker does not say: it would not have answered
        return ()
    return tuple(right for right in _NEEDED if right not in allowed)


def member_of(found: Mapping[str, Any]) -> Member:
    """A member of a group, by an answer about the group."""
    assignment = found["member_assignment"]
    # Bytes, if the member does not speak the protocol of consumers: then it reads nothing.
    assigned = assignment["assigned_partitions"] if isinstance(assignment, Mapping) else ()
    return Member(
        found["client_id"],
        found["client_host"],
        tuple(Partition(one["topic"], number) for one in assigned for number in one["partitions"]),
    )
