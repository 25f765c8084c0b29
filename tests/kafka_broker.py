"""A real Apache Kafka for the tests: one KRaft node on free ports of loopback, ended by process id.

Its jars come through Maven into a cache once. A first broker leaves its loaded classes there for
all others, which start at half the cost. `python -m tests.kafka_broker` runs one by hand.
"""

from __future__ import annotations

import atexit
import base64
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

VERSION = "4.3.1"
START_SECONDS = 90.0  # 4 s as a rule; a log that was killed is checked first
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
_JARS = CACHE / f"kafka-{VERSION}-jars"
# What a first broker leaves: its loaded classes, and the file that `format` makes.
_CLASSES, _CHECKPOINT = "classes.jsa", "bootstrap.checkpoint"
_CLUSTER_ID = "4L6g3nShT-eMCtK--X86sw"

_POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
<modelVersion>4.0.0</modelVersion>
<groupId>tests</groupId><artifactId>broker</artifactId><version>1</version>
<dependencies>
<dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId>
<version>{VERSION}</version></dependency>
<dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId>
<version>1.7.36</version></dependency>
</dependencies>
</project>
"""


def why_not() -> str | None:
    """Why no broker can run here; None where one can."""
    for program in ("java", "mvn"):
        if shutil.which(program) is None:
            return f"no {program} on this machine"
    return None


def _jars() -> Path:
    """The folder of the broker's jars; fetched at first use."""
    with _made_once(_JARS) as folder:
        if folder:
            (folder / "pom.xml").write_text(_POM)
            subprocess.run(
                ["mvn", "-q", "-B", "dependency:copy-dependencies", f"-DoutputDirectory={folder}"],
                cwd=folder,
                check=True,
                timeout=600,
            )
    return _JARS


def _first_start() -> Path:
    """The folder of what a first broker leaves; made at first use, by each version of Java. A file
    is missing in it if it could not be made."""
    java = Path(shutil.which("java") or "").resolve()
    made = CACHE / f"kafka-{VERSION}-first-start-{int(java.stat().st_mtime)}"
    with _made_once(made) as folder:
        if folder:
            _FirstBroker(folder).start().leave()
    return made


