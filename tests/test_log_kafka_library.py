"""Which way kafka-python is used, and that names which a library keeps to itself stay in one
place."""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
import logging
import re
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import kafka
import pytest
from kafka import TopicPartition
from kafka.errors import KafkaTimeoutError
from kafka.record.default_records import DefaultRecordBatch

from jobquest.errors import LogUnavailable
from jobquest.log import NewRecord, Record
from jobquest.log.kafka import fast_path
from jobquest.log.kafka.cluster import Cluster
from jobquest.log.kafka.documented import DocumentedLibrary
from jobquest.log.kafka.fast_path import FastLibrary
from jobquest.log.kafka.library import Addresses
from jobquest.log.kafka.version import TRIED, library_of
from tests.kafka_broker import KafkaBroker
from tests.logs import UNTRIED, OnKafka
from tests.service import wait_for

ROOT = Path(__file__).parent.parent
OTHERS = ["3.0.11", "3.0.13", "3.1.0", "2.3.1", "3.0.12.post1", "4.0.0", ""]


# --- the decision ---


def test_a_version_that_was_tried_is_used_by_its_insides(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert isinstance(library_of("3.0.12"), FastLibrary)
    assert not caplog.messages


@pytest.mark.parametrize("version", OTHERS)
def test_any_other_version_is_used_as_documented_with_one_line_of_warning(
    version: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert isinstance(library_of(version), DocumentedLibrary)
    [line] = [one for one in caplog.records if one.levelno >= logging.WARNING]
    assert f"kafka-python {version} was not tried" in line.getMessage()
    assert "Install kafka-python==3.0.12" in line.getMessage()


def test_what_is_required_was_tried() -> None:
    required = re.search(r"^kafka-python==(\S+)", (ROOT / "requirements.txt").read_text(), re.M)
    assert required
    assert required[1] in TRIED
    assert kafka.__version__ in TRIED
    assert UNTRIED not in TRIED


@pytest.mark.slow
def test_the_log_decides_by_the_version_that_is_installed() -> None:
    """On another one it does not import a module that may have moved."""
    script = """
        import kafka, sys
        kafka.__version__ = "3.1.0"
        from jobquest.log.kafka import KafkaLog
        log = KafkaLog(bootstrap=["127.0.0.1:1"], client_id="t", partitions=1,
                       replication_factor=1, security={}, topics=["t"])
        print(type(log._library).__name__, [name for name in sys.modules if "fast_path" in name])
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, cwd=ROOT
    )
    assert done.stdout == "DocumentedLibrary []\n"
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "kafka-python 3.1.0 was not tried" in done.stderr


# --- what only the documented way has to find out ---


@pytest.mark.kafka
def test_an_answer_that_was_damaged_on_its_way_harms_no_record(
    kafka_broker: KafkaBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = OnKafka(kafka_broker.bootstrap, [f"t-{uuid.uuid4().hex[:12]}"], UNTRIED)
    sound, checks = DefaultRecordBatch.validate_crc, itertools.count()
    monkeypatch.setattr(
        DefaultRecordBatch,
        "validate_crc",
        lambda batch: (batch.base_offset != 1 or next(checks) > 0) and sound(batch),
    )
    records: list[Record] = []

    def read_all() -> bool:
        try:
            records.extend(subscription.poll(0.2, 100))
        except LogUnavailable as error:
            assert "can't be unpacked" in str(error)  # noqa: PT017
        return len(records) >= 3

    with closing(place.open()) as log:
        for n in range(3):  # one batch each
            [future] = log.append([NewRecord(place.topics[0], b"k", b"%d" % n)])
            future.result(10)
        with closing(
            log.subscribe(place.topics, uuid.uuid4().hex, lambda origins: {})
        ) as subscription:
            wait_for(read_all, 20)
    assert [(one.value, one.damage) for one in records] == [
        (b"0", None),
        (b"1", None),
        (b"2", None),
    ]
    assert next(checks) >= 2


# --- names that a library keeps to itself ---

# The one place that may use them, behind a check of the version.
GUARDED = ("jobquest/log/kafka/fast_path/",)
# Its caller, the worker, is taken by `server.worker_class` for tried versions of gunicorn.
GUARDED_BY_THE_SERVER = ("jobquest/exchange.py",)
KAFKA_DOCUMENTS = {"kafka", "kafka.admin", "kafka.errors"}
# Documented in spite of their underscore: those of named tuples, of marshmallow's fields, of `os`.
PUBLIC = {"_replace", "_asdict", "_fields", "_make", "_serialize", "_deserialize", "_exit"}


@cache
def sources() -> list[tuple[str, ast.Module]]:
    return [
        (str(path.relative_to(ROOT)), ast.parse(path.read_text()))
        for path in sorted([*(ROOT / "jobquest").rglob("*.py"), ROOT / "app.py"])
    ]


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in PUBLIC


def reached_into(tree: ast.AST) -> Iterator[str]:
    """Private names of anything but `self`, spelled out or as a text, and private imports."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="self" | "cls" | "other")):
                pass  # `other` is one of the same class
            case ast.Attribute(attr=name) if is_private(name):
                yield name
            case ast.Call(
                func=ast.Name(id="getattr" | "setattr"), args=[_, ast.Constant(value), *_]
            ):
                if is_private(str(value)):
                    yield str(value)
            case ast.ImportFrom(module=str(module), names=names) if not is_internal(module):
                parts = [*module.split("."), *(one.name for one in names)]
                yield from filter(is_private, parts)
                if module.split(".")[0] == "kafka" and module not in KAFKA_DOCUMENTS:
                    yield module
            case ast.Import(names=names):
                parts = [part for one in names for part in one.name.split(".")]
                yield from filter(is_private, parts)


def is_internal(module: str) -> bool:
    return module.split(".")[0] == "jobquest"


def shared_with_a_base(tree: ast.AST) -> Iterator[str]:
    """Private names that a class of ours has in common with a library's class it is made from."""
    imported = dict(imports(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            mine = names_of_self(node)
            for base in node.bases:
                found = library_class(base, imported)
                theirs = set[str]()
                for one in inspect.getmro(found) if inspect.isclass(found) else ():
                    theirs |= names_of_class(one)
                yield from filter(is_private, mine & theirs)


def imports(tree: ast.AST) -> Iterator[tuple[str, Callable[[], Any]]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not is_internal(node.module):
            for one in node.names:
                yield one.asname or one.name, partial(imported_from, node.module, one.name)
        elif isinstance(node, ast.Import):
            for one in node.names:
                first = one.name.split(".")[0]
                yield one.asname or first, partial(importlib.import_module, first)


def imported_from(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


def library_class(base: ast.expr, imported: dict[str, Callable[[], Any]]) -> type | None:
    match base:
        case ast.Subscript(value=value):
            return library_class(value, imported)
        case ast.Attribute(value=value, attr=name):
            found: Any = library_class(value, imported)
            return getattr(found, name, None)
        case ast.Name(id=name) if name in imported:
            return imported[name]()  # type: ignore[no-any-return]
    return None


def names_of_self(node: ast.AST) -> set[str]:
    """What a class calls its own: its methods, and the attributes of `self`."""
    found = set[str]()
    for one in ast.walk(node):
        match one:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                found.add(name)
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name):
                found.add(name)
    return found


@cache
def names_of_class(found: Any) -> set[str]:
    try:
        source = inspect.getsource(found)
    except (OSError, TypeError):  # written in C
        return set(vars(found)) if isinstance(found, type) else set()
    return names_of_self(ast.parse(textwrap.dedent(source)))


def test_private_names_of_libraries_are_used_in_one_guarded_place() -> None:
    found = [
        f"{path}: {name}"
        for path, tree in sources()
        if not path.startswith(GUARDED + GUARDED_BY_THE_SERVER)
        for name in [*reached_into(tree), *shared_with_a_base(tree)]
    ]
    assert not found


def test_private_names_are_found_however_they_are_used() -> None:
    source = """
        import logging
        from threading import Thread, _shutdown
        from kafka.consumer.fetcher import Fetcher
        class Ours(Thread):
            def mine(self):
                self._target = self._not_theirs = 1
        class Handler(logging.StreamHandler[str]):
            def mine(self): self._name = ""
        producer._sender.wakeup()
        getattr(producer, "_metadata")
        self._fine = row._replace()
        """
    tree = ast.parse(textwrap.dedent(source))
    assert set(reached_into(tree)) == {
        "_shutdown",
        "kafka.consumer.fetcher",
        "_sender",
        "_metadata",
    }
    assert set(shared_with_a_base(tree)) == {"_target", "_name"}


def test_the_list_of_private_names_is_the_code_s() -> None:
    assert fast_path.__doc__
    listed = set(re.findall(r"`(_\w+)`", fast_path.__doc__))
    used = {
        name
        for path, tree in sources()
        if path.startswith(GUARDED)
        for name in [*reached_into(tree), *shared_with_a_base(tree)]
        if is_private(name)
    }
    assert used == listed


# --- a part of the cluster that hangs ---


class _HangingLeaders:
    """A library whose admin client has its answers, and whose reader has none."""

    addresses = Addresses()

    def __init__(self) -> None:
        self.admins = 0

    def admin(self, _timeout_ms: int, **_settings: Any) -> Any:
        self.admins += 1
        topic = {"name": "t", "topic_id": 1, "error_code": 0, "authorized_operations": None}
        return SimpleNamespace(describe_topics=lambda _topics: [topic], close=lambda: None)

    def reader(self, **_settings: Any) -> Any:
        def fail(*_places: Any, **_more: Any) -> None:
            raise KafkaTimeoutError("Failed to get offsets by timestamps in 2000 ms.")

        return SimpleNamespace(consumer=SimpleNamespace(beginning_offsets=fail), close=lambda: None)


def test_a_leader_that_hangs_does_not_make_the_cluster_seem_away() -> None:
    """A subscription that thinks so leaves its group."""
    library = _HangingLeaders()
    cluster = Cluster(library, {"bootstrap_servers": ["b:1"]}, ["t"], 1, 1, {})
    for _ in range(2):
        assert cluster.identities(["t"]) == {"t": "1"}
        with pytest.raises(LogUnavailable, match="offsets by timestamps"):
            cluster.bounds([TopicPartition("t", 0)])
    assert library.admins == 1
