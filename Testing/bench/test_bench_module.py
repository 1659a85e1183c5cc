"""The Slicer module's own file and panel on the bench: clicked through, disturbed in the middle, fed the wrong things.

The network is the shipped bundle in a real child process; the study is the sample (simulated, no patient).
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer

from Testing.bench.bench import Bench, click_through

ROOT = Path(__file__).resolve().parents[2]
FRESH = itertools.count(1)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample study as a folder of NIfTI files."""
    from MedRationaleLogic.simulation.sample import write_sample

    folder: Path = write_sample(tmp_path_factory.mktemp("sample") / "study").nifti
    return folder


@pytest.fixture(scope="module")
def shared() -> Iterator[Bench]:
    """One bench, so that the child process is started once."""
    with Bench() as opened:
        yield opened


@pytest.fixture
def bench(shared: Bench) -> Iterator[Bench]:
    """The module, open, in an empty scene."""
    slicer.mrmlScene.Clear(0)
    shared.answers.clear()
    shared.messages.clear()
    slicer.util.selectModule("MedRationale")
    shared.process(0.1)
    shared.widget.say("")
    shared.ui.evidenceCheckBox.setChecked(True)
    for name in ("study", "findings", "rationale", "evidence", "correct", "report", "model"):
        getattr(shared.ui, f"{name}Section").collapsed = False
    yield shared
    shared.widget.desk.cancel()
    shared.process(0.1)


def load(bench: Bench, study: Path) -> None:
    bench.widget.attempt(lambda: bench.widget.study.loadFolder(study))
    assert not said(bench)


def touch(bench: Bench) -> None:
    """Change the image a little: the child gives back at once what it has explained already."""
    node = bench.ui.t2wSelector.currentNode()
    slicer.util.arrayFromVolume(node)[0, 0, 0] += next(FRESH)
    slicer.util.arrayFromVolumeModified(node)


def start(bench: Bench, study: Path) -> int:
    """Load and click Explain; returns the child's process once it reports a stage."""
    load(bench, study)
    touch(bench)
    bench.click(bench.ui.explainButton)
    desk = bench.widget.desk
    assert bench.process(60, until=lambda: desk.busy and desk.session.explainer.pid is not None)
    return int(desk.session.explainer.pid)


def explain(bench: Bench, study: Path) -> Any:
    load(bench, study)
    bench.click(bench.ui.explainButton)
    assert bench.process(90, until=lambda: not bench.widget.desk.busy)
    bench.process(0.6)
    bench.ui.studySection.collapsed = False
    assert bench.widget.desk.explanation is not None, said(bench)
    return bench.widget.desk.explanation


def said(bench: Bench) -> str:
    return str(bench.ui.messageLabel.text)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# The whole way -------------------------------------------------------------------------------------------------------


def test_click_through_every_step_holds_on_the_scene(bench: Bench, sample: Path, tmp_path: Path) -> None:
    steps = click_through().ClickThrough(
        bench.widget, bench.process, lambda name: bench.screenshot(tmp_path / f"{name}.png"), tmp_path
    )
    steps.run(sample)
    pictures = sorted(p.stem for p in tmp_path.glob("*.png"))
    assert {"slicer-findings", "slicer-evidence", "slicer-report", "slicer-reopened"} <= set(pictures)


def test_the_notice_is_always_in_sight(bench: Bench, sample: Path) -> None:
    assert "Research use only" in bench.ui.noticeLabel.text
    assert bench.ui.noticeLabel.visible
    for name in ("findingsSection", "rationaleSection", "evidenceSection", "reportSection"):
        assert "research use only" in getattr(bench.ui, name).text
    explain(bench, sample)
    for node in bench.widget.desk.own_nodes():
        if node.IsA("vtkMRMLDisplayableNode"):
            # Slicer empties the description of a fiducial list, so that one says it in its name
            assert "research use only" in f"{node.GetDescription()} {node.GetName()}".lower()


