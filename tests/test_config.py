"""The settings as they are read: normal forms, hosts, what is not a setting, `.env` files."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from jobquest.config import load, variables
from jobquest.environment import is_injected
from jobquest.errors import SettingsError
from jobquest.start_checks import check
from tests import certificates


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # no .env of a developer's is found there


def test_origins_are_listed_in_the_form_that_browsers_send() -> None:
    config = load({"JOBQUEST_CORS_ORIGINS": "HTTP://Localhost:80/, http://localhost,https://ö.de"})
    assert config.cors_origins == ("http://localhost", "https://xn--nda.de")


def test_the_public_url_and_the_proxies_are_unset_until_somebody_sets_them() -> None:
    assert (load().public_url, load().trusted_proxies) == (None, 0)
    set_ = load({"JOBQUEST_PUBLIC_URL": "https://e.example/jq/", "JOBQUEST_TRUSTED_PROXIES": "2"})
    assert (str(set_.public_url), set_.trusted_proxies) == ("https://e.example/jq/", 2)


def test_the_trusted_hosts_are_loopbacks_the_own_and_the_public_one() -> None:
    assert load().hosts == ("localhost", "127.0.0.1", "::1")
    url = {"JOBQUEST_PUBLIC_URL": "https://Events.example:8443/jq"}
    assert load({**url, "HOST": "127.0.0.2"}).hosts[3:] == ("127.0.0.2", "events.example")


@pytest.mark.parametrize(
    ("written", "host"),
    [
        ("::1", "::1"),
        ("[::1]", "::1"),
        ("0:0:0:0:0:0:0:1", "::1"),
        ("LOCALHOST", "localhost"),
        ("127.0.0.2", "127.0.0.2"),
    ],
)
def test_a_loopback_address_may_be_written_in_each_way(written: str, host: str) -> None:
    config = load({"HOST": written})
    assert config.host == host
    assert host in config.hosts


@pytest.mark.parametrize(
    "variable",
    [
        "JOBQUEST_SERVICE_HOST",
        "JOBQUEST_SERVICE_PORT",
        "JOBQUEST_SERVICE_PORT_HTTP",
        "JOBQUEST_PORT",
        "JOBQUEST_PORT_5000_TCP",
        "JOBQUEST_PORT_5000_TCP_PROTO",
        "JOBQUEST_PORT_5000_TCP_PORT",
        "JOBQUEST_PORT_5000_TCP_ADDR",
        "JOBQUEST_PORT_53_UDP_ADDR",
        "JOBQUEST_EVENTS_SERVICE_HOST",
        "JOBQUEST_EVENTS_2_PORT_8080_TCP",
        "JOBQUEST_POSTGRES_SERVICE_PORT_POSTGRESQL",
        "KAFKA_SERVICE_HOST",
        "KAFKA_PORT",
        "KAFKA_PORT_9092_TCP",
        "KAFKA_BROKER_PORT",
        "KAFKA_BROKERS_SERVICE_PORT_CLIENTS",
    ],
)
def test_what_an_orchestrator_sets_for_a_service_of_our_name_is_no_setting(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    assert is_injected(variable)
    monkeypatch.setenv(variable, "tcp://10.0.0.1:5000")
    load()
    with pytest.raises(SettingsError, match=f"^{variable} is not a setting"):
        load({variable: "tcp://10.0.0.1:5000"})  # nobody but us writes there


def test_no_setting_looks_like_what_an_orchestrator_sets() -> None:
    assert not [variable for variable, _, _ in variables() if is_injected(variable)]


@pytest.mark.parametrize(
    ("variable", "near"),
    [
        ("JOBQUEST_WORKER", "JOBQUEST_WORKERS"),
        ("JOBQUEST_CORS_ORIGIN", "JOBQUEST_CORS_ORIGINS"),
        ("JOBQUEST_TRUSTED_PROXY", "JOBQUEST_TRUSTED_PROXIES"),
        ("JOBQUEST_DATADIR", "JOBQUEST_DATA_DIR"),
        ("JOBQUEST_KAFKA_BROKER", "KAFKA_BROKER"),
        ("KAFKA_BROKERS", "KAFKA_BROKER"),
        ("KAFKA_BOOTSTRAP_SERVERS", "KAFKA_BROKER"),
        ("KAFKA_PARTITION", "KAFKA_PARTITIONS"),
        ("KAFKA_GROUP", "KAFKA_GROUP_ID"),
        ("KAFKA_SSL_CA", "KAFKA_SSL_CAFILE"),
        ("KAFKA_SASL_USER", "KAFKA_SASL_USERNAME"),
        ("KAFKA_PASSWORD", "KAFKA_SASL_PASSWORD"),
    ],
)
def test_a_misspelt_setting_is_refused_with_the_nearest_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, near: str
) -> None:
    def is_refused(**overrides: str) -> None:
        with pytest.raises(SettingsError) as refused:
            load(overrides)
        assert str(refused.value) == f"{variable} is not a setting; did you mean {near}?"

    is_refused(**{variable: "1"})
    with monkeypatch.context() as environment:
        environment.setenv(variable, "1")
        is_refused()
    (tmp_path / ".env").write_text(f"{variable}=1\n")
    is_refused()


@pytest.mark.parametrize(
    "variable",
    [
        "KAFKA_HOME",
        "KAFKA_OPTS",
        "KAFKA_HEAP_OPTS",
        "KAFKA_LOG4J_OPTS",
        "KAFKA_JVM_PERFORMANCE_OPTS",
        "KAFKA_CLUSTERS_0_NAME",
        "KAFKA_ADVERTISED_LISTENERS",
        "KAFKA_BROKER_ID",
        "KAFKA_CFG_NUM_PARTITIONS",
        "KAFKA_NUM_PARTITIONS",
        "KAFKA_DEFAULT_REPLICATION_FACTOR",
        "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR",
        "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP",
        "KAFKA_SASL_ENABLED_MECHANISMS",
        "KAFKA_SSL_KEYSTORE_PASSWORD",
        "KAFKA_SSL_KEY_PASSWORD",
    ],
)
def test_what_kafka_s_own_programs_read_is_refused_only_in_the_settings_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    with monkeypatch.context() as environment:
        environment.setenv(variable, "1")
        load()
    (tmp_path / ".env").write_text(f"{variable}=1\n")
    with pytest.raises(SettingsError, match=f"^{variable} is not a setting"):
        load()


def test_kafka_s_settings_without_a_broker_are_named() -> None:
    assert load().without_broker() == []
    set_ = {"KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "KAFKA_PARTITIONS": "12"}
    assert load(set_).without_broker() == ["KAFKA_PARTITIONS", "KAFKA_SECURITY_PROTOCOL"]
    sasl = {f"KAFKA_SASL_{name}": "PLAIN" for name in ("MECHANISM", "USERNAME", "PASSWORD")}
    assert load({**set_, **sasl, "KAFKA_BROKER": "localhost:9092"}).without_broker() == []


@pytest.mark.parametrize("variable", ["JOBQUEST_", "JOBQUEST_SERVICE", "JOBQUEST_PORT_5000_TLS"])
def test_an_unknown_name_of_ours_is_refused(variable: str) -> None:
    with pytest.raises(SettingsError, match=f"^{variable} is not a setting"):
        load({variable: "1"})


@pytest.mark.parametrize(
    "content", [b"PORT=6000\n", b"\xef\xbb\xbfPORT=6000\r\n", b"# \xc3\xbc\nexport PORT='6000'\n"]
)
def test_a_settings_file_in_utf_8_is_read(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ".env").write_bytes(content)
    assert load().port == 6000


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("PORT=6000\n".encode("utf-16"), ".env is written in UTF-16; save it as UTF-8."),
        ("PORT=6000\n".encode("utf-16-be"), ".env is written in UTF-16; save it as UTF-8."),
        (
            "PORT=6000\n# für uns\n".encode("cp1252"),
            ".env, line 2: byte 0xfc is not UTF-8; save it as UTF-8.",
        ),
        (
            b"PORT=6000\nHOST 127.0.0.1\n",
            ".env, line 2: this is not NAME=value; correct it, or begin the line with #.",
        ),
        (
            b"KAFKA_GROUP_ID='open\nPORT=6000\n",
            ".env, line 1: this is not NAME=value; correct it, or begin the line with #.",
        ),
        (
            b"JOBQUEST_WORKER=1\n",
            "JOBQUEST_WORKER is not a setting; did you mean JOBQUEST_WORKERS?",
        ),
    ],
)
def test_a_settings_file_that_can_not_be_read_is_one_line(
    tmp_path: Path, content: bytes, line: str
) -> None:
    (tmp_path / ".env").write_bytes(content)
    with pytest.raises(SettingsError) as refused:
        load()
    assert str(refused.value) == line


def test_a_settings_file_that_is_a_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / ".env").mkdir()
    with pytest.raises(SettingsError, match=r"^\.env is a folder; move it away"):
        load()


def test_a_settings_file_that_may_not_be_opened_is_one_line(tmp_path: Path) -> None:
    (tmp_path / ".env").symlink_to(tmp_path / ".env")  # nobody may, not even root
    with pytest.raises(SettingsError, match=r"^\.env can't be read \(.+\); correct it"):
        load()


def test_no_setting_of_a_service_can_have_two_lines() -> None:
    with pytest.raises(SettingsError) as refused:
        load({"KAFKA_GROUP_ID": "a\nerror: b"})
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["../x", "..", ".x", "x.", "a..b", "a/b", "a\\b", "chat.py"])
def test_a_module_of_handlers_is_named_as_an_import_does(name: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load({"JOBQUEST_HANDLERS": f"chat,{name}"})
    assert f": {name!r} is not a module's name; write it as an import does" in str(refused.value)


def test_modules_of_handlers_may_be_in_packages() -> None:
    assert load({"JOBQUEST_HANDLERS": "chat, a.b.py_c"}).handlers == ("chat", "a.b.py_c")
    assert load().handlers == ()


def test_brokers_have_ports_that_exist() -> None:
    assert load({"KAFKA_BROKER": "a:1,[::1]:9092"}).kafka_broker == ("a:1", "[::1]:9092")
    for wrong in ("a:0", "a:65536", "a:٣", "a", "a:b", "::1:9092"):
        with pytest.raises(SettingsError, match=r"KAFKA_BROKER.*host:port"):
            load({"KAFKA_BROKER": wrong})


def test_a_folder_that_may_not_be_written_to_is_one_line() -> None:
    folder = Path(tempfile.mkdtemp())  # not below pytest's own, which nobody else may enter
    folder.chmod(0o555)
    loaded = load({"JOBQUEST_DATA_DIR": str(folder)})
    was = os.geteuid()
    if was == 0:  # who may write everywhere
        os.seteuid(65_534)
    try:
        with pytest.raises(SettingsError, match=f"^JOBQUEST_DATA_DIR: nothing .* {folder};"):
            check(loaded)
    finally:
        os.seteuid(was)
        folder.rmdir()


@pytest.mark.slow
def test_a_certificate_and_a_key_that_belong_together_are_taken_and_no_others(
    tmp_path: Path,
) -> None:
    if reason := certificates.why_not():
        pytest.skip(reason)
    ours = certificates.authority(tmp_path / "made", "a")
    other = ours.issue("b")
    files = {"KAFKA_SSL_CAFILE": str(ours.file), "KAFKA_SSL_CERTFILE": str(ours.file)}

    def refusal(key: Path, password: str = "") -> str:
        settings = {**files, "KAFKA_SSL_KEYFILE": str(key), "KAFKA_SSL_PASSWORD": password}
        with pytest.raises(SettingsError) as refused:
            check(load(settings))
        assert not password or password not in str(refused.value)
        return str(refused.value)

    check(load({**files, "KAFKA_SSL_KEYFILE": str(ours.key)}))
    key, password = str(ours.encrypted_key("p: w")), "p: w"
    check(load({**files, "KAFKA_SSL_KEYFILE": key, "KAFKA_SSL_PASSWORD": password}))
    no_pair = f"KAFKA_SSL_CERTFILE: {ours.file} with "
    assert refusal(ours.file).startswith(no_pair)
    assert refusal(other.key).startswith(no_pair)
    assert refusal(other.encrypted_key("p: w"), "p: w").startswith(no_pair)
    assert refusal(ours.encrypted_key("p: w"), "w: p").startswith(
        "KAFKA_SSL_PASSWORD does not open"
    )
    assert refusal(ours.encrypted_key("p: w")).startswith("KAFKA_SSL_PASSWORD is not set")
    missing = refusal(tmp_path / "none")
    assert missing.startswith(f"KAFKA_SSL_KEYFILE: {tmp_path / 'none'} can't be used (No such file")
