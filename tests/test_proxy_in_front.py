"""The service behind a real nginx: at a root, under a path, with its prefix taken away or not, with
the Host passed on or not; and with the configuration of docs/deployment.md.

With that, the service is protected, and an operator has signed in; or nginx asks for passwords.
"""

from __future__ import annotations

import base64
import json
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import pytest
import websocket
from playwright.sync_api import Browser, Page, expect

from jobquest import create_app
from jobquest.access.caller import WRITE
from jobquest.config import load
from jobquest.runtime import Runtime
from tests import nginx
from tests.nginx import DOCUMENTED, PASSWORD, USER, Nginx
from tests.samples import SAMPLES
from tests.service import Answer, Service, wait_for
from tests.signed_in import ProtectedService, cookies, signed_in

HOST = "events.localhost"  # browsers know that it is loopback; the service trusts it if it is told
LOGIN = {"eventType": "user.login", "data": {}, "userId": "ada"}
PAGES = (
    "/",
    "/users",
    "/users/ada",
    "/topics",
    "/failures",
    "/analytics",
    "/publish",
    "/catalogue",
)
PLAIN = """
map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
server {{
    listen 127.0.0.1:{port};
    location {prefix}/ {{
        proxy_pass http://{service}{slash};
        proxy_http_version 1.1;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection $connection_upgrade;
        {host}
    }}
}}
"""
PASSED, REWRITTEN = "proxy_set_header Host $http_host;", ""
PREFIX = "proxy_set_header X-Forwarded-Prefix /jobquest;"
# name: prefix, whether nginx takes it away, what becomes of the Host
PLAIN_FRONTS = {
    "root, Host passed": ("", False, PASSED),
    "root, Host rewritten": ("", False, REWRITTEN),
    "path left, Host passed": ("/jobquest", False, PASSED),
    "path left, Host rewritten": ("/jobquest", False, REWRITTEN),
    "path taken away, Host passed": ("/jobquest", True, PASSED),
    "path taken away, Host rewritten": ("/jobquest", True, REWRITTEN),
}
SAID = {"path taken away, and said": ("/jobquest", True, f"{PASSED} {PREFIX}")}
PROTECTED_FRONTS = {
    "documented, root": ("", DOCUMENTED[1]),
    "documented, path": ("/jobquest", DOCUMENTED[2]),
}
AUTHENTICATING = "documented, passwords"
DOCUMENTED_FRONTS = {**PROTECTED_FRONTS, AUTHENTICATING: ("", DOCUMENTED[3])}
FRONTS = [*PLAIN_FRONTS, *DOCUMENTED_FRONTS]


