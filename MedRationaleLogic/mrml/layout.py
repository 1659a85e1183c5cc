"""The reading layout: T2W with evidence, ADC and high-b side by side, linked, and gland with regions in 3D.

Views are found by their layout names, through the scene alone; who shows them (Slicer's layout manager, another face)
registers :data:`LAYOUT_XML` under :data:`LAYOUT_ID` first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from MedRationaleLogic.export.figures import grey_window
from MedRationaleLogic.export.shown import near_gland
from MedRationaleLogic.imaging.acquisition import ROLES, Role
from MedRationaleLogic.imaging.volume import Volume
from MedRationaleLogic.mrml.evidence import OPACITY
from MedRationaleLogic.mrml.geometry import ras
from MedRationaleLogic.mrml.node_facts import of_class

if TYPE_CHECKING:
    from MedRationaleLogic.inference.explanation import Explanation

LAYOUT_ID: Final = 21_090
"""Slicer's own layouts end below 600; extensions choose freely above."""
SLICE_VIEWS: Final[Mapping[Role, str]] = {"t2w": "MR_T2W", "adc": "MR_ADC", "hbv": "MR_HBV"}
VIEW_3D: Final = "MR_3D"
DISTANCE_MM: Final = 210.0
"""From the camera of the 3D view to the gland."""
SURROUNDINGS_MM: Final = 20.0
"""Around the gland when views zoom in on it."""
_LOOKS: Final[Mapping[Role, tuple[str, str]]] = {
    "t2w": ("T2W", "#C8CCD4"), "adc": ("ADC", "#8FB4D9"), "hbv": ("high-b", "#C9B37E"),
}  # fmt: skip


def _slice_view(role: Role) -> str:
    label, colour = _LOOKS[role]
    return (
        f'<item><view class="vtkMRMLSliceNode" singletontag="{SLICE_VIEWS[role]}">'
        '<property name="orientation" action="default">Axial</property>'
        f'<property name="viewlabel" action="default">{label}</property>'
        f'<property name="viewcolor" action="default">{colour}</property>'
        "</view></item>"
    )


_THREE_D: Final = (
    f'<item><view class="vtkMRMLViewNode" singletontag="{VIEW_3D}">'
    '<property name="viewlabel" action="default">3D</property></view></item>'
)
LAYOUT_XML: Final = (
    '<layout type="vertical" split="true">'
    f'<item><layout type="horizontal" split="true">{_slice_view("t2w")}{_slice_view("adc")}</layout></item>'
    f'<item><layout type="horizontal" split="true">{_slice_view("hbv")}{_THREE_D}</layout></item>'
    "</layout>"
)
"""Two by two: T2W and ADC above, high-b and 3D below."""


def set_up_views(scene: Any, nodes: Mapping[Role, Any], evidence: Any = None, *, opacity: float = OPACITY) -> None:
    """Put each sequence into its view, in the planes of the first one there is, linked.

    A view whose sequence is absent is emptied. Views that the layout has not made yet are passed over: call this after
    the layout is shown.

    Args:
        scene: vtkMRMLScene.
        nodes: volume nodes by role.
        evidence: a volume to put over T2W (over the first sequence there is), or None to leave foregrounds empty.
        opacity: of the evidence, 0..1.
    """
    present = [role for role in ROLES if nodes.get(role) is not None]
    composites = {node.GetLayoutName(): node for node in of_class(scene, "vtkMRMLSliceCompositeNode")}
    slices = {node.GetLayoutName(): node for node in of_class(scene, "vtkMRMLSliceNode")}
    for role, view in SLICE_VIEWS.items():
        composite, slice_node = composites.get(view), slices.get(view)
        if composite is None or slice_node is None:
            continue
        # unlinked while it is filled: a linked view would pass its volumes on to the others
        composite.SetLinkedControl(False)
        volume = nodes.get(role)
        over = evidence if present and role == present[0] else None
        composite.SetBackgroundVolumeID(volume.GetID() if volume is not None else None)
        composite.SetForegroundVolumeID(over.GetID() if over is not None else None)
        composite.SetLabelVolumeID(None)
        composite.SetForegroundOpacity(opacity)
        if present:
            _align(slice_node, nodes[present[0]])
    for view in SLICE_VIEWS.values():
        if view in composites:
            composites[view].SetLinkedControl(True)


