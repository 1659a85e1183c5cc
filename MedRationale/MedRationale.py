"""The Slicer module MedRationale: the four classes that Slicer asks for. The panel's sections lie in MedRationaleLib,
all else in the package MedRationaleLogic.

Slicer asks for four classes of these names. The class `MedRationaleLogic` shares its name with the package, so inside
this file the package is imported by `from MedRationaleLogic.x import y` only.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

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
        slicer.app.connect("startupCompleted()", registerSample)


def registerSample() -> None:
    """Offer our sample study in the module Sample Data; it is made on this computer, nothing is downloaded."""
    from MedRationaleLib import sample_data

    sample_data.register()


class MedRationaleWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel: a view of one case. It holds no knowledge of its own; what it shows it asks the desk."""

    SAVE_AFTER_MS = 1500
    POLL_MS = 15
    SURFACES_AFTER_MS = 400

    def __init__(self, parent=None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic: Any = None
        self.sections: list[Any] = []
        self.shortcuts: list[Any] = []
        self.parameters: Any = None
        self._guiTag: Any = None
        self._scratch: Path | None = None
        self._refreshing = False
        self._failed: Any = None
        self._gone = self._mapIsDue = False
        self._shown: tuple[Any, Any, Any] = (None, None, None)

    # --------------------------------------------------------------------------------------------------- Slicer's hooks

    def setup(self) -> None:
        ScriptedLoadableModuleWidget.setup(self)
        problem = slicerProblem(runningSlicer())
        if problem:
            label = qt.QLabel(problem)
            label.setWordWrap(True)
            self.layout.addWidget(label)
            self.layout.addStretch(1)
            return
        panel = slicer.util.loadUI(self.resourcePath("UI/MedRationale.ui"))
        self.layout.addWidget(panel)
        self.ui = slicer.util.childWidgetVariables(panel)
        panel.setMRMLScene(slicer.mrmlScene)
        self.logic = MedRationaleLogic()
        self.desk = self.logic.desk
        self._makeSections()
        self._makeTimers()
        self.desk.subscribe(self._heard)
        for event, call in (
            (slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose),
            (slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose),
            (slicer.mrmlScene.EndImportEvent, self.onSceneEndImport),
            (slicer.mrmlScene.StartSaveEvent, self.onSceneStartSave),
            (slicer.mrmlScene.NodeRemovedEvent, self.onNodeRemoved),
        ):
            self.addObserver(slicer.mrmlScene, event, call)
        self._loadTerms()
        self.initializeParameterNode()
        self.attempt(self.restoreFromScene)  # the scene may have been loaded before this panel was first looked at
        self.refresh()

    @staticmethod
    def _loadTerms() -> None:
        """Our terms for the segments, so that Slicer's terminology selector knows them."""
        from MedRationaleLogic.mrml import terminology

        terminology.load()

    def _makeSections(self) -> None:
        from MedRationaleLib.correct_section import CorrectSection
        from MedRationaleLib.evidence_section import EvidenceSection
        from MedRationaleLib.findings_section import FindingsSection
        from MedRationaleLib.model_section import ModelSection
        from MedRationaleLib.rationale_section import RationaleSection
        from MedRationaleLib.report_section import ReportSection
        from MedRationaleLib.study_section import StudySection
        from MedRationaleLib.widgets import onSignal

        self.study, self.findings = StudySection(self), FindingsSection(self)
        self.rationale, self.evidence = RationaleSection(self), EvidenceSection(self)
        self.correct, self.report, self.model = CorrectSection(self), ReportSection(self), ModelSection(self)
        self.sections = [
            self.study, self.findings, self.rationale, self.evidence, self.correct, self.report, self.model,
        ]  # fmt: skip
        onSignal(self.ui.explainButton, "clicked(bool)", lambda *_args: self.attempt(self.explain))
        onSignal(self.ui.cancelButton, "clicked(bool)", lambda *_args: self.attempt(self.cancel))
        for key, call in (
            ("N", lambda: self.findings.step(1)), ("P", lambda: self.findings.step(-1)),
            ("J", lambda: self.evidence.step(1)), ("K", lambda: self.evidence.step(-1)), ("E", self.evidence.toggle),
        ):  # fmt: skip
            shortcut = qt.QShortcut(qt.QKeySequence(key), slicer.util.mainWindow() or self.parent)
            shortcut.setEnabled(False)
            onSignal(shortcut, "activated()", lambda call=call: self.attempt(call))
            self.shortcuts.append(shortcut)

    def _makeTimers(self) -> None:
        from MedRationaleLib.widgets import onSignal

        self.timer, self.saveTimer = qt.QTimer(), qt.QTimer()
        self.timer.setInterval(self.POLL_MS)
        self.saveTimer.setInterval(self.SAVE_AFTER_MS)
        self.saveTimer.setSingleShot(True)
        onSignal(self.timer, "timeout()", lambda: self.attempt(self.poll))
        onSignal(self.saveTimer, "timeout()", lambda: self.attempt(self.saveIntoScene))

    def cleanup(self) -> None:
        """Slicer ends, or the module is reloaded: no process, no timer, no file stays behind."""
        if self.logic is None:
            return
        self._gone = True  # what was put off until later finds no widgets any more
        self.timer.stop()
        self.saveTimer.stop()
        self.correct.stopPlacing()
        self.removeObservers()
        for shortcut in self.shortcuts:
            shortcut.setEnabled(False)
        self.desk.shut_down()
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch = None

    def enter(self) -> None:
        if self.logic is None:
            return
        self.initializeParameterNode()
        for shortcut in self.shortcuts:
            shortcut.setEnabled(True)
        self.attempt(self.restoreFromScene)  # an image that it lacked may have been loaded meanwhile
        self.refresh()
        if self.correct.edited():
            self.say(_("You changed an outline: 'Correct > Apply the outlines' reads it."))

    def exit(self) -> None:
        if self.logic is None:
            return
        self.correct.stopPlacing()
        for shortcut in self.shortcuts:
            shortcut.setEnabled(False)
        if self.parameters is not None:
            self._bind(None)

    def onReload(self) -> None:
        """Developer mode: take the sections and the package anew, too."""
        self.cleanup()
        for name in [n for n in sys.modules if n.partition(".")[0] in ("MedRationaleLib", "MedRationaleLogic")]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)

    # -------------------------------------------------------------------------------------------------------- the scene

    def onSceneStartClose(self, _caller=None, _event=None) -> None:
        running = self.desk.busy
        self.saveTimer.stop()
        self.correct.stopPlacing()
        self._bind(None)
        self.desk.forget()
        self.say(_("The scene was closed; what ran was stopped.") if running else "")

    def onSceneEndClose(self, _caller=None, _event=None) -> None:
        if self.parent.isEntered:
            self.initializeParameterNode()
        self.refresh()

    def onSceneEndImport(self, _caller=None, _event=None) -> None:
        self.attempt(self.restoreFromScene)

    def onSceneStartSave(self, _caller=None, _event=None) -> None:
        self.attempt(self.saveIntoScene)

    def onNodeRemoved(self, _caller=None, _event=None) -> None:
        """An image of the open case went: what runs on it is stopped; a result stays as it is."""
        gone = [r for r, n in self.desk.nodes.items() if not slicer.mrmlScene.IsNodePresent(n)]
        if not gone or slicer.mrmlScene.IsClosing():
            return
        from MedRationaleLib.study_section import NAMES

        names = ", ".join(NAMES[r] for r in gone)
        if self.desk.busy:
            self.desk.cancel()
            self.say(_("{names} was removed from the scene; what ran on it was stopped.").format(names=names))
        else:
            text = _("{names} was removed from the scene; the result stays. To open the saved case it is needed again.")
            self.say(text.format(names=names))
        self.desk.nodes = {r: n for r, n in self.desk.nodes.items() if r not in gone}

    def initializeParameterNode(self) -> None:
        self._bind(self.logic.getParameterNode())

    def setParameterNode(self, node: Any) -> None:
        """Use another instance of the panel's state."""
        self._bind(node)

    def _bind(self, node: Any) -> None:
        from MedRationaleLib.parameters import Parameters

        if self.parameters is not None:
            self.parameters.disconnectGui(self._guiTag)
        self.parameters = None if node is None else Parameters(node)
        if self.parameters is not None:
            self._guiTag = self.parameters.connectGui(self.ui)

    def restoreFromScene(self) -> None:
        """Open the case that this scene was saved with."""
        saved = self.desk.saved_cases()
        if not saved or self.desk.case is not None:
            return
        self.desk.restore(saved[-1])
        self.study.choose(self.desk.nodes, self.desk.case.study.psa or 0.0)
        self.showInputs()
        more = len(saved) - 1
        text = _("The case that was saved with this scene is open again.")
        if more:
            text += " " + _("{more} more in the scene: remove the results of this one to open the next.").format(
                more=more
            )
        self.say(text)
        self.refresh()

    def openCase(self, folder: Any) -> None:
        """Go on with a case that was saved to a folder, here or in the browser."""
        self.logic.requirePackages()
        if not self.mayGo(_("Put it away?")):
            return
        with self.waiting(_("Opening the case...")):
            self.desk.load_case(Path(folder))
        self.study.choose(self.desk.nodes, self.desk.case.study.psa or 0.0)
        self.showInputs()
        self.say(_("The case of the folder is open again."))
        self.refresh()

    def saveIntoScene(self) -> None:
        self.desk.save()

    # ------------------------------------------------------------------------------------------------------- the reader

    def reader(self) -> str:
        """The reader's name.

        Raises:
            ValueError: none is entered.
        """
        name = self.readerOrNone()
        if name is None:
            raise ValueError(_("Enter your name or initials under 'Study > Reader': a change is kept under a name."))
        return name

    def readerOrNone(self) -> str | None:
        return self.ui.readerEdit.text.strip() or None

    def mayGo(self, question: str) -> bool:
        """Whether the open case may be put away: asks where a reader's work would go with it."""
        lost = []
        if self.desk.readers_work_would_go():
            lost.append(_("The open case holds a reader's changes or signature that no case folder has."))
        if self.correct.edited():
            lost.append(_("You changed an outline and have not applied it."))
        return not lost or self.ask(" ".join([*lost, question]))

    def ask(self, question: str) -> bool:
        return bool(slicer.util.confirmYesNoDisplay(question, windowTitle="MedRationale"))

    # ----------------------------------------------------------------------------------------------------- what it does

    def explain(self) -> None:
        """The button: open what is chosen as a case and explain it, asking where the user may know better."""
        from MedRationaleLogic.mrml.inputs import NodeQuestion

        self.logic.requirePackages()
        if not self.mayGo(_("Put it away?")):
            return
        confirmed: set[str] = set()
        while True:
            try:
                self.desk.open(**self.study.nodes(), psa=self.study.psa(), confirmed=frozenset(confirmed))
                break
            except NodeQuestion as doubt:
                if not self.ask(doubt.question):
                    self.say(str(doubt))
                    return
                confirmed.add(doubt.key)
        self.showInputs()
        self.say("")
        self.desk.explain()
        self.timer.start()

    def cancel(self) -> None:
        self.desk.cancel()
        self.say(_("Stopped. Nothing was changed."))

    def poll(self) -> None:
        self.desk.poll()
        if not self.desk.busy:
            self.timer.stop()
            self.refresh()

    def select(self, lesion: int | None, concept: str | None = None) -> None:
        """Look at a region; without a concept, at the one that its category rests on first."""
        self.desk.select(lesion, concept)

    def showInputs(self) -> None:
        """Our layout with the chosen images; nothing without a main window."""
        from MedRationaleLogic.mrml import layout

        manager = slicer.app.layoutManager()
        if manager is None:
            return
        layoutNode = manager.layoutLogic().GetLayoutNode()
        layout.register(layoutNode)
        layoutNode.SetViewArrangement(layout.LAYOUT_ID)
        layout.set_up_views(slicer.mrmlScene, {r: n for r, n in self.study.nodes().items() if n is not None})

    LOWER_EDGE = 4
    """vtkCornerAnnotation's; Slicer itself writes into the corners only."""

    def _annotateViews(self, text: str) -> None:
        """Say in the views, too, that what they show is for research."""
        from MedRationaleLogic.mrml import layout

        manager = slicer.app.layoutManager()
        for name in layout.SLICE_VIEWS.values():
            widget = None if manager is None else manager.sliceWidget(name)
            view = None if widget is None else widget.sliceView()
            if view is not None and hasattr(view, "cornerAnnotation"):
                view.cornerAnnotation().SetText(self.LOWER_EDGE, text)
                view.scheduleRender()

    def removeResults(self) -> None:
        """Take all that this module added out of the scene."""
        if not self.mayGo(_("Remove the results?")):
            return
        self.desk.close()
        self.say("")
        self.attempt(self.restoreFromScene)

    # ---------------------------------------------------------------------------------------------------- what it shows

    def _heard(self, kind: str, what: Any) -> None:
        if kind == "job":
            self._showJob()
            if self.desk.busy:
                self.timer.start()
            return
        if kind == "view":
            if self.desk.view is None:
                self.ui.studySection.collapsed = False  # the next study is chosen there
            self._annotateViews("" if self.desk.explanation is None else _("Research use only"))
        if kind == "case" and what.case_event is not None:
            if what.case_event.kind == "explain":
                self._showFirst()
            if what.case_event.kind not in ("select", "save"):
                self.saveTimer.start()
        from MedRationaleLib.widgets import later

        if not self._refreshing:  # several changes at once are shown once, and never within the signal that made them
            self._refreshing = True
            later(lambda: self.attempt(self._refreshLater))

    def _showFirst(self) -> None:
        """A study was just explained: the gland fills the views, the index region is selected, the inputs step back."""
        self.ui.studySection.collapsed = True
        self._annotateViews(_("Research use only"))
        self.desk.present()
        # surfaces take half a second: after the outlines are on the screen
        qt.QTimer.singleShot(self.SURFACES_AFTER_MS, lambda: self.attempt(self._showSurfaces))

    def _showSurfaces(self) -> None:
        if self.desk.view is not None and self.desk.explanation is not None:
            self.desk.view.show_surfaces(True)

    def _refreshLater(self) -> None:
        self._refreshing = False
        self.refresh()

    def refresh(self) -> None:
        """Bring every section to the case as it is."""
        from MedRationaleLib.widgets import later

        if self.logic is None or not self.sections:
            return
        self._showJob()
        for section in self.sections:
            section.refresh()
        selection = None if self.desk.case is None else self.desk.case.selection
        shown = (self.desk.view, self.desk.explanation, selection)
        if shown != self._shown:
            self._shown = shown
            later(lambda: self.attempt(self._showEvidence))  # the findings are on the screen before the map is made
            self.desk.jump()
        elif self._mapIsDue and not self.desk.busy:
            later(lambda: self.attempt(self._showEvidence))  # the views stay where the reader has scrolled meanwhile

    def _showEvidence(self) -> None:
        self._mapIsDue = not self.evidence.show()

    def _showJob(self) -> None:
        job, ui = self.desk.job, self.ui
        busy = self.desk.busy
        ui.cancelButton.setEnabled(busy)
        ui.explainButton.setEnabled(not busy)
        ui.progressBar.setVisible(busy)
        if job is None:
            ui.stageLabel.setText("")
            return
        ui.progressBar.setValue(round(100 * job.share))
        ui.stageLabel.setText(job.stage if busy else "")
        if job.state == "failed" and job is not self._failed:
            self._failed = job
            self.say(job.message, wrong=True)

    def say(self, text: str, *, wrong: bool = False) -> None:
        """A message at the top of the panel; empty takes it away."""
        ground, letters = ("#5b1a1f", "#ffe1e3") if wrong else ("#20405f", "#e2eefa")
        self.ui.messageLabel.setStyleSheet(f"QLabel {{ background: {ground}; color: {letters}; padding: 4px; }}")
        self.ui.messageLabel.setText(text)
        self.ui.messageLabel.setVisible(bool(text))

    @contextlib.contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """For what is done in Slicer's own process and takes a moment."""
        self.ui.stageLabel.setText(text)
        qt.QApplication.setOverrideCursor(qt.QCursor(qt.Qt.WaitCursor))
        try:
            yield
        finally:
            qt.QApplication.restoreOverrideCursor()
            self.ui.stageLabel.setText("")

    def scratch(self) -> Path:
        """A private folder for pictures on their way to the screen."""
        if self._scratch is None:
            self._scratch = Path(tempfile.mkdtemp(prefix="medrationale-panel-"))
        return self._scratch

    def attempt(self, call: Callable[[], Any]) -> Any:
        """Do something that a person asked for; what goes wrong is said in the panel, never in a box that blocks."""
        if self._gone:
            return None
        try:
            return call()
        except (ValueError, KeyError, OSError, RuntimeError, ImportError) as error:
            self.say(str(error) or type(error).__name__, wrong=True)
        except Exception as error:
            text = _("Unexpected: {kind}. The Python console shows where.").format(kind=type(error).__name__)
            self.say(text, wrong=True)
            # where it happened, without the message: that may quote a patient's data
            logging.error(
                "MedRationale: %s\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__))
            )
        return None


