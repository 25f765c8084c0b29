"""The settings with which our topics are created, and how existing topics differ from them.

The cluster uses them to create topics and to compare; nothing here calls a broker.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class TopicSettings:
    """The settings with which one of our topics is created."""

    partitions: int
    replication_factor: int
    configs: Mapping[str, str]

    def request(self) -> dict[str, Any]:
        """In the form that the library's `create_topics` needs."""
        return {
            "num_partitions": self.partitions,
            "replication_factor": self.replication_factor,
            "configs": dict(self.configs),
        }

    def differences(
        self, found: Mapping[str, Any], configs: Mapping[str, Mapping[str, Any]]
    ) -> list[str]:
        """How an existing topic differs. `found` is the library's description of it, and `configs`
        are its configs, without those that this client has no right to see."""
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
        return [f"{name} {value}, not {wanted}" for name, value, wanted in pairs if value != wanted]


def settings_of(
    topics: Sequence[str],
    partitions: int,
    replication_factor: int,
    topic_configs: Mapping[str, Mapping[str, str]],
) -> dict[str, TopicSettings]:
    """The settings of each topic. Those that decide about retention are always given, whatever the
    broker's defaults are: the log is the only source of truth, so it must keep everything."""
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
    """Topic → differences, as one line; topics that differ in the same way are grouped."""
    alike: dict[str, list[str]] = {}
    for topic, found in sorted(differences.items()):
        if text := ", ".join(found):
            alike.setdefault(text, []).append(topic)
    return "; ".join(f"{', '.join(topics)} ({text})" for text, topics in alike.items())
