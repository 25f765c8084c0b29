"""Two installs are the same: every package that comes has one exact version."""

from __future__ import annotations

import re
import sys
from importlib.metadata import requires, version

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.service import ROOT

PIN = re.compile(r"^[A-Za-z0-9][^#;\s]*==[^#;\s]+[^#\n]*", re.M)

pytestmark = pytest.mark.skipif(
    sys.version_info[:2] != (3, 11) or sys.platform != "linux",
    reason="other systems and Python versions need other packages",
)


def pins(*files: str) -> list[Requirement]:
    lines = (line for file in files for line in PIN.findall((ROOT / file).read_text()))
    return [Requirement(line.strip()) for line in lines]


def names(found: list[Requirement]) -> set[str]:
    return {canonicalize_name(one.name) for one in found}


def needed(by: list[Requirement], found: set[tuple[str, str]]) -> set[str]:
    """The names of these packages and of all that they need, with their extras; `found` are those
    that are known already."""
    for one in by:
        name = canonicalize_name(one.name)
        for extra in {"", *one.extras}:
            if (name, extra) in found or (one.marker and not one.marker.evaluate()):
                continue
            found.add((name, extra))
            theirs = [Requirement(line) for line in requires(name) or []]
            needed([it for it in theirs if _applies(it, extra)], found)
    return {name for name, _ in found}


def _applies(requirement: Requirement, extra: str) -> bool:
    marker, requirement.marker = requirement.marker, None
    return marker is None or marker.evaluate({"extra": extra})


def test_what_the_requirements_bring_along_is_pinned_and_nothing_else() -> None:
    direct = pins("requirements.txt", "requirements-dev.txt")
    along = pins("constraints.txt")
    assert names(along) == needed(direct, set()) - names(direct)


def test_what_is_installed_is_what_is_pinned() -> None:
    for one in pins("requirements.txt", "requirements-dev.txt", "constraints.txt"):
        assert version(one.name) in one.specifier, one


def test_an_install_reads_the_constraints() -> None:
    first, *_ = (ROOT / "requirements.txt").read_text().splitlines()
    assert first.startswith("-c constraints.txt")
    assert "-r requirements.txt" in (ROOT / "requirements-dev.txt").read_text()
