"""HTTP load from `wrk`: a script made for the requests, and its figures.

Called by the measures that post. It knows no contender and no log.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench.plan import MeasureFailed
from bench.workload import Request

# What wrk calls: `request` for each request, `done` at the end with its figures (microseconds).
_SCRIPT = """
local bodies = {
%s
}
local requests, turn = {}, 0
init = function(arguments)
  local headers = { ["Content-Type"] = "application/json" }
  for i, body in ipairs(bodies) do
    requests[i] = wrk.format("POST", "%s", headers, body)
  end
end
request = function()
  turn = turn %% #requests + 1
  return requests[turn]
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
    """What one run came to. `answered` counts events, the times are of requests."""

    answered: int
    seconds: float
    p50_ms: float
    p99_ms: float

    @property
    def events_per_second(self) -> float:
        return self.answered / self.seconds


def why_not() -> str | None:
    """Why there is no load from here; None where there is."""
    return None if shutil.which("wrk") else "no wrk on this machine: apt-get install wrk"


def script(request: Request) -> str:
    """The Lua script that has wrk send these requests in turn."""
    bodies = ",\n".join(f"[==[{body}]==]" for body in request.bodies)
    return _SCRIPT % (bodies, request.path)


def figures(output: str, events: int) -> Run:
    """Read what wrk wrote, at `events` a request. Raises MeasureFailed."""
    lines = [line for line in output.splitlines() if line.startswith("FIGURES ")]
    if len(lines) != 1:
        raise MeasureFailed(f"wrk told no figures: {output.strip()}")
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
    """Post for `seconds` over so many connections. Raises MeasureFailed."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        Path(file.name).write_text(script(request))
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:.0f}s", "--timeout", "15s"]
        done = subprocess.run(
            [*command, "--latency", "-s", file.name, url],
            capture_output=True,
            text=True,
            timeout=seconds + 60,
        )
    return figures(done.stdout + done.stderr, request.events)