def test_keys_step_through_regions_and_concepts(bench: Bench, sample: Path) -> None:
    explain(bench, sample)
    case = bench.widget.desk.case
    numbers = [x.number for x in case.explanation.lesions]
    bench.widget.findings.step(1)
    bench.process(0.1)
    assert case.selection.lesion in numbers
    before = case.selection.concept
    bench.widget.evidence.step(1)
    bench.process(0.2)
    assert case.selection.concept != before
    bench.widget.evidence.step(-1)
    bench.process(0.2)
    assert case.selection.concept == before
    assert bench.widget.desk.view.evidence_shown
    bench.widget.evidence.toggle()
    bench.process(0.1)
    assert not bench.widget.desk.view.evidence_shown


def test_every_shown_map_is_that_of_the_explanation(bench: Bench, sample: Path) -> None:
    explanation = explain(bench, sample)
    bench.ui.wholeFieldCheckBox.setChecked(True)
    for _text, concept in bench.widget.evidence.concepts():
        bench.widget.select(bench.widget.desk.case.selection.lesion, concept)
        wanted = explanation.evidence[concept].array

        def off_by(wanted: Any = wanted) -> float:
            shown = slicer.util.arrayFromVolume(bench.widget.desk.view.evidence_node)
            return float(np.abs(shown - wanted).max())

        bench.process(10, until=lambda off_by=off_by: off_by() <= 1 / 255)
        assert off_by() <= 1 / 255
    bench.ui.wholeFieldCheckBox.setChecked(False)
    bench.process(0.2)
    from MedRationaleLogic.export.shown import near_gland

    shown = slicer.util.arrayFromVolume(bench.widget.desk.view.evidence_node)
    assert not shown[~near_gland(explanation)].any()
    assert shown.any()


# Disturbed in the middle ---------------------------------------------------------------------------------------------


def test_the_window_never_stands_still_while_the_network_runs(bench: Bench, sample: Path) -> None:
    load(bench, sample)
    bench.widget.desk.warm()
    explainer = bench.widget.desk.session.explainer
    assert bench.process(60, until=lambda: (explainer.poll(), explainer.loaded)[1])
    touch(bench)
    bench.click(bench.ui.explainButton)
    bench.reset_block()
    assert bench.process(60, until=lambda: bench.widget.desk.job.share >= 0.9 or not bench.widget.desk.busy)
    # of this thread's own time: a machine that does something else besides must not fail the test
    assert bench.longest_block_cpu < 0.1


def test_cancel_leaves_no_process_and_the_next_click_works(bench: Bench, sample: Path) -> None:
    pid = start(bench, sample)
    nodes = slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode")
    bench.click(bench.ui.cancelButton)
    assert not alive(pid), "at once, and not when the network is done"
    assert "Stopped" in said(bench)
    assert bench.widget.desk.explanation is None
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == nodes
    bench.click(bench.ui.explainButton)
    assert bench.process(90, until=lambda: not bench.widget.desk.busy)
    assert bench.widget.desk.explanation is not None


def test_a_killed_child_is_told_and_the_next_click_works(bench: Bench, sample: Path) -> None:
    pid = start(bench, sample)
    os.kill(pid, 9)
    assert bench.process(30, until=lambda: not bench.widget.desk.busy)
    bench.process(0.1)
    assert re.search(r"memory|ended|-9", said(bench)), said(bench)
    bench.click(bench.ui.explainButton)
    assert bench.process(90, until=lambda: not bench.widget.desk.busy)
    assert bench.widget.desk.explanation is not None


def test_closing_the_scene_in_the_middle(bench: Bench, sample: Path) -> None:
    pid = start(bench, sample)
    slicer.mrmlScene.Clear(0)
    bench.process(0.5)
    assert not alive(pid)
    assert "scene was closed" in said(bench)
    assert bench.widget.desk.case is None
    assert bench.ui.t2wSelector.currentNode() is None


