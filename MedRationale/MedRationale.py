"""The Slicer module MedRationale: what Slicer needs to find the package MedRationaleLogic and to run it.

Slicer asks for four classes of these names. The class `MedRationaleLogic` shares its name with the package, so inside
this file the package is imported by `from MedRationaleLogic.x import y` only.
"""

from __future__ import annotations

import sys
from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)

OLDEST_SLICER = (5, 12)
HOMEPAGE = "https://github.com/medrationale/SlicerMedRationale"
CITATION = (
    "Ma M, Li T, Peng Y, Lin L, Beylergil V, Zhao B, Akin O, Peng X. "
    "&quot;Why Is There a Tumor?&quot;: Tell Me the Reason, Show Me the Evidence. ICML 2025."
)


def makePackageImportable() -> None:
    """Put the folder that holds the package on Python's path.

    Slicer's own build lays the package beside this file, where it is found anyway; in the source tree, added to Slicer
    as an additional module path, it lies one folder up.
    """
    here = Path(__file__).resolve().parent
    for folder in (here, here.parent):
        if (folder / "MedRationaleLogic" / "__init__.py").is_file():
            if str(folder) not in sys.path:
                sys.path.append(str(folder))
            return


makePackageImportable()


def slicerProblem(version: tuple[int, int]) -> str | None:
    """Why this Slicer (major, minor) will not do, or None."""
    if version >= OLDEST_SLICER:
        return None
    oldest = ".".join(str(part) for part in OLDEST_SLICER)
    return f"MedRationale needs Slicer {oldest} or later, and this is {version[0]}.{version[1]}. Please update Slicer."


def runningSlicer() -> tuple[int, int]:
    return int(slicer.app.majorVersion), int(slicer.app.minorVersion)


class MedRationale(ScriptedLoadableModule):
    """What Slicer shows of the module before it is opened."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("MedRationale")
        self.parent.categories = ["Segmentation"]
        self.parent.dependencies = []
        self.parent.contributors = ["MedRationale contributors"]
        self.parent.helpText = _(
            "Explains suspicious regions on prostate MRI by PI-RADS v2.1: zones and lesions, a rationale tree, and the "
            "evidence for each step of it. Research use only."
        )
        self.parent.helpText += f'<p><a href="{HOMEPAGE}">{HOMEPAGE}</a></p>'
        self.parent.acknowledgementText = _("The method follows:") + f" {CITATION}"


class MedRationaleWidget(ScriptedLoadableModuleWidget):
    """The panel: the version, the notice, and how to explain a study from the Python console."""

    def setup(self) -> None:
        ScriptedLoadableModuleWidget.setup(self)
        self.logic = MedRationaleLogic()
        problem = slicerProblem(runningSlicer())
        texts = [problem] if problem else [self.logic.notice(), self.logic.consoleHelp()]
        self.labels = [self._label(text) for text in texts]
        for label in self.labels:
            self.layout.addWidget(label)
        self.layout.addStretch(1)

    @staticmethod
    def _label(text: str):
        label = qt.QLabel(text)
        label.wordWrap = True
        label.setTextInteractionFlags(qt.Qt.TextInteractionFlag.TextSelectableByMouse)
        return label


class MedRationaleLogic(ScriptedLoadableModuleLogic):
    """The road from files to an explanation, without any widget."""

    def version(self) -> str:
        from MedRationaleLogic import __version__

        return __version__

    def notice(self) -> str:
        return _(
            "<b>MedRationale {version}. Research use only.</b> AI-generated and unverified: not for diagnosis, not for "
            "treatment."
        ).format(version=self.version())

    def consoleHelp(self) -> str:
        code = "\n".join(
            [
                "logic = slicer.util.getModuleLogic('MedRationale')",
                "logic.explainFiles('t2w.nii.gz', 'adc.nii.gz', 'hbv.nii.gz', 'out')",
            ]
        )
        return _("To explain a study, type in the Python console:") + f"<pre>{code}</pre>"

    def explainFiles(self, t2w, adc, hbv, output) -> str:
        """Explain a study given by its files and write the result into a folder.

        Slicer waits until it is done: seconds, and longer the first time, when PyTorch is loaded.

        Args:
            t2w, adc, hbv: for each sequence a file (NIfTI, MHA, NRRD) or a DICOM folder; at most two may be None.
            output: the folder for report.html, explanation.json, masks and evidence maps; made if it is not there.

        Returns:
            The path of the report.

        Raises:
            RuntimeError: this Slicer is too old.
            ModuleNotFoundError: PyTorch or a package of ours is not installed in this Slicer.
            StudyError: a file cannot be used; the message names it and what was expected.
        """
        problem = slicerProblem(runningSlicer())
        if problem:
            raise RuntimeError(problem)
        from MedRationaleLogic.imaging.study import read_study

        # Read first: a wrong path is told at once, before PyTorch is loaded.
        study = read_study(t2w=t2w, adc=adc, hbv=hbv)
        from MedRationaleLogic import explain
        from MedRationaleLogic.export import write_results

        return str(write_results(explain(study), Path(output)))


class MedRationaleTest(ScriptedLoadableModuleTest):
    """Runs inside Slicer: by ctest, or by Reload and Test in developer mode."""

    def setUp(self) -> None:
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:
        for test in (self.test_versions, self.test_missing_file_is_named, self.test_nothing_to_explain):
            self.setUp()
            test()

    def test_versions(self) -> None:
        self.assertRegex(MedRationaleLogic().version(), r"^\d+\.\d+\.\d+")
        self.assertIsNone(slicerProblem(runningSlicer()))
        self.assertIn("5.12 or later", slicerProblem((5, 11)))

    def test_missing_file_is_named(self) -> None:
        with self.assertRaisesRegex(Exception, "no-such-file.nii.gz"):
            MedRationaleLogic().explainFiles("no-such-file.nii.gz", None, None, "no-such-folder")
        self.assertFalse(Path("no-such-folder").exists())

    def test_nothing_to_explain(self) -> None:
        with self.assertRaisesRegex(Exception, "T2W, ADC or high-b"):
            MedRationaleLogic().explainFiles(None, None, None, "no-such-folder")
