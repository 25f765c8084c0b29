"""docs/deploy.md, followed command by command, in order, as far as one machine can do it that is
not changed by it: in a folder instead of `/`, with ports of its own, a certificate that openssl
makes, and the unit's own process instead of systemd's."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import signal
import ssl
import subprocess
import sys
import sysconfig
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.cookiejar import CookieJar
from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests import nginx
from tests.kafka_broker import free_port
from tests.nginx import Nginx
from tests.service import ROOT, wait_for

PAGE = (ROOT / "docs" / "deploy.md").read_text()
PASSWORD = "correct horse battery"
LAST_SECTION = "## Remove it"
PROGRAM = ("app.py", "requirements.txt", "constraints.txt", "jobquest", "static", "templates")
EXPOSURE = 30  # of 100: what `systemd-analyze security` calls a protected service is below 40

RUN = "run"
# How each command begins, without `sudo`, and what the test does with it: run it, a method of
# `Machine` in its place, or nothing, for this reason.
COMMANDS: dict[str, str | tuple[str]] = {
    "apt-get ": ("it changes the machine's packages",),
    "useradd ": ("it changes the machine's users",),
    "userdel ": ("it changes the machine's users",),
    "ufw ": ("it changes the machine's firewall",),
    "journalctl ": ("the machine has no systemd",),
    "certbot certonly ": "certify",
    "certbot delete ": ("nothing of certbot's is there",),
    "/opt/jobquest/.venv/bin/pip install -r ": "install",
    "systemctl daemon-reload": "verify",
    "systemctl enable --now jobquest": "start",
    "systemctl start jobquest": "start",
    "systemctl stop jobquest": "stop",
    "systemctl restart jobquest": "restart",
    "systemctl disable --now jobquest": "stop",
    "systemctl reload nginx": "reload",
    "nginx -t": "check",
    "git clone ": RUN,
    "git -C /opt/jobquest pull ": RUN,
    "python3 -m venv ": RUN,
    "install ": RUN,
    "tee ": RUN,
    "ln -s ": RUN,
    "rm ": RUN,
    "tar ": RUN,
    "sh -c 'set -e; cd /var/backups/jobquest;": RUN,
    "env -C /opt/jobquest .venv/bin/flask ": RUN,
    "KEY=$(": RUN,
    'echo "$KEY"': RUN,
    "curl ": RUN,
}


def commands_of(text: str) -> list[str]:
    """The commands of the page's shell blocks, each with its document if it has one."""
    found: list[str] = []
    end = None
    for line in "".join(re.findall(r"^```sh\n(.*?)^```$", text, re.M | re.S)).splitlines():
        if end:
            found[-1] += f"\n{line}"
        else:
            found.append(line)
            begun = re.search(r"<<'(\w+)'", line)
            end = begun[1] if begun else None
            continue
        if line == end:
            end = None
    return found


def bare(command: str) -> str:
    """A command as the one who runs the tests may run it."""
    return re.sub(r"sudo (-u jobquest )?", "", command)


def way_of(command: str) -> str | tuple[str]:
    """What the test does with a command. Fails if nobody has thought of it."""
    ways = [way for start, way in COMMANDS.items() if bare(command).startswith(start)]
    assert len(ways) == 1, f"Say in COMMANDS what the test does with: {command}"
    return ways[0]


