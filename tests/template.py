"""A process that has imported the whole service, and whose forks are services: imports are two
thirds of what a start takes of the processor. For tests whose subject is not the start."""

from __future__ import annotations

import importlib
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import threading
from functools import cache
from pathlib import Path
from typing import Any

from tests.service import ROOT, Service

# All that a service imports, some of it late.
_IMPORTS = (
    "alembic.command",
    "gunicorn.app.base",
    "gunicorn.arbiter",
    "jobquest.server",
    "jobquest.worker",
)


class ForkedService(Service):
    """The service as a fork of the template; it behaves as one that `python app.py` started."""

    def _spawn(self, environment: dict[str, str]) -> Fork:
        return _template().fork(
            program=str(self._program),
            folder=str(self.folder),
            environment=environment,
            path=self.python_path,
            output=f"/proc/{os.getpid()}/fd/{self._written.fileno()}",
        )


class Fork:
    """What `subprocess.Popen` is to another process."""

    def __init__(self, template: Template, pid: int) -> None:
        self.pid = pid
        self._template = template
        self._descriptor = os.pidfd_open(pid)
        self._code: int | None = None

    def poll(self) -> int | None:
        """Its exit code, None while it runs."""
        return self._end_within(0)

    def wait(self, timeout: float) -> int:
        """Wait for its end; its exit code."""
        code = self._end_within(timeout)
        if code is None:
            raise subprocess.TimeoutExpired("a fork", timeout)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def _end_within(self, seconds: float) -> int | None:
        if self._code is not None:
            return self._code
        ended = select.poll()
        ended.register(self._descriptor, select.POLLIN)
        if ended.poll(seconds * 1_000):
            self._code = self._template.exit_code(self.pid)
            os.close(self._descriptor)
        return self._code


class Template:
    """The process itself, as the tests see it: it ends with them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.template"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={k: v for k, v in os.environ.items() if not k.startswith(("JOBQUEST_", "KAFKA_"))},
            start_new_session=True,  # Ctrl-C is for the tests, which still ask it for exit codes
        )

    def fork(self, **how: Any) -> Fork:
        return Fork(self, self._ask(how))

    def exit_code(self, pid: int) -> int:
        """Of a fork that has ended; its process id may be another's from then on."""
        return self._ask(pid)

    def _ask(self, question: Any) -> int:
        assert self._process.stdin
        assert self._process.stdout
        with self._lock:  # a test may start services from several threads
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            self._process.stdin.flush()
            return int(self._process.stdout.readline())


@cache
def _template() -> Template:
    return Template()


# --- in the template's process ---


def _serve() -> None:
    """Answer each line: a fork's process id for how to start it, its exit code for that id."""
    for line in sys.stdin.buffer:
        question = json.loads(line)
        if isinstance(question, int):
            code = os.waitstatus_to_exitcode(os.waitpid(question, 0)[1])
            os.write(1, b"%d\n" % code)
        elif os.fork() == 0:
            _become(**question)
            return  # an interpreter ends as one that ran nothing else


def _become(
    program: str, folder: str, environment: dict[str, str], path: list[str], output: str
) -> None:
    """Be the process that `python program` would be."""
    os.setsid()
    os.write(1, b"%d\n" % os.getpid())
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    written = os.open(output, os.O_WRONLY | os.O_APPEND)
    os.dup2(written, 1)
    os.dup2(written, 2)
    os.close(written)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:] = [str(Path(program).parent), *path, *sys.path[1:]]
    sys.argv = [program]
    runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    os.environ.pop("WEB_CONCURRENCY", None)  # gunicorn's import fails if that is no number
    for name in _IMPORTS:
        importlib.import_module(name)
    _serve()
