"""A real nginx in front of the service: the system's own, on loopback, as whoever runs the tests.

Its configuration is that of docs/deployment.md, with the test's addresses and files in it, or one
that a test writes.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.kafka_broker import free_port
from tests.service import ROOT, wait_for

PROGRAM = "nginx"
USER, PASSWORD = "ada", "p:ss wörd"
DOCUMENTED = re.findall(
    r"^```nginx\n(.*?)^```$", (ROOT / "docs" / "deployment.md").read_text(), re.M | re.S
)
_FOLDERS = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
_FRAME = """\
worker_processes 1;
pid {folder}/pid;
error_log {folder}/errors;
events {{ worker_connections 512; }}
http {{
    access_log off;
{temporary}
{servers}
}}
"""


def why_not() -> str | None:
    """Why no nginx can run here; None if one can."""
    if not shutil.which(PROGRAM, path=_path()):
        return "no nginx on this machine"
    return None if shutil.which("openssl") else "no openssl on this machine"


def documented(server: str, service: str, port: int, folder: Path) -> str:
    """The configuration of the docs, `server` being the text of one server: with the addresses of
    `service` (host:port) and of nginx itself, and its files in `folder`."""
    shared = DOCUMENTED[0]
    return _put(
        shared + server,
        {
            "127.0.0.1:5000": service,
            "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
            "/etc/nginx/jobquest/": f"{folder}/",
        },
    )


def of_instances(urls: Sequence[str], port: int) -> str:
    """The configuration of the docs for several instances, without TLS."""
    shared, server, _, _, upstream = DOCUMENTED
    maps = shared[: shared.index("upstream")]
    plain = [line for line in server.splitlines() if not line.strip().startswith("ssl_")]
    places = {f"127.0.0.1:{5001 + n}": url.split("//")[1] for n, url in enumerate(urls)}
    places["listen 443 ssl;"] = f"listen 127.0.0.1:{port};"
    return _put(maps + upstream + "\n".join(plain), places)


class Nginx:
    """One server on a port of its own; `start` takes its configuration. Ends with `stop`."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="nginx-"))
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        _write_files(self.folder)

    def start(self, servers: str) -> Nginx:
        """Start it with these servers and wait until it listens."""
        temporary = "\n".join(f"    {name}_temp_path {self.folder}/{name};" for name in _FOLDERS)
        return self.run(_FRAME.format(folder=self.folder, temporary=temporary, servers=servers))

    def run(self, configuration: str) -> Nginx:
        """Start it with a whole configuration, in the foreground, and wait until it listens."""
        user = "user root;\n" if os.geteuid() == 0 else ""
        (self.folder / "nginx.conf").write_text(f"{user}daemon off;\n{configuration}")
        self._process = subprocess.Popen(
            self._command(), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_for(self._listens, 10, self.errors)
        return self

    def reload(self) -> None:
        """Have it read its configuration again. Fails if that has an error."""
        done = subprocess.run([*self._command(), "-t"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert self._process
        self._process.send_signal(signal.SIGHUP)

    def stop(self) -> None:
        """End it, its workers with it, and drop its files."""
        if self._process:
            self._process.terminate()
            self._process.wait(10)
        shutil.rmtree(self.folder, ignore_errors=True)

    def errors(self) -> str:
        """What it has complained of."""
        log = self.folder / "errors"
        return log.read_text() if log.exists() else ""

    def _command(self) -> list[str]:
        program = shutil.which(PROGRAM, path=_path())
        assert program
        errors = str(self.folder / "errors")
        return [program, "-p", str(self.folder), "-c", "nginx.conf", "-e", errors]

    def _listens(self) -> bool:
        assert self._process
        assert self._process.poll() is None, self.errors()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


def _path() -> str:
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])


def _put(text: str, values: dict[str, str]) -> str:
    for old, new in values.items():
        assert old in text, f"docs/deployment.md does not say {old!r}"
        text = text.replace(old, new)
    return text


def _write_files(folder: Path) -> None:
    """A certificate that nobody trusts, and a file of passwords."""
    key, certificate = str(folder / "key.pem"), str(folder / "certificate.pem")
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"]
    subprocess.run(
        ["openssl", "req", "-x509", *kind, "-subj", "/CN=a", "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )
    hashed = subprocess.run(
        ["openssl", "passwd", "-apr1", "-stdin"],
        input=PASSWORD.encode(),
        check=True,
        capture_output=True,
    ).stdout.decode()
    (folder / "passwords").write_text(f"{USER}:{hashed}")
