"""The settings: one table of variable, default, check and a line of help.

Read from the environment and a `.env` file by `load`. The README's table and `.env.example` are
held to it by tests. It knows nothing of what the settings are used for.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from jobquest import addresses, environment
from jobquest.addresses import PublicUrl
from jobquest.errors import SettingsError

Parse = Callable[[str], Any]
MIN_SECRET_LENGTH = 32


def _text(value: str) -> str:
    return value


def _names(value: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in value.split(",") if name.strip())


def _modules(value: str) -> tuple[str, ...]:
    modules = _names(value)
    for name in modules:
        if re.search(r"[/\\]|^\.|\.\.|\.$|\.py$", name):
            raise ValueError(
                f"{name!r} is not a module's name; write it as an import does, without .py (chat or"
                " company.chat), and put its folder on PYTHONPATH"
            )
    return modules


def _flag(value: str) -> bool:
    words = {"1": True, "true": True, "yes": True, "on": True}
    words |= {"0": False, "false": False, "no": False, "off": False}
    if value.lower() not in words:
        raise ValueError("use true or false")
    return words[value.lower()]


def _whole(low: int, high: int) -> Parse:
    def parse(value: str) -> int:
        if not re.fullmatch(r"[0-9]{1,12}", value) or not low <= int(value) <= high:
            raise ValueError(f"use a whole number from {low} to {high}")
        return int(value)

    return parse


def _choice(*choices: str) -> Parse:
    def parse(value: str) -> str:
        if value.upper() not in choices:
            raise ValueError(f"use one of {', '.join(choices)}")
        return value.upper()

    return parse


def _host(value: str) -> str:
    if re.search(r"^[^:]*:[0-9]*$|\]:", value):
        raise ValueError("it has a port; write the address alone and set PORT")
    return addresses.host_name(value)


def _auth(value: str) -> str:
    if value != "proxy":
        raise ValueError("use proxy, or leave it unset")
    return value


def _issuer(value: str) -> str:
    if "?" in value:
        raise ValueError("it has a query, an issuer has none; leave it out")
    return addresses.secure_url(value)


def _secret_key(value: str) -> str:
    if len(value) < MIN_SECRET_LENGTH:
        raise ValueError(f"use at least {MIN_SECRET_LENGTH} random characters")
    return value


def _brokers(value: str) -> tuple[str, ...]:
    brokers = _names(value)
    if not brokers:
        raise ValueError("it names no broker; write for example localhost:9092")
    for broker in brokers:
        found = re.fullmatch(r"(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})", broker)
        if not found or not 0 < int(found[2]) < 65_536:
            raise ValueError(f"{broker!r} is not host:port; write for example localhost:9092")
    return brokers


def _origins(value: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(addresses.origin(text) for text in _names(value)))


def _group(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,249}", value):
        raise ValueError("use 1 to 249 letters, digits, '.', '_' or '-'")
    return value


def _database(value: str) -> str:
    if not re.match(r"sqlite:///|postgresql\+psycopg://", value):
        raise ValueError("write sqlite:///path/to/file.db or postgresql+psycopg://user@host/name")
    return value


def _jwt_secret(value: str) -> str:
    if "-----BEGIN" in value:
        raise ValueError("it is a key in PEM form; name its file in JOBQUEST_JWT_PUBLIC_KEY")
    if len(value.encode()) < 32:
        raise ValueError(
            "use at least 32 bytes, for example from"
            " `python -c 'import secrets; print(secrets.token_urlsafe(32))'`"
        )
    return value


def _pem_file(value: str) -> Path:
    if "-----BEGIN" in value:
        raise ValueError("it is the key itself; write it to a file, and name that")
    return Path(value)


def _is_secret(variable: str) -> bool:
    """Whether a value must not be shown: URLs have passwords in them, and people paste keys where
    a file is asked for."""
    return any(word in variable for word in ("PASSWORD", "SECRET", "URL", "KEY"))


def setting(variable: str, default: str | None, parse: Parse, help: str) -> Any:
    """One row of the table. `default` is as it would stand in the environment; None: unset."""
    row = {"variable": variable, "default": default, "parse": parse, "help": help}
    value = parse(default) if default is not None else (() if parse in _LISTS else None)
    return field(default=value, metadata=row, repr=not _is_secret(variable))


_LISTS = (_names, _modules, _brokers, _origins)


@dataclass(frozen=True, slots=True, kw_only=True)
class Oidc:
    """The identity provider at which operators sign in."""

    issuer: str
    client_id: str
    client_secret: str = field(repr=False)
    operators: tuple[str, ...]
    viewers: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Every setting, checked. Attributes in the order of the README's table."""

    host: str = setting("HOST", "127.0.0.1", _host, "address to listen on")
    port: int = setting("PORT", "5000", _whole(0, 65535), "port to listen on")
    kafka_broker: tuple[str, ...] = setting(
        "KAFKA_BROKER", None, _brokers, "Kafka's addresses, comma-separated; unset: embedded log"
    )
    data_dir: Path = setting(  # noqa: RUF009 (a row of the table, not a default to compute)
        "JOBQUEST_DATA_DIR", "instance", Path, "folder for the files that it writes"
    )
    database_url: str | None = setting(
        "DATABASE_URL",
        None,
        _database,
        "database of the read side; unset: SQLite in the data folder",
    )
    database_upgrade: bool = setting(
        "JOBQUEST_DATABASE_UPGRADE",
        "false",
        _flag,
        "upgrade PostgreSQL's tables at start, without `flask db upgrade`",
    )
    # The consumer, the feed, the relay, the supervisor, the outbox and the look-up of ids use one
    # each, requests the others. A machine's four web processes and the one that consumes take 80
    # of the 97 that PostgreSQL gives by default.
    database_pool: int = setting(
        "JOBQUEST_DATABASE_POOL",
        "16",
        _whole(8, 1000),
        "database connections that a process may open; at least 8",
    )
    kafka_group_id: str = setting("KAFKA_GROUP_ID", "job-quest-consumer", _group, "consumer group")
    kafka_partitions: int = setting(
        "KAFKA_PARTITIONS",
        "6",
        _whole(1, 1000),
        "partitions of the topics that it creates; best a multiple of the instances",
    )
    kafka_replication_factor: int = setting(
        "KAFKA_REPLICATION_FACTOR", "1", _whole(1, 15), "replicas of the topics that it creates"
    )
    consumer_autostart: bool = setting(
        "JOBQUEST_CONSUMER_AUTOSTART", "true", _flag, "start the consumer with the server"
    )
    cors_origins: tuple[str, ...] = setting(
        "JOBQUEST_CORS_ORIGINS", None, _origins, "front ends whose pages may call the API"
    )
    public_url: PublicUrl | None = setting(  # noqa: RUF009 (as above)
        "JOBQUEST_PUBLIC_URL",
        None,
        addresses.public_url,
        "its address for browsers behind a proxy: https://host/path",
    )
    trusted_proxies: int = setting(
        "JOBQUEST_TRUSTED_PROXIES",
        "0",
        _whole(0, 10),
        "proxies in front that set X-Forwarded-*",
    )
    auth: str | None = setting(
        "JOBQUEST_AUTH",
        None,
        _auth,
        "proxy: the proxy in front authenticates, the service lets everybody in",
    )
    secret_key: str | None = setting(
        "JOBQUEST_SECRET_KEY",
        None,
        _secret_key,
        "signs CSRF tokens, the same on every instance; unset: made and kept in the data folder",
    )
    jwt_secret: str | None = setting(
        "JOBQUEST_JWT_SECRET",
        None,
        _jwt_secret,
        "front-end users' tokens are signed with it (HS256); at least 32 bytes",
    )
    jwt_public_key: Path | None = setting(  # noqa: RUF009 (as above)
        "JOBQUEST_JWT_PUBLIC_KEY",
        None,
        _pem_file,
        "or: PEM file of the public key that checks them (RS256, ES256, EdDSA)",
    )
    jwks_url: str | None = setting(
        "JOBQUEST_JWKS_URL",
        None,
        addresses.secure_url,
        "or: where their identity provider has its keys",
    )
    jwt_issuer: str | None = setting(
        "JOBQUEST_JWT_ISSUER", None, _text, "`iss` that their tokens must have"
    )
    jwt_audience: str | None = setting(
        "JOBQUEST_JWT_AUDIENCE",
        None,
        _text,
        "`aud` that their tokens must have; unset: tokens with one are refused",
    )
    oidc_issuer: str | None = setting(
        "JOBQUEST_OIDC_ISSUER",
        None,
        _issuer,
        "operators sign in at this identity provider (OpenID Connect)",
    )
    oidc_client_id: str | None = setting(
        "JOBQUEST_OIDC_CLIENT_ID", None, _text, "what the provider calls this service"
    )
    oidc_client_secret: str | None = setting(
        "JOBQUEST_OIDC_CLIENT_SECRET", None, _text, "the service's secret there"
    )
    oidc_operators: tuple[str, ...] = setting(
        "JOBQUEST_OIDC_OPERATORS",
        None,
        _names,
        "verified e-mails and groups whose role is operator",
    )
    oidc_viewers: tuple[str, ...] = setting(
        "JOBQUEST_OIDC_VIEWERS", None, _names, "verified e-mails and groups whose role is viewer"
    )
    user_events_per_second: int = setting(
        "JOBQUEST_USER_EVENTS_PER_SECOND",
        "100",
        _whole(1, 1_000_000),
        "events that a user of the front end may publish, on each machine",
    )
    workers: int | None = setting(
        "JOBQUEST_WORKERS", None, _whole(1, 64), "web processes; unset: 1, on Kafka the cores (≤ 4)"
    )
    max_sockets: int = setting(
        "JOBQUEST_MAX_SOCKETS",
        "5000",
        _whole(1, 60_000),
        "live viewers that a web process may have",
    )
    retry_max_attempts: int = setting(
        "JOBQUEST_RETRY_MAX_ATTEMPTS",
        "10",
        _whole(1, 1000),
        "tries before an event becomes a dead letter",
    )
    retry_base_seconds: int = setting(
        "JOBQUEST_RETRY_BASE_SECONDS",
        "1",
        _whole(0, 60),
        "wait before the second try; doubles, up to 60 s",
    )
    brake_failures: int = setting(
        "JOBQUEST_BRAKE_FAILURES",
        "20",
        _whole(1, 1_000_000),
        "failures in a row that pause the consumer",
    )
    outbox_max_events: int = setting(
        "JOBQUEST_OUTBOX_MAX_EVENTS",
        "1000000",
        _whole(1, 10**9),
        "events that the outbox keeps while Kafka is away",
    )
    keep_days: int = setting(
        "JOBQUEST_KEEP_DAYS",
        "90",
        _whole(1, 100_000),
        "days to keep failed tries, closed dead letters and counts per minute",
    )
    handlers: tuple[str, ...] = setting(
        "JOBQUEST_HANDLERS",
        None,
        _modules,
        "modules with handlers: their register(consumer) is called at start",
    )
    kafka_security_protocol: str | None = setting(
        "KAFKA_SECURITY_PROTOCOL",
        None,
        _choice("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"),
        "PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL",
    )
    kafka_sasl_mechanism: str | None = setting(
        "KAFKA_SASL_MECHANISM",
        None,
        _choice("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"),
        "PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512",
    )
    kafka_sasl_username: str | None = setting("KAFKA_SASL_USERNAME", None, _text, "SASL user")
    kafka_sasl_password: str | None = setting("KAFKA_SASL_PASSWORD", None, _text, "SASL password")
    kafka_ssl_cafile: str | None = setting(
        "KAFKA_SSL_CAFILE", None, _text, "PEM file of the authority that signed the brokers"
    )
    kafka_ssl_certfile: str | None = setting(
        "KAFKA_SSL_CERTFILE", None, _text, "PEM file of the client's certificate"
    )
    kafka_ssl_keyfile: str | None = setting(
        "KAFKA_SSL_KEYFILE", None, _text, "PEM file of the client's key"
    )
    kafka_ssl_password: str | None = setting(
        "KAFKA_SSL_PASSWORD", None, _text, "password of that key, if it is encrypted"
    )
    kafka_ssl_check_hostname: bool = setting(
        "KAFKA_SSL_CHECK_HOSTNAME",
        "true",
        _flag,
        "whether the brokers' certificates must be for their addresses",
    )

    @property
    def mode(self) -> str:
        """`kafka` where brokers are set, else `embedded`."""
        return "kafka" if self.kafka_broker else "embedded"

    @property
    def takes_tokens(self) -> bool:
        """Whether front-end users' tokens are accepted."""
        return bool(self.jwt_secret or self.jwt_public_key or self.jwks_url)

    @property
    def oidc(self) -> Oidc | None:
        """The identity provider at which operators sign in; None if there is none."""
        if not (self.oidc_issuer and self.oidc_client_id and self.oidc_client_secret):
            return None
        return Oidc(
            issuer=self.oidc_issuer,
            client_id=self.oidc_client_id,
            client_secret=self.oidc_client_secret,
            operators=self.oidc_operators,
            viewers=self.oidc_viewers,
        )

    @property
    def hosts(self) -> tuple[str, ...]:
        """The names that a request's Host may carry, without ports and brackets: compare with
        `addresses.host_name(header)`."""
        public = [self.public_url.name] if self.public_url else []
        return tuple(dict.fromkeys(["localhost", "127.0.0.1", "::1", self.host, *public]))

    @property
    def worker_count(self) -> int:
        """Web processes to run."""
        if self.workers is not None:
            return self.workers
        return min(4, _cores()) if self.kafka_broker else 1

    @property
    def has_consumer_process(self) -> bool:
        """Whether the server runs the consumer in a process of its own, so that no request waits
        for its batches. The embedded log's one worker consumes by itself."""
        return bool(self.kafka_broker)

    @property
    def read_side_url(self) -> str:
        """SQLAlchemy URL of the read side."""
        return self.database_url or f"sqlite:///{self.data_dir.absolute() / 'read.db'}"

    def without_broker(self) -> list[str]:
        """Which of Kafka's settings are set although no broker is: somebody may expect Kafka."""
        if self.kafka_broker:
            return []
        rows = [row for row in fields(self) if row.name.startswith("kafka_")]
        return [r.metadata["variable"] for r in rows if getattr(self, r.name) != r.default]

    def kafka_security(self) -> dict[str, Any]:
        """The security settings under the names that kafka-python gives them; only those set."""
        renamed = {f"kafka_sasl_{one}": f"sasl_plain_{one}" for one in ("username", "password")}
        named = {
            renamed.get(row.name, row.name.removeprefix("kafka_")): getattr(self, row.name)
            for row in fields(self)
            if row.name.startswith(("kafka_security", "kafka_sasl", "kafka_ssl"))
        }
        return {name: value for name, value in named.items() if value is not None}