class MedRationaleLogic(ScriptedLoadableModuleLogic):
    """The road without any widget, for the Python console and for scripts; usable with `--no-main-window`.

    logic = slicer.util.getModuleLogic("MedRationale")
    result = logic.explain(t2wNode, adcNode, hbvNode)     # a Result: explanation, case, segmentation, nodes
    logic.explainFiles("t2w.nii.gz", "adc.nii.gz", "hbv.nii.gz", "out")
    logic.explainBatch("folder of studies", "out")
    """

    def __init__(self) -> None:
        ScriptedLoadableModuleLogic.__init__(self)
        from MedRationaleLogic.mrml.desk import Desk

        self.desk = Desk(slicer.mrmlScene)

    def version(self) -> str:
        from MedRationaleLogic import __version__

        return __version__

    def requirePackages(self) -> None:
        """Whether what the network needs can be found; nothing is imported.

        Raises:
            RuntimeError: this Slicer is too old, or a package is missing; the message says what to do.
        """
        from MedRationaleLib import install

        problem = slicerProblem(runningSlicer())
        if problem:
            raise RuntimeError(problem)
        missing = install.missingNames()
        if missing:
            raise RuntimeError(
                _("Missing: {names}. Install them under 'Model and device > Install packages'.").format(
                    names=", ".join(missing)
                )
            )

    def explain(
        self, t2w=None, adc=None, hbv=None, *, psa: float | None = None, bundle: str | None = None,
        device: str = "auto", inProcess: bool = False, confirmed: frozenset[str] = frozenset(),
    ) -> Any:  # fmt: skip
        """Explain a study given by volume nodes and show it in the scene. Slicer waits until it is done.

        Args:
            t2w, adc, hbv: vtkMRMLScalarVolumeNode; at most two may be None.
            psa: ng/ml.
            bundle, device: see `Desk`.
            inProcess: run the network in this process instead of a child.
            confirmed: keys of `NodeQuestion`s that you answer with yes.

        Returns:
            a `Result` with `explanation`, `case`, `segmentation`, `nodes`.

        Raises:
            RuntimeError: this Slicer is too old or a package is missing.
            NodeError: a node cannot be used, or has to be confirmed (NodeQuestion); the message names it.
            DeskError: the network failed; the message says why.
        """
        from MedRationaleLib.result import Result

        self.requirePackages()
        self.desk.configure(bundle=bundle, device=device, in_process=inProcess)
        self.desk.open(t2w, adc, hbv, psa=psa, confirmed=confirmed)
        self.desk.explain()
        self.desk.wait()
        self.desk.save()
        return Result(self.desk.explanation, self.desk.case, self.desk.view.segmentation, self.desk.own_nodes())

    def explainFiles(self, t2w, adc, hbv, output, *, psa: float | None = None, bundle=None, device="auto") -> str:
        """Explain a study given by its files and write the result into a folder; the scene is not touched.

        Args:
            t2w, adc, hbv: for each sequence a file (NIfTI, MHA, NRRD) or a DICOM folder; at most two may be None.
            output: the folder for report.html, explanation.json, masks and evidence maps; made if it is not there.
            psa: ng/ml.
            bundle, device: see `Desk`.

        Returns:
            The path of the report.

        Raises:
            RuntimeError: this Slicer is too old or a package is missing.
            StudyError: a file cannot be used; the message names it and what was expected.
        """
        problem = slicerProblem(runningSlicer())
        if problem:
            raise RuntimeError(problem)
        from MedRationaleLogic.imaging.study import read_study

        # Read first: a wrong path is told at once, before PyTorch is loaded.
        study = read_study(t2w=t2w, adc=adc, hbv=hbv, psa=psa)
        self.requirePackages()
        from MedRationaleLogic.export import write_results

        with self._explainer(bundle, device) as explainer:
            explanation, _reader = explainer.open(study)
            return str(write_results(explanation, Path(output)))

    def explainBatch(self, source, output, *, bundle=None, device="auto", progress=None) -> Any:
        """Explain a cohort: a folder of study folders, or a CSV or TSV table with columns among case, study, t2w, adc,
        hbv, psa. Started again it goes on; a study that fails is listed in failures.csv and stops nothing.

        Args:
            source, output: see :func:`MedRationaleLogic.batch.run`.
            bundle, device: see `Desk`.
            progress: called with (share, text); by default the text is shown in Slicer's status bar.

        Returns:
            a BatchSummary: what was done, passed over and failed, and the path of summary.csv.
        """
        self.requirePackages()
        from MedRationaleLogic import batch

        def show(share: float, text: str) -> None:
            slicer.util.showStatusMessage(f"{share:.0%} {text}")
            slicer.app.processEvents()

        with self._explainer(bundle, device) as explainer:
            return batch.run(source, output, explainer=explainer, progress=progress or show)

    @contextlib.contextmanager
    def _explainer(self, bundle: str | None, device: str) -> Iterator[Any]:
        """A child process of its own, ended afterwards."""
        from MedRationaleLogic.inference import worker

        explainer = worker.RemoteExplainer(bundle=bundle, device=device)
        try:
            yield explainer
        finally:
            explainer.close()


