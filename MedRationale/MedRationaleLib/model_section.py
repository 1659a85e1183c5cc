"""The section Model and device: which weights, where they run, what is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import qt
from slicer.i18n import tr as _

from MedRationaleLib.widgets import currentData, fillBox, onSignal

DEVICES = (("automatic", "auto"), ("CPU", "cpu"), ("CUDA", "cuda"))


class ModelSection:
    """Bundles, device, packages."""

    def __init__(self, panel: Any) -> None:
        self.panel, self.ui = panel, panel.ui
        ui = self.ui
        fillBox(ui.deviceBox, DEVICES, "auto")
        self.refreshBundles()
        onSignal(ui.bundleBox, "currentIndexChanged(int)", lambda *_args: panel.attempt(self.configure))
        onSignal(ui.deviceBox, "currentIndexChanged(int)", lambda *_args: panel.attempt(self.configure))
        onSignal(ui.inProcessCheckBox, "toggled(bool)", lambda *_args: panel.attempt(self.configure))
        for button, call in (
            (ui.installBundleButton, self.chooseBundle), (ui.clearBundleButton, self.clearBundle),
            (ui.checkInstallButton, self.check), (ui.installButton, self.install),
            (ui.installOfflineButton, self.chooseWheels),
        ):  # fmt: skip
            onSignal(button, "clicked(bool)", lambda *_args, call=call: panel.attempt(call))

    # --------------------------------------------------------------------------------------------------------- bundles

    def refreshBundles(self, current: str | None = None) -> None:
        """List the bundles that are there; without a single one the box says so."""
        from MedRationaleLogic.model import bundle

        names = list(dict.fromkeys(path.name for path in bundle.available()))
        entries = [(name, name) for name in names] or [(_("no model is installed"), None)]
        default = next((n for n in names if n.rpartition("-")[0] == bundle.DEFAULT), None)
        fillBox(self.ui.bundleBox, entries, current or default)

    def configure(self) -> None:
        """Use what is chosen from the next study on."""
        desk = self.panel.desk
        desk.configure(
            bundle=currentData(self.ui.bundleBox), device=currentData(self.ui.deviceBox),
            in_process=bool(self.ui.inProcessCheckBox.checked),
        )  # fmt: skip
        if desk.explanation is not None:
            self.panel.say(_("Takes effect with the next study: one case is read by one model."))

    def chooseBundle(self) -> None:
        answer = qt.QFileDialog.getOpenFileName(None, _("Model bundle"), "", "Bundle (*.zip)")
        path = answer[0] if isinstance(answer, tuple) else answer
        if path:
            self.installBundle(path)

    def installBundle(self, path: Any) -> None:
        from MedRationaleLogic.model import bundle

        made = bundle.install(Path(path))
        self.refreshBundles(f"{made.manifest.name}-{made.manifest.version}")
        self.configure()

    def clearBundle(self) -> None:
        from MedRationaleLogic.model import bundle

        name = currentData(self.ui.bundleBox)
        if name is None or not (bundle.user_folder() / name).is_dir():
            raise ValueError(_("This model came with the module; only installed ones can be cleared."))
        bundle.remove(name)
        self.refreshBundles()
        self.configure()

    # -------------------------------------------------------------------------------------------------------- packages

    def check(self) -> Any:
        """Say what is missing; PyTorch is tried in a child process."""
        from MedRationaleLib import install

        with self.panel.waiting(_("Looking at the packages...")):
            report = install.check()
        self.ui.installLabel.setText(report.text)
        return report

    def install(self, wheels: Path | None = None) -> None:
        from MedRationaleLib import install

        report = self.check()
        if report.complete:
            return
        with self.panel.waiting(_("Installing...")):
            install.install(report, self.panel.ask, wheels=wheels)
        self.check()

    def chooseWheels(self) -> None:
        folder = qt.QFileDialog.getExistingDirectory(None, _("Folder with the wheels"))
        if folder:
            self.install(Path(folder))

    def refresh(self) -> None:
        from MedRationaleLogic.inference.device import available_memory

        explanation = self.panel.desk.explanation
        free = available_memory()
        lines = [] if free is None else [_("{free:.1f} GB of memory are free").format(free=free / 2**30)]
        if explanation is not None:
            from MedRationaleLogic.export import words

            lines += words.provenance_words(explanation)
        self.ui.deviceLabel.setText("\n".join(lines))
