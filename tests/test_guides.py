"""The guides in `docs/`, followed by copying: in a copy of the project each block is put where its
first line says, and then the project's own tools and the new tests run there.

A block whose first line is a comment with a path is a new file. After `path, after:` come lines
that are there exactly once, and below `add:` those that belong below them. `path, replace:` and
`with:` are the same for lines that go.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from jobquest import create_app
from jobquest.read.schema import REVISION
from tests.service import ROOT, Service, wait_for
from tests.test_consumer import consume

_BLOCK = re.compile(r"^```\w+\n(.*?)^```$", re.M | re.S)
_HEAD = re.compile(
    r"(?:# |<!-- |\{# )(?P<path>[\w./-]+\.\w+)(?:, (?P<edit>after|replace):)?(?: -->| #\})?"
)
_NEW = re.compile(r"^(?:# |<!-- |\{# )(?:add|with):(?: -->| #\})?\n", re.M)
_NOT_COPIED = shutil.ignore_patterns(
    ".git", ".venv", "instance", "__pycache__", ".*_cache", ".hypothesis"
)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project."""
    folder = tmp_path / "project"
    shutil.copytree(ROOT, folder, ignore=_NOT_COPIED)
    return folder


def follow(guide: str, project: Path) -> set[str]:
    """Do what a guide's blocks say; the files that were written or changed."""
    touched = set()
    for block in _BLOCK.findall(numbered((ROOT / "docs" / guide).read_text())):
        first, _, text = block.partition("\n")
        if not (head := _HEAD.fullmatch(first)):
            continue  # a command
        path = project / head["path"]
        if head["edit"]:
            old, new = _NEW.split(text)
            before = path.read_text()
            assert before.count(old) == 1, (guide, head["path"], old)
            kept = old if head["edit"] == "after" else ""
            path.write_text(before.replace(old, kept + new))
        else:
            assert not path.exists(), (guide, head["path"])
            path.write_text(text)
        touched.add(head["path"])
    return touched


def numbered(text: str) -> str:
    """A guide with the numbers of the last migration and the next one, in place of those when it
    was written."""
    for shown, before in re.findall(r'^revision = "(\d+)"\ndown_revision = "(\d+)"', text, re.M):
        numbers = {shown: f"{int(REVISION) + 1:04}", before: REVISION}
        text = re.sub(f"{shown}|{before}", lambda found, new=numbers: new[found[0]], text)  # type: ignore[misc]
    return text


def run(project: Path, *arguments: str, **settings: str) -> str:
    """Run Python in the project; what it wrote."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("JOBQUEST_", "KAFKA_"))}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=project,
        env={**kept, **settings, "PYTHONPATH": str(project), "CI": "false"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def prove(project: Path, touched: set[str], *tests: str) -> None:
    """What the project asks of every change, and these tests."""
    code = sorted(path for path in touched if path.endswith(".py"))
    run(project, "-m", "ruff", "check", "--no-cache", *code)
    run(project, "-m", "ruff", "format", "--no-cache", "--check", *code)
    without = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest")  # which takes 0.8 s to end
    told = run(project, "-m", "pytest", "-q", *without, *tests)
    assert re.search(r"^\d+ passed", told, re.M), told


@pytest.mark.slow
def test_the_guide_to_handlers(project: Path, tmp_path: Path) -> None:
    touched = follow("handlers.md", project)
    assert touched == {"chat.py", "audit.py", "tests/test_chat.py"}
    prove(project, touched, "tests/test_chat.py")
    audit = tmp_path / "audit.db"
    data = tmp_path / "data"
    data.mkdir()
    settings = {"JOBQUEST_HANDLERS": "chat,audit", "AUDIT_FILE": str(audit)}
    service = Service(data, project / "app.py", **settings)
    service.python_path = []  # the copy's own package, not this one's
    service.start()
    try:
        answer = service.post("user.login", {}, "ada", id="login-1")
        assert answer.code == 201, answer
        life = "/api/events/login-1"
        wait_for(lambda: service.get(life).code == 200, 20, service.tail)
        assert service.get(life).json["data"]["outcome"] == "processed"
        rows = sqlite3.connect(audit).execute("SELECT * FROM logins").fetchall()
        assert rows == [("login-1", "ada")]
    finally:
        service.kill()


@pytest.mark.slow
def test_the_guide_to_pages(project: Path) -> None:
    touched = follow("pages.md", project)
    assert touched == {
        "jobquest/web/pages/leaders.py",
        "templates/leaders.html",
        "jobquest/web/pages/__init__.py",
        "docs/api.md",
        "tests/test_leaders.py",
    }
    routes = "tests/test_docs.py::test_the_api_reference_lists_every_route"
    prove(project, touched, "tests/test_leaders.py", routes)


@pytest.mark.slow
def test_the_guide_to_event_types_settings_and_guards(project: Path) -> None:
    touched = follow("extending.md", project)
    assert {path for path in touched if path.startswith("jobquest/")} == {
        "jobquest/events/catalogue.py",
        "jobquest/events/fields.py",
        "jobquest/config.py",
        "jobquest/web/security.py",
    }
    run(project, "-m", "tests.publish_methods")
    methods = "tests/test_services.py::test_the_publish_methods_are_those_of_the_catalogue"
    own = ("tests/test_mood.py", "tests/test_read_only.py")
    tables = ("the_event_table_is_the_catalogue", "the_settings_table_is_the_code")
    tables += ("the_example_environment_lists_every_setting_with_its_default",)
    docs = (f"tests/test_docs.py::test_{name}" for name in tables)
    prove(project, touched, *own, methods, "tests/test_events.py", *docs)


ENTRY = {"entryId": "e0", "title": "Before", "tags": [], "wordCount": 10}


@pytest.mark.slow
def test_the_guide_to_projections(project: Path, settings: dict[str, str]) -> None:
    runtime = create_app(settings).extensions["jobquest"]
    runtime.producer.publish("notebook.entry.created", "ada", ENTRY)
    consume(runtime)
    runtime.consumer.close()
    runtime.stop()
    touched = follow("projections.md", project)
    assert {path.partition("versions/")[0] for path in touched} == {
        "jobquest/read/projections.py",
        "jobquest/read/migrations/",
        "docs/api.md",
        "docs/architecture.md",
        "tests/test_notebook.py",
    }
    schema = ("the_migrations_make_the_tables_that_the_code_has[sqlite]",)
    schema += ("migrations_follow_each_other_and_are_kept_as_they_were_released",)
    docs = ("the_tables_of_the_architecture_are_the_code", "the_api_reference_lists_every_route")
    tests = [f"tests/test_schema.py::test_{name}" for name in schema]
    tests += [f"tests/test_docs.py::test_{name}" for name in docs]
    prove(project, touched, "tests/test_notebook.py", *tests)
    run(project, "-m", "flask", "events", "rebuild", **settings)
    ask = "print(jobquest.create_app().test_client().get('/api/users/ada/notebook').text)"
    told = run(project, "-c", f"import jobquest; {ask}", **settings)
    assert '"title":"Before"' in told  # of an event from before the projection
