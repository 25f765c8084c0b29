"""Whatever is wrong in the environment is one line on standard error and code 2, from `python
app.py` and from `flask …` alike."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from jobquest import create_app
from jobquest.errors import SettingsError
from tests.service import ROOT, Service, wait_for
from tests.signed_in import ProtectedService

APP = [sys.executable, str(ROOT / "app.py")]
COMMAND = [sys.executable, "-m", "flask", "--app", str(ROOT / "app.py"), "events", "types"]

PG = "postgresql+psycopg://me:secret@127.0.0.1"
KAFKA = {"KAFKA_BROKER": "localhost:9092"}
BROKEN = {
    "port of the database": ({"DATABASE_URL": f"{PG}:port/x"}, "DATABASE_URL:", "a number"),
    "port out of range": ({"DATABASE_URL": f"{PG}:99999/x"}, "DATABASE_URL:", "65535"),
    "option": ({"DATABASE_URL": f"{PG}/x?colour=red"}, "DATABASE_URL:", '"colour"'),
    "value of an option": ({"DATABASE_URL": f"{PG}/x?sslmode=no"}, "DATABASE_URL:", "sslmode"),
    "ports of hosts": ({"DATABASE_URL": f"{PG}/x?host=a:b&host=c:1"}, "DATABASE_URL:", "port"),
    "escape": ({"DATABASE_URL": f"{PG}/x%zz"}, "DATABASE_URL:", "%25"),
    "escape of no dead letter": ({"DATABASE_URL": f"{PG}/x%ff"}, "DATABASE_URL:", "UTF-8"),
    "driver": ({"DATABASE_URL": "mysql://a/b"}, "DATABASE_URL:", "sqlite:///"),
    "database in memory": ({"DATABASE_URL": "sqlite:///:memory:"}, "DATABASE_URL:", "memory"),
    "database without a file": ({"DATABASE_URL": "sqlite:///"}, "DATABASE_URL:", "memory"),
    "SQLite's option": ({"DATABASE_URL": "sqlite:///a.db?mode=ro"}, "DATABASE_URL:", "'mode'"),
    "SQLite's folder": ({"DATABASE_URL": "sqlite:////proc/no/a.db"}, "DATABASE_URL:", "/proc/no"),
    "folder as a file": ({"DATABASE_URL": "sqlite:////proc"}, "DATABASE_URL:", "is a folder"),
    "file as a folder": (
        {"JOBQUEST_DATA_DIR": "/etc/passwd"},
        "JOBQUEST_DATA_DIR:",
        "not a folder",
    ),
    "file above": (
        {"JOBQUEST_DATA_DIR": "/etc/passwd/x"},
        "JOBQUEST_DATA_DIR:",
        "can't be created",
    ),
    "certificate": ({"KAFKA_SSL_CAFILE": "/no.pem"}, "KAFKA_SSL_CAFILE:", "/no.pem"),
    "no certificate": ({"KAFKA_SSL_CAFILE": str(ROOT / "app.py")}, "KAFKA_SSL_CAFILE:", "PEM"),
    "key alone": ({"KAFKA_SSL_KEYFILE": "/no.pem"}, "KAFKA_SSL_KEYFILE ", "KAFKA_SSL_CERTFILE"),
    "protocol": ({"KAFKA_SECURITY_PROTOCOL": "TLS"}, "KAFKA_SECURITY_PROTOCOL=TLS:", "SASL_SSL"),
    "no password": (
        {**KAFKA, "KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "KAFKA_SASL_MECHANISM": "PLAIN"},
        "KAFKA_SECURITY_PROTOCOL=SASL_SSL:",
        "set KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD too",
    ),
    "password that is not used": (
        {**KAFKA, "KAFKA_SASL_PASSWORD": "secret", "KAFKA_SECURITY_PROTOCOL": "SSL"},
        "KAFKA_SECURITY_PROTOCOL=SSL makes no use of",
        "KAFKA_SASL_PASSWORD",
    ),
    "key's password that is not used": (
        {**KAFKA, "KAFKA_SSL_PASSWORD": "secret"},
        "KAFKA_SECURITY_PROTOCOL=PLAINTEXT makes no use of",
        "KAFKA_SSL_PASSWORD",
    ),
    "broker": ({"KAFKA_BROKER": "localhost:99999"}, "KAFKA_BROKER=", "host:port"),
    "address": ({"HOST": "a b"}, "HOST=a b:", "not a host name"),
    "port": ({"PORT": "http"}, "PORT=http:", "whole number"),
    "unknown": ({"JOBQUEST_WORKER": "2"}, "JOBQUEST_WORKER ", "JOBQUEST_WORKERS?"),
    "unknown name of Kafka's": ({"KAFKA_BROKERS": "a:1"}, "KAFKA_BROKERS ", "mean KAFKA_BROKER?"),
    "every origin": ({"JOBQUEST_CORS_ORIGINS": "*"}, "JOBQUEST_CORS_ORIGINS=", "every page"),
    "path of an origin": ({"JOBQUEST_CORS_ORIGINS": "http://a/b"}, "JOBQUEST_CORS", "http://a."),
    "public URL": ({"JOBQUEST_PUBLIC_URL": "example.com"}, "JOBQUEST_PUBLIC_URL:", "https://"),
    "proxies": ({"JOBQUEST_TRUSTED_PROXIES": "all"}, "JOBQUEST_TRUSTED_PROXIES=", "0 to 10"),
    "two lines": ({"KAFKA_GROUP_ID": "a\nb"}, "KAFKA_GROUP_ID=", "249"),
    "handlers": ({"JOBQUEST_HANDLERS": "no_such"}, "JOBQUEST_HANDLERS:", "no_such"),
}


def run(command: list[str], folder: Path, environment: dict[str, str]) -> list[str]:
    """The lines that it writes on standard error before it ends, with code 2."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("JOBQUEST_", "KAFKA_"))}
    done = subprocess.run(
        command,
        cwd=folder,
        env={**kept, "PYTHONPATH": str(ROOT), "PORT": "0", **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    return done.stderr.splitlines()


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_environment_is_one_line_that_says_which_why_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    environment, names, says = BROKEN[what]
    monkeypatch.chdir(tmp_path)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as refused:
        create_app({"JOBQUEST_DATA_DIR": str(tmp_path), **environment})
    line = str(refused.value)
    assert line.startswith(names)
    assert says in line
    assert "secret" not in line
    assert len(line.splitlines()) == 1


PROCESSES = (
    "port of the database",
    "option",
    "value of an option",
    "escape",
    "database in memory",
    "SQLite's folder",
    "file as a folder",
    "no certificate",
    "address",
    "unknown",
    "unknown name of Kafka's",
    "path of an origin",
    "public URL",
    "two lines",
)


@pytest.mark.slow
@pytest.mark.parametrize("what", PROCESSES)
def test_a_broken_environment_ends_the_start_with_one_line(tmp_path: Path, what: str) -> None:
    environment, names, says = BROKEN[what]
    [line] = run(APP, tmp_path, environment)
    assert line.startswith(f"error: {names}"), line
    assert says in line


@pytest.mark.slow
@pytest.mark.parametrize("what", ["port of the database", "file as a folder", "unknown"])
def test_a_broken_environment_ends_a_command_with_one_line(tmp_path: Path, what: str) -> None:
    environment, names, says = BROKEN[what]
    [line] = run(COMMAND, tmp_path, environment)
    assert line.startswith(f"error: {names}"), line
    assert says in line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("PORT=6000\n".encode("utf-16"), ".env is written in UTF-16; save it as UTF-8."),
        ("# für uns\n".encode("cp1252"), ".env, line 1: byte 0xfc is not UTF-8; save it as UTF-8."),
        (b"HOST: 127.0.0.1\n", ".env, line 1: this is not NAME=value; correct it, or begin the"),
        (None, ".env is a folder; move it away, or make it a file."),
    ],
)
def test_a_broken_settings_file_ends_the_start_with_one_line(
    tmp_path: Path, content: bytes | None, says: str
) -> None:
    if content is None:
        (tmp_path / ".env").mkdir()
    else:
        (tmp_path / ".env").write_bytes(content)
    [line] = run(APP, tmp_path, {})
    assert line.startswith(f"error: {says}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("def register(consumer)\n", "SyntaxError"),
        ("1 / 0\n", "mine can't be imported: ZeroDivisionError: division by zero ("),
        ("import nothing_of_that_name\n", "mine can't be imported: ModuleNotFoundError"),
        (
            "def register(consumer):\n    consumer.registr()\n",
            "mine did not register: Attrib",
        ),
        ("", "no register(consumer) function"),
    ],
)
def test_a_broken_module_of_handlers_ends_the_start_with_one_line(
    tmp_path: Path, code: str, says: str
) -> None:
    (tmp_path / "mine.py").write_text(code)
    path = os.pathsep.join([str(ROOT), str(tmp_path)])
    [line] = run(APP, tmp_path, {"JOBQUEST_HANDLERS": "mine", "PYTHONPATH": path})
    assert line.startswith("error: JOBQUEST_HANDLERS: mine")
    assert says in line


