"""Dockerfile, docker-compose.cluster.yml and deploy/nginx.conf, by rules of our own and as far as
they can be run without an engine."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import signal
import ssl
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
import websocket
import yaml

from jobquest.config import load
from tests import nginx
from tests.kafka_broker import free_port
from tests.nginx import Nginx
from tests.postgres import Postgres
from tests.service import ROOT, Service, wait_for
from tests.signed_in import ProtectedService, signed_in
from tests.test_compose import compose_command
from tests.test_proxy_in_front import Front

DOCKERFILE = ROOT / "Dockerfile"
COMPOSE = ROOT / "docker-compose.cluster.yml"
NGINX = ROOT / "deploy" / "nginx.conf"
GUIDE = (ROOT / "docs" / "deployment.md").read_text()
SECRETS = {"POSTGRES_PASSWORD": "secret", "JOBQUEST_SECRET_KEY": "s" * 32}
NAME = "jobquest-"
# name:1.2 and more, and maybe the digest of those very bytes
PINNED = re.compile(r"[a-z0-9./-]+:v?\d+(\.\d+)+(-[a-z0-9.-]+)?(@sha256:[0-9a-f]{64})?")
SECRET = re.compile(r"PASSWORD|SECRET|TOKEN|KEY|CREDENTIAL", re.I)
STOP_SECONDS = 5.0  # in which the service stops


class Instruction(NamedTuple):
    """A line of the Dockerfile: its word and the rest, continued lines joined."""

    word: str
    rest: str

    @property
    def words(self) -> list[str]:
        """The exec form's list. Fails if it is the shell form."""
        found = json.loads(self.rest[self.rest.index("[") :])
        assert all(isinstance(word, str) for word in found)
        return list(found)


def instructions(text: str) -> list[Instruction]:
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [Instruction(*line.split(maxsplit=1)) for line in joined.splitlines()]


IMAGE = instructions(DOCKERFILE.read_text())
LAST_STAGE = IMAGE[max(n for n, one in enumerate(IMAGE) if one.word == "FROM") :]


def only(word: str) -> Instruction:
    """The one instruction of the last stage with this word."""
    [found] = [one for one in LAST_STAGE if one.word == word]
    return found


def copied() -> list[tuple[str, str]]:
    """What the last stage copies from the project: source, target."""
    pairs = [one.rest.split() for one in LAST_STAGE if one.word == "COPY"]
    return [(pair[0], pair[1]) for pair in pairs if not pair[0].startswith("--from=")]


def is_ignored(path: str) -> bool:
    """By .dockerignore: the last pattern that fits the path, or a folder above it, decides."""
    parts = path.split("/")
    above = ["/".join(parts[: n + 1]) for n in range(len(parts))]
    ignored = False
    for pattern in (ROOT / ".dockerignore").read_text().split("\n"):
        if pattern and not pattern.startswith("#"):
            bare = pattern.removeprefix("!")
            patterns = [bare, bare.removeprefix("**/")]
            names = above if not bare.startswith("**/") else [*above, *parts]
            if any(fnmatch.fnmatchcase(name, one) for name in names for one in patterns):
                ignored = not pattern.startswith("!")
    return ignored


# --- the image ---


def test_every_base_is_pinned() -> None:
    bases = [one.rest.split()[0] for one in IMAGE if one.word == "FROM"]
    assert bases
    assert all(PINNED.fullmatch(base) for base in bases), bases
    assert len(set(bases)) == 1, "packages are made for one Python"
    assert bases[0].startswith("python:3.11."), "the requirements were tried with it"


def test_the_image_runs_as_a_numbered_user_that_is_not_root() -> None:
    user, group = only("USER").rest.split(":")
    assert user.isdigit()
    assert group.isdigit()
    assert int(user) >= 10_000, "no user of the machine has it"
    after = LAST_STAGE[LAST_STAGE.index(only("USER")) :]
    assert not [one for one in after if one.word in ("RUN", "COPY", "ADD")]
    assert only("ENTRYPOINT") in after


def test_no_shell_starts_the_service_or_asks_for_its_health() -> None:
    health = only("HEALTHCHECK")
    for one in (only("ENTRYPOINT"), health):
        assert one.words[0] == "python", one
    assert " CMD [" in f" {health.rest}"
    assert not [one for one in LAST_STAGE if one.word in ("CMD", "SHELL")]


