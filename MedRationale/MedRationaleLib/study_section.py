"""The section Study: which images, whose, how they lie to each other, and how good they are."""

from __future__ import annotations

from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from MedRationaleLib.widgets import currentData, fillBox, onSignal

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
        onSignal(self.ui.psaSpinBox, "editingFinished()", lambda: panel.attempt(self.setPsa))

    def nodes(self) -> dict[str, Any]:
        """role -> chosen node, or None."""
        return {role: selector.currentNode() for role, selector in self.selectors.items()}

    def psa(self) -> float | None:
        value = float(self.ui.psaSpinBox.value)
        return value if value > 0 else None

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

    def choose(self, nodes: dict[str, Any]) -> None:
        for role, selector in self.selectors.items():
            selector.setCurrentNode(nodes.get(role))

    def chooseFolder(self) -> None:
        folder = qt.QFileDialog.getExistingDirectory(None, _("Study folder: DICOM, or NIfTI, MHA, NRRD files"))
        if folder:
            self.loadFolder(folder)

    def loadFolder(self, folder: Any) -> None:
        """Read a folder into nodes and choose them."""
        with self.panel.waiting(_("Reading the study...")):
            nodes = self.panel.desk.load_folder(folder)
        self.choose(nodes)
        study = self.panel.desk.loaded_study
        lines = [str(choice) for choice in study.choices] + [str(note) for note in study.notes]
        self.ui.whyLabel.setText("\n".join(lines))
        if study.psa is not None:
            self.ui.psaSpinBox.setValue(study.psa)
        self.panel.showInputs()

    def loadSample(self) -> None:
        """Make the sample study (simulated, no patient) and choose it."""
        from MedRationaleLib import sample_data

        with self.panel.waiting(_("Making the sample study...")):
            folder = sample_data.sampleFolder()
        self.loadFolder(folder)

    def setPsa(self) -> None:
        """A PSA entered after the study was opened goes into the case."""
        case = self.panel.desk.case
        if case is None or case.signed_off is not None or case.study.psa == self.psa():
            return
        if case.explanation is not None:
            reader = self.panel.reader()
            self.panel.desk.perform(lambda: case.set_psa(self.psa(), reader), _("entering the PSA"))

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
        explanation = self.panel.desk.explanation
        if explanation is None:
            self.ui.qualityLabel.setText("")
            return
        from MedRationaleLogic.export import words

        self.ui.qualityLabel.setText("\n".join(text for text, _level in words.quality_words(explanation)))
