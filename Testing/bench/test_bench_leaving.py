"""Slicer ends in the middle of a run: the module leaves no process and no folder behind."""

from __future__ import annotations

import os
from pathlib import Path

from Testing.bench.bench import Bench


def test_leaving_slicer_leaves_nothing(tmp_path: Path) -> None:
    from MedRationaleLogic.simulation.sample import write_sample

    study = write_sample(tmp_path / "study").nifti
    with Bench() as bench:
        bench.widget.study.loadFolder(study)
        bench.click(bench.ui.explainButton)
        explainer = bench.widget.desk.session.explainer
        assert bench.process(60, until=lambda: explainer.pid is not None)
        pid, folder = explainer.pid, bench.widget.scratch()
        assert folder.is_dir()
    assert not folder.exists()
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return
    raise AssertionError("the child process is still there")