@dataclass
class Front:
    """Where clients reach the service, and how."""

    url: str
    prefix: str
    service: Service
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def origin(self) -> str:
        return self.url.removesuffix(self.prefix)

    @property
    def authority(self) -> str:
        return urlsplit(self.url).netloc

    def request(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """A request as a browser there sends it; nobody asks a resolver for the host."""
        port = urlsplit(self.url).port
        scheme = urlsplit(self.url).scheme
        made = urllib.request.Request(
            f"{scheme}://127.0.0.1:{port}{self.prefix}{path}",
            None if body is None else json.dumps(body).encode(),
            {"Host": self.authority, **self.headers, **headers},
            method=method,
        )
        if body is not None:
            made.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(made, timeout=20, context=_trusting()) as answer:
                return Answer(answer.status, answer.read(), dict(answer.headers.items()))
        except urllib.error.HTTPError as error:
            return Answer(error.code, error.read(), dict(error.headers.items()))

    def text(self, path: str) -> str:
        answer = self.request("GET", path, Accept="text/html")
        assert answer.code == 200, (path, answer)
        return answer.json.decode()  # type: ignore[no-any-return]


@cache  # making one reads the system's certificates: it takes longer than a request
def _trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


@contextmanager
def front_of(name: str, folder: Path, **settings: str) -> Iterator[Front]:
    """The service behind one of the configurations, and nginx with it."""
    is_documented = name in DOCUMENTED_FRONTS
    prefix = ({**PLAIN_FRONTS, **SAID, **DOCUMENTED_FRONTS})[name][0]
    proxy = Nginx()
    url = f"{'https' if is_documented else 'http'}://{HOST}:{proxy.port}{prefix}"
    if name in PROTECTED_FRONTS:
        service: Service = ProtectedService(folder, JOBQUEST_PUBLIC_URL=url, **settings)
    else:
        service = Service(folder, JOBQUEST_PUBLIC_URL=url, JOBQUEST_AUTH="proxy", **settings)
    try:
        launched(service)
        address = service.url.removeprefix("http://")
        proxy.start((documented if is_documented else plain)(name, address, proxy))
        yield Front(url, prefix, service, _credentials(name))
    finally:
        service.kill()
        proxy.stop()


def launched(service: Service) -> Service:
    """A service that answers, whatever its status is."""
    service.launch()
    wait_for(lambda: service.get("/healthz").code == 200, 30, service.tail)
    return service


def documented(name: str, service: str, proxy: Nginx) -> str:
    """A configuration of the docs, with TLS."""
    return nginx.documented(DOCUMENTED_FRONTS[name][1], service, proxy.port, proxy.folder)


def plain(name: str, service: str, proxy: Nginx) -> str:
    """The shortest configuration that people write."""
    prefix, taken_away, host = {**PLAIN_FRONTS, **SAID}[name]
    slash = "/" if taken_away else ""
    return PLAIN.format(port=proxy.port, prefix=prefix, service=service, slash=slash, host=host)


def _credentials(name: str) -> dict[str, str]:
    if name != AUTHENTICATING:
        return signed_in() if name in PROTECTED_FRONTS else {}
    basic = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    return {"Authorization": f"Basic {basic}"}


expect.set_options(timeout=30_000)  # a busy machine is slow, not wrong
pytestmark = [pytest.mark.nginx, pytest.mark.timeout(180)]


@pytest.fixture(autouse=True, scope="module")
def _needs_nginx() -> None:
    if reason := nginx.why_not():
        pytest.skip(reason)


@pytest.fixture(params=FRONTS, scope="module")
def front(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Front]:
    """The service behind each proxy, once for all tests that read and publish there."""
    with front_of(request.param, tmp_path_factory.mktemp("service")) as made:
        yield made


@pytest.fixture
def page(front: Front, browser: Browser) -> Iterator[Page]:
    """A browser's page that complains of nothing, and leaves no request unanswered."""
    options: dict[str, Any] = {"ignore_https_errors": True}
    if "Authorization" in front.headers:
        options["http_credentials"] = {"username": USER, "password": PASSWORD}
    elif front.headers:
        options["storage_state"] = cookies(HOST, f"{front.prefix}/")
    complaints: list[str] = []
    with closing(browser.new_context(**options)) as context:
        opened = context.new_page()
        opened.on(
            "console",
            lambda said: complaints.append(said.text) if said.type in ("error", "warning") else 0,
        )
        opened.on("pageerror", lambda error: complaints.append(str(error)))
        opened.on(
            "response",
            lambda answer: (
                complaints.append(f"{answer.status} {answer.url}")
                if answer.status >= 300 and answer.status not in (304, 308, 401)
                else 0
            ),
        )
        yield opened
    assert complaints == []


@pytest.mark.browser
def test_a_page_behind_the_proxy_works(front: Front, page: Page) -> None:
    """Its scripts and styles come, its socket goes live, its chart is drawn, its switch switches,
    its links lead to pages."""
    sockets: list[str] = []
    page.on("websocket", lambda socket: sockets.append(socket.url))
    page.goto(front.url + "/")
    expect(page.locator("html.scripted")).to_be_attached()
    expect(page.locator("#live")).to_have_attribute("data-live", "live")
    expect(page.locator("#chart svg")).to_be_attached()
    socket = f"{front.url.replace('http', 'ws', 1)}/ws/events"
    assert [url.split("?")[0] for url in sockets] == [socket]
    assert "rgb" in page.locator("body").evaluate("(body) => getComputedStyle(body).color")
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(page.locator("#state [data-part=word]")).to_have_text("Stopped")
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.locator("#state [data-part=word]")).to_have_text(re.compile("Running|Idle"))
    assert front.request("POST", "/api/kafka/events", LOGIN).code == 201
    row = page.locator("#list tr, tbody tr").filter(has_text="user.login").first
    expect(row).to_be_visible()
    row.get_by_role("link", name="ada").click()
    expect(page).to_have_url(f"{front.url}/users/ada")
    for name in ("Topics", "Analytics", "Failures", "Publish", "Catalogue", "Live"):
        page.get_by_role("navigation", name="Pages").get_by_role("link", name=name).click()
        expect(page.locator("html.scripted")).to_be_attached()
        assert page.url.startswith(f"{front.url}/")