class Machine:
    """A folder in place of `/`, and what stands for systemd, certbot, pip and nginx."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self.front = Nginx()
        self.port, self.plain_port = free_port(), free_port()
        self.url = f"https://localhost:{self.front.port}"
        self.origin = folder / "repository"
        self.outputs: dict[str, str] = {}
        self._key = folder / "key"
        self._key.touch()
        self._log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._make_folders()

    def follow(self, text: str) -> None:
        """Do what a part of the page says."""
        for command in commands_of(text):
            way = way_of(command)
            if way == RUN:
                self._run(command)
            elif isinstance(way, str):
                method: Callable[[], None] = getattr(self, way)
                method()

    def close(self) -> None:
        if self._process and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(10)
        self.front.stop()

    # --- in place of the machine's own ---

    def certify(self) -> None:
        certificate, key = self._certificate()
        certificate.parent.mkdir(parents=True)
        kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"]
        name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
        files = ["-keyout", str(key), "-out", str(certificate)]
        made = ["openssl", "req", "-x509", *kind, *name, *files]
        subprocess.run(made, check=True, capture_output=True)

    def install(self) -> None:
        """The packages that the tests run with, in place of those that pip would fetch."""
        assert (self.root / "opt/jobquest/requirements.txt").exists()
        environment = self.root / "opt/jobquest/.venv"
        [packages] = environment.glob("lib/python*/site-packages")
        (packages / "tests.pth").write_text(sysconfig.get_path("purelib"))
        flask = environment / "bin/flask"
        flask.write_text(f"#!{environment}/bin/python\nfrom flask.cli import main\nmain()\n")
        flask.chmod(0o755)

    def verify(self) -> None:
        if not self._unit_file.exists() or not shutil.which("systemd-analyze"):
            return
        asked = ["systemd-analyze", "verify", "--man=no", str(self._unit_file)]
        done = subprocess.run(asked, capture_output=True, text=True)
        ours = [line for line in done.stderr.splitlines() if "jobquest.service" in line]
        assert ours == []
        offline = ["--offline=true", f"--threshold={EXPOSURE}"]
        asked = ["systemd-analyze", "security", *offline, str(self._unit_file)]
        done = subprocess.run(asked, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> None:
        """What the unit says, where it may write only where the unit says."""
        unit = self._unit()
        writable = [unit["ReadWritePaths"], str(self.root / "tmp")]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*_elsewhere_read_only(writable), *shlex.split(unit["ExecStart"])],
                cwd=unit["WorkingDirectory"],
                env=dict(pair.split("=", 1) for pair in unit["Environment"].split())
                | {"PATH": os.environ["PATH"], "TMPDIR": writable[1]},
                umask=int(unit["UMask"], 8),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_for(lambda: "Ctrl-C stops" in self.tail() or self._ended(), 30, self.tail)

    def stop(self) -> None:
        assert self._process
        self._process.terminate()
        assert self._process.wait(int(self._unit()["TimeoutStopSec"])) == 0, self.tail()

    def restart(self) -> None:
        self.stop()
        self.start()

    def check(self) -> None:
        """The first look at nginx's configuration comes before the first start."""
        sites = self.root / "etc/nginx/sites-enabled"
        assert [one.name for one in sites.iterdir()] == ["jobquest"]
        self.front.start(f"include {sites}/*;")

    def reload(self) -> None:
        self.front.reload()

    def tail(self) -> str:
        return self._log.read_text()[-5_000:] if self._log.exists() else ""

    # --- inside ---

    def _make_folders(self) -> None:
        for name in ("opt", "tmp", "var/backups", "etc/systemd/system"):
            (self.root / name).mkdir(parents=True)
        for name in ("sites-available", "sites-enabled"):
            (self.root / "etc/nginx" / name).mkdir(parents=True)
        (self.root / "etc/nginx/sites-enabled/default").touch()

    def _run(self, command: str) -> None:
        script = f". {self._key}\n{self._here(bare(command))}\nprintf 'KEY=%q' $KEY > {self._key}"
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", f"KEY=; {script}"],
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.root),
                "CURL_CA_BUNDLE": str(self._certificate()[0]),
            },
            input=f"{PASSWORD}\n" * 2,
            capture_output=True,
            text=True,
            start_new_session=True,  # without a terminal the password is read from the input
            timeout=120,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}\n{self.tail()}"
        self.outputs[command] = done.stdout

    def _here(self, command: str) -> str:
        """A command or a file of the page, with this machine's places."""
        places = {
            "-o jobquest -g jobquest ": "",
            "python3 -m venv": f"{sys.executable} -m venv --without-pip",
            "https://git.example.com/jobquest-events.git": str(self.origin),
            "listen 80;": f"listen 127.0.0.1:{self.plain_port};",
            "listen 443 ssl;": f"listen 127.0.0.1:{self.front.port} ssl;",
            "listen [::]:80;": "",
            "listen [::]:443 ssl;": "",
            "server_name events.example.com": "server_name localhost",
            "https://events.example.com": self.url,
            "127.0.0.1:5000": f"127.0.0.1:{self.port}",
            "JOBQUEST_TRUSTED_PROXIES=1": f"JOBQUEST_TRUSTED_PROXIES=1\nPORT={self.port}",
        }
        for old, new in places.items():
            command = command.replace(old, new)
        return re.sub(r"(?<![\w./-])/(?=(etc|opt|var)/)", f"{self.root}/", command)

    def _certificate(self) -> tuple[Path, Path]:
        folder = self.root / "etc/letsencrypt/live/events.example.com"
        return folder / "fullchain.pem", folder / "privkey.pem"

    @property
    def _unit_file(self) -> Path:
        return self.root / "etc/systemd/system/jobquest.service"

    def _unit(self) -> dict[str, str]:
        parser = configparser.RawConfigParser(strict=True)
        parser.optionxform = str  # type: ignore[assignment,method-assign]
        parser.read(self._unit_file)
        return dict(parser["Service"])

    def _ended(self) -> bool:
        return self._process is None or self._process.poll() is not None


def _elsewhere_read_only(writable: list[str]) -> list[str]:
    """What starts a program that can write only there, as `ProtectSystem=strict` does; nothing if
    whoever runs the tests may not arrange it."""
    binds = " && ".join(f"mount --bind {shlex.quote(one)} {shlex.quote(one)}" for one in writable)
    script = f'{binds} && mount -o remount,bind,ro / && exec "$@"'
    alone = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"]
    if not shutil.which("unshare"):
        return []
    asked = subprocess.run([*alone, "true"], capture_output=True)
    return alone if asked.returncode == 0 else []


