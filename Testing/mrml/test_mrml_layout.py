# ruff: noqa: E402 - the imports need slicer-core, which may be missing
"""The reading layout: its description, and what goes into which view."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core is missing (extra 'viewer')")

from MedRationaleLogic.mrml import layout
from MedRationaleLogic.mrml.geometry import node_from_volume
from Testing.study_factory import direction, grid, make_study


def views(scene: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The slice and composite nodes of the layout, as a layout manager makes them."""
    planes, composites = {}, {}
    for name in layout.SLICE_VIEWS.values():
        plane = scene.CreateNodeByClass("vtkMRMLSliceNode")
        plane.UnRegister(None)
        plane.SetSingletonTag(name)
        plane.SetLayoutName(name)
        planes[name] = scene.AddNode(plane)
        composites[name] = scene.AddNode(slicer.vtkMRMLSliceCompositeNode())
        composites[name].SetLayoutName(name)
    return planes, composites


def test_the_description_names_the_views() -> None:
    tree = ElementTree.fromstring(layout.LAYOUT_XML)
    found = {view.get("singletontag"): view.get("class") for view in tree.iter("view")}
    assert found == {
        "MR_T2W": "vtkMRMLSliceNode", "MR_ADC": "vtkMRMLSliceNode", "MR_HBV": "vtkMRMLSliceNode",
        "MR_3D": "vtkMRMLViewNode",
    }  # fmt: skip


def test_a_layout_node_takes_it(scene: Any) -> None:
    node = scene.AddNewNodeByClass("vtkMRMLLayoutNode")
    layout.register(node)
    layout.register(node)
    assert node.GetLayoutDescription(layout.LAYOUT_ID) == layout.LAYOUT_XML


def test_each_sequence_in_its_view_in_the_planes_of_t2w(scene: Any) -> None:
    tilted = (12.0, -7.0, 5.0)
    study = make_study(t2w=grid((12, 96, 96), (3.0, 1.0, 1.0), tilted))
    nodes = {role: node_from_volume(scene, study.volume(role), role) for role in study.roles}
    planes, composites = views(scene)
    layout.set_up_views(scene, nodes, nodes["hbv"], opacity=0.4)
    for role, name in layout.SLICE_VIEWS.items():
        assert composites[name].GetBackgroundVolumeID() == nodes[role].GetID()
        assert composites[name].GetLinkedControl()
        matrix = planes[name].GetSliceToRAS()
        normal = np.array([matrix.GetElement(i, 2) for i in range(3)])
        slices = np.asarray(direction(tilted)).reshape(3, 3)[:, 2] * (-1, -1, 1)
        assert abs(normal @ slices) == pytest.approx(1, abs=1e-6)
    assert composites["MR_T2W"].GetForegroundVolumeID() == nodes["hbv"].GetID()
    assert composites["MR_T2W"].GetForegroundOpacity() == pytest.approx(0.4)
    assert composites["MR_ADC"].GetForegroundVolumeID() is None


def test_views_of_absent_sequences_are_emptied(scene: Any) -> None:
    study = make_study(("adc", "hbv"))
    nodes = {role: node_from_volume(scene, study.volume(role), role) for role in study.roles}
    _, composites = views(scene)
    composites["MR_T2W"].SetBackgroundVolumeID("somewhere else")
    layout.set_up_views(scene, nodes, nodes["hbv"])
    assert composites["MR_T2W"].GetBackgroundVolumeID() is None
    assert composites["MR_ADC"].GetForegroundVolumeID() == nodes["hbv"].GetID()


def test_without_views_nothing_happens(scene: Any) -> None:
    layout.set_up_views(scene, {})