@pytest.mark.browser
def test_a_form_behind_the_proxy_publishes_and_leads_to_its_event(front: Front, page: Page) -> None:
    page.goto(f"{front.url}/publish?type=mission.started")
    expect(page.locator("html.scripted")).to_be_attached()
    assert f"{front.url}/api/kafka/events" in page.content()
    page.locator("#send").click()
    expect(page).to_have_url(re.compile(re.escape(f"{front.url}/events/")))
    expect(page.locator("main")).to_contain_text("mission.started")


def test_every_address_on_a_page_keeps_the_prefix_and_answers(front: Front) -> None:
    assert front.request("POST", "/api/kafka/events", LOGIN).code == 201
    wait_for(lambda: front.request("GET", "/api/users/ada").code == 200, 30, front.service.tail)
    seen: set[str] = set()
    for path in PAGES:
        found = re.findall(
            r"""(?:href|src|action|data-(?!root)[a-z-]+)="(/[^"]*)""", front.text(path)
        )
        found += re.findall(r"""(?:href|src|action)="(https?://[^"]*)""", front.text(path))
        assert len(found) > 5, path
        seen.update(urljoin(front.url + "/", address) for address in found)
    for address in sorted(seen):
        assert address.startswith(f"{front.url}/"), address
        below = address.removeprefix(front.url).replace("&amp;", "&")
        if below.split("?")[0] not in ("/ws/events", "/api/kafka/demo"):
            assert front.request("GET", below).code in (200, 405), below


@pytest.mark.parametrize("front", [name for name in FRONTS if "path" in name], indirect=True)
def test_nothing_is_at_the_root_if_the_service_is_under_a_path(front: Front) -> None:
    outside = Front(front.origin, "", front.service, front.headers)
    assert outside.request("GET", f"{front.prefix}/healthz").code == 200
    for path in ("/healthz", f"{front.prefix}x/healthz", f"/x{front.prefix}/healthz"):
        assert outside.request("GET", path).code == 404, path


@pytest.mark.parametrize("front", ["path left, Host passed", "documented, path"], indirect=True)
def test_a_prefix_that_is_left_counts_once(front: Front) -> None:
    """A proxy's rule for an address must not be passed by another spelling of it."""
    assert front.request("GET", f"{front.prefix}/healthz").code == 404


def test_a_prefix_that_is_taken_away_counts_once_if_the_proxy_says_so(tmp_path: Path) -> None:
    trusting = {"JOBQUEST_TRUSTED_PROXIES": "1"}
    with front_of("path taken away, and said", tmp_path, **trusting) as front:
        assert front.request("GET", "/healthz").code == 200
        assert front.request("GET", f"{front.prefix}/healthz").code == 404
        assert f'href="{front.prefix}/topics"' in front.text("/")


def test_the_proxys_pages_may_call_and_others_may_not(front: Front) -> None:
    for path, body in (("/api/kafka/events", LOGIN), ("/api/kafka/status", {"action": "start"})):
        own = front.request("POST", path, body, Origin=front.origin)
        assert own.code in (200, 201), own
        port = urlsplit(front.url).port
        scheme = urlsplit(front.url).scheme
        for origin in ("https://evil.example", "null", f"{scheme}://evil.localhost:{port}"):
            assert front.request("POST", path, body, Origin=origin).code == 403, origin


def test_the_socket_answers_the_proxys_pages_alone(front: Front) -> None:
    def greeting(origin: str) -> Any:
        address = urlsplit(front.url)
        scheme = "wss" if address.scheme == "https" else "ws"
        connection = websocket.create_connection(
            f"{scheme}://127.0.0.1:{address.port}{front.prefix}/ws/events",
            host=front.authority,
            origin=origin,
            header=[f"{name}: {value}" for name, value in front.headers.items()],
            sslopt={"cert_reqs": ssl.CERT_NONE, "check_hostname": False},
            timeout=20,
        )
        with closing(connection):
            return json.loads(connection.recv())

    assert greeting(front.origin)["kind"] == "hello"
    with pytest.raises(websocket.WebSocketBadStatusException, match="403"):
        greeting("https://evil.example")