def test_the_image_is_stopped_by_the_signal_that_the_service_knows() -> None:
    assert only("STOPSIGNAL").rest == "SIGTERM"


def test_nothing_secret_and_nothing_from_the_network_is_in_the_image() -> None:
    for word, rest in IMAGE:
        assert word != "ADD", rest
        assert word not in ("ENV", "ARG") or not SECRET.search(rest), rest
        assert word != "RUN" or not re.search(r"https?://|curl|wget", rest), rest


def test_the_image_has_what_the_service_needs_and_nothing_else() -> None:
    sources = [source for one in IMAGE if one.word == "COPY" for source in one.rest.split()[:-1]]
    sources = [one for one in sources if not one.startswith(("--from=", "/"))]
    for source in sources:
        assert (ROOT / source).exists(), source
        assert not is_ignored(source), source
    assert not is_ignored("jobquest/read/migrations/env.py")
    secret = [".env", ".git/config", "instance/read.db", "tests/service.py", "Dockerfile"]
    made = ["jobquest/__pycache__/feed.cpython-311.pyc", "jobquest/read/__pycache__"]
    assert all(is_ignored(path) for path in secret + made)


@pytest.fixture
def image() -> Iterator[Path]:
    """A folder with what the image has in /app, which nobody may write to, and an empty /data."""
    folder = Path(tempfile.mkdtemp(prefix="image-"))
    folder.chmod(0o755)
    app = folder / "app"
    app.mkdir()
    for source, target in copied():
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, app / target, ignore=shutil.ignore_patterns("*.pyc"))
        else:
            shutil.copy(ROOT / source, app / target)
    writable = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH
    for path in [app, *app.rglob("*")]:
        path.chmod(path.stat().st_mode & ~writable | stat.S_IROTH | (path.is_dir() and 0o111))
    (folder / "data").mkdir()
    (folder / "data").chmod(0o777)  # the image's has that user as its owner
    yield folder
    shutil.rmtree(folder)


def as_in_a_container() -> list[str]:
    """What starts a program as a container does, as far as whoever runs the tests may: process 1 of
    its own, as the image's user. If that user can't reach this Python, as a root without rights."""
    if os.geteuid() != 0:
        return []
    alone = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    alone = alone if subprocess.run([*alone, "true"], capture_output=True).returncode == 0 else []
    user, group = only("USER").rest.split(":")
    unprivileged = ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups"]
    asked = subprocess.run([*unprivileged, sys.executable, "-c", "import flask"], cwd="/")
    if asked.returncode:
        unprivileged = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    return [*alone, *unprivileged]