def zoom_to(scene: Any, zones: Volume) -> None:
    """Let the gland fill our slice views: its middle in the middle, 20 mm of surroundings; nothing without a gland.

    Args:
        scene: vtkMRMLScene.
        zones: label map, 0 outside the gland.
    """
    index = np.argwhere(zones.array > 0)
    if not index.size:
        return
    corners = np.array(np.meshgrid(*zip(index.min(0), index.max(0), strict=True), indexing="ij")).reshape(3, -1).T
    points = ras(zones.geometry.to_patient(corners))
    _look_at(scene, [float(v) for v in (points.max(0) + points.min(0)) / 2])
    reach = float((points.max(0) - points.min(0))[:2].max()) + 2 * SURROUNDINGS_MM
    middle = [float(v) for v in (points.max(0) + points.min(0)) / 2]
    for node in of_class(scene, "vtkMRMLSliceNode"):
        if node.GetLayoutName() in SLICE_VIEWS.values():
            node.JumpSliceByCentering(*middle)
            _show(node, reach)


def _look_at(scene: Any, point: list[float]) -> None:
    """The 3D view from the front and a little above, on a point (R, A, S; mm), without box and letters."""
    for view in of_class(scene, "vtkMRMLViewNode"):
        if view.GetLayoutName() == VIEW_3D:
            view.SetBoxVisible(False)
            view.SetAxisLabelsVisible(False)
            view.SetUseDepthPeeling(True)  # the gland is translucent
            view.SetBackgroundColor(0.07, 0.07, 0.09)
            view.SetBackgroundColor2(0.07, 0.07, 0.09)
    for camera in of_class(scene, "vtkMRMLCameraNode"):
        if camera.GetLayoutName() == VIEW_3D:
            camera.SetFocalPoint(*point)
            camera.SetPosition(point[0], point[1] + DISTANCE_MM, point[2] + DISTANCE_MM / 4)
            camera.SetViewUp(0.0, 0.0, 1.0)
            # ResetClippingRange() goes by what a renderer has drawn, and surfaces come only later
            camera.GetCamera().SetClippingRange(DISTANCE_MM / 20, DISTANCE_MM * 5)


def set_windows(nodes: Mapping[Role, Any], explanation: Explanation) -> None:
    """Grey levels that suit the gland, where nobody has set any: a coil's bright rim else drowns a high-b image.

    Args:
        nodes: volume nodes by role; one whose window is not automatic is left alone.
        explanation: where the gland is, and the images in the study's units.
    """
    near = explanation.zones.with_array(near_gland(explanation))
    gland = explanation.zones.with_array(explanation.zones.array > 0)
    for role, node in nodes.items():
        display, volume = node.GetDisplayNode(), explanation.study.volume(role)
        if display is None or volume is None or not display.GetAutoWindowLevel():
            continue
        # the fat around the gland is brighter than anything in it on T2W, and would leave the gland in the dark
        where = gland if role == "t2w" and gland.array.any() else near
        inside = volume.array[where.resample(volume.geometry, nearest=True).array]
        if not inside.size:
            continue
        low, high = grey_window(role, inside.astype(np.float32))
        scale = _units(node, volume)
        display.SetAutoWindowLevel(False)
        display.SetWindowLevelMinMax(low / scale, high / scale)


def _units(node: Any, volume: Volume) -> float:
    """By what the study's values are larger than the node's own (an ADC map may be stored in mm2/s)."""
    highest = node.GetImageData().GetScalarRange()[1]
    most = float(volume.array.max())
    return most / highest if highest > 0 and most > 0 else 1.0


def _align(slice_node: Any, volume: Any) -> None:
    """Slices as they were acquired, and fitted to the volume: an oblique grid cut straight would blur across slices."""
    if slice_node.HasSliceOrientationPreset("Axial"):
        slice_node.SetOrientation("Axial")
    slice_node.RotateToVolumePlane(volume)
    _fit(slice_node, volume)


def _fit(slice_node: Any, volume: Any) -> None:
    bounds = [0.0] * 6
    volume.GetRASBounds(bounds)
    middle = [(bounds[2 * axis] + bounds[2 * axis + 1]) / 2 for axis in range(3)]
    slice_node.JumpSliceByCentering(*middle)
    _show(slice_node, max(bounds[1] - bounds[0], bounds[3] - bounds[2]))


def _show(slice_node: Any, reach: float) -> None:
    """Zoom until this many millimetres fit the shorter side of a view."""
    width, height, depth = slice_node.GetFieldOfView()
    shorter = min(width, height)
    if reach > 0 and shorter > 0:
        slice_node.SetFieldOfView(width * reach / shorter, height * reach / shorter, depth)


def register(layout_node: Any) -> None:
    """Make the layout known to a vtkMRMLLayoutNode; :meth:`SetViewArrangement` with :data:`LAYOUT_ID` shows it."""
    if layout_node.IsLayoutDescription(LAYOUT_ID):
        layout_node.SetLayoutDescription(LAYOUT_ID, LAYOUT_XML)
    else:
        layout_node.AddLayoutDescription(LAYOUT_ID, LAYOUT_XML)
