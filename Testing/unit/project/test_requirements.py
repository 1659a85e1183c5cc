"""pyproject.toml and requirements/constraints.txt: what is asked for is pinned, within its range."""

from __future__ import annotations

import importlib.util
import re
import tomllib
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
    for extra in ("viewer", "train", "cluster", "dev"):
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


def test_licence_is_apache_2(repository: Path, project: dict[str, Any]) -> None:
    assert project["license"] == "Apache-2.0"
    text = (repository / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
