"""Says by name that the bench's tests are passed over, and why."""

from __future__ import annotations

import importlib
import importlib.util

import pytest

NEEDED = {"PySide6.QtWidgets": "PySide6", "slicer_core": "slicer-core", "trame_slicer": "trame-slicer"}


@pytest.mark.parametrize(("module", "package"), NEEDED.items())
def test_the_bench_has(module: str, package: str) -> None:
    if importlib.util.find_spec(module.partition(".")[0]) is None:
        pytest.skip(f"{package} is not installed: the tests of the Slicer panel are passed over")
    # Installed and yet not importable (a library of the system is missing) is a failure, not a reason to skip.
    assert importlib.import_module(module) is not None
