"""The section Study: which images, whose, how they lie to each other, and how good they are."""

from __future__ import annotations

from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from MedRationaleLib.widgets import currentData, fillBox, later, onSignal

NAMES = {"t2w": "T2W", "adc": "ADC", "hbv": "High-b"}
"""How the panel calls the sequences."""


class StudySection:
    """Selectors, finding and loading, PSA, shift, quality.

    Args:
        panel: the module's widget (its `ui`, `desk`, `attempt`, `parameters`).
    """

    def __init__(self, panel: Any) -> None:
        self.panel, self.ui = panel, panel.ui
        self.selectors = {"t2w": self.ui.t2wSelector, "adc": self.ui.adcSelector, "hbv": self.ui.hbvSelector}
        onSignal(self.ui.findButton, "clicked(bool)", lambda *_args: panel.attempt(self.find))
        onSignal(self.ui.loadFolderButton, "clicked(bool)", lambda *_args: panel.attempt(self.chooseFolder))
        onSignal(self.ui.sampleButton, "clicked(bool)", lambda *_args: panel.attempt(self.loadSample))
        onSignal(self.ui.shiftButton, "clicked(bool)", lambda *_args: panel.attempt(self.shift))
        onSignal(self.ui.openCaseButton, "clicked(bool)", lambda *_args: panel.attempt(self.chooseCase))
        onSignal(self.ui.psaSpinBox, "editingFinished()", lambda: panel.attempt(self.setPsa))
        self.psaOf: str | None = None
        for selector in self.selectors.values():
            # later: the parameter node takes the choice first, and would give it back with the PSA
            onSignal(
                selector, "currentNodeChanged(vtkMRMLNode*)",
                lambda *_args: later(lambda: panel.attempt(self._imagesChanged)),
            )  # fmt: skip

    def nodes(self) -> dict[str, Any]:
        """role -> chosen node, or None."""
        return {role: selector.currentNode() for role, selector in self.selectors.items()}

    def psa(self) -> float | None:
        value = float(self.ui.psaSpinBox.value)
        return value if value > 0 else None

    def ofTheCase(self) -> bool:
        """Whether the images that are chosen are those of the open case, and not of the study that comes next."""
        given = {role: node for role, node in self.nodes().items() if node is not None}
        return self.panel.desk.case is not None and given == self.panel.desk.nodes

    def _first(self) -> str | None:
        """The ID of the image that stands for the examination."""
        return next((node.GetID() for node in self.nodes().values() if node is not None), None)

    def _imagesChanged(self) -> None:
        """By hand another examination is chosen: PSA and remarks of the one before are not its own."""
        first = self._first()
        if first != self.psaOf:
            self.ui.whyLabel.setText("")
            if None not in (first, self.psaOf):
                self.ui.psaSpinBox.setValue(0.0)
        self.psaOf = first

    def find(self) -> None:
        """Fill the selectors from what the scene says of itself."""
        from MedRationaleLogic.mrml.inputs import find_inputs

        found = find_inputs(slicer.mrmlScene)
        nodes = {"t2w": found.t2w, "adc": found.adc, "hbv": found.hbv}
        self.choose(nodes)
        lines = [f"{NAMES[role]}: {why}" for role, why in found.why.items() if why]
        self.ui.whyLabel.setText("\n".join(lines))
        if not any(nodes.values()):
            raise ValueError(
                _("No T2W, ADC or high-b volume was found in the scene. Load a study, or choose the volumes by hand.")
            )

    def choose(self, nodes: dict[str, Any], psa: float | None = None) -> None:
        """Choose images; without their PSA (0: unknown) the one that was entered stays if it is of the same images."""
        for role, selector in self.selectors.items():
            selector.setCurrentNode(nodes.get(role))
        first = self._first()
        if psa is not None or (None not in (first, self.psaOf) and first != self.psaOf):
            self.ui.psaSpinBox.setValue(psa or 0.0)
        self.psaOf = first

    def chooseFolder(self) -> None:
        folder = qt.QFileDialog.getExistingDirectory(None, _("Study folder: DICOM, or NIfTI, MHA, NRRD files"))
        if folder:
            self.loadFolder(folder)

    def loadFolder(self, folder: Any) -> None:
        """Read a folder into nodes and choose them."""
        with self.panel.waiting(_("Reading the study...")):
            nodes = self.panel.desk.load_folder(folder)
        study = self.panel.desk.loaded_study
        self.choose(nodes, study.psa or 0.0)
        lines = [str(choice) for choice in study.choices] + [str(note) for note in study.notes]
        self.ui.whyLabel.setText("\n".join(lines))
        self.panel.showInputs()

    def chooseCase(self) -> None:
        folder = qt.QFileDialog.getExistingDirectory(None, _("Folder of a saved case"))
        if folder:
            self.panel.openCase(folder)

    def loadSample(self) -> None:
        """Make the sample study (simulated, no patient) and choose it."""
        from MedRationaleLib import sample_data

        with self.panel.waiting(_("Making the sample study...")):
            folder = sample_data.sampleFolder()
        self.loadFolder(folder)

    def setPsa(self) -> None:
        """A PSA entered after the study was opened goes into the case, also while the network runs."""
        case = self.panel.desk.case
        if case is None or not self.ofTheCase() or case.signed_off is not None or case.study.psa == self.psa():
            return
        case.set_psa(self.psa(), self.panel.reader())

    def shift(self) -> None:
        """Move a sequence against the frame; an explained study is explained again, answers stay."""
        role = currentData(self.ui.shiftRoleBox)
        by = [float(box.value) for box in (self.ui.shiftLSpinBox, self.ui.shiftPSpinBox, self.ui.shiftSSpinBox)]
        if role is None or not any(by):
            raise ValueError(_("Choose a sequence and enter millimetres to move it by."))
        reader = self.panel.reader()
        self.panel.desk.shift(role, by, reader)
        for box in (self.ui.shiftLSpinBox, self.ui.shiftPSpinBox, self.ui.shiftSSpinBox):
            box.setValue(0.0)

    def refresh(self) -> None:
        case = self.panel.desk.case
        roles = [] if case is None else list(case.study.roles[1:])
        fillBox(self.ui.shiftRoleBox, [(NAMES[r], r) for r in roles], currentData(self.ui.shiftRoleBox))
        can = bool(roles) and case is not None and case.signed_off is None and not self.panel.desk.busy
        self.ui.shiftButton.setEnabled(can)
        if case is not None and self.ofTheCase() and not self.ui.psaSpinBox.hasFocus():
            blocked = self.ui.psaSpinBox.blockSignals(True)
            self.ui.psaSpinBox.setValue(case.study.psa or 0.0)  # undo, or another case, may have changed it
            self.ui.psaSpinBox.blockSignals(blocked)
        explanation = self.panel.desk.explanation
        if explanation is None:
            self.ui.qualityLabel.setText("")
            return
        from MedRationaleLogic.export import words

        self.ui.qualityLabel.setText("\n".join(text for text, _level in words.quality_words(explanation)))
