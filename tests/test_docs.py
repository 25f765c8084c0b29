"""The README and the documents, held to the code."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask.testing import FlaskClient

import jobquest
from jobquest.config import variables
from jobquest.events import CATALOGUE
from jobquest.read import tables
from jobquest.read.projections import DERIVED

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
API = (ROOT / "docs" / "api.md").read_text()
RELIABILITY = (ROOT / "docs" / "reliability.md").read_text()
SECURITY = (ROOT / "docs" / "security.md").read_text()
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
PICTURE = (ROOT / "docs" / "architecture.svg").read_text()
DOCUMENTS = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]


def table(text: str, heading: str) -> list[list[str]]:
    """The rows below the first table whose header begins with `heading`."""
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith(f"| {heading} |"):
            break
    next(lines)
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split(" |")])
    assert rows, heading
    return rows


def code(name: str | None) -> str:
    return f"`{name}`" if name else "–"


def test_the_first_event_of_the_readme_is_taken(client: FlaskClient) -> None:
    [body] = re.findall(r"-d '(.+?)'", README)
    answer = client.post("/api/kafka/events", json=json.loads(body))
    assert answer.status_code == 201, answer.text


def test_the_readme_installs_and_starts_files_that_are_there() -> None:
    named = set(re.findall(r"(?:-r |python )([\w.-]+\.(?:txt|py))", README))
    assert named >= {"requirements.txt", "requirements-dev.txt", "app.py"}
    for file in named:
        assert (ROOT / file).exists(), file


def test_the_event_table_is_the_catalogue() -> None:
    assert table(README, "type") == [
        [
            code(row.name),
            code(row.topic),
            ", ".join(row.required) or "–",
            ", ".join(row.optional) or "–",
        ]
        for row in CATALOGUE.values()
    ]


def test_the_settings_table_is_the_code() -> None:
    assert table(README, "variable") == [
        [code(variable), code(default), help] for variable, default, help in variables()
    ]


def test_the_example_environment_lists_every_setting_with_its_default() -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()
    settings = [line for line in lines if re.fullmatch(r"# [A-Z_]+=.*", line)]
    assert settings == [f"# {variable}={default or ''}" for variable, default, _ in variables()]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_a_document_names_are_there(document: Path) -> None:
    text = re.sub(r"```.*?```", "", document.read_text(), flags=re.S)  # guides make new ones
    for path in re.findall(r"`((?:jobquest|templates|tests|static|bench|docs)/[\w./-]*)`", text):
        assert (ROOT / path).exists(), path


def test_files_that_the_picture_names_are_there() -> None:
    named = re.findall(r'class="file"[^>]*>([^<]+)<', PICTURE)
    paths = [path for text in named for path in text.split(" · ")]
    assert len(paths) > 10
    for path in paths:
        assert (ROOT / "jobquest" / path).exists() or (ROOT / path).exists(), path


def test_the_tables_of_the_architecture_are_the_code() -> None:
    told = {row[0].strip("`"): row[1] for row in table(ARCHITECTURE, "table")}
    derived = {one.name for one in DERIVED}
    assert told == {
        name: "derived" if name in derived else "operational" for name in tables.metadata.tables
    }


def test_the_threads_of_the_architecture_are_the_code() -> None:
    told = {name for row in table(ARCHITECTURE, "thread") for name in re.findall("`(.+?)`", row[0])}
    calls = (
        node
        for path in (ROOT / "jobquest").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Thread")
    )
    names = (one.value for call in calls for one in call.keywords if one.arg == "name")
    started = {one.value for one in names if isinstance(one, ast.Constant)}
    assert told == started | {"feed", "feed-sockets"}  # these two get their names in a loop


def imports(path: Path) -> Iterator[str]:
    """The top-level modules of ours that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "jobquest":
            yield from (one.name for one in node.names if one.name != "create_app")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jobquest."):
            yield str(node.module).split(".")[1]


def test_the_package_lists_its_factory_though_it_imports_it_late() -> None:
    assert set(jobquest.__all__) <= set(dir(jobquest))


def test_imports_run_downwards_in_the_table_of_modules() -> None:
    rows = table(ARCHITECTURE, "modules")
    level = {name: at for at, row in enumerate(rows) for name in re.findall("`(.+?)`", row[0])}
    package = ROOT / "jobquest"
    for path in package.rglob("*.py"):
        module = path.relative_to(package).parts[0].removesuffix(".py")
        if "migrations" not in path.parts:
            for one in imports(path):
                assert level[module] <= level[one], f"{path} imports {one}"
    there = {path.stem for path in package.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert level.keys() == there - {"__pycache__"}


def test_the_glossary_has_some_thirty_terms_in_order_with_a_sentence_each() -> None:
    rows = table(ARCHITECTURE, "term")
    terms = [term for term, _ in rows]
    assert terms == sorted(terms)
    assert 20 <= len(terms) <= 32
    assert all(re.fullmatch(r"[^.]+(?:\.\w[^.]*)*\.", meaning) for _, meaning in rows)


def test_every_threat_has_its_test() -> None:
    rows = table(SECURITY, "what is tried")
    assert len(rows) > 30
    for _, _, tests in rows:
        named = re.findall(r"`((?:pages/)?test_\w+\.py)::(test_\w+)`", tests)
        assert named
        for file, test in named:
            assert f"def {test}(" in (ROOT / "tests" / file).read_text(), (file, test)


def test_the_libraries_whose_advisories_were_looked_up_are_the_pinned_ones() -> None:
    found = re.findall(
        r"^([\w-]+)[^=\n]*==([^\s;]+)", (ROOT / "requirements.txt").read_text(), re.M
    )
    pinned = dict(found)
    for name, version, *_ in table(SECURITY, "library"):
        assert pinned[name.lower()] == version, f"look up the advisories of {name} again"


def test_every_fault_has_its_test() -> None:
    named = re.findall(r"`((?:pages/)?test_\w+\.py)::(test_\w+)`", RELIABILITY)
    assert len(named) > 50
    for file, test in named:
        assert f"def {test}(" in (ROOT / "tests" / file).read_text(), (file, test)
    faults = [line for line in RELIABILITY.splitlines() if line.startswith("| ")]
    rows = [line for line in faults if not line.startswith(("| fault", "| ---"))]
    assert all("::test_" in line for line in rows)


def anchors(document: Path) -> set[str]:
    """What a link to a heading of the document may end with, as GitHub makes it."""
    text = re.sub(r"```.*?```", "", document.read_text(), flags=re.S)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.M)
    return {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_and_picture_is_there(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        path, _, anchor = target.partition("#")
        linked = document.parent / path if path else document
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


def test_the_api_reference_lists_every_route(client: FlaskClient) -> None:
    told = {row[0].strip("`") for head in ("route", "page") for row in table(API, head)}
    served = {
        f"{method} {rule.rule}"
        for rule in client.application.url_map.iter_rules()
        for method in (rule.methods or set()) & {"GET", "POST", "PUT", "PATCH", "DELETE"}
        if rule.endpoint != "static"
    }
    assert told - {"GET /ws/events"} == served - {"GET /ws/events"}


def test_the_commands_of_the_readme_are_there(client: FlaskClient) -> None:
    groups = client.application.cli.commands
    found = re.findall(r"(?:`|bin/)flask (kafka|events|operators|keys) ([a-z][a-z-]+)", README)
    assert len({group for group, _ in found}) == 4
    for group, command in found:
        assert command in groups[group].commands, command  # type: ignore[attr-defined]