class Browser:
    """As much of one as a sign-in needs: cookies, and trust in the machine's certificate."""

    def __init__(self, machine: Machine) -> None:
        self._url = machine.url
        self.cookies = CookieJar()
        trust = ssl.create_default_context(cafile=str(machine._certificate()[0]))
        self._opener = urllib.request.build_opener(
            urllib.request.HTTPCookieProcessor(self.cookies),
            urllib.request.HTTPSHandler(context=trust),
        )

    def open(self, path: str, form: dict[str, str] | None = None) -> tuple[int, str]:
        """A page's code and text, redirects followed."""
        body = urlencode(form).encode() if form else None
        headers = {"Accept": "text/html", "Origin": self._url} if form else {"Accept": "text/html"}
        asked = urllib.request.Request(self._url + path, body, headers)
        try:
            with self._opener.open(asked, timeout=20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    if reason := nginx.why_not():
        pytest.skip(reason)
    made = Machine(tmp_path)
    publish_program(made.origin)
    yield made
    made.close()


def publish_program(folder: Path) -> None:
    """A repository with the program as it is."""
    folder.mkdir()
    for name in PROGRAM:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    subprocess.run(["git", "init", "-q", "-b", "main"], cwd=folder, check=True)
    commit(folder, "First")


def commit(folder: Path, message: str) -> None:
    subprocess.run(["git", "add", "-A"], cwd=folder, check=True)
    me = ["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *me, "commit", "-q", "-m", message], cwd=folder, check=True)


def sign_in(browser: Browser) -> str:
    """The page that follows."""
    _, page = browser.open("/")
    [token] = re.findall(r'name="csrf_token" value="(\w+)"', page)
    code, page = browser.open(
        "/sign-in", {"csrf_token": token, "name": "ada", "password": PASSWORD, "next": "/"}
    )
    assert code == 200, page
    return page


@pytest.mark.nginx
@pytest.mark.timeout(400)
def test_the_page_leads_to_a_protected_service_behind_nginx(machine: Machine) -> None:
    before, upgrade = PAGE.split("## Upgrade")
    upgrade, removal = upgrade.split(LAST_SECTION)

    machine.follow(before)
    published = [one for one in commands_of(PAGE) if "/api/kafka/events" in one]
    event, refused = (machine.outputs[one] for one in published)
    assert json.loads(event)["data"]["result"] == "accepted"
    assert refused == "401\n"
    browser = Browser(machine)
    assert "Sign out" in sign_in(browser)
    [session] = [one for one in browser.cookies if one.name == "jobquest_session"]
    assert session.secure
    assert session.has_nonstandard_attr("HttpOnly")
    assert "user.registered" in browser.open("/")[1], "the event is there, from before the backup"
    stranger = Browser(machine)
    assert "Sign out" not in stranger.open("/")[1]
    assert stranger.open("/api/events")[0] == 401
    plain = f"http://localhost:{machine.plain_port}/topics"
    with pytest.raises(urllib.error.URLError, match="CERTIFICATE"):  # it leads to https
        urllib.request.urlopen(plain, timeout=20)
    for secret in ("opt/jobquest/.env", "var/lib/jobquest", "var/backups/jobquest"):
        assert (machine.root / secret).stat().st_mode & 0o077 == 0, secret

    (machine.origin / "NEWS").write_text("A new version")
    commit(machine.origin, "Second")
    machine.follow(f"## Upgrade{upgrade}")
    assert (machine.root / "opt/jobquest/NEWS").exists()
    assert "Sign out" in browser.open("/")[1]

    machine.follow(removal)
    left = [path for path in machine.root.rglob("*jobquest*") if "backups" not in str(path)]
    assert left == []
    assert machine._ended()


def test_the_backup_has_every_file_that_must_not_be_lost() -> None:
    """The names that the page gives are those that the program writes."""
    code = "".join(
        path.read_text() for path in (ROOT / "jobquest").rglob("*.py") if "cli" not in path.parts
    )
    named = re.findall(r"^\| `/var/lib/jobquest/([\w.*-]+)` \|", PAGE, re.M)
    assert len(named) == 6
    for name in named:
        assert re.search(rf"""["']{re.escape(name)}["']""", code), name


def test_a_command_that_the_test_does_not_know_is_found() -> None:
    for command in commands_of(PAGE):
        way_of(command)
    used = [bare(command) for command in commands_of(PAGE)]
    assert [one for one in COMMANDS if not any(line.startswith(one) for line in used)] == []
    with pytest.raises(AssertionError, match="Say in COMMANDS"):
        way_of("sudo reboot")
