"""Evidence of one concept at a time, as a volume on the frame's grid in our colours, transparent where there is none.

One volume node serves all concepts: its voxels are written in place, so that a click shows in the next frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import slicer
from vtk.util.numpy_support import vtk_to_numpy

from MedRationaleLogic.export.files import evidence_bytes
from MedRationaleLogic.export.palette import evidence_table
from MedRationaleLogic.export.shown import near_gland
from MedRationaleLogic.export.words import CONCEPT_GROUPS, concept_phrase
from MedRationaleLogic.imaging.acquisition import Role
from MedRationaleLogic.imaging.volume import Volume
from MedRationaleLogic.inference.explanation import Explanation
from MedRationaleLogic.mrml.geometry import update_node
from MedRationaleLogic.mrml.node_facts import of_class
from MedRationaleLogic.mrml.parts import CONCEPT, find, mark
from MedRationaleLogic.pirads import lexicon

VOLUME: Final = "evidence"
COLOURS: Final = "evidence colours"
COLOURS_NAME: Final = "MedRationale evidence"
_ENTRIES: Final = 256
_GRID: Final = "MedRationale.grid"
_LOOK: Final = "MedRationale.look"
OPACITY: Final = 0.5
"""Opacity that evidence starts with."""


class Evidence:
    """The evidence volume of one case scene."""

    def __init__(self, scene: Any, owner: str) -> None:
        self._scene, self._owner = scene, owner
        self._opacity = OPACITY
        self._threshold: float | None = None
        self._holds: tuple[object, str, str, object] | None = None

    def node(self) -> Any:
        """The evidence volume, or None before :meth:`show`."""
        return find(self._scene, self._owner, VOLUME)

    @property
    def concept(self) -> str | None:
        """The concept that the volume holds, shown or hidden; None without a volume."""
        node = self.node()
        return None if node is None else node.GetAttribute(CONCEPT)

    @property
    def shown(self) -> bool:
        """Whether some slice view has the evidence in the foreground."""
        node = self.node()
        return node is not None and any(c.GetForegroundVolumeID() == node.GetID() for c in _composites(self._scene))

    def show(
        self, concept_id: str, explanation: Explanation, nodes: Mapping[Role, Any], *, everywhere: bool = True
    ) -> Any:  # fmt: skip
        """Write a concept's evidence into the volume and put it over the images of the concept's sequence.

        Raises:
            KeyError: no such map.
        """
        if self._threshold is None:
            self._threshold = float(explanation.evidence.threshold)
        node = self.node()
        near = None if everywhere else near_gland(explanation)
        if node is None or not self._up_to_date(node, explanation, concept_id, near):
            seen = evidence_bytes(explanation, concept_id)
            if near is not None:
                seen = seen.with_array(seen.array * near)
            if node is None:
                node = mark(self._scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", VOLUME), self._owner, VOLUME)
            _write(node, seen)
            self._holds = (explanation.evidence, concept_id, node.GetID(), near)
        sequence = lexicon.load().concept(concept_id).sequences[0]
        node.SetName(f"Evidence: {CONCEPT_GROUPS.get(sequence, sequence)}, {concept_phrase(concept_id)}")
        node.SetAttribute(CONCEPT, concept_id)
        self._dress(node)
        self._put_over(node, sequence, nodes)
        self._show_legend(node)
        return node

    def hide(self) -> None:
        """Take the evidence out of all views; the volume stays for the next concept."""
        node = self.node()
        if node is None:
            return
        for composite in _composites(self._scene):
            if composite.GetForegroundVolumeID() == node.GetID():
                composite.SetForegroundVolumeID(None)
        legend = self._legend(node)
        if legend is not None:
            legend.SetVisibility(False)

    def set(self, opacity: float | None = None, threshold: float | None = None) -> None:
        """Opacity (0..1), and the evidence (0..1) below which nothing is shown; None: as it is.

        Raises:
            ValueError: not between 0 and 1.
        """
        for what, value in (("opacity", opacity), ("threshold", threshold)):
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"the evidence's {what} lies between 0 and 1, got {value}")
        self._opacity = self._opacity if opacity is None else float(opacity)
        self._threshold = self._threshold if threshold is None else float(threshold)
        node = self.node()
        if node is None:
            return
        self._dress(node)
        for composite in _composites(self._scene):
            if composite.GetForegroundVolumeID() == node.GetID():
                composite.SetForegroundOpacity(self._opacity)

    # ----------------------------------------------------------------------------------------------------------- inside

    def _up_to_date(self, node: Any, explanation: Explanation, concept_id: str, near: object) -> bool:
        held = self._holds
        if held is None or held[1:3] != (concept_id, node.GetID()):
            return False
        # by identity: maps and masks compare by all their voxels
        return held[0] is explanation.evidence and held[3] is near

    def _dress(self, node: Any) -> None:
        """Colours, fixed window and threshold; also after the user has deleted one of them."""
        threshold = 0.5 if self._threshold is None else self._threshold
        if node.GetDisplayNode() is None:
            node.CreateDefaultDisplayNodes()
        display = mark(node.GetDisplayNode(), self._owner, f"{VOLUME} display")
        colours = self._colours(threshold)
        modified = display.StartModify()
        if display.GetColorNodeID() != colours.GetID():
            display.SetAndObserveColorNodeID(colours.GetID())
        display.SetAutoWindowLevel(False)
        display.SetWindowLevelMinMax(0.0, 1.0)
        display.SetAutoThreshold(False)
        display.SetThreshold(max(threshold, 1 / 255), 1.0)  # at a threshold of 0, nothing is still nothing
        display.SetApplyThreshold(True)
        display.SetInterpolate(True)
        display.EndModify(modified)

    def _show_legend(self, node: Any) -> None:
        legend = self._legend(node) or self._made_legend(node)
        if legend is None:
            return
        if legend.GetColorNodeID() != node.GetDisplayNode().GetColorNodeID():
            legend.SetAndObserveColorNodeID(node.GetDisplayNode().GetColorNodeID())
        legend.SetVisibility(True)
        legend.Modified()  # views look only then whether they show the volume

    def _colours(self, threshold: float) -> Any:
        node = find(self._scene, self._owner, COLOURS)
        if node is None:
            node = mark(self._scene.AddNewNodeByClass("vtkMRMLColorTableNode", COLOURS_NAME), self._owner, COLOURS)
            node.SetTypeToUser()
            node.SetNumberOfColors(_ENTRIES)
            node.SetHideFromEditors(False)
        key = f"{threshold:.4f}"
        if node.GetAttribute(_LOOK) != key:
            modified = node.StartModify()
            for index, (red, green, blue) in enumerate(evidence_table(_ENTRIES)):
                value = index / (_ENTRIES - 1)
                # all or nothing: slice views make anything between opaque, the opacity is the foreground layer's
                node.SetColor(index, f"{value:.2f}", red, green, blue, float(value >= threshold))
            node.GetLookupTable().SetRange(0, _ENTRIES - 1)
            node.SetAttribute(_LOOK, key)
            node.EndModify(modified)
        return node

    def _legend(self, node: Any) -> Any:
        return find(self._scene, self._owner, f"{VOLUME} legend") if node is not None else None

    def _made_legend(self, node: Any) -> Any:
        logic = getattr(slicer, "vtkSlicerColorLogic", None)
        if logic is None or not self._scene.IsNodeClassRegistered("vtkMRMLColorLegendDisplayNode"):
            return None  # the Colors module is not there
        legend = logic.AddDefaultColorLegendDisplayNode(node)
        if legend is None:
            return None
        mark(legend, self._owner, f"{VOLUME} legend")
        legend.SetTitleText("Evidence")
        legend.SetLabelFormat("%.1f")
        legend.SetNumberOfLabels(3)
        legend.SetSize(0.05, 0.35)
        return legend

    def _put_over(self, node: Any, sequence: str, nodes: Mapping[Role, Any]) -> None:
        """In the views that show the concept's sequence; where none does, in those of the first sequence there is."""
        composites = _composites(self._scene)
        own = {role: volume.GetID() for role, volume in nodes.items() if volume is not None}
        order = [own[r] for r in dict.fromkeys([sequence, *own]) if r in own]
        shown = [c.GetBackgroundVolumeID() for c in composites]
        under = next((volume for volume in order if volume in shown), None)
        for composite in composites:
            if under is not None and composite.GetBackgroundVolumeID() == under:
                composite.SetForegroundVolumeID(node.GetID())
                composite.SetForegroundOpacity(self._opacity)
            elif composite.GetForegroundVolumeID() == node.GetID():
                composite.SetForegroundVolumeID(None)


def _write(node: Any, seen: Volume) -> None:
    """Evidence in 256 steps into a node's float voxels, in place where they are there."""
    array, grid = _voxels(node), str([round(v, 4) for v in seen.geometry.affine.ravel().tolist()])
    if array is None or array.shape != seen.array.shape or node.GetAttribute(_GRID) != grid:
        update_node(node, seen.with_array(np.zeros(seen.array.shape, np.float32)))
        node.SetAttribute(_GRID, grid)
        array = _voxels(node)
    np.multiply(seen.array, np.float32(1 / 255), out=array)
    node.GetImageData().GetPointData().GetScalars().Modified()
    node.GetImageData().Modified()
    node.Modified()


def _composites(scene: Any) -> list[Any]:
    return list(of_class(scene, "vtkMRMLSliceCompositeNode"))


def _voxels(node: Any) -> Any:
    """The node's voxels, (z, y, x), to write into; None where there are none of our type."""
    image = node.GetImageData()
    scalars = image.GetPointData().GetScalars() if image is not None else None
    if scalars is None:
        return None
    array = vtk_to_numpy(scalars)
    return array.reshape(image.GetDimensions()[::-1]) if array.dtype == np.float32 else None