def test_deleting_an_input_in_the_middle(bench: Bench, sample: Path) -> None:
    pid = start(bench, sample)
    slicer.mrmlScene.RemoveNode(bench.ui.adcSelector.currentNode())
    bench.process(0.3)
    assert not alive(pid)
    assert "ADC was removed from the scene" in said(bench)
    assert bench.widget.desk.explanation is None


def test_leaving_the_module_in_the_middle_and_coming_back(bench: Bench, sample: Path) -> None:
    start(bench, sample)
    slicer.util.selectModule("SegmentEditor")
    assert bench.process(90, until=lambda: not bench.widget.desk.busy)
    slicer.util.selectModule("MedRationale")
    bench.process(0.3)
    assert bench.widget.desk.explanation is not None
    assert bench.ui.findingsTable.rowCount == len(bench.widget.desk.explanation.lesions)


def test_deleting_results_by_hand_then_going_on(bench: Bench, sample: Path) -> None:
    explain(bench, sample)
    view = bench.widget.desk.view
    for node in (view.segmentation, view.evidence_node, view.markers):
        slicer.mrmlScene.RemoveNode(node)
    bench.process(0.2)
    bench.ui.readerEdit.setText("Dr Example")
    number = bench.widget.desk.explanation.lesions[0].number
    bench.widget.select(number)
    bench.widget.attempt(lambda: bench.widget.rationale.override("dce", "+"))
    bench.process(0.3)
    assert not said(bench)
    assert view.segmentation is not None
    assert bench.widget.desk.explanation.lesion(number).rationale.dce == "+"


# Wrong things --------------------------------------------------------------------------------------------------------


def test_nothing_chosen(bench: Bench) -> None:
    bench.click(bench.ui.explainButton)
    bench.process(0.1)
    assert re.search(r"T2W, ADC", said(bench))
    bench.click(bench.ui.findButton)
    assert "No T2W, ADC or high-b volume was found" in said(bench)


def test_a_flat_image_is_refused_by_name(bench: Bench) -> None:
    node = slicer.util.addVolumeFromArray(np.ones((1, 64, 64), np.float32), name="one slice")
    bench.ui.t2wSelector.setCurrentNode(node)
    bench.click(bench.ui.explainButton)
    bench.process(0.1)
    assert "one slice" in said(bench)
    assert not bench.widget.desk.busy


def test_a_label_map_is_refused_by_name(bench: Bench) -> None:
    node = slicer.util.addVolumeFromArray(np.zeros((8, 32, 32), np.uint8), name="my labels",
                                          nodeClassName="vtkMRMLLabelMapVolumeNode")  # fmt: skip
    bench.widget.attempt(lambda: bench.widget.desk.open(t2w=node))
    assert "my labels" in said(bench)


def test_what_may_be_right_is_asked(bench: Bench, sample: Path) -> None:
    load(bench, sample)
    bench.ui.adcSelector.setCurrentNode(bench.ui.hbvSelector.currentNode())
    bench.answers.append(False)
    bench.click(bench.ui.explainButton)
    bench.process(0.1)
    assert bench.messages
    assert not bench.widget.desk.busy


def test_a_change_needs_a_name(bench: Bench, sample: Path) -> None:
    explain(bench, sample)
    bench.ui.readerEdit.setText("")
    bench.widget.select(bench.widget.desk.explanation.lesions[0].number)
    bench.widget.attempt(lambda: bench.widget.rationale.override("dce", "+"))
    assert "Study > Reader" in said(bench)
    assert bench.widget.desk.explanation.lesions[0].rationale.dce == "X"


def test_a_readers_work_is_not_put_away_unasked(bench: Bench, sample: Path) -> None:
    explain(bench, sample)
    bench.ui.readerEdit.setText("Dr Example")
    number = bench.widget.desk.explanation.lesions[0].number
    bench.widget.select(number)
    bench.widget.attempt(lambda: bench.widget.rationale.override("dce", "+"))
    bench.answers.append(False)
    bench.click(bench.ui.removeResultsButton)
    bench.process(0.2)
    assert bench.widget.desk.explanation.lesion(number).rationale.dce == "+"
    assert bench.widget.desk.view.segmentation is not None