def test_a_batch_of_the_largest_size_passes_the_documented_proxy(tmp_path: Path) -> None:
    with front_of("documented, path", tmp_path) as front:
        events = [
            {"eventType": "mission.started", "data": SAMPLES["mission.started"], "userId": "ada"}
        ] * 1_000
        events[0] = {**events[0], "metadata": {"filler": "x" * 8_000}}
        assert front.request("POST", "/api/kafka/events/batch", {"events": events}).code == 201


def test_the_documented_proxy_asks_who_comes_but_lets_browsers_ask_first(tmp_path: Path) -> None:
    """A front end's preflight carries no password; what it asks for does."""
    origin = "https://front.example"
    settings = {"JOBQUEST_CORS_ORIGINS": origin}
    with front_of(AUTHENTICATING, tmp_path, **settings) as front:
        stranger = Front(front.url, front.prefix, front.service)
        for path in ("/", "/api/events", "/healthz"):
            assert stranger.request("GET", path).code == 401
        assert stranger.request("POST", "/api/kafka/events", LOGIN).code == 401
        asks = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        preflight = stranger.request("OPTIONS", "/api/kafka/events", **asks)
        assert preflight.code == 204
        assert preflight.headers["Access-Control-Allow-Origin"] == origin
        taken = front.request("POST", "/api/kafka/events", LOGIN, Origin=origin)
        assert taken.code == 201


def test_behind_the_documented_proxy_a_key_or_a_sign_in_lets_in_and_nothing_else(
    tmp_path: Path,
) -> None:
    """A front end that is listed publishes with a key, and never with an operator's cookie."""
    origin = "https://front.example"
    with front_of("documented, path", tmp_path, JOBQUEST_CORS_ORIGINS=origin) as front:
        stranger = Front(front.url, front.prefix, front.service)
        for path in ("/", "/api/events", "/metrics"):
            assert stranger.request("GET", path).code == 401, path
        assert stranger.request("POST", "/api/kafka/events", LOGIN).code == 401
        assert front.request("POST", "/api/kafka/events", LOGIN, Origin=origin).code == 401
        runtime = Runtime(load(front.service.settings))
        key = {"Authorization": f"Bearer {runtime.access.keys.create('shop', [WRITE], None)}"}
        runtime.access.close()
        taken = stranger.request("POST", "/api/kafka/events", LOGIN, Origin=origin, **key)
        assert taken.code == 201
        assert taken.headers["Access-Control-Allow-Origin"] == origin


def test_an_escaped_slash_passes_the_documented_proxy(tmp_path: Path) -> None:
    with front_of("documented, path", tmp_path) as front:
        published = front.request("POST", "/api/kafka/events", {**LOGIN, "userId": "a/b"})
        assert published.code == 201
        address = "/api/users/a%2Fb"
        wait_for(lambda: front.request("GET", address).code == 200, 30, front.service.tail)


def test_the_documented_path_without_its_slash_leads_to_the_one_with_it(tmp_path: Path) -> None:
    with front_of("documented, path", tmp_path) as front:
        moved = _unfollowed(front, "")
        assert (moved.code, moved.headers["Location"]) == (308, f"{front.url}/")


def _unfollowed(front: Front, path: str) -> Answer:
    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_: Any) -> None:
            return None

    address = urlsplit(front.url)
    opener = urllib.request.build_opener(Stay, urllib.request.HTTPSHandler(context=_trusting()))
    made = urllib.request.Request(
        f"{address.scheme}://127.0.0.1:{address.port}{front.prefix}{path}",
        headers={"Host": front.authority, **front.headers},
    )
    with pytest.raises(urllib.error.HTTPError) as refused, opener.open(made, timeout=20):
        pass
    return Answer(refused.value.code, None, dict(refused.value.headers.items()))


