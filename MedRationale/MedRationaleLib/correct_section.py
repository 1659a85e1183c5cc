"""The section Correct: a reader's own outlines, missed regions, deletions. Everything is computed anew, the original
is kept by the case."""

from __future__ import annotations

from typing import Any

import slicer
from slicer.i18n import tr as _

from MedRationaleLib.widgets import later, onSignal


class CorrectSection:
    """What a reader does to regions."""

    def __init__(self, panel: Any) -> None:
        self.panel, self.ui = panel, panel.ui
        self.placing: tuple[Any, int] | None = None
        self.drawing = False
        ui = self.ui
        for button, call in (
            (ui.explainHereButton, self.placePoint), (ui.explainCrosshairButton, self.atCrosshair),
            (ui.editOutlineButton, self.editOutline), (ui.drawRegionButton, self.drawRegion),
            (ui.applyOutlineButton, self.applyOutlines), (ui.discardOutlineButton, self.discardOutlines),
            (ui.deleteRegionButton, self.delete), (ui.mergeButton, self.merge), (ui.splitButton, self.split),
        ):  # fmt: skip
            onSignal(button, "clicked(bool)", lambda *_args, call=call: panel.attempt(call))

    # ---------------------------------------------------------------------------------------------------- explain here

    def placePoint(self) -> None:
        """Let the reader click a point; `explainAt` is called with it."""
        self.stopPlacing()
        self.panel.reader()
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", _("Explain here"))
        node.SetSaveWithScene(False)
        node.CreateDefaultDisplayNodes()
        tag = node.AddObserver(slicer.vtkMRMLMarkupsNode.PointPositionDefinedEvent, self._placed)
        self.placing = (node, tag)
        logic = slicer.modules.markups.logic()
        logic.SetActiveList(node)
        logic.StartPlaceMode(False)

    def _placed(self, node: Any, _event: Any) -> None:
        ras = [0.0, 0.0, 0.0]
        node.GetNthControlPointPositionWorld(node.GetNumberOfControlPoints() - 1, ras)
        # the node must not go away within its own event
        later(lambda: self.panel.attempt(lambda: self._use(ras)))

    def _use(self, ras: list[float]) -> None:
        self.stopPlacing()
        self.explainAt(ras)

    def stopPlacing(self) -> None:
        """Take the point that was being placed out of the scene."""
        if self.placing is not None:
            node, tag = self.placing
            self.placing = None
            node.RemoveObserver(tag)
            if slicer.mrmlScene.IsNodePresent(node):
                slicer.mrmlScene.RemoveNode(node)

    def atCrosshair(self) -> None:
        node = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
        if node is None:
            raise ValueError(_("There is no crosshair in this scene; use 'Explain here' and click a point."))
        self.explainAt(list(node.GetCrosshairRAS()))

    def explainAt(self, ras: list[float]) -> None:
        """Add the region around a point (R, A, S in mm) under the reader's name."""
        from MedRationaleLogic.mrml.geometry import lps

        case, reader = self._case(), self.panel.reader()
        point = lps(ras)
        self.panel.desk.perform(lambda: case.explain_here(point, reader), _("explaining this place"))

    # -------------------------------------------------------------------------------------------------------- outlines

    def editOutline(self) -> None:
        """Open the Segment Editor on the selected region."""
        number = self._case().selection.lesion
        if number is None:
            raise ValueError(_("Select the region whose outline you want to change."))
        from MedRationaleLogic.mrml.segments import region_id

        self._openEditor(region_id(number))

    def drawRegion(self) -> None:
        """Open the Segment Editor; a segment that the reader adds there becomes a region by 'Apply the outlines'."""
        self._case()
        self._openEditor(None)

    def _openEditor(self, segmentId: str | None) -> None:
        self.panel.reader()
        segmentation, nodes = self.panel.desk.view.segmentation, self.panel.desk.nodes
        if segmentation is None or not nodes:
            raise ValueError(_("The segmentation or the images are no longer in the scene."))
        self.drawing = True
        slicer.util.selectModule("SegmentEditor")
        editor = getattr(slicer.util.getModuleWidget("SegmentEditor"), "editor", None)
        if editor is not None:
            editor.setSegmentationNode(segmentation)
            editor.setSourceVolumeNode(nodes.get("t2w") or next(iter(nodes.values())))
            if segmentId is not None:
                editor.setCurrentSegmentID(segmentId)

    def edited(self) -> bool:
        """Whether the scene holds outlines that no longer are the case's, or new ones."""
        view = self.panel.desk.view
        explained = view is not None and self.panel.desk.explanation is not None
        return bool(explained and (view.edited_masks() or view.drawn_masks()))

    def applyOutlines(self) -> None:
        """Give every changed outline to the case: a new segment becomes a new region, an emptied one is deleted."""
        case, reader, view = self._case(), self.panel.reader(), self.panel.desk.view
        if not self.edited():
            raise ValueError(_("No outline differs from the case's."))

        def give() -> None:
            for number, mask in view.edited_masks().items():
                if mask.array.any():
                    case.edit_region(number, mask, reader)
                else:
                    case.delete(number, reader)
            for segmentId, mask in view.drawn_masks().items():
                if mask.array.any():
                    case.add_region(mask, reader)
                view.remove_segment(segmentId)
            self.drawing = False

        self.panel.desk.perform(give, _("reading the new outlines"))

    def discardOutlines(self) -> None:
        self.drawing = False
        view = self.panel.desk.view
        for segmentId in view.drawn_masks():
            view.remove_segment(segmentId)
        view.update(discard_edits=True)
        self.panel.refresh()

    # --------------------------------------------------------------------------------------------------------- regions

    def delete(self) -> None:
        case, reader = self._case(), self.panel.reader()
        chosen = self.panel.findings.selected()
        if not chosen:
            raise ValueError(_("Select the region that is to be taken out."))
        for number in chosen:
            case.delete(number, reader)

    def merge(self) -> None:
        case, reader = self._case(), self.panel.reader()
        chosen = self.panel.findings.selected()
        if len(chosen) < 2:
            raise ValueError(_("Select two regions or more in the table (Ctrl+click), then merge them."))
        self.panel.desk.perform(lambda: case.merge(chosen, reader), _("merging"))

    def split(self) -> None:
        case, reader = self._case(), self.panel.reader()
        number = case.selection.lesion
        if number is None:
            raise ValueError(_("Select the region that is to be split."))
        self.panel.desk.perform(lambda: case.split(number, reader), _("splitting"))

    def _case(self) -> Any:
        case = self.panel.desk.case
        if case is None or case.explanation is None:
            raise ValueError(_("Nothing is explained yet; click Explain first."))
        return case

    def refresh(self) -> None:
        desk = self.panel.desk
        explained = desk.explanation is not None
        free = explained and desk.case.signed_off is None and not desk.busy
        chosen = explained and desk.case.selection.lesion is not None
        ui = self.ui
        for button in (ui.explainHereButton, ui.explainCrosshairButton, ui.drawRegionButton):
            button.setEnabled(bool(free))
        for button in (ui.editOutlineButton, ui.deleteRegionButton, ui.splitButton):
            button.setEnabled(bool(free and chosen))
        ui.mergeButton.setEnabled(bool(free and len(self.panel.findings.numbers) > 1))
        changed = bool(free and self.edited())
        ui.applyOutlineButton.setEnabled(changed)
        ui.discardOutlineButton.setEnabled(changed)
