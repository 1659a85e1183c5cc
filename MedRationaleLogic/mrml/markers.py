"""Where the regions are, and how they were measured: a point at each centroid, a line for each greatest diameter."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike

from MedRationaleLogic.inference.explanation import Explanation, Lesion
from MedRationaleLogic.mrml.geometry import ras
from MedRationaleLogic.mrml.parts import NOTICE, OWNER, PART, find, mark, owned
from MedRationaleLogic.mrml.segments import region_colour, region_name

POINTS: Final = "markers"
_LINE: Final = re.compile(r"line (\d+)")


class Markers:
    """The markers of one case scene. They are locked: the case's numbers do not follow a dragged point."""

    def __init__(self, scene: Any, owner: str) -> None:
        self._scene, self._owner = scene, owner

    def points(self) -> Any:
        """The fiducial node, or None."""
        return find(self._scene, self._owner, POINTS)

    def line(self, number: int) -> Any:
        """The line of a region's diameter, or None."""
        return find(self._scene, self._owner, f"line {number}")

    def update(self, explanation: Explanation) -> list[Any]:
        """Make the markers what the explanation says; returns their nodes."""
        nodes = [self._update_points(explanation)]
        numbers = set()
        for lesion in explanation.lesions:
            nodes.append(self._update_line(lesion))
            numbers.add(lesion.number)
        for node in list(owned(self._scene, self._owner)):
            found = _LINE.fullmatch(node.GetAttribute(PART) or "")
            if found and int(found[1]) not in numbers:
                remove_with_displays(self._scene, node)
        return nodes

    def _update_points(self, explanation: Explanation) -> Any:
        node = self.points()
        if node is None:
            node = self._made("vtkMRMLMarkupsFiducialNode", "Suspicious regions (research use only)", POINTS)
        self._display(node)
        labels = [str(lesion.number) for lesion in explanation.lesions]
        _place(node, [lesion.measures.centroid for lesion in explanation.lesions], labels)
        for index, lesion in enumerate(explanation.lesions):
            words = f"{region_name(lesion)}: PI-RADS {lesion.category}. Research use only"
            if node.GetNthControlPointDescription(index) != words:
                node.SetNthControlPointDescription(index, words)
        return node

    def _update_line(self, lesion: Lesion) -> Any:
        part = f"line {lesion.number}"
        node = find(self._scene, self._owner, part)
        if node is None:
            node = self._made("vtkMRMLMarkupsLineNode", "", part)
        measured = lesion.measures.in_plane
        name = f"{region_name(lesion)} diameter ({lesion.measures.measured_on})"
        if node.GetName() != name:
            node.SetName(name)
        _place(node, measured.ends, ["", f"{measured.mm:.1f} mm"])
        colour = region_colour(lesion)
        display = self._display(node)
        display.SetColor(*colour)
        display.SetSelectedColor(*colour)
        return node

    def _made(self, cls: str, name: str, part: str) -> Any:
        node = mark(self._scene.AddNewNodeByClass(cls, name or "diameter"), self._owner, part)
        node.SetLocked(True)
        return node

    def _display(self, node: Any) -> Any:
        """A node's display node; how it looks at first, also when the user has deleted it."""
        node.CreateDefaultDisplayNodes()
        # some logic may have made it before us, in its own looks
        if node.GetDisplayNode().GetAttribute(OWNER) != self._owner:
            display = mark(node.GetDisplayNode(), self._owner, f"{node.GetAttribute(PART)} display")
            display.SetGlyphTypeFromString("CrossDot2D")
            display.SetUseGlyphScale(True)
            display.SetGlyphScale(1.5)
            display.SetTextScale(3.0)
            display.SetSelectedColor(1.0, 1.0, 1.0)
            display.SetColor(1.0, 1.0, 1.0)
            display.SetOpacity(0.9)
            if node.IsA("vtkMRMLMarkupsLineNode"):
                display.SetVisibility(False)
                # the number of the report beside the line, in place of node name and a second rounding
                display.SetPropertiesLabelVisibility(False)
                display.SetPointLabelsVisibility(True)
        return node.GetDisplayNode()

    def select(self, number: int | None) -> None:
        """Show the diameter of one region only: lines over every region would hide what they measure."""
        for node in owned(self._scene, self._owner):
            found = _LINE.fullmatch(node.GetAttribute(PART) or "")
            display = node.GetDisplayNode() if found else None
            if found and display is not None:
                shown = int(found[1]) == number
                if bool(display.GetVisibility()) != shown:
                    display.SetVisibility(shown)


def _place(node: Any, points: Sequence[ArrayLike], labels: Sequence[str]) -> None:
    """Control points at patient points (LPS, mm); nothing happens where they are there already."""
    there = [(node.GetNthControlPointPositionWorld(i), node.GetNthControlPointLabel(i)) for i in range(_count(node))]
    wanted = [ras(point) for point in points]
    if len(there) == len(wanted) and all(
        np.allclose(at, point, atol=1e-4) and label == said
        for (at, label), point, said in zip(there, wanted, labels, strict=True)
    ):
        return
    modified = node.StartModify()
    locked = node.GetLocked()
    node.SetLocked(False)
    node.RemoveAllControlPoints()
    for (x, y, z), label in zip(wanted, labels, strict=True):
        index = node.AddControlPointWorld([float(x), float(y), float(z)])
        node.SetNthControlPointLabel(index, label)  # an empty one is given a name by the other way in
        node.SetNthControlPointLocked(index, True)
    node.SetLocked(locked)
    node.EndModify(modified)
    node.SetDescription(NOTICE)  # adding a control point has emptied it


def _count(node: Any) -> int:
    return int(node.GetNumberOfControlPoints())


def remove_with_displays(scene: Any, node: Any) -> None:
    """Remove a node together with its display and storage nodes."""
    attached = [node.GetNthDisplayNode(i) for i in range(node.GetNumberOfDisplayNodes())] if _displayable(node) else []
    if node.IsA("vtkMRMLStorableNode"):
        attached += [node.GetNthStorageNode(i) for i in range(node.GetNumberOfStorageNodes())]
    for one in (*attached, node):
        if one is not None and scene.IsNodePresent(one):
            scene.RemoveNode(one)


def _displayable(node: Any) -> bool:
    return bool(node.IsA("vtkMRMLDisplayableNode"))
