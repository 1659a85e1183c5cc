"""Fixtures that every test room shares."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers share the cores: two thread pools that each spin on all of them cost more than they compute.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

#: Files that take longest: begun first, so that no worker is left alone with one at the end.
LONGEST = (
    "test_viewer_chromium", "test_bench_module", "test_fit", "test_real_panel", "test_faithfulness", "test_real_road",
    "test_real_viewer", "test_worker", "test_explainer", "test_cli_road", "test_shared", "test_viewer_markup",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first where several workers share them out, file by file."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        place = {name: k for k, name in enumerate(LONGEST)}
        items.sort(key=lambda item: place.get(item.path.stem, len(LONGEST)))


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the source tree."""
    return ROOT


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real prostate MRI; never part of the repository, so its tests skip by name without it."""
    folder = Path(os.environ.get("MEDRATIONALE_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "README.md").is_file():
        pytest.skip("real MRI data not present (set MEDRATIONALE_DATA)")
    return folder
