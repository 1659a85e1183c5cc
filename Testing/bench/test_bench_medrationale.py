"""MedRationale's own file opens on the bench, unchanged, and stands up to what Slicer does with every module."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest


def test_medrationale_opens_reloads_and_survives_a_closed_scene(bench: Any, tmp_path: Path) -> None:
    import slicer

    assert bench.handle.title == "MedRationale"
    assert Path(bench.module.__file__).name == "MedRationale.py"
    labels = [label.text for label in bench.panel.findChildren("QLabel")]
    assert any("Research use only" in text for text in labels)
    slicer.mrmlScene.Clear()
    slicer.util.selectModule("Volumes")
    slicer.util.selectModule("MedRationale")
    before = bench.widget
    before.onReload()
    assert bench.widget is not before
    bench.process(0.2)
    image = bench.screenshot(tmp_path / "medrationale.png")
    assert (image.width(), image.height()) == bench.size
    assert bench.vtk_errors == []


def test_a_button_steps_as_the_key_that_it_names(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ui, widget = bench.widget.ui, bench.widget
    steps: list[int] = []
    monkeypatch.setattr(widget.evidence, "step", steps.append)
    keys = {shortcut.key.toString(): shortcut for shortcut in widget.shortcuts}
    for button, tip in (
        (ui.nextConceptButton, "Next concept (J)."),
        (ui.previousConceptButton, "Previous concept (K)."),
    ):
        assert (button.text, button.toolTip) == (tip[-3], tip)
        button.click()
        keys[button.text].activated.emit()
    assert steps == [1, 1, -1, -1]


def test_a_reload_on_the_bench_leaves_the_package_as_it_was() -> None:
    """Slicer's Reload takes the package anew; tests that imported from it before must keep their classes."""
    from MedRationaleLogic.imaging.study import Study
    from Testing.bench.bench import Bench

    with Bench() as bench:
        bench.widget.onReload()
        assert sys.modules["MedRationaleLogic.imaging.study"].Study is not Study
    assert sys.modules["MedRationaleLogic.imaging.study"].Study is Study
