"""What was saved is opened again: a scene that was loaded before the panel was first looked at, and a case's folder."""

from __future__ import annotations

from pathlib import Path

import slicer

from Testing.bench.bench import Bench


def test_a_scene_and_a_folder_open_again(tmp_path: Path) -> None:
    from MedRationaleLogic.simulation.sample import write_sample

    sample = write_sample(tmp_path / "study").nifti
    with Bench() as bench:
        widget = bench.widget
        widget.study.loadFolder(sample)
        bench.click(bench.ui.explainButton)
        assert bench.process(120, until=lambda: widget.desk.explanation is not None)
        bench.ui.readerEdit.setText("Dr A")
        number = widget.desk.explanation.lesions[0].number
        widget.select(number)
        widget.attempt(lambda: widget.rationale.override("dce", "+"))
        widget.report.writeCase(tmp_path / "case")
        assert bench.process(10, until=lambda: bool(widget.desk.saved_cases()))
        assert slicer.util.saveScene(str(tmp_path / "scene.mrb"))
        slicer.mrmlScene.Clear(0)
        bench.process(0.2)

        widget.removeObservers()  # as if the panel had not been there yet
        bench.ui.readerEdit.setText("")
        assert slicer.util.loadScene(str(tmp_path / "scene.mrb"))
        bench.process(0.2)
        assert widget.desk.case is None
        widget.onReload()
        widget, ui = bench.widget, bench.ui
        bench.process(0.3)
        assert "is open again" in ui.messageLabel.text
        assert widget.desk.explanation.lesion(number).rationale.dce == "+"
        assert ui.removeResultsButton.enabled
        assert ui.readerEdit.text == ""  # who opens a scene is not who saved it
        assert ui.t2wSelector.currentNode() is widget.desk.nodes["t2w"]
        manager = slicer.app.layoutManager()
        corners = [manager.sliceWidget(f"MR_{name}").sliceView().cornerAnnotation() for name in ("T2W", "ADC", "HBV")]
        assert [corner.GetText(widget.LOWER_EDGE) for corner in corners] == ["Research use only"] * 3

        widget.desk.cancel()  # of the map that is selected
        page = tmp_path / "report.html"
        widget.report.writePage(page)  # the network has not read this study yet: nothing waits for it
        assert widget.desk.busy
        assert bench.process(120, until=page.is_file)
        assert "Research use only" in page.read_text(encoding="utf-8")

        bench.answers.append(True)
        widget.openCase(tmp_path / "case")
        assert "changes or signature" in bench.messages[-1].text
        bench.process(0.3)
        assert widget.desk.explanation.lesion(number).rationale.dce == "+"
        assert [entry.reader for entry in widget.desk.case.log if entry.action == "override"] == ["Dr A"]
        assert ui.hbvSelector.currentNode() is widget.desk.nodes["hbv"]
        texts = slicer.mrmlScene.GetNodesByClass("vtkMRMLSegmentationNode")
        texts.UnRegister(texts)
        assert texts.GetNumberOfItems() == 1
