"""HTTP load from `wrk`, with a script for the requests and the figures, and from `clients`.

Called by the measures that post. It knows no contender and no log.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from bench.clients import LOST_SECONDS, Figures
from bench.plan import MeasureFailed
from bench.workload import ID, Ids, Request
from tests.service import ROOT

# wrk calls `request` for each request, and `done` at the end with its figures (microseconds). The
# requests are cut where a new id belongs; pieces and ids are joined without a copy in between.
_SCRIPT = """
local requests = {
%s
}
%s
local turn, parts = 0, {}
request = function()
  turn = turn %% #requests + 1
  local pieces = requests[turn]
  parts[1] = pieces[1]
  for i = 2, #pieces do
    parts[2 * i - 2] = new_id()
    parts[2 * i - 1] = pieces[i]
  end
  return table.concat(parts, "", 1, 2 * #pieces - 1)
end
done = function(summary, latency, requests)
  local wrong = summary.errors
  io.write(string.format(
    '\\nFIGURES {"requests": %%d, "us": %%d, "p50_us": %%d, "p99_us": %%d,' ..
    ' "refused": %%d, "failed": %%d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    wrong.status, wrong.connect + wrong.read + wrong.write + wrong.timeout))
end
"""


@dataclass(frozen=True)
class Run:
    """The result of one run. `answered` counts events; the times are those of requests. `split` is
    the result of the clients that send in two segments at the same time."""

    answered: int
    seconds: float
    p50_ms: float
    p99_ms: float
    split: Figures | None = None

    @property
    def all_answered(self) -> int:
        return self.answered + (self.split.answered if self.split else 0)

    @property
    def events_per_second(self) -> float:
        of_split = self.split.answered / self.split.seconds if self.split else 0.0
        return self.answered / self.seconds + of_split


def why_not() -> str | None:
    """Why load can't be generated here; None if it can."""
    return None if shutil.which("wrk") else "no wrk on this machine: apt-get install wrk"


def script(request: Request, host: str) -> str:
    """The Lua script that has wrk send these requests in turn, with new ids."""
    cut = [text.split(ID) for text in request.texts(host)]
    requests = ",\n".join(f"{{{', '.join(map(_quoted, pieces))}}}" for pieces in cut)
    return _SCRIPT % (requests, Ids().lua())


def _quoted(text: str) -> str:
    """As a string of Lua, which has JSON's escapes for ASCII only."""
    assert text.isascii(), text
    return json.dumps(text)


def figures(output: str, events: int) -> Run:
    """Parse wrk's output, at `events` per request. Raises MeasureFailed."""
    lines = [line for line in output.splitlines() if line.startswith("FIGURES ")]
    if len(lines) != 1:
        raise MeasureFailed(f"wrk printed no figures: {output.strip()}")
    found = json.loads(lines[0].removeprefix("FIGURES "))
    if found["refused"] or found["failed"] or not found["requests"]:
        raise MeasureFailed(
            f"Of {found['requests']} requests {found['refused']} were refused"
            f" and {found['failed']} not answered."
        )
    return Run(
        answered=found["requests"] * events,
        seconds=found["us"] / 1e6,
        p50_ms=found["p50_us"] / 1e3,
        p99_ms=found["p99_us"] / 1e3,
    )


def post(url: str, request: Request, connections: int, seconds: float) -> Run:
    """Have wrk post for `seconds` over `connections`. Raises MeasureFailed."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        Path(file.name).write_text(script(request, urlsplit(url).netloc))
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:.0f}s", "--timeout", "15s"]
        done = subprocess.run(
            [*command, "--latency", "-s", file.name, url],
            capture_output=True,
            text=True,
            timeout=seconds + 60,
        )
    return figures(done.stdout + done.stderr, request.events)


class Clients:
    """A process of `bench.clients`, connected and waiting."""

    def __init__(self, process: subprocess.Popen[str], output: IO[str], seconds: float) -> None:
        self._process, self._output, self._seconds = process, output, seconds

    def start(self) -> None:
        assert self._process.stdin
        self._process.stdin.write("begin\n")
        self._process.stdin.flush()

    def figures(self) -> Figures:
        """Its figures, once it has ended. Raises MeasureFailed if it failed."""
        try:
            output, _ = self._process.communicate(timeout=self._seconds + 2 * LOST_SECONDS)
        except subprocess.TimeoutExpired:
            raise MeasureFailed("The clients did not end.") from None
        if self._process.returncode:
            self._output.seek(0)
            raise MeasureFailed(f"The clients failed: {self._output.read()[-1000:].strip()}")
        return Figures(**json.loads(output.splitlines()[-1]))


@contextmanager
def clients(
    url: str,
    request: Callable[[], Request],
    connections: int,
    split: int,
    seconds: float,
    rate: float = 0,
    read_side: Path | None = None,
) -> Iterator[Clients]:
    """A process of our own clients; see `clients.py`."""
    arguments = [url, request.__name__, connections, split, seconds, rate, read_side or ""]
    command = [sys.executable, "-m", "bench.clients", *map(str, arguments)]
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
        )
        try:
            assert process.stdout
            process.stdout.readline()  # "ready"; if it failed, `figures` raises
            yield Clients(process, output, seconds)
        finally:
            process.kill()
            process.wait(10)
