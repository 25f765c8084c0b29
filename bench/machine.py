"""Where the figures were measured: the machine, the versions, the commit. For the report only."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from importlib.metadata import version
from pathlib import Path

from bench.contenders import REQUIREMENTS
from tests.kafka_broker import VERSION as KAFKA_VERSION
from tests.service import ROOT

_LIBRARIES = ("kafka-python", "gunicorn", "flask", "marshmallow")
_PEERS_LIBRARIES = ("fastapi", "aiokafka", "uvicorn", "pydantic")


def description(command: str) -> str:
    """Date, command, commit, machine and versions, as Markdown."""
    return (
        f"{time.strftime('%Y-%m-%d')}, `{command}`, at {_commit()}.\n"
        f"{os.cpu_count()} cores ({_processor()}), {_memory()} of memory, {_system()};"
        f" {', '.join(_versions())}."
    )


def _system() -> str:
    return f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}"


def _versions() -> list[str]:
    peers = dict(re.findall(r"^([\w-]+)==(\S+)", REQUIREMENTS.read_text(), re.MULTILINE))
    found = {"Python": platform.python_version(), "Apache Kafka": KAFKA_VERSION}
    found |= {name: version(name) for name in _LIBRARIES}
    found |= {name: peers[name] for name in _PEERS_LIBRARIES}
    wrk = subprocess.run(["wrk", "-v"], capture_output=True, text=True, check=False).stdout
    return [*(f"{name} {number}" for name, number in found.items()), " ".join(wrk.split()[:2])]


def _commit() -> str:
    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no")
    return git("rev-parse", "--short", "HEAD") + (" with changes" if changed else "")


def _processor() -> str:
    found = re.search(r"^model name\s*: (.+)$", _read("/proc/cpuinfo"), re.MULTILINE)
    return found[1] if found else platform.machine()


def _memory() -> str:
    found = re.search(r"^MemTotal:\s*(\d+) kB", _read("/proc/meminfo"), re.MULTILINE)
    return f"{int(found[1]) / 2**20:.0f} GB" if found else "an unknown amount"


def _read(path: str) -> str:
    return Path(path).read_text() if Path(path).exists() else ""
