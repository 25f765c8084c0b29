"""The README and the API reference, held to the code."""

from __future__ import annotations

import re
from pathlib import Path

from flask.testing import FlaskClient

from jobquest.config import variables
from jobquest.events import CATALOGUE

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
API = (ROOT / "docs" / "api.md").read_text()
RELIABILITY = (ROOT / "docs" / "reliability.md").read_text()


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


def test_the_readme_is_short() -> None:
    assert 80 <= len(README.splitlines()) <= 130


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


def test_the_journey_names_files_that_are_there() -> None:
    for _, where, _ in table(README, "step"):
        for path in re.findall("`(.+?)`", where):
            assert (ROOT / path).exists(), path


def test_every_fault_has_its_test() -> None:
    named = re.findall(r"`((?:pages/)?test_\w+\.py)::(test_\w+)`", RELIABILITY)
    assert len(named) > 50
    for file, test in named:
        assert f"def {test}(" in (ROOT / "tests" / file).read_text(), (file, test)
    faults = [line for line in RELIABILITY.splitlines() if line.startswith("| ")]
    rows = [line for line in faults if not line.startswith(("| fault", "| ---"))]
    assert all("::test_" in line for line in rows)


def test_every_link_and_picture_is_there() -> None:
    for text, folder in ((README, ROOT), (API, ROOT / "docs"), (RELIABILITY, ROOT / "docs")):
        for target in re.findall(r"\]\(([^)]+)\)", text):
            assert (folder / target).exists(), target


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
    for group, command in re.findall(r"`flask (kafka|events) ([a-z][a-z-]+)", README):
        assert command in client.application.cli.commands[group].commands, command  # type: ignore[attr-defined]
