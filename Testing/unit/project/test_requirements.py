"""pyproject.toml and requirements/constraints.txt: what is asked for is pinned, within its range."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import re
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version


@pytest.fixture(scope="module")
def project(repository: Path) -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return table


@pytest.fixture(scope="module")
def pins(repository: Path) -> dict[str, str]:
    lines = (repository / "requirements" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


@pytest.fixture(scope="module")
def update_constraints(repository: Path) -> ModuleType:
    path = repository / "docs" / "dev" / "update_constraints.py"
    spec = importlib.util.spec_from_file_location("update_constraints_under_test", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_pin_is_exact_and_local_to_no_machine(repository: Path) -> None:
    lines = (repository / "requirements" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert [line for line in pins if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.!]*", line)] == []
    assert pins == sorted(pins, key=lambda line: line.split("==")[0])
    assert len({line.split("==")[0] for line in pins}) == len(pins)


def test_every_requirement_is_pinned_within_its_range(project: dict[str, Any], pins: dict[str, str]) -> None:
    asked = [Requirement(text) for text in project["dependencies"]]
    for extra in project["optional-dependencies"]:
        asked += [Requirement(text) for text in project["optional-dependencies"][extra]]
    unpinned = [r.name for r in asked if canonicalize_name(r.name) not in pins]
    assert unpinned == []
    outside = [str(r) for r in asked if not r.specifier.contains(Version(pins[canonicalize_name(r.name)]))]
    assert outside == []


def test_the_unrelated_package_called_slicer_stays_out(project: dict[str, Any], pins: dict[str, str]) -> None:
    assert not {"slicer", "shap"} & set(pins)
    assert pins["slicer-core"]


def test_pins_from_a_report_of_pip(update_constraints: ModuleType) -> None:
    names = [("Torch", "2.13.0+cpu"), ("picai_eval", "1.4.13"), ("medrationale", "0.1.0"), ("nvidia-cublas", "13.1")]
    report = [{"metadata": {"name": name, "version": version}} for name, version in names]
    assert update_constraints.pins(report) == ["picai-eval==1.4.13", "torch==2.13.0"]


def test_constraints_cover_the_extras_of_the_project(project: dict[str, Any], update_constraints: ModuleType) -> None:
    assert set(update_constraints.EXTRAS) == set(project["optional-dependencies"])


def test_version_stands_in_one_place(repository: Path, project: dict[str, Any]) -> None:
    assert "version" not in project
    assert project["dynamic"] == ["version"]
    text = (repository / "MedRationaleLogic" / "__init__.py").read_text(encoding="utf-8")
    assert re.search(r'^__version__ = "\d+\.\d+\.\d+"$', text, re.MULTILINE)


def test_licences_of_code_and_weights(repository: Path, project: dict[str, Any]) -> None:
    assert project["license"] == "Apache-2.0 AND CC-BY-NC-4.0", "the weights are not the code's"
    assert all((repository / file).is_file() for file in project["license-files"])
    said = (repository / "Resources" / "Models" / "LICENSE.txt").read_text(encoding="utf-8")
    assert "CC BY-NC 4.0" in said
    text = (repository / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_tests_import_only_what_their_set_up_brings(repository: Path, project: dict[str, Any]) -> None:
    """A package that another extra happened to install would be missing where ``run.py test`` set up the machine."""
    extras = project["optional-dependencies"]
    brought = closure([*project["dependencies"], *extras["dev"], *extras["viewer"]])
    owners = importlib.metadata.packages_distributions()
    ours = {path.stem for path in repository.rglob("Testing/**/*.py")} | {"Testing", "update_cmake"}
    ours |= {"MedRationale", "MedRationaleLib", "MedRationaleLogic", "MedRationaleViewer", "qt", "ctk"}
    foreign: dict[str, str] = {}
    for path in sorted((repository / "Testing").rglob("*.py")):
        if path.parent.name == "benchmark":
            continue
        for name in imported_at_once(path):
            known = name in sys.stdlib_module_names or name in ours
            if not known and not {canonicalize_name(owner) for owner in owners.get(name, [])} & brought:
                foreign[name] = path.name
    assert foreign == {}


def closure(asked: Iterable[str]) -> set[str]:
    """Canonical names of the distributions that these requirements install here, extras asked for included."""
    found: set[str] = set()
    waiting = [Requirement(text) for text in asked]
    seen: set[str] = set()
    while waiting:
        one = waiting.pop()
        if str(one) in seen:
            continue
        seen.add(str(one))
        found.add(canonicalize_name(one.name))
        try:
            needs = importlib.metadata.requires(one.name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for need in map(Requirement, needs):
            if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in ("", *one.extras)):
                waiting.append(need)
    return found


def imported_at_once(path: Path) -> set[str]:
    """Top-level packages that importing this file imports."""
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names
