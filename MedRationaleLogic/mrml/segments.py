"""The case's masks as one segmentation: gland, PZ, TZ and the suspicious regions, named and coded, as outlines."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import slicer
import vtk
from numpy.typing import NDArray

from MedRationaleLogic.export.palette import OUTLINE_COLOURS
from MedRationaleLogic.imaging.measure import PZ, TZ
from MedRationaleLogic.imaging.volume import Volume
from MedRationaleLogic.inference.explanation import Explanation, Lesion
from MedRationaleLogic.mrml.geometry import ijk_to_ras, oriented_image, world_volume
from MedRationaleLogic.mrml.parts import OWNER, find, mark
from MedRationaleLogic.mrml.terminology import Part, entry, term

NAME: Final = "MedRationale"
PART: Final = "segmentation"
_LABELMAP: Final = "Binary labelmap"
_SURFACE: Final = "Closed surface"
_REGION: Final = re.compile(r"region_(\d+)")
_DIMMED: Final = 0.45
"""Opacity of the other regions' outlines while one is selected."""

Colour = tuple[float, float, float]


def region_id(number: int) -> str:
    """The segment ID of a region."""
    return f"region_{number}"


@dataclass(frozen=True, eq=False)
class _Wanted:
    """A segment as it should be; ``source`` is the object that its mask follows from."""

    id: str
    name: str
    part: Part
    mask: Volume
    source: Volume
    code: str
    colour: Colour