class Container(Service):
    """The service as the image's entry point starts it, on a copy of the image's files."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "data", fresh=True)
        self._app = folder / "app"
        self.python_path = []
        said = dict(pair.split("=", 1) for pair in only("ENV").rest.split())
        del said["PATH"]
        assert said["JOBQUEST_DATA_DIR"] == only("VOLUME").rest
        self.settings = said | self.settings

    def _spawn(self, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*as_in_a_container(), sys.executable, *only("ENTRYPOINT").words[1:]],
            cwd=self._app,
            env=environment,
            stdout=self._written,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def is_healthy(self) -> bool:
        """What the image's health check says."""
        command = [sys.executable, *only("HEALTHCHECK").words[1:]]
        environment = {"PORT": self.settings["PORT"], "http_proxy": "http://127.0.0.1:1"}
        return subprocess.run(command, env=environment, capture_output=True).returncode == 0

    def terminate(self) -> int:
        """The image's signal to the service itself, whatever it was started through; its code."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        is_through = as_in_a_container()[:1] == ["unshare"]
        os.kill(
            int(children[0]) if is_through else self.pid, signal.Signals[only("STOPSIGNAL").rest]
        )
        assert self._process
        return self._process.wait(2 * STOP_SECONDS)


@pytest.mark.slow
def test_the_service_runs_on_files_that_it_cannot_write_to_and_stops_in_time(image: Path) -> None:
    """As process 1 too, which no signal ends that it does not handle."""
    before = sorted(image.joinpath("app").rglob("*"))
    container = Container(image)
    try:
        container.start()
        assert container.is_healthy()
        wait_for(lambda: container.get("/readyz").code == 200, 30, container.tail)
        assert container.get("/", Accept="text/html").code == 200
        assert container.get("/static/app.css").code == 200
        assert container.post("user.login", {}, user_id="ada").code == 201
        began = time.monotonic()
        assert container.terminate() == 0, container.tail()
        assert time.monotonic() - began < seconds(INSTANCES[0]["stop_grace_period"])
        assert not container.is_healthy()
    finally:
        container.kill()
    assert sorted(image.joinpath("app").rglob("*")) == before
    assert (image / "data" / "log.db").exists()


# --- docker-compose.cluster.yml ---

DOCUMENT: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
SERVICES: dict[str, Any] = DOCUMENT["services"]
BROKERS = [one for name, one in SERVICES.items() if name.startswith(f"{NAME}kafka-")]
INSTANCES = [one for one in SERVICES.values() if "build" in one]
PROXY = SERVICES[f"{NAME}nginx"]
HARDENED = [*INSTANCES, PROXY]


def seconds(duration: str) -> int:
    found = re.fullmatch(r"(\d+)s", duration)
    assert found, duration
    return int(found[1])


@pytest.mark.slow
def test_compose_accepts_the_cluster_if_it_has_its_secrets() -> None:
    if (compose := compose_command()) is None:
        pytest.skip("no docker compose on this machine")  # nothing else resolves the file

    def check(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        command = [*compose, "-f", str(COMPOSE), "config", "-q"]
        kept = {"PATH": os.environ["PATH"], **environment}
        return subprocess.run(command, env=kept, capture_output=True, text=True)

    done = check(SECRETS)
    assert done.returncode == 0, done.stderr
    for name in SECRETS:
        others = {key: value for key, value in SECRETS.items() if key != name}
        assert check(others).returncode != 0, "no secret of ours is anybody's default"


def test_every_image_of_the_cluster_is_pinned_but_the_one_that_is_built_here() -> None:
    for service in SERVICES.values():
        assert "build" in service or PINNED.fullmatch(service["image"]), service["image"]
    assert all(one["build"] == "." for one in INSTANCES)


def test_every_service_is_asked_for_its_health_without_a_shell() -> None:
    for service in SERVICES.values():
        assert "build" in service or service["healthcheck"]["test"][0] == "CMD"
        assert seconds(service["stop_grace_period"]) >= 2 * STOP_SECONDS


def test_instances_and_proxy_have_no_rights_that_they_do_not_need() -> None:
    for service in HARDENED:
        assert service["read_only"] is True
        assert service["tmpfs"] == ["/tmp"]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
    assert PROXY["user"].split(":")[0] not in ("", "0", "root")
    assert not [one for one in INSTANCES if "user" in one], "the image has its own"


def test_instances_wait_for_what_they_need() -> None:
    needed = {f"{NAME}postgres", *(broker["hostname"] for broker in BROKERS)}
    for instance in INSTANCES:
        waits = {name: how["condition"] for name, how in instance["depends_on"].items()}
        assert {name for name, how in waits.items() if how == "service_healthy"} == needed


def test_every_volume_is_declared_and_nobody_shares_one() -> None:
    mounts = [mount for one in SERVICES.values() for mount in one["volumes"]]
    files = [mount for mount in mounts if mount.startswith("./")]
    assert files == [
        "./deploy/nginx.conf:/etc/nginx/nginx.conf:ro",
        "./deploy/tls:/etc/nginx/tls:ro",
    ]
    named = [mount.split(":")[0] for mount in mounts if mount not in files]
    assert sorted(named) == sorted(DOCUMENT["volumes"])
    assert all(one["volumes"][0].split(":")[1] == only("VOLUME").rest for one in INSTANCES)


def test_three_brokers_keep_three_copies_and_two_have_to_have_a_record() -> None:
    assert len(BROKERS) == 3
    for number, broker in enumerate(BROKERS, 1):
        environment = broker["environment"]
        assert environment["KAFKA_NODE_ID"] == number
        copies = [value for key, value in environment.items() if key.endswith("REPLICATION_FACTOR")]
        assert len(copies) == 4
        assert set(copies) == {3}
        in_sync = [key for key in environment if re.search(r"MIN_I(SR|NSYNC_REPLICAS)$", key)]
        assert len(in_sync) == 3
        assert all(environment[key] == 2 for key in in_sync)
        assert environment["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"
        assert broker["volumes"][0].split(":")[1] == environment["KAFKA_LOG_DIRS"]


def test_brokers_find_each_other_and_advertise_what_the_instances_are_given() -> None:
    told, voters = [], []
    for name, broker in SERVICES.items():
        if broker not in BROKERS:
            continue
        environment = broker["environment"]
        bound = dict(one.split("://") for one in environment["KAFKA_LISTENERS"].split(","))
        listener, address = environment["KAFKA_ADVERTISED_LISTENERS"].split("://")
        assert listener == environment["KAFKA_INTER_BROKER_LISTENER_NAME"]
        assert address == f"{name}{bound[listener]}"
        assert broker["hostname"] == name
        told.append(address)
        controller = bound[environment["KAFKA_CONTROLLER_LISTENER_NAMES"]]
        voters.append(f"{environment['KAFKA_NODE_ID']}@{name}{controller}")
    for broker in BROKERS:
        assert broker["environment"]["KAFKA_CONTROLLER_QUORUM_VOTERS"].split(",") == voters
    assert len({broker["environment"]["CLUSTER_ID"] for broker in BROKERS}) == 1
    assert len(BROKERS[0]["environment"]["CLUSTER_ID"]) == 22  # 16 bytes in URL-safe base64
    for instance in INSTANCES:
        assert instance["environment"]["KAFKA_BROKER"].split(",") == told


def settings_of(instance: dict[str, Any]) -> dict[str, str]:
    """Its environment with its secrets, and what has a default left to it."""
    filled = {}
    for key, value in instance["environment"].items():
        text = re.sub(r"\$\{(\w+):\?.*?\}", lambda found: SECRETS[found[1]], str(value))
        filled[key] = re.sub(r"\$\{\w+:-(.*?)\}", r"\1", text)
    return filled


def test_the_instances_settings_are_the_services_own() -> None:
    for instance in INSTANCES:
        settings = settings_of(instance)
        config, url = load(settings, env_file=Path(os.devnull)), settings["DATABASE_URL"]
        assert config.kafka_replication_factor == 3
        assert config.trusted_proxies == 1
        assert config.host == "127.0.0.1"
        assert urlsplit(url).hostname in SERVICES
    connections = 2 * (config.worker_count + config.has_consumer_process) * config.database_pool
    assert connections < int(SERVICES[f"{NAME}postgres"]["command"][-1].split("=")[1])


def test_only_the_proxy_is_published_and_only_here() -> None:
    assert [one for one in SERVICES.values() if "ports" in one] == [PROXY]
    assert all(port.startswith("127.0.0.1:") for port in PROXY["ports"])
    assert {one["network_mode"] for one in INSTANCES} == {f"service:{NAME}nginx"}


def test_no_secret_is_written_in_the_file() -> None:
    for service in SERVICES.values():
        for key, value in service.get("environment", {}).items():
            assert not SECRET.search(key) or value.startswith(f"${{{key}:?"), key


def test_instances_have_one_secret_key_and_credentials_in_one_database() -> None:
    for key in ("JOBQUEST_SECRET_KEY", "DATABASE_URL"):
        assert len({settings_of(one)[key] for one in INSTANCES}) == 1, key


@pytest.mark.slow
@pytest.mark.postgres
def test_an_instance_starts_once_the_documented_command_has_added_an_operator(
    postgres_server: Postgres, tmp_path: Path
) -> None:
    """Which it can while nothing runs but PostgreSQL; and on another instance's data folder."""
    [command] = re.findall(r"^cluster run --rm --entrypoint (.+)$", GUIDE, re.M)
    program, name, *arguments = command.split()
    assert SERVICES[name] in INSTANCES
    settings = settings_of(SERVICES[name]) | {"DATABASE_URL": postgres_server.new_database()}
    settings |= {"PORT": "0", "KAFKA_BROKER": "127.0.0.1:1"}
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    instance = Service(second, fresh=True, **settings)
    with pytest.raises(AssertionError, match="flask operators add"):
        instance.launch()
    done = subprocess.run(
        [sys.executable, "-m", program, *arguments],
        cwd=ROOT,
        env={**os.environ, **settings, "JOBQUEST_DATA_DIR": str(first)},
        input="correct horse battery\n" * 2,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    try:
        instance.launch()
        wait_for(lambda: instance.get("/healthz").code == 200, 30, instance.tail)
        assert instance.get("/api/events").code == 401
    finally:
        instance.kill()


# --- deploy/nginx.conf ---


def test_the_proxy_has_the_instances_addresses() -> None:
    text = NGINX.read_text()
    ports = [f"127.0.0.1:{one['environment']['PORT']}" for one in INSTANCES]
    assert re.findall(r"^\s+server (\S+)", text, re.M) == [*ports, "{", "{"]
    [plain], [secure] = (re.findall(rf"listen (\d+){end};", text) for end in ("", " ssl"))
    assert [one.rsplit(":", 1)[1] for one in PROXY["ports"]] == [secure]
    assert f":{plain}/proxy-health" in PROXY["healthcheck"]["test"][-1]


@pytest.fixture
def two_instances(tmp_path: Path) -> Iterator[list[Service]]:
    """Two services with a log of their own each, so that it shows which of them was asked."""
    made: list[Service] = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        made.append(ProtectedService(tmp_path / name, JOBQUEST_TRUSTED_PROXIES="1"))
    for service in made:
        service.start()
    yield made
    for service in made:
        service.kill()


@pytest.fixture
def proxy(two_instances: list[Service]) -> Iterator[Nginx]:
    """A real nginx with the file's configuration: other addresses, and its files elsewhere."""
    if reason := nginx.why_not():
        pytest.skip(reason)  # no nginx on this machine
    made = Nginx()
    text = NGINX.read_text()
    for instance, service in zip(INSTANCES, two_instances, strict=True):
        text = text.replace(
            f":{instance['environment']['PORT']} ", f":{urlsplit(service.url).port} "
        )
    text = text.replace("listen 8080;", f"listen 127.0.0.1:{free_port()};")
    text = text.replace("listen 8443 ssl;", f"listen 127.0.0.1:{made.port} ssl;")
    text = text.replace("/tmp/", f"{made.folder}/")
    text = text.replace("/etc/nginx/tls/", f"{made.folder}/")
    text = text.replace("/dev/stderr", f"{made.folder}/errors")
    yield made.run(text)
    made.stop()


@pytest.mark.nginx
def test_behind_the_proxy_both_instances_answer_and_one_is_enough(
    two_instances: list[Service], proxy: Nginx
) -> None:
    front = Front(f"https://localhost:{proxy.port}", "", two_instances[0], signed_in())

    def publish(number: int) -> int:
        event = {"eventType": "user.login", "data": {}, "userId": "ada", "id": f"e-{number}"}
        return front.request("POST", "/api/kafka/events", event, Origin=front.url).code

    def events(service: Service) -> int:
        return len(service.get("/api/events?userId=ada").json["data"]["events"])

    assert Front(front.url, "", two_instances[0]).request("GET", "/api/events").code == 401
    socket = websocket.create_connection(
        f"wss://localhost:{proxy.port}/ws/events",
        timeout=10,
        origin=front.url,
        header=signed_in(),
        sslopt={"cert_reqs": ssl.CERT_NONE, "check_hostname": False},
    )
    assert json.loads(socket.recv())["kind"] == "hello"
    socket.close()
    assert [publish(number) for number in range(6)] == [201] * 6
    wait_for(lambda: sum(events(one) for one in two_instances) == 6, 20)
    before = events(two_instances[1])
    assert 0 < before < 6
    large = {"events": [{"metadata": {"filler": "x" * 8_000}}] * 120}
    assert front.request("POST", "/api/kafka/events/batch", large).code == 400, "it passes nginx"
    two_instances[0].kill()
    for number in range(6, 12):  # one that is on its way to the dead instance is 502: repeat it
        wait_for(lambda number=number: publish(number) in (200, 201), 10, proxy.errors)  # type: ignore[misc]
    assert front.request("GET", "/readyz").code == 200
    wait_for(lambda: events(two_instances[1]) == before + 6, 20)
