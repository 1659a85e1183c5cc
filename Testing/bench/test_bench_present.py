"""Says by name that the bench's tests are passed over, and why."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

NEEDED = {"PySide6.QtWidgets": "PySide6", "slicer_core": "slicer-core", "trame_slicer": "trame-slicer"}


@pytest.mark.parametrize(("module", "package"), NEEDED.items())
def test_the_bench_has(module: str, package: str) -> None:
    if importlib.util.find_spec(module.partition(".")[0]) is None:
        pytest.skip(f"{package} is not installed: the tests of the Slicer panel are passed over")
    # Installed and yet not importable (a library of the system is missing) is a failure, not a reason to skip.
    assert importlib.import_module(module) is not None


def test_without_qt_the_rest_is_passed_over_by_name() -> None:
    code = "import sys; sys.modules['PySide6'] = None; import pytest; raise SystemExit(pytest.main(sys.argv[1:]))"
    here = Path(__file__).parent
    run = [sys.executable, "-c", code, str(here), "-q", "-rs", "-p", "no:cacheprovider", "-k", "not passed_over"]
    done = subprocess.run(run, capture_output=True, text=True, cwd=here.parents[1], timeout=120, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "PySide6 is not installed: the tests of the Slicer panel are passed over" in done.stdout
    assert "1 skipped" in done.stdout
