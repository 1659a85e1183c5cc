"""The bench as a fixture; its tests are passed over by name where PySide6 or slicer-core is missing."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

NEEDED = {"PySide6": "PySide6", "slicer_core": "slicer-core", "trame_slicer": "trame-slicer"}
MISSING = [package for module, package in NEEDED.items() if importlib.util.find_spec(module) is None]


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Test files here import Qt at their head, so they are not read where it is missing."""
    if MISSING and collection_path.name.startswith("test_") and collection_path.name != "test_bench_present.py":
        return True
    return None


@pytest.fixture
def bench() -> Iterator[Any]:
    """MedRationale open on the bench."""
    from Testing.bench.bench import Bench

    with Bench() as opened:
        yield opened