def test_a_signature_and_an_outline_that_is_not_applied_are_not_put_away_unasked(bench: Bench, sample: Path) -> None:
    from MedRationaleLogic.mrml.segments import region_id

    lesion = explain(bench, sample).lesions[0]
    case = bench.widget.desk.case
    drawn = np.roll(lesion.mask.array, 3, 2).astype(np.uint8)
    node, reference = bench.widget.desk.view.segmentation, bench.ui.t2wSelector.currentNode()
    slicer.util.updateSegmentBinaryLabelmapFromArray(drawn, node, region_id(lesion.number), reference)
    bench.process(0.2)
    bench.answers.append(False)
    bench.click(bench.ui.explainButton)
    assert "changed an outline and have not applied it" in bench.messages[-1].text
    bench.widget.desk.view.update(discard_edits=True)
    bench.ui.readerEdit.setText("Dr Example")
    bench.click(bench.ui.signOffButton)
    bench.answers.append(False)
    bench.click(bench.ui.removeResultsButton)
    assert "changes or signature" in bench.messages[-1].text
    assert bench.widget.desk.case is case
    assert case.signed_off is not None


def test_a_psa_stays_with_its_patient(bench: Bench, sample: Path, tmp_path: Path) -> None:
    other = tmp_path / "another patient"
    shutil.copytree(sample, other)
    ui, widget = bench.ui, bench.widget
    ui.readerEdit.setText("Dr Example")
    start(bench, sample)
    ui.psaSpinBox.setValue(8.5)
    widget.attempt(widget.study.setPsa)  # while the network runs
    assert bench.process(90, until=lambda: not widget.desk.busy)
    bench.process(0.5)
    case = widget.desk.case
    assert (case.study.psa, ui.psaSpinBox.value) == (8.5, 8.5)
    assert widget.desk.explanation.psa_density is not None
    ui.psaSpinBox.setValue(9.0)
    widget.attempt(widget.study.setPsa)
    case.undo()
    bench.process(0.3)
    assert ui.psaSpinBox.value == 8.5
    widget.attempt(widget.study.setPsa)  # the focus passes through
    assert case.can_redo
    case.redo()
    bench.process(0.3)
    assert ui.psaSpinBox.value == 9
    load(bench, other)
    assert ui.psaSpinBox.value == 0
    ui.psaSpinBox.setValue(3.0)
    widget.attempt(widget.study.setPsa)
    bench.process(0.3)
    assert (case.study.psa, ui.psaSpinBox.value) == (9.0, 3.0)  # of the study that comes next
    bench.answers.append(True)
    bench.click(ui.explainButton)
    assert "changes or signature" in bench.messages[-1].text
    assert bench.process(90, until=lambda: not widget.desk.busy)
    assert (widget.desk.case.study.name, widget.desk.case.study.psa) == ("another patient", 3.0)


def test_a_report_of_what_is_no_longer_so_is_put_away(bench: Bench, sample: Path) -> None:
    explain(bench, sample)
    bench.ui.readerEdit.setText("Dr Example")
    bench.click(bench.ui.showReportButton)
    assert bench.process(60, until=lambda: bench.ui.reportBrowser.visible)
    bench.process(0.3)
    assert bench.ui.reportBrowser.visible
    bench.widget.select(bench.widget.desk.explanation.lesions[0].number)
    bench.widget.attempt(lambda: bench.widget.rationale.override("dce", "+"))
    assert bench.process(10, until=lambda: not bench.ui.reportBrowser.visible)
    assert bench.ui.reportBrowser.toPlainText() == ""
    bench.click(bench.ui.showReportButton)
    assert bench.process(60, until=lambda: bench.ui.reportBrowser.visible)
    slicer.mrmlScene.Clear(0)
    bench.process(0.3)
    assert (bench.ui.reportBrowser.toPlainText(), bench.ui.whyLabel.text) == ("", "")


