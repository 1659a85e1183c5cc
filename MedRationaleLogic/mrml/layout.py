"""The reading layout: T2W with evidence, ADC and high-b side by side, linked, and gland with regions in 3D.

Views are found by their layout names, through the scene alone; who shows them (Slicer's layout manager, another face)
registers :data:`LAYOUT_XML` under :data:`LAYOUT_ID` first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from MedRationaleLogic.imaging.acquisition import ROLES, Role
from MedRationaleLogic.mrml.evidence import OPACITY
from MedRationaleLogic.mrml.node_facts import of_class

LAYOUT_ID: Final = 21_090
"""Slicer's own layouts end below 600; extensions choose freely above."""
SLICE_VIEWS: Final[Mapping[Role, str]] = {"t2w": "MR_T2W", "adc": "MR_ADC", "hbv": "MR_HBV"}
VIEW_3D: Final = "MR_3D"
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
    reach = max(bounds[1] - bounds[0], bounds[3] - bounds[2])
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