class MedRationaleTest(ScriptedLoadableModuleTest):
    """Runs inside Slicer: by ctest, or by Reload and Test. Testing/slicer clicks through the panel."""

    def setUp(self) -> None:
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:
        for test in (
            self.test_versions, self.test_missing_file_is_named, self.test_nothing_to_explain,
            self.test_wrong_node_is_named, self.test_sample_is_explained_and_removed,
        ):  # fmt: skip
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

    def test_wrong_node_is_named(self) -> None:
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "nothing in it")
        with self.assertRaisesRegex(Exception, "nothing in it"):
            MedRationaleLogic().desk.open(t2w=node)

    def test_sample_is_explained_and_removed(self) -> None:
        """The whole road on the sample study, where the packages are installed."""
        from MedRationaleLib import install, sample_data

        if install.missingNames():
            self.delayDisplay(f"Passed over: {', '.join(install.missingNames())} not installed")
            return
        logic = MedRationaleLogic()
        try:
            nodes = logic.desk.load_folder(sample_data.sampleFolder())
            before = slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode")
            result = logic.explain(**nodes)
            segmentation = result.segmentation.GetSegmentation()
            self.assertEqual(segmentation.GetNumberOfSegments(), 3 + len(result.explanation.lesions))
            self.assertTrue(result.explanation.zones.array.any())
            logic.desk.view.show_evidence(next(iter(result.explanation.evidence)))
            logic.desk.close()
            self.assertEqual(slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode"), before)
        finally:
            logic.desk.shut_down()
