"""The settings that our topics are made with, and how topics that exist differ from them.

The cluster makes topics by these and compares; nothing here asks a broker.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class TopicSettings:
    """What a topic of ours is made with."""

    partitions: int
    replication_factor: int
    configs: Mapping[str, str]

    def request(self) -> dict[str, Any]:
        """In the form of the library's `create_topics`."""
        return {
            "num_partitions": self.partitions,
            "replication_factor": self.replication_factor,
            "configs": dict(self.configs),
        }

    def differences(
        self, found: Mapping[str, Any], configs: Mapping[str, Mapping[str, Any]]
    ) -> list[str]:
        """How a topic differs: `found` as the library describes it, with its `configs`, of which
        those are missing that this client may not see."""
        partitions = found["partitions"]
        copies = min((len(one["replica_nodes"]) for one in partitions), default=0)
        pairs = [
            ("partitions", str(len(partitions)), str(self.partitions)),
            ("replication factor", str(copies), str(self.replication_factor)),
        ]
        pairs += [
            (name, configs[name]["value"], wanted)
            for name, wanted in self.configs.items()
            if name in configs
        ]
        return [f"{name} {is_so}, not {wanted}" for name, is_so, wanted in pairs if is_so != wanted]


def settings_of(
    topics: Sequence[str],
    partitions: int,
    replication_factor: int,
    topic_configs: Mapping[str, Mapping[str, str]],
) -> dict[str, TopicSettings]:
    """The settings of each topic. Those that decide what is forgotten are given, whatever the
    broker's defaults are: the log is the truth, so it forgets nothing."""
    configs = {
        "cleanup.policy": "delete",
        "retention.ms": "-1",
        "retention.bytes": "-1",
        "min.insync.replicas": str(max(1, replication_factor - 1)),
    }
    return {
        topic: TopicSettings(
            partitions, replication_factor, configs | dict(topic_configs.get(topic, {}))
        )
        for topic in topics
    }


def in_one_line(differences: Mapping[str, Iterable[str]]) -> str:
    """Topic → differences, in which topics that differ in the same way stand together."""
    alike: dict[str, list[str]] = {}
    for topic, found in sorted(differences.items()):
        if text := ", ".join(found):
            alike.setdefault(text, []).append(topic)
    return "; ".join(f"{', '.join(topics)} ({text})" for text, topics in alike.items())