@contextmanager
def _made_once(folder: Path) -> Iterator[Path | None]:
    """Where to make this folder, which comes to its place when it is complete; None: it exists.
    Several workers may ask at once."""
    if folder.exists():
        yield None
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():  # another worker made it meanwhile
            yield None
            return
        made = Path(tempfile.mkdtemp(dir=folder.parent))
        try:
            yield made
            made.rename(folder)
        finally:
            shutil.rmtree(made, ignore_errors=True)


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class KafkaBroker:
    """One broker with its data in a folder of its own. Its port stays over kill and start.

    Its settings are Kafka's own defaults, but for what one node forces and for two that save CPU
    and that no client sees: what is proved here holds for a broker that nobody has set up for us.

    `advertise` is the port of a proxy: clients that come through it (it passes on to `behind`) are
    told that address, so that they stay on it; those that come to `bootstrap` go around it.
    """

    def __init__(self, advertise: int | None = None, **properties: str) -> None:
        self.port, controller = free_port(), free_port()
        self.behind = free_port() if advertise else 0
        self.folder = Path(tempfile.mkdtemp(prefix="kafka-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._properties = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self.port}",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": str(self.folder / "data"),
            # One node can't have the three copies that Kafka's own topics have by default.
            "offsets.topic.replication.factor": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            # Fifty by default, all made for the first group and checked again after each kill.
            "offsets.topic.num.partitions": "1",
            # By default the controller writes that nothing has happened, twice a second.
            "metadata.max.idle.interval.ms": "0",
        }
        if advertise:
            self._properties["listeners"] += f",PROXIED://127.0.0.1:{self.behind}"
            self._properties["advertised.listeners"] += f",PROXIED://127.0.0.1:{advertise}"
            self._properties["inter.broker.listener.name"] = "PLAINTEXT"
            protocols = "PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT"
            self._properties["listener.security.protocol.map"] = protocols
        self._properties |= properties

    @property
    def bootstrap(self) -> str:
        """Where clients connect: host:port."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> KafkaBroker:
        """Start it and wait until it takes connections."""
        config = self.folder / "server.properties"
        if not config.exists():
            config.write_text("".join(f"{k}={v}\n" for k, v in self._properties.items()))
            self._format()
        output = (self.folder / "output.log").open("ab")
        command = [*_java("kafka.Kafka", *self._class_options()), str(config)]
        self._process = subprocess.Popen(
            command, stdout=output, stderr=output, cwd=self.folder, start_new_session=True
        )
        atexit.register(self.kill)
        self._wait_until_it_listens()
        return self

    def kill(self) -> None:
        """`kill -9`."""
        self._signal(signal.SIGKILL)
        if self._process:
            self._process.wait(10)

    def freeze(self) -> None:
        """SIGSTOP: it hangs, its connections stay open. Returns when each of its threads does."""
        self._signal(signal.SIGSTOP)
        assert self._process
        tasks = Path(f"/proc/{self._process.pid}/task")
        while any("\nState:\tT" not in (task / "status").read_text() for task in tasks.iterdir()):
            time.sleep(0.01)  # between looks: on a busy machine some run on for a moment

    def thaw(self) -> None:
        """Undo `freeze`."""
        self._signal(signal.SIGCONT)

    def restore(self) -> None:
        """Have it run, whatever a test has done to it."""
        self.thaw()
        if self._process is None or self._process.poll() is not None:
            self.start()

    def remove(self) -> None:
        """End it and drop its data."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def tail(self) -> str:
        """The last of what it wrote."""
        output = self.folder / "output.log"
        return output.read_text(errors="replace")[-3000:] if output.exists() else ""

    def _signal(self, number: int) -> None:
        if self._process and self._process.poll() is None:
            os.kill(self._process.pid, number)

    def _wait_until_it_listens(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            assert self._process
            if self._process.poll() is not None:
                break
            with socket.socket() as probe:
                probe.settimeout(1)
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.1)  # between two looks at the port
        self.kill()
        raise AssertionError(f"Kafka did not start.\n{self.tail()}")

    def _format(self) -> None:
        """What `kafka-storage.sh format` does, without the second that it takes."""
        checkpoint = _first_start() / _CHECKPOINT
        data = Path(self._properties["log.dirs"])
        data.mkdir()
        shutil.copy(checkpoint, data)
        number = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        (data / "meta.properties").write_text(
            f"version=1\ncluster.id={_CLUSTER_ID}\n"
            f"node.id={self._properties['node.id']}\ndirectory.id={number}\n"
        )

    def _class_options(self) -> list[str]:
        return [f"-XX:SharedArchiveFile={_first_start() / _CLASSES}"]  # unused if it is missing


class _FirstBroker(KafkaBroker):
    """One that is formatted by Kafka's own tool and writes down which classes it has loaded."""

    def __init__(self, leaves_in: Path) -> None:
        super().__init__()
        self._leaves_in = leaves_in

    def leave(self) -> None:
        """End it in order, so that it writes; drop its data."""
        shutil.copy(Path(self._properties["log.dirs"]) / _CHECKPOINT, self._leaves_in)
        self._signal(signal.SIGTERM)
        assert self._process
        self._process.wait(START_SECONDS)
        self.remove()

    def _format(self) -> None:
        command = [*_java("kafka.tools.StorageTool"), "format", "-t", _CLUSTER_ID, "-c"]
        command += [str(self.folder / "server.properties")]
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.folder, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr

    def _class_options(self) -> list[str]:
        return [f"-XX:ArchiveClassesAtExit={self._leaves_in / _CLASSES}"]


def _java(main: str, *more: str) -> list[str]:
    # Two cores, short runs: the first compiler is enough, and starts sooner.
    options = ["-Xmx512m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", *more]
    options += ["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]
    jars = sorted(str(jar) for jar in _jars().glob("*.jar"))  # archived classes need one order
    return ["java", *options, "-cp", ":".join(jars), main]


if __name__ == "__main__":
    broker = KafkaBroker().start()
    print(f"KAFKA_BROKER={broker.bootstrap}", flush=True)
    try:
        signal.pause()
    except KeyboardInterrupt:
        broker.remove()
