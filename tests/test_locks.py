"""The lock files are complete, hashed, and agree with pyproject.toml, constraints.txt and each other."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
LOCKS = {"demo": ["cli", "gguf"], "server": ["serve", "mcp"], "tests": ["dev"]}


def locked(name: str) -> dict[str, Requirement]:
    text = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8").replace("\\\n", " ")
    found: dict[str, Requirement] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            requirement, *hashes = line.split(" --hash=")
            assert hashes, line
            assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", one.strip()) for one in hashes), requirement
            one = Requirement(requirement)
            assert [clause.operator for clause in one.specifier] == ["=="], requirement
            found[one.name] = one
    return found


def wanted(extras: list[str]) -> list[Requirement]:
    """What the package asks for with these extras, those of its own extras included."""
    options = PROJECT["optional-dependencies"]
    found = [Requirement(line) for line in PROJECT["dependencies"]]
    for line in [line for extra in extras for line in options[extra]]:
        one = Requirement(line)
        found += wanted(sorted(one.extras)) if one.name == PROJECT["name"] else [one]
    return found


def version(requirement: Requirement) -> str:
    return next(iter(requirement.specifier)).version


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_has_everything_in_a_version_that_the_package_allows(name: str) -> None:
    pinned = locked("torch") | locked(name)
    for requirement in wanted(LOCKS[name]):
        found = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version(found), prereleases=True), f"{requirement} and {found}"


def test_the_lock_of_a_build_has_its_backend() -> None:
    pinned = locked("build")
    for requirement in map(Requirement, PYPROJECT["build-system"]["requires"]):
        assert requirement.specifier.contains(version(pinned[canonicalize_name(requirement.name)]))


@pytest.mark.parametrize("name", ["torch", "build", *LOCKS])
def test_a_lock_agrees_with_the_constraints(name: str) -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    pinned = locked(name)
    different = {
        one.name: (version(one), version(pinned[canonicalize_name(one.name)]))
        for one in pins
        if canonicalize_name(one.name) in pinned and version(one) != version(pinned[canonicalize_name(one.name)])
    }
    assert different == {}


def test_locks_agree_with_each_other() -> None:
    tests = locked("tests")
    for name in ("demo", "server", "build"):
        pinned = {one: str(found.specifier) for one, found in locked(name).items()}
        assert pinned == {one: str(tests[one].specifier) if one in tests else pinned[one] for one in pinned}
    assert {*locked("demo"), *locked("server")} <= {*tests}


def test_torch_and_its_build_are_in_a_file_of_their_own() -> None:
    of_build = re.compile(r"torch|triton|nvidia-.+|cuda-.+")
    assert "torch" in locked("torch")
    assert all(of_build.fullmatch(name) for name in locked("torch"))
    assert [name for lock in LOCKS for name in locked(lock) if of_build.fullmatch(name)] == []


def test_the_licences_page_lists_every_locked_package() -> None:
    page = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| ([\w.-]+) \| (\S+) \|", page, flags=re.MULTILINE)) - {("package", "version")}
    packages = [one for name in ("torch", *LOCKS) for one in locked(name).values()]
    assert listed == {(one.name, version(one)) for one in packages}
