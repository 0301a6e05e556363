"""What is imported is declared, and where: nobody meets a package that no extra of nearfar brings."""

import ast
import re
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "nearfar"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
# Tests and scripts import each other and nearfar by these.
OWN = {"nearfar", "packs"} | {
    path.stem for folder in ("tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")
}


def name_of(requirement: str) -> str:
    return re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")


def brought_by(extra: str) -> set[str]:
    """Distributions that an extra brings, by the extras it names too."""
    found = set()
    for requirement in EXTRAS[extra]:
        if name_of(requirement) == "nearfar":
            inner = re.search(r"\[(.*)\]", requirement)[1].split(",")
            found = found.union(*(brought_by(other) for other in inner))
        else:
            found.add(name_of(requirement))
    return found


def imported(path: Path) -> dict[str, str | None]:
    """Packages that a file imports, each with the extra that ``require`` names, or None."""
    found: dict[str, str | None] = {}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0]: found.get(alias.name.split(".")[0]) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.setdefault(node.module.split(".")[0], None)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "require":
            module, extra = node.args
            if isinstance(module, ast.Constant):  # a loop over names has them in the same file
                found[module.value.split(".")[0]] = extra.value
    return {name: extra for name, extra in found.items() if name not in sys.stdlib_module_names | OWN}


@cache
def installed() -> dict[str, list[str]]:
    return dict(packages_distributions())


def distributions(package: str) -> set[str]:
    return {name_of(name) for name in installed().get(package, [package])}


CORE = {name_of(requirement) for requirement in PROJECT["dependencies"]}


def test_what_the_package_imports_is_a_dependency_or_of_the_extra_that_it_names():
    undeclared = [
        f"{path.relative_to(SOURCE)} imports {package}, which is not in {extra or 'any extra'}"
        for path in sorted(SOURCE.rglob("*.py"))
        for package, extra in imported(path).items()
        if not distributions(package) & (CORE | brought_by(extra or "bench"))
    ]
    assert undeclared == []


@pytest.mark.parametrize(
    ("folder", "extra"), [("packs", "all"), ("tests", "dev"), ("examples", "dev"), ("benchmarks", "bench")]
)
def test_what_tests_and_scripts_import_is_of_their_extra(folder, extra):
    declared = CORE | brought_by(extra)
    for path in sorted((ROOT / folder).rglob("*.py")):
        for package in imported(path):
            assert distributions(package) & declared, f"{path.name} imports {package}"


def test_training_brings_no_package_that_only_benchmarks_use():
    assert "matplotlib" not in brought_by("all")


def test_every_dependency_has_a_lowest_version():
    for requirement in [*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)]:
        assert name_of(requirement) == "nearfar" or re.search(r">=\d", requirement), requirement