def _cores() -> int:
    """How many cores this process may use: a container's own may be few of the machine's."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def variables() -> list[tuple[str, str | None, str]]:
    """The table as documents show it: variable, default (None: unset), help."""
    return [
        (row.metadata["variable"], row.metadata["default"], row.metadata["help"])
        for row in fields(Config)
    ]


def load(overrides: Mapping[str, str] | None = None, *, env_file: Path | None = None) -> Config:
    """Read `.env`, then the environment over it, then `overrides` over both.

    An empty value counts as unset. Raises SettingsError with one line: which variable, and why.
    """
    known = {row.metadata["variable"]: row for row in fields(Config)}
    found = environment.read(env_file or Path(".env"), overrides or {}, known)
    values = {
        row.name: _parse(variable, row.metadata["parse"], found[variable].strip())
        for variable, row in known.items()
        if found.get(variable, "").strip()
    }
    return _coherent(Config(**values))


def _parse(variable: str, parse: Parse, value: str) -> Any:
    try:
        return parse(value)
    except ValueError as error:
        shown = "" if _is_secret(variable) else f"={value if value.isprintable() else ascii(value)}"
        raise SettingsError(f"{variable}{shown}: {error}.") from None


def _check_kafka_security(config: Config) -> None:
    """Settings without effect are refused: whoever gives a password or an authority must not talk
    to Kafka without them."""
    protocol = config.kafka_security_protocol or "PLAINTEXT"
    given = {row.metadata["variable"] for row in fields(config) if getattr(config, row.name)}
    sasl = ("KAFKA_SASL_MECHANISM", "KAFKA_SASL_USERNAME", "KAFKA_SASL_PASSWORD")
    tls = ("KAFKA_SSL_CAFILE", "KAFKA_SSL_CERTFILE", "KAFKA_SSL_KEYFILE", "KAFKA_SSL_PASSWORD")
    if protocol.startswith("SASL") and (missing := [one for one in sasl if one not in given]):
        raise SettingsError(f"KAFKA_SECURITY_PROTOCOL={protocol}: set {' and '.join(missing)} too.")
    useless = [one for one in sasl if one in given and not protocol.startswith("SASL")]
    useless += [one for one in tls if one in given and not protocol.endswith("SSL")]
    if useless:
        raise SettingsError(
            f"KAFKA_SECURITY_PROTOCOL={protocol} makes no use of {', '.join(useless)}: set another,"
            " or remove them."
        )


def _coherent(config: Config) -> Config:
    if config.kafka_broker:
        _check_kafka_security(config)
    _check_tokens(config)
    _check_oidc(config)
    if not config.kafka_broker and config.workers not in (None, 1):
        raise SettingsError(
            "JOBQUEST_WORKERS: the embedded log takes 1; set KAFKA_BROKER for more."
        )
    return config


def _check_tokens(config: Config) -> None:
    keys = {
        "JOBQUEST_JWT_SECRET": config.jwt_secret,
        "JOBQUEST_JWT_PUBLIC_KEY": config.jwt_public_key,
        "JOBQUEST_JWKS_URL": config.jwks_url,
    }
    given = [variable for variable, value in keys.items() if value]
    if len(given) > 1:
        raise SettingsError(f"{' and '.join(given)}: set only one, tokens have one kind of key.")
    if not given and (config.jwt_issuer or config.jwt_audience):
        raise SettingsError(
            "JOBQUEST_JWT_ISSUER and JOBQUEST_JWT_AUDIENCE are useless alone; set"
            " JOBQUEST_JWT_SECRET, JOBQUEST_JWT_PUBLIC_KEY or JOBQUEST_JWKS_URL too."
        )


def _check_oidc(config: Config) -> None:
    given = {
        "JOBQUEST_OIDC_ISSUER": config.oidc_issuer,
        "JOBQUEST_OIDC_CLIENT_ID": config.oidc_client_id,
        "JOBQUEST_OIDC_CLIENT_SECRET": config.oidc_client_secret,
        "JOBQUEST_OIDC_OPERATORS or JOBQUEST_OIDC_VIEWERS": config.oidc_operators
        or config.oidc_viewers,
    }
    missing = [variable for variable, value in given.items() if not value]
    if missing and len(missing) < len(given):
        raise SettingsError(
            f"Signing in at an identity provider needs {', '.join(missing)} too: set all of it, or"
            " none of the JOBQUEST_OIDC_ settings."
        )
