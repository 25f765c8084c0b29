"""The rights that docs/security.md grants, and the topics that it creates: its own commands, read
as Kafka's tools read them."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
from itertools import product

from kafka.admin import ACL, ACLOperation, ACLPermissionType, ResourcePattern, ResourceType

from tests.service import ROOT

_PAGE = (ROOT / "docs" / "security.md").read_text()
_BLOCKS = re.findall(r"^```sh\n(.*?)^```$", _PAGE, re.M | re.S)


def rights() -> list[ACL]:
    """What the page grants, in its order."""
    parser = _parser("--allow-principal")
    parser.add_argument("--add", action="store_true", required=True)
    for option in ("--operation", "--topic", "--group"):
        parser.add_argument(option, action="append", default=[])
    found = []
    for block in _BLOCKS:
        program, *arguments = shlex.split(block.replace("\\\n", " "))
        if program != "kafka-acls.sh":
            continue
        given = parser.parse_args(arguments)
        patterns = [ResourcePattern(ResourceType.TOPIC, name) for name in given.topic]
        patterns += [ResourcePattern(ResourceType.GROUP, name) for name in given.group]
        for operation, pattern in product(given.operation, patterns):
            name = re.sub("(?<=[a-z])(?=[A-Z])", "_", operation).upper()
            allow = ACLPermissionType.ALLOW
            found.append(ACL(given.allow_principal, "*", ACLOperation[name], allow, pattern))
    return found


def topics() -> dict[str, dict[str, str]]:
    """The topics that the page's script creates, each with its configs, its `partitions` and
    `copies`. The shell runs the script, with a tool that prints what it is asked."""
    parser = _parser("--topic", "--partitions", "--replication-factor")
    parser.add_argument("--create", action="store_true", required=True)
    parser.add_argument("--config", action="append")
    [script] = [block for block in _BLOCKS if "kafka-topics.sh" in block]
    script = script.replace("kafka-topics.sh", "echo")
    done = subprocess.run(["sh", "-euc", script], capture_output=True, text=True, check=True)
    return {
        given.topic: {
            "partitions": given.partitions,
            "copies": given.replication_factor,
            **dict(one.split("=") for one in given.config),
        }
        for given in (parser.parse_args(line.split()) for line in done.stdout.splitlines())
    }


def _parser(*required: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(exit_on_error=False, allow_abbrev=False)
    for option in ("--bootstrap-server", "--command-config", *required):
        parser.add_argument(option, required=True)
    return parser