@pytest.mark.slow
def test_a_service_starts_beside_what_orchestrators_and_servers_read(tmp_path: Path) -> None:
    """Kubernetes' names for services named jobquest and kafka, and gunicorn's own variables."""
    injected = {
        "JOBQUEST_SERVICE_HOST": "10.0.0.1",
        "JOBQUEST_SERVICE_PORT": "5000",
        "JOBQUEST_SERVICE_PORT_HTTP": "5000",
        "JOBQUEST_PORT": "tcp://10.0.0.1:5000",
        "JOBQUEST_PORT_5000_TCP": "tcp://10.0.0.1:5000",
        "JOBQUEST_PORT_5000_TCP_ADDR": "10.0.0.1",
        "KAFKA_PORT": "tcp://10.0.0.2:9092",
        "KAFKA_SERVICE_HOST": "10.0.0.2",
        "KAFKA_HEAP_OPTS": "-Xmx512m",
        "WEB_CONCURRENCY": "auto",
        "GUNICORN_CMD_ARGS": "--bind=0.0.0.0:1 --workers=7",
        "FORWARDED_ALLOW_IPS": "*",
    }
    service = Service(tmp_path, **injected).start()
    try:
        assert service.url.startswith("http://127.0.0.1:")
        wait_for(lambda: len(service.status()["processes"]) == 1, 30, service.tail)
    finally:
        service.kill()


