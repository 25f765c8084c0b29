"""Kafka in containers, with `docker compose` and `docker-compose.kafka.yml`: the functions of
`flask kafka up`, `down`, `ps`, `logs` and `ui`. Knows nothing of events or of Flask.
"""

from __future__ import annotations

import shutil
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

from jobquest.errors import JobQuestError

COMPOSE_FILE = Path(__file__).parent.parent / "docker-compose.kafka.yml"
UI_URL = "http://127.0.0.1:8080/"


class ComposeFailed(JobQuestError):
    """Docker is missing, its engine does not run, or the command failed."""


def up() -> None:
    """Start Kafka and its UI; return when both are healthy."""
    run("up", "-d", "--wait")


def down(*, volumes: bool = False) -> None:
    """Stop both; their data stays, unless `volumes` is true."""
    run("down", *(["--volumes"] if volumes else []))


def run(*arguments: str) -> None:
    """Run a compose command on our file; its output goes to ours. Raises ComposeFailed."""
    command = [*_compose(), "-f", str(COMPOSE_FILE)]
    _check_engine(command)
    if subprocess.run([*command, *arguments], check=False).returncode:
        raise ComposeFailed(f"`{' '.join([*command, *arguments])}` failed.")


def _check_engine(command: list[str]) -> None:
    """Run a command that needs Docker's engine, because some versions of compose show a traceback
    if there is none. Raises ComposeFailed."""
    question = [*command, "ps", "-q"]
    done = subprocess.run(question, check=False, capture_output=True, text=True, errors="replace")
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise ComposeFailed(
            "Docker's engine does not answer: start it, or set KAFKA_BROKER to a Kafka that runs"
            f" elsewhere. `{command[0]}` says: {lines[-1] if lines else done.returncode}"
        )


def ui_answers() -> bool:
    """Whether Kafka UI answers."""
    try:
        with urllib.request.urlopen(UI_URL, timeout=2):  # nosec B310
            return True
    except (urllib.error.URLError, OSError):
        return False


def _compose() -> list[str]:
    if shutil.which("docker") and _succeeds("docker", "compose", "version"):
        return ["docker", "compose"]
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    raise ComposeFailed(
        "No `docker compose` on this machine: install Docker with its compose plugin, or set"
        " KAFKA_BROKER to a Kafka that runs elsewhere."
    )


def _succeeds(*command: str) -> bool:
    return subprocess.run(command, check=False, capture_output=True).returncode == 0