class Segments:
    """The segmentation of one case scene; keeps no node, only what it wrote last."""

    def __init__(self, scene: Any, owner: str) -> None:
        self._scene, self._owner = scene, owner
        self._written: dict[str, Volume] = {}
        self._node_id = ""

    def node(self) -> Any:
        """The segmentation node, or None."""
        return find(self._scene, self._owner, PART)

    def update(self, explanation: Explanation, reference: Any, *, discard_edits: bool = False) -> Any:
        """Make the segments what the explanation says; a segment whose mask the case did not change is left alone.

        Args:
            explanation: of the case.
            reference: the volume node of the explanation's frame, or None where it is gone.
            discard_edits: also write segments anew that only the user has changed.
        """
        node = self.node()
        if node is None:
            node = self._made()
        elif node.GetID() != self._node_id:
            # found, not made: a scene that was opened again. Its segments are as they were left, edits included
            self._written = {id_: source for id_, source in self._sources(explanation).items() if _has(node, id_)}
        self._node_id = node.GetID()
        _set_reference(node, explanation.frame, reference)
        wanted = list(_wanted(explanation, {} if discard_edits else self._written, node))
        # some logic may have made the display node before us, in its own looks
        if node.GetDisplayNode() is None or node.GetDisplayNode().GetAttribute(OWNER) != self._owner:
            self._dress(node, wanted)
        changed = False
        for one in wanted:
            changed |= self._write(node, one, anew=discard_edits)
        names = {one.id for one in wanted}
        for segment_id in _ids(node):
            if _REGION.fullmatch(segment_id) and segment_id not in names:
                node.GetSegmentation().RemoveSegment(segment_id)
                self._written.pop(segment_id, None)
        if changed and node.GetSegmentation().ContainsRepresentation(_SURFACE):
            node.CreateClosedSurfaceRepresentation()
        return node

    def _made(self) -> Any:
        node = mark(self._scene.AddNewNodeByClass("vtkMRMLSegmentationNode", NAME), self._owner, PART)
        node.GetSegmentation().SetSourceRepresentationName(_LABELMAP)
        self._written.clear()
        return node

    def _dress(self, node: Any, wanted: Iterable[_Wanted]) -> None:
        """How all of it looks at first, also when the user has deleted the display node."""
        node.CreateDefaultDisplayNodes()
        display = mark(node.GetDisplayNode(), self._owner, f"{PART} display")
        display.SetPreferredDisplayRepresentationName2D(_LABELMAP)
        # lines only: a filled region hides what the reader has to judge
        display.SetVisibility2DFill(False)
        display.SetVisibility2DOutline(True)
        display.SetSliceIntersectionThickness(2)
        for one in wanted:
            if _has(node, one.id):
                _first_look(display, one)

    def _sources(self, explanation: Explanation) -> dict[str, Volume]:
        zones = dict.fromkeys(("gland", "pz", "tz"), explanation.zones)
        return zones | {region_id(lesion.number): lesion.mask for lesion in explanation.lesions}

    def _write(self, node: Any, one: _Wanted, *, anew: bool) -> bool:
        """Whether voxels were written."""
        segmentation, segment = node.GetSegmentation(), node.GetSegmentation().GetSegment(one.id)
        write = anew or segment is None or self._written.get(one.id) is not one.source
        if segment is None:
            segment = slicer.vtkSegment()
            segment.SetNameAutoGenerated(False)
            segment.SetColorAutoGenerated(False)
            segment.AddRepresentation(_LABELMAP, oriented_image(one.mask))
            _describe(segment, one)
            segmentation.AddSegment(segment, one.id)
            _first_look(node.GetDisplayNode(), one)
        else:
            _describe(segment, one)
            if write and not one.mask.array.any():
                segmentation.ClearSegment(one.id)
            elif write:
                # Slicer's own way in: it knows what to do where the Segment Editor has put segments into one layer
                image = oriented_image(one.mask)
                slicer.vtkSlicerSegmentationsModuleLogic.SetBinaryLabelmapToSegment(image, node, one.id)
        self._written[one.id] = one.source
        return write

    def select(self, number: int | None) -> None:
        """Let one region stand out; None: all alike."""
        node = self.node()
        display = node.GetDisplayNode() if node is not None else None
        if display is None:
            return
        for segment_id in _ids(node):
            found = _REGION.fullmatch(segment_id)
            if found:
                dimmed = number is not None and int(found[1]) != number
                display.SetSegmentOpacity2DOutline(segment_id, _DIMMED if dimmed else 1.0)

    def show_surfaces(self, shown: bool) -> None:
        """Gland and regions in 3D views; making the surfaces takes a moment."""
        node = self.node()
        if node is None:
            return
        if shown:
            node.CreateClosedSurfaceRepresentation()
        elif node.GetSegmentation().ContainsRepresentation(_SURFACE):
            node.RemoveClosedSurfaceRepresentation()

    def edited(self, explanation: Explanation) -> dict[int, Volume]:
        """Masks of the regions whose segment is no longer the case's mask.

        Returns:
            By region number: bool on the frame's grid where the segment's voxels lie on it, else on the segment's own
            grid. Empty ones included; a deleted segment is not.
        """
        node = self.node()
        changed: dict[int, Volume] = {}
        for lesion in explanation.lesions if node is not None else ():
            drawn = self._mask(node, region_id(lesion.number), explanation.frame)
            if drawn is None:
                continue
            same_grid = drawn.geometry == lesion.mask.geometry
            seen = drawn if same_grid else drawn.resample(lesion.mask.geometry, nearest=True)
            if not np.array_equal(seen.array, lesion.mask.array):
                changed[lesion.number] = drawn
        return changed

    def drawn(self, explanation: Explanation) -> dict[str, Volume]:
        """Segments that the user has added, not empty ones: segment ID -> mask, on a grid as in :meth:`edited`."""
        node = self.node()
        own = {"gland", "pz", "tz"}
        ids = [i for i in _ids(node) if i not in own and not _REGION.fullmatch(i)] if node is not None else []
        masks = {i: self._mask(node, i, explanation.frame) for i in ids}
        return {i: mask for i, mask in masks.items() if mask is not None and mask.array.any()}

    def _mask(self, node: Any, segment_id: str, frame: Volume) -> Volume | None:
        """A segment as bool, in the world; None when there is none."""
        segment = node.GetSegmentation().GetSegment(segment_id)
        if segment is None:
            return None
        image = slicer.vtkOrientedImageData()
        empty = frame.with_array(np.zeros(frame.geometry.shape, bool), segment.GetName())
        if not node.GetBinaryLabelmapRepresentation(segment_id, image) or image.GetNumberOfPoints() == 0:
            return empty
        matrix = vtk.vtkMatrix4x4()
        image.GetImageToWorldMatrix(matrix)
        found = world_volume(image, matrix, node.GetParentTransformNode(), segment.GetName(), nearest=True)
        found = found.with_array(found.array != 0)
        on_frame = _on_lattice(found, empty)
        return found if on_frame is None else on_frame