def test_a_name_is_no_markup(bench: Bench) -> None:
    node = slicer.util.addVolumeFromArray(np.ones((1, 64, 64), np.float32), name="t2 <b>SMITH</b>")
    bench.ui.t2wSelector.setCurrentNode(node)
    bench.click(bench.ui.explainButton)
    bench.process(0.1)
    assert "t2 <b>SMITH</b>" in said(bench)
    import qt

    for name in ("message", "why", "quality", "detail"):
        assert getattr(bench.ui, f"{name}Label").textFormat == qt.Qt.PlainText


def test_a_signed_case_stays_as_it_is_until_reopened(bench: Bench, sample: Path) -> None:
    explain(bench, sample)
    bench.ui.readerEdit.setText("Dr Example")
    bench.click(bench.ui.signOffButton)
    bench.process(0.2)
    assert "Signed off by Dr Example" in bench.ui.signedLabel.text
    assert not bench.ui.answerButton.enabled
    assert not bench.ui.deleteRegionButton.enabled
    bench.answers.append("wrong side")
    bench.click(bench.ui.reopenButton)
    bench.process(0.2)
    assert bench.widget.desk.case.signed_off is None
    assert bench.widget.desk.case.log[-1].detail == "wrong side"


def test_a_drawn_outline_is_applied_and_its_original_kept(bench: Bench, sample: Path) -> None:
    explanation = explain(bench, sample)
    bench.ui.readerEdit.setText("Dr Example")
    number = explanation.lesions[0].number
    bench.widget.select(number)
    bench.click(bench.ui.editOutlineButton)
    assert bench.visited[-1] == "SegmentEditor"
    from MedRationaleLogic.mrml.segments import region_id

    node, before = bench.widget.desk.view.segmentation, explanation.lesion(number).mask.array
    drawn = before.copy()
    drawn[:, :, np.flatnonzero(before.any((0, 1)))[: max(1, before.any((0, 1)).sum() // 3)]] = False
    reference = bench.ui.t2wSelector.currentNode()
    slicer.util.updateSegmentBinaryLabelmapFromArray(drawn.astype(np.uint8), node, region_id(number), reference)
    slicer.util.selectModule("MedRationale")
    bench.process(0.2)
    assert bench.ui.applyOutlineButton.enabled
    bench.click(bench.ui.applyOutlineButton)
    assert bench.process(60, until=lambda: not bench.widget.desk.busy)
    bench.process(0.2)
    after = bench.widget.desk.explanation.lesion(number)
    assert np.array_equal(after.mask.array, drawn)
    assert after.origin == "reader"
    assert np.array_equal(bench.widget.desk.case.original.lesion(number).mask.array, before)


def test_no_concept_hides_the_evidence(bench: Bench, sample: Path) -> None:
    explain(bench, sample)
    case = bench.widget.desk.case
    bench.widget.select(case.explanation.lesions[0].number)
    bench.process(0.3)
    assert bench.widget.desk.view.evidence_shown
    bench.ui.conceptBox.setCurrentIndex(0)
    bench.process(0.3)
    assert case.selection.concept is None
    assert not bench.widget.desk.view.evidence_shown


def test_another_way_of_running_holds_from_the_next_study(bench: Bench, sample: Path) -> None:
    """In this process, as a fallback: the open case keeps its own, the next study runs without a child."""
    first = explain(bench, sample)
    child = bench.widget.desk.session.explainer
    pid = child.pid
    bench.ui.inProcessCheckBox.setChecked(True)
    bench.process(0.1)
    try:
        assert "next study" in said(bench)
        assert bench.widget.desk.session.explainer is child
        bench.widget.say("")
        second = explain(bench, sample)
        assert bench.widget.desk.session.explainer is not child
        assert not alive(pid)
        assert np.array_equal(second.zones.array, first.zones.array)
        assert [x.category for x in second.lesions] == [x.category for x in first.lesions]
    finally:
        bench.ui.inProcessCheckBox.setChecked(False)


# The console ---------------------------------------------------------------------------------------------------------


def test_console_explain_gives_nodes_and_the_explanation(bench: Bench, sample: Path) -> None:
    load(bench, sample)
    logic = slicer.util.getModuleLogic("MedRationale")
    result = logic.explain(*bench.widget.study.nodes().values(), psa=6.5)
    assert result.segmentation.IsA("vtkMRMLSegmentationNode")
    assert result.explanation.psa_density is not None
    assert result.segmentation in result.nodes
    bench.process(0.3)
    assert bench.ui.findingsTable.rowCount == len(result.explanation.lesions)


def test_console_files_and_batch(bench: Bench, sample: Path, tmp_path: Path) -> None:
    logic = slicer.util.getModuleLogic("MedRationale")
    nodes = slicer.mrmlScene.GetNumberOfNodes()
    cohort = tmp_path / "cohort"
    cohort.mkdir()
    (cohort / "one").symlink_to(sample)
    (cohort / "broken").mkdir()
    (cohort / "broken" / "t2w.nii.gz").write_bytes(b"no image")
    summary = logic.explainBatch(cohort, tmp_path / "out")
    assert (tmp_path / "out" / "one" / "report.html").is_file()
    assert [f.case for f in summary.failed] == ["broken"]
    assert summary.summary.is_file()
    assert slicer.mrmlScene.GetNumberOfNodes() == nodes
    with pytest.raises(Exception, match=r"no-such-file\.nii\.gz"):
        logic.explainFiles("no-such-file.nii.gz", None, None, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_without_a_layout_manager(bench: Bench, sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--no-main-window`: layoutManager() is None."""
    load(bench, sample)
    monkeypatch.setattr(slicer.app, "layoutManager", lambda: None, raising=False)
    result = slicer.util.getModuleLogic("MedRationale").explain(*bench.widget.study.nodes().values())
    assert result.explanation.zones.array.any()


# The module ----------------------------------------------------------------------------------------------------------


def test_module_describes_itself(bench: Bench) -> None:
    assert bench.handle.title == "MedRationale"
    assert bench.module.slicerProblem((5, 12)) is None
    assert bench.module.slicerProblem((6, 0)) is None
    for version in ((5, 8), (5, 11), (4, 13)):
        text = bench.module.slicerProblem(version)
        assert text.startswith(f"MedRationale needs Slicer 5.12 or later, and this is {version[0]}.{version[1]}")


def test_an_old_slicer_is_refused_in_words(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.module, "runningSlicer", lambda: (5, 8))
    with pytest.raises(RuntimeError, match=r"needs Slicer 5\.12 or later"):
        bench.widget.logic.explainFiles("t2w.nii.gz", None, None, tmp_path / "out")
    bench.click(bench.ui.explainButton)
    assert "needs Slicer 5.12 or later" in said(bench)


def test_its_own_tests_pass(bench: Bench) -> None:
    import unittest

    outcome = unittest.TestResult()
    bench.module.MedRationaleTest("runTest").run(outcome)
    assert outcome.testsRun == 1
    assert [text for _, text in outcome.errors + outcome.failures] == []


def test_nothing_heavy_is_imported_when_slicer_starts() -> None:
    """Slicer imports the module's file at its start; nothing there may be missing in a bare Slicer."""
    allowed = {
        "__future__", "collections", "contextlib", "dataclasses", "html", "importlib", "json", "logging", "math", "os",
        "pathlib", "re", "shutil", "subprocess", "sys", "tempfile", "traceback", "typing", "uuid", "time", "hashlib",
        "qt", "ctk", "vtk", "slicer", "numpy", "MedRationaleLib", "packaging", "platform", "locale", "functools",
        "shlex", "signal", "SampleData",
    }  # fmt: skip
    for path in [ROOT / "MedRationale" / "MedRationale.py", *(ROOT / "MedRationale" / "MedRationaleLib").glob("*.py")]:
        lines = [x for x in path.read_text(encoding="utf-8").splitlines() if x.startswith(("import ", "from "))]
        assert {line.split()[1].split(".")[0] for line in lines} <= allowed, path.name
