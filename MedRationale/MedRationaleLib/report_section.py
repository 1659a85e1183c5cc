"""The section Report: the page, the text for a RIS, files, the sector map, the signature."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from MedRationaleLib.widgets import onSignal


class ReportSection:
    """What leaves the house, and who signed it."""

    def __init__(self, panel: Any) -> None:
        self.panel, self.ui = panel, panel.ui
        self.window: Any = None
        self.mapOf: Any = None
        self.pageOf: Any = None
        ui = self.ui
        self.menu = qt.QMenu(ui.exportButton)
        for text, call in (
            (_("Results folder (report, JSON, NIfTI)..."), self.chooseResults), (_("Case folder..."), self.chooseCase),
            (_("Report page (HTML)..."), self.choosePage),
        ):  # fmt: skip
            action = self.menu.addAction(text)
            onSignal(action, "triggered(bool)", lambda *_args, call=call: panel.attempt(call))
        ui.exportButton.setMenu(self.menu)
        ui.reportBrowser.setVisible(False)
        ui.reportBrowser.setMinimumHeight(420)
        for button, call in (
            (ui.showReportButton, self.show), (ui.copyTextButton, self.copy), (ui.signOffButton, self.signOff),
            (ui.reopenButton, self.reopen),
        ):  # fmt: skip
            onSignal(button, "clicked(bool)", lambda *_args, call=call: panel.attempt(call))

    def _explanation(self) -> Any:
        if self.panel.desk.explanation is None:
            raise ValueError(_("Nothing is explained yet; click Explain first."))
        return self.panel.desk.explanation

    # ----------------------------------------------------------------------------------------------------------- shown

    def html(self) -> str:
        """The report as one page; draws its pictures, which takes a second or two."""
        from MedRationaleLogic.export import render_report

        explanation = self._explanation()
        with self.panel.waiting(_("Drawing the report...")):
            return render_report(explanation)

    def show(self) -> None:
        """Show the page inside Slicer: in its web widget where Slicer has one, else as rich text in the panel."""
        self.panel.desk.perform(self._show, _("drawing the report"))

    def _show(self) -> None:
        page = self.html()
        self.pageOf = self.panel.desk.explanation
        if hasattr(slicer, "qSlicerWebWidget"):
            # a page of some megabytes is beyond setHtml's limit of 2 MB, so it goes by a file
            path = Path(self.panel.scratch()) / "report.html"
            path.write_text(page, encoding="utf-8")
            self.window = slicer.qSlicerWebWidget()
            self.window.setWindowTitle("MedRationale - research use only")
            self.window.resize(1100, 900)
            self.window.url = qt.QUrl.fromLocalFile(str(path)).toString()
            self.window.show()
        else:
            self.ui.reportBrowser.setHtml(page)
            self.ui.reportBrowser.setVisible(True)

    def copy(self) -> None:
        """The text for a RIS on the clipboard."""
        from MedRationaleLogic.export import ris_text

        qt.QApplication.clipboard().setText(ris_text(self._explanation()))
        self.panel.say(_("Copied: the report as text. Research use only."))

    # ----------------------------------------------------------------------------------------------------------- files

    def chooseResults(self) -> None:
        folder = qt.QFileDialog.getExistingDirectory(None, _("Empty folder for the results"))
        if folder:
            self.writeResults(folder)

    def writeResults(self, folder: Any) -> None:
        from MedRationaleLogic.export import write_results

        explanation = self._explanation()

        def write() -> None:
            with self.panel.waiting(_("Writing the results...")):
                write_results(explanation, Path(folder))
            self.panel.say(_("Written: {folder}").format(folder=folder))

        self.panel.desk.perform(write, _("writing the results"))

    def chooseCase(self) -> None:
        folder = qt.QFileDialog.getExistingDirectory(None, _("Empty folder for the case"))
        if folder:
            self.writeCase(folder)

    def writeCase(self, folder: Any) -> None:
        self._explanation()
        with self.panel.waiting(_("Writing the case...")):
            self.panel.desk.case.save(Path(folder))
        self.panel.say(_("Written: {folder}").format(folder=folder))

    def choosePage(self) -> None:
        answer = qt.QFileDialog.getSaveFileName(None, _("Report page"), "report.html", "HTML (*.html)")
        path = answer[0] if isinstance(answer, tuple) else answer
        if path:
            self.writePage(path)

    def writePage(self, path: Any) -> None:
        """Write the page beside its place and put it there whole."""
        self._explanation()
        target = Path(path)
        beside = target.with_name(f".{target.name}.new")

        def write() -> None:
            try:
                beside.write_text(self.html(), encoding="utf-8")
                beside.replace(target)
            finally:
                beside.unlink(missing_ok=True)
            self.panel.say(_("Written: {folder}").format(folder=target))

        self.panel.desk.perform(write, _("writing the report"))

    # ------------------------------------------------------------------------------------------------------- signature

    def signOff(self) -> None:
        self._explanation()
        self.panel.desk.case.sign_off(self.panel.reader())

    def reopen(self) -> None:
        answer = qt.QInputDialog.getText(None, _("Reopen"), _("Why is the signature taken back?"))
        reason = answer[0] if isinstance(answer, tuple) else answer
        if reason:
            self.panel.desk.case.reopen(self.panel.reader(), reason)

    def refresh(self) -> None:
        from MedRationaleLogic.export import words

        ui, desk = self.ui, self.panel.desk
        explained = desk.explanation is not None
        signed = None if desk.case is None else desk.case.signed_off
        for button in (ui.showReportButton, ui.copyTextButton, ui.exportButton):
            button.setEnabled(bool(explained and not desk.busy))
        ui.signOffButton.setEnabled(bool(explained and signed is None and not desk.busy))
        ui.reopenButton.setEnabled(signed is not None)
        ui.signedLabel.setText("" if signed is None else words.signed_words(signed))
        self._sectorMap(desk.explanation)
        if self.pageOf is not None and desk.explanation is not self.pageOf:
            self._putAway()

    def _putAway(self) -> None:
        """A page of what is no longer so, of this study or of another patient's, does not stay on the screen."""
        self.pageOf = None
        self.ui.reportBrowser.clear()
        self.ui.reportBrowser.setVisible(False)
        if self.window is not None:
            self.window.close()
            self.window = None
        (Path(self.panel.scratch()) / "report.html").unlink(missing_ok=True)

    def _sectorMap(self, explanation: Any) -> None:
        if explanation is self.mapOf:
            return
        self.mapOf = explanation
        if explanation is None or explanation.gland is None or not explanation.lesions:
            self.ui.sectorMapLabel.setPixmap(qt.QPixmap())
            return
        from MedRationaleLogic.export import explanation_map_svg

        path = Path(self.panel.scratch()) / "sectors.svg"
        path.write_text(explanation_map_svg(explanation), encoding="utf-8")
        picture = qt.QPixmap(str(path))
        path.unlink(missing_ok=True)
        if not picture.isNull():
            self.ui.sectorMapLabel.setPixmap(picture.scaledToWidth(500, qt.Qt.SmoothTransformation))