def _wanted(explanation: Explanation, written: Mapping[str, Volume], node: Any) -> Iterator[_Wanted]:
    zones = explanation.zones
    masks: dict[str, NDArray[np.bool_]] = {}
    if any(written.get(id_) is not zones or not _has(node, id_) for id_ in ("gland", "pz", "tz")):
        masks = {"gland": zones.array > 0, "pz": zones.array == PZ, "tz": zones.array == TZ}
    names: dict[str, tuple[Part, str]] = {
        "gland": ("gland", "Prostate"), "pz": ("pz", "Peripheral zone"), "tz": ("tz", "Transition zone"),
    }  # fmt: skip
    for id_, (part, name) in names.items():
        mask = zones.with_array(masks[id_]) if masks else zones
        yield _Wanted(id_, name, part, mask, zones, entry(part), term(part).colour)
    for lesion in explanation.lesions:
        colour = _rgb(OUTLINE_COLOURS[lesion.category])
        code = entry("region", lesion.rationale.zone)
        name = region_name(lesion)
        yield _Wanted(region_id(lesion.number), name, "region", lesion.mask, lesion.mask, code, colour)


def region_name(lesion: Lesion) -> str:
    """What a region is called in the scene."""
    return f"Region {lesion.number}"


def region_colour(lesion: Lesion) -> Colour:
    """The colour of a region's category, for lines on dark images."""
    return _rgb(OUTLINE_COLOURS[lesion.category])


def _describe(segment: Any, one: _Wanted) -> None:
    """Name, code and colour; only what differs, since every change redraws the views."""
    if segment.GetName() != one.name:
        segment.SetName(one.name)
    if segment.GetTerminology() != one.code:
        segment.SetTerminology(one.code)
    if not np.allclose(segment.GetColor(), one.colour, atol=1e-3):
        segment.SetColor(*one.colour)


def _first_look(display: Any, one: _Wanted) -> None:
    """How a new segment is shown; later it is the user's choice."""
    if display is None:
        return
    display.SetSegmentOpacity2DOutline(one.id, 1.0 if one.part == "region" else 0.7)
    # the border of the PZ is drawn already, by gland and TZ; surfaces of zones would hide the regions
    display.SetSegmentVisibility(one.id, one.part != "pz")
    display.SetSegmentVisibility3D(one.id, one.part in ("gland", "region"))
    display.SetSegmentOpacity3D(one.id, 0.25 if one.part == "gland" else 1.0)


def _set_reference(node: Any, frame: Volume, reference: Any) -> None:
    """The frame's grid as reference geometry (DICOM SEG and the Segment Editor need it)."""
    role = node.GetReferenceImageGeometryReferenceRole()
    if reference is not None and reference.GetImageData() is not None:
        if node.GetNodeReferenceID(role) != reference.GetID():
            node.SetReferenceImageGeometryParameterFromVolumeNode(reference)
        return
    if not node.GetSegmentation().GetConversionParameter("Reference image geometry"):
        z, y, x = frame.geometry.shape
        image = slicer.vtkOrientedImageData()
        image.SetExtent(0, x - 1, 0, y - 1, 0, z - 1)
        image.SetImageToWorldMatrix(ijk_to_ras(frame.geometry))
        text = slicer.vtkSegmentationConverter.SerializeImageGeometry(image)
        node.GetSegmentation().SetConversionParameter("Reference image geometry", text)


def _on_lattice(found: Volume, empty: Volume) -> Volume | None:
    """A mask on the frame's grid when its voxels lie on voxels of the frame (cropped, flipped, axes swapped)."""
    step = empty.geometry.inverse_affine @ found.geometry.affine
    whole = np.rint(step)
    if np.abs(step[:3, :3] - whole[:3, :3]).max() > 1e-3 / max(found.geometry.shape) + 1e-6:
        return None
    if np.abs(step[:3, 3] - whole[:3, 3]).max() > 0.02 or abs(round(float(np.linalg.det(whole[:3, :3])))) != 1:
        return None
    index = (np.argwhere(found.array) @ whole[:3, :3].T + whole[:3, 3]).astype(int)
    index = index[np.all((index >= 0) & (index < empty.geometry.shape), axis=1)]
    array = np.zeros(empty.geometry.shape, bool)
    array[tuple(index.T)] = True
    return empty.with_array(array)


def _ids(node: Any) -> list[str]:
    segmentation = node.GetSegmentation()
    return [segmentation.GetNthSegmentID(i) for i in range(segmentation.GetNumberOfSegments())]


def _has(node: Any, segment_id: str) -> bool:
    return node.GetSegmentation().GetSegment(segment_id) is not None


def _rgb(colour: str) -> Colour:
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red, green, blue