def test_the_documented_configuration_is_the_one_that_is_tested() -> None:
    """What all share, a root, a path, passwords, several instances: tests start these texts."""
    assert len(DOCUMENTED) == 5
    assert "upstream jobquest" in DOCUMENTED[0]
    assert "location / {" in DOCUMENTED[1]
    assert "location /jobquest/ {" in DOCUMENTED[2]
    assert DOCUMENTED[4].count("    server ") == 3
    root, below, asking = (
        {line.split("#")[0].strip() for line in text.splitlines()} for text in DOCUMENTED[1:4]
    )
    assert root - below == {"location / {"}
    assert root < asking
    assert not [line for line in root | below if line.startswith("auth_")]


# --- whose X-Forwarded-* counts ---


@pytest.fixture
def service_behind(tmp_path: Path) -> Iterator[Callable[[int], Service]]:
    """A service that trusts so many proxies."""
    made: list[Service] = []

    def start(trusted: int) -> Service:
        settings = {"JOBQUEST_TRUSTED_PROXIES": str(trusted), "JOBQUEST_AUTH": "proxy"}
        service = Service(tmp_path, **settings)
        made.append(service)
        return launched(service)

    yield start
    for service in made:
        service.kill()


FORWARDED = {
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Port": "1",
    "X-Forwarded-Prefix": "/evil",
    "X-Forwarded-Ssl": "on",
    "X-Forwarded-Protocol": "ssl",
    "X-Forwarded-For": "192.0.2.1",
    "Forwarded": "for=192.0.2.1;host=evil.example;proto=https",
    "Script-Name": "/evil",
    "X-Script-Name": "/evil",
}


def page_of(service: Service, **headers: str) -> tuple[int, str]:
    """A page that shows its own address."""
    made = urllib.request.Request(
        f"{service.url}/publish?type=user.login", headers={"Accept": "text/html", **headers}
    )
    try:
        with urllib.request.urlopen(made, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_without_a_proxy_nobodys_forwarded_headers_count(
    service_behind: Callable[[int], Service],
) -> None:
    service = service_behind(0)
    code, text = page_of(service, **FORWARDED)
    assert code == 200
    assert f"{service.url}/api/kafka/events" in text
    assert "evil" not in text
    posted = {"Origin": service.url.replace("http:", "https:"), **FORWARDED}
    body = json.dumps(LOGIN).encode()
    assert service.request("POST", "/api/kafka/events", body, posted).code == 403
    own = {**posted, "Origin": service.url}
    assert service.request("POST", "/api/kafka/events", body, own).code == 201


def test_behind_one_proxy_only_what_it_has_said_counts(
    service_behind: Callable[[int], Service],
) -> None:
    """Each proxy adds to the end of the list; what a client has put before it does not count."""
    service = service_behind(1)
    port = urlsplit(service.url).port
    said = {
        "X-Forwarded-Proto": "http, https",
        "X-Forwarded-Host": f"evil.example, localhost:{port}",
        "X-Forwarded-Prefix": "/evil",
        "X-Forwarded-Port": "1",
    }
    code, text = page_of(service, **said)
    assert code == 200
    assert f"https://localhost:{port}/api/kafka/events" in text
    assert "evil" not in text
    assert page_of(service, **{"X-Forwarded-Host": "localhost, evil.example"})[0] == 400
    body = json.dumps(LOGIN).encode()

    def posts(origin: str) -> int:
        return service.request("POST", "/api/kafka/events", body, {**said, "Origin": origin}).code

    assert posts(f"https://localhost:{port}") == 201
    assert posts("https://evil.example") == 403
    assert posts(f"http://localhost:{port}") == 403


@pytest.mark.parametrize(
    ("trusted", "seen"), [("0", "127.0.0.1"), ("1", "192.0.2.3"), ("2", "192.0.2.2")]
)
def test_the_clients_address_is_what_the_trusted_proxies_say(
    settings: dict[str, str], trusted: str, seen: str
) -> None:
    more = {"JOBQUEST_TRUSTED_PROXIES": trusted, "JOBQUEST_AUTH": "proxy"}
    app = create_app({**settings, **more})

    @app.get("/seen")
    def show() -> str:
        from flask import request

        return str(request.remote_addr)

    sent = {"X-Forwarded-For": "192.0.2.1, 192.0.2.2, 192.0.2.3"}
    assert app.test_client().get("/seen", headers=sent).text == seen
    app.extensions["jobquest"].stop()