@pytest.mark.slow
@pytest.mark.parametrize("host", ["::1", "[::1]", "0:0:0:0:0:0:0:1", "localhost", "127.0.0.2"])
def test_the_printed_address_answers_on_each_loopback_address(tmp_path: Path, host: str) -> None:
    """As a page there would: with its own Host and Origin."""
    service = Service(tmp_path, HOST=host)
    service.launch()
    try:
        body = b'{"eventType": "user.login", "data": {}}'
        headers = {"Content-Type": "application/json", "Origin": service.url}
        request = urllib.request.Request(f"{service.url}/api/kafka/events", body, headers)
        wait_for(lambda: service.get("/healthz").code == 200, 30, service.tail)
        with urllib.request.urlopen(request, timeout=20) as answer:
            assert answer.status == 201
    finally:
        service.kill()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "settings", "word"),
    [
        (Service, {}, "Open: whoever can use this machine"),
        (Service, {"JOBQUEST_AUTH": "proxy"}, "Open: the proxy in front authenticates"),
        (ProtectedService, {"JOBQUEST_TRUSTED_PROXIES": "1"}, "Protected: "),
    ],
)
def test_the_start_says_who_is_let_in(
    tmp_path: Path, kind: type[Service], settings: dict[str, str], word: str
) -> None:
    service = kind(tmp_path, **settings).start()
    try:
        said = [line for line in service.output if line.startswith(("Open: ", "Protected: "))]
        assert len(said) == 1
        assert said[0].startswith(word)
        assert (service.get("/api/events", Cookie="").code == 401) == (word == "Protected: ")
    finally:
        service.kill()


@pytest.mark.slow
def test_the_start_warns_of_kafka_s_settings_without_a_broker(tmp_path: Path) -> None:
    service = Service(tmp_path, KAFKA_SECURITY_PROTOCOL="SASL_SSL", KAFKA_PARTITIONS="12").start()
    try:
        [line] = [line for line in service.output if "KAFKA_BROKER" in line]
        assert line.rstrip().endswith(
            "is not set; these are: KAFKA_PARTITIONS, KAFKA_SECURITY_PROTOCOL."
        )
        assert " WARNING " in line
    finally:
        service.kill()
