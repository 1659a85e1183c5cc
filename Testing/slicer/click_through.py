"""Clicks through the whole module as a reader would, and holds every step against the scene; saves screenshots.

Inside Slicer:

    Slicer --testing --no-splash --python-script Testing/slicer/click_through.py --study FOLDER --output FOLDER

On the bench (Testing/bench) the same steps run without Slicer. FOLDER is a study that `MedRationale` can read.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import slicer

READER = "Dr Example"


class ClickThrough:
    """The steps, in order; each asserts.

    Args:
        widget: the module's widget.
        process: lets the event loop run for some seconds.
        shot: takes a screenshot under a name.
        output: folder for what is exported.
    """

    def __init__(
        self, widget: Any, process: Callable[[float], None], shot: Callable[[str], None], output: Path
    ) -> None:
        self.widget, self.process, self.shot, self.output = widget, process, shot, output
        self.ui = widget.ui

    # ---------------------------------------------------------------------------------------------------------- helpers

    def until(self, condition: Callable[[], Any], what: str, seconds: float = 120.0) -> None:
        """Let the event loop run until something holds."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                raise AssertionError(f"waited {seconds:.0f} s for: {what}; the panel says: {self.message()}")
            self.process(0.05)
        self.process(0.15)

    def message(self) -> str:
        return self.ui.messageLabel.text if self.ui.messageLabel.visible else ""

    def quiet(self) -> None:
        assert not self.message(), f"the panel complains: {self.message()}"

    def desk(self) -> Any:
        return self.widget.desk

    def explained(self) -> bool:
        return self.desk().explanation is not None and not self.desk().busy

    @staticmethod
    def count(className: str) -> int:
        return int(slicer.mrmlScene.GetNumberOfNodesByClass(className))

    def only(self, *sections: str) -> None:
        """Open these sections of the panel and close the others, for a picture."""
        for name in ("study", "findings", "rationale", "evidence", "correct", "report", "model"):
            getattr(self.ui, f"{name}Section").collapsed = name not in sections
        self.process(0.2)

    # ------------------------------------------------------------------------------------------------------------ steps

    def run(self, study: Path) -> None:
        """All of it."""
        self.load(study)
        self.find()
        self.explain()
        self.select()
        self.evidence()
        self.override()
        self.undoRedo()
        self.reachables()
        self.explainHere()
        self.deleteAndUndo()
        self.export()
        self.saveAndReopen()
        self.remove()

    def load(self, study: Path) -> None:
        self.widget.attempt(lambda: self.widget.study.loadFolder(study))
        self.quiet()
        assert self.ui.t2wSelector.currentNode() is not None or self.ui.adcSelector.currentNode() is not None
        assert self.ui.whyLabel.text
        self.images = {role: node.GetID() for role, node in self.widget.study.nodes().items() if node is not None}

    def find(self) -> None:
        """What was loaded is found again by what the scene says of it."""
        self.widget.study.choose({})
        self.ui.findButton.click()
        self.process(0.1)
        self.quiet()
        assert {r: n.GetID() for r, n in self.widget.study.nodes().items() if n is not None} == self.images

    def explain(self) -> None:
        self.ui.readerEdit.setText(READER)
        self.process(0.05)
        self.before = slicer.mrmlScene.GetNumberOfNodes()
        self.ui.explainButton.click()
        assert self.desk().busy and self.ui.cancelButton.enabled and not self.ui.explainButton.enabled
        self.until(self.explained, "the explanation")
        self.quiet()
        assert "PI-RADS" in self.ui.summaryLabel.text
        segmentation = self.desk().view.segmentation.GetSegmentation()
        names = [segmentation.GetNthSegment(i).GetName() for i in range(segmentation.GetNumberOfSegments())]
        assert any("zone" in name.lower() for name in names), names
        assert sum(name.startswith("Region") for name in names) == len(self.desk().explanation.lesions), names
        assert self.ui.findingsTable.rowCount == len(self.desk().explanation.lesions)
        self.process(0.5)
        self.only("findings", "rationale")
        self.shot("slicer-findings")

    def select(self) -> None:
        """Selecting a region shows its rationale and brings the views to it."""
        lesions = self.desk().explanation.lesions
        if not lesions:
            self.widget.correct.explainAt(self.glandRas())
            self.until(lambda: self.desk().explanation.lesions, "a region of the reader's")
        self.ui.findingsTable.selectRow(0)
        self.process(0.2)
        number = self.widget.findings.numbers[0]
        assert self.desk().case.selection.lesion == number
        assert {"category", "t2w.score", "dwi.score"} <= set(self.widget.rationale.items)
        self.shot("slicer-rationale")

    def glandRas(self) -> list[float]:
        import numpy as np

        zones = self.desk().explanation.zones
        index = np.argwhere(zones.array > 0)
        middle = index[np.abs(index - index.mean(0)).sum(1).argmin()]
        x, y, z = (float(v) for v in zones.geometry.to_patient(middle))
        return [-x, -y, z]

    def evidence(self) -> None:
        """A click on a step of the rationale shows its map, on the T2W's grid, at its strongest slice."""
        items = self.widget.rationale.items
        step = next(s for s in self.widget.rationale.lesion().rationale.steps if s.evidence is not None)
        self.widget.rationale.tree.setCurrentItem(items[step.id])
        self.process(0.4)
        self.quiet()
        node = self.desk().view.evidence_node
        assert node is not None and self.desk().case.selection.concept == step.evidence
        low, high = node.GetImageData().GetScalarRange()
        assert low >= 0 and 0 < high <= 1
        first = self.desk().case.selection.concept
        self.widget.attempt(lambda: self.widget.evidence.step(1))
        self.process(0.3)
        assert self.desk().case.selection.concept != first or len(self.widget.evidence.concepts()) == 1
        assert self.ui.conceptList.count == len(self.widget.evidence.concepts()) > 0
        self.only("findings", "evidence")
        self.shot("slicer-evidence")
        self.ui.evidenceCheckBox.setChecked(False)
        self.process(0.1)
        self.ui.evidenceCheckBox.setChecked(True)
        self.process(0.2)
        self.quiet()

    def override(self) -> None:
        """A reader's answer changes what follows from it, and looks different from the model's."""
        case = self.desk().case
        number = case.selection.lesion
        rationale = case.explanation.lesion(number).rationale
        name = "dwi.score" if rationale.answers("dwi.score") else "t2w.score"
        wanted = 2 if rationale.step(name).answer != 2 else 5
        self.widget.rationale.tree.setCurrentItem(self.widget.rationale.items[name])
        self.process(0.1)
        entries = [self.ui.answerBox.itemData(i) for i in range(self.ui.answerBox.count)]
        self.ui.answerBox.setCurrentIndex(entries.index(wanted))
        self.ui.answerButton.click()
        self.process(0.3)
        self.quiet()
        step = case.explanation.lesion(number).rationale.step(name)
        assert step.answer == wanted and step.reader == READER
        item = self.widget.rationale.items[name]
        assert READER in item.text(3) and "model" in item.text(1)
        assert item.font(1).bold() and not self.widget.rationale.items["zone"].font(1).bold()
        self.overridden = name
        self.only("findings", "rationale")
        self.shot("slicer-override")

    def undoRedo(self) -> None:
        case = self.desk().case
        number = case.selection.lesion
        self.ui.undoButton.click()
        self.process(0.2)
        assert case.explanation.lesion(number).rationale.step(self.overridden).reader is None
        self.ui.redoButton.click()
        self.process(0.2)
        assert case.explanation.lesion(number).rationale.step(self.overridden).reader == READER

    def reachables(self) -> None:
        """DCE is X until the reader says otherwise."""
        case = self.desk().case
        number = case.selection.lesion
        assert case.explanation.lesion(number).rationale.dce == "X"
        self.widget.attempt(lambda: self.widget.rationale.override("dce", "+"))
        self.process(0.2)
        assert case.explanation.lesion(number).rationale.dce == "+"
        self.ui.undoButton.click()
        self.process(0.2)
        assert case.explanation.lesion(number).rationale.dce == "X"

    def explainHere(self) -> None:
        before = len(self.desk().explanation.lesions)
        self.widget.attempt(lambda: self.widget.correct.explainAt(self.glandRas()))
        self.until(lambda: len(self.desk().explanation.lesions) == before + 1, "the region around the point")
        self.quiet()
        assert self.desk().explanation.lesions[-1].origin == "reader"
        assert self.ui.findingsTable.rowCount == before + 1

    def deleteAndUndo(self) -> None:
        before = len(self.desk().explanation.lesions)
        self.ui.findingsTable.selectRow(before - 1)
        self.process(0.2)
        self.ui.deleteRegionButton.click()
        self.process(0.3)
        assert len(self.desk().explanation.lesions) == before - 1
        self.ui.undoButton.click()
        self.process(0.3)
        assert len(self.desk().explanation.lesions) == before
        self.ui.undoButton.click()
        self.process(0.3)
        assert len(self.desk().explanation.lesions) == before - 1

    def export(self) -> None:
        results, folder = self.output / "results", self.output / "case"
        self.widget.attempt(lambda: self.widget.report.writeResults(results))
        self.until(lambda: (results / "report.html").is_file(), "the results")
        self.widget.attempt(lambda: self.widget.report.writeCase(folder))
        assert (folder / "case.json").is_file()
        self.ui.copyTextButton.click()
        self.process(0.1)
        self.only("report")
        self.widget.attempt(self.widget.report.show)
        self.process(0.6)
        self.shot("slicer-report")

    def saveAndReopen(self) -> None:
        """A saved scene opens with the panel, the overrides and the audit log."""
        case = self.desk().case
        category, log = case.explanation.category.category, len(case.log)
        number = next(x.number for x in case.explanation.lesions if x.rationale.overrides)
        self.widget.saveIntoScene()
        path = self.output / "scene.mrb"
        path.unlink(missing_ok=True)
        assert slicer.util.saveScene(str(path))
        slicer.mrmlScene.Clear(0)
        self.process(0.3)
        assert self.desk().case is None and self.ui.findingsTable.rowCount == 0
        slicer.util.loadScene(str(path))
        self.until(lambda: self.desk().case is not None, "the saved case", 30)
        case = self.desk().case
        assert case.explanation.category.category == category and len(case.log) == log and case.verify_log()
        step = case.explanation.lesion(number).rationale.step(self.overridden)
        assert step.reader == READER
        self.ui.readerEdit.setText(READER)
        self.widget.select(number)
        self.until(lambda: not self.desk().busy, "the evidence of the reopened case")
        assert self.ui.findingsTable.rowCount == len(case.explanation.lesions)
        self.only("findings", "rationale")
        self.shot("slicer-reopened")

    def remove(self) -> None:
        """Only the images stay."""
        self.desk().case.save(self.output / "kept")  # else the panel asks
        self.ui.removeResultsButton.click()
        self.process(0.4)
        self.quiet()
        assert self.desk().case is None
        assert self.count("vtkMRMLSegmentationNode") == 0 and self.count("vtkMRMLMarkupsLineNode") == 0
        left = list(slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"))
        assert len(left) == len(self.images), [n.GetName() for n in left]


def main() -> int:
    """In Slicer: run all, say how it went."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    args, _others = parser.parse_known_args()
    args.output.mkdir(parents=True, exist_ok=True)
    slicer.util.selectModule("MedRationale")
    widget = slicer.util.getModuleWidget("MedRationale")

    def process(seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            slicer.app.processEvents()
            time.sleep(0.005)

    def shot(name: str) -> None:
        process(0.3)
        slicer.util.mainWindow().grab().save(str(args.output / f"{name}.png"))

    ClickThrough(widget, process, shot, args.output).run(args.study)
    print("MedRationale: every step of the click-through held")
    return 0


if __name__ == "__main__":
    try:
        code = main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.exit(code)
