"""Fixtures that every test room shares."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


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
