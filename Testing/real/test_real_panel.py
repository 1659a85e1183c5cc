"""The Slicer module clicked through on real studies, on the bench: every step held against the scene."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

NEEDED = ("PySide6", "slicer_core", "trame_slicer")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=f"the bench needs {', '.join(MISSING)}")
@pytest.mark.parametrize("case", ["bpmri/PICAI-10021_1000021", "bpmri/ProstateX-0001"])
def test_click_through(case: str, real_data: Path, tmp_path: Path) -> None:
    from Testing.bench.bench import Bench, click_through

    study = real_data / case
    if not study.is_dir():
        pytest.skip(f"{case} is not in the folder of real studies")
    with Bench() as bench:
        shot = lambda name: bench.screenshot(tmp_path / f"{name}.png")  # noqa: E731
        click_through().ClickThrough(bench.widget, bench.process, shot, tmp_path).run(study)
    assert (tmp_path / "slicer-reopened.png").is_file()
