# ruff: noqa: E402 - the imports need slicer-core, which may be missing
"""A rendered slice: outlines and evidence are painted where the explanation says, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

slicer = pytest.importorskip("slicer", reason="slicer-core is missing (extra 'viewer')")

from MedRationaleLogic.export.palette import OUTLINE_COLOURS, evidence_table
from MedRationaleLogic.mrml import layout
from MedRationaleLogic.mrml.case_scene import CaseScene
from MedRationaleLogic.mrml.geometry import node_from_volume, ras
from Testing.explanation_factory import IDENTITY, PZ_LEFT, flipped, oblique
from Testing.mrml.off_screen import Application
from Testing.unit.case.fake_explainer import opened

SIZE = 400


@pytest.fixture(params=[IDENTITY, oblique(), flipped()], ids=["straight", "oblique", "flipped"])
def reading(request: pytest.FixtureRequest) -> Iterator[tuple[Application, CaseScene]]:
    """A case in the reading layout, its T2W grid straight, oblique or left-handed, at the first region's centre."""
    with Application(SIZE) as application:
        case = opened(regions=(PZ_LEFT,), options={"direction": tuple(np.ravel(request.param))})
        scene = application.scene
        nodes = {role: node_from_volume(scene, case.study.volume(role), role) for role in case.study.roles}
        application.add_views(*layout.SLICE_VIEWS.values())
        shown = CaseScene(scene, case, nodes)
        shown.update()
        layout.set_up_views(scene, nodes)
        mask = case.explanation.lesion(1).mask
        shown.jump(mask.geometry.to_patient(np.argwhere(mask.array)).mean(0))
        shown.markers.GetDisplayNode().SetVisibility(False)
        yield application, shown


def filled(application: Application, view: str, shown: CaseScene, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels of a view that lie in a mask, by asking for the voxel behind every pixel: no code of the views."""
    import vtk

    node = next(n for n in all_slices(shown.scene) if n.GetLayoutName() == view)
    to_ras = vtk.vtkMatrix4x4()
    to_ras.DeepCopy(node.GetXYToRAS())
    matrix = np.array([[to_ras.GetElement(i, j) for j in range(4)] for i in range(4)])
    rows, columns = np.mgrid[0:SIZE, 0:SIZE]
    xy = np.stack([columns, SIZE - 1 - rows, 0 * rows, np.ones_like(rows)], -1).astype(float)
    points = (xy @ matrix.T)[..., :3] * (-1, -1, 1)
    geometry = shown.case.explanation.frame.geometry
    index = np.rint(geometry.to_index(points)).astype(int)
    inside = np.all((index >= 0) & (index < geometry.shape), axis=-1)
    out = np.zeros((SIZE, SIZE), bool)
    out[inside] = mask[tuple(index[inside].T)]
    return out


def all_slices(scene: Any) -> list[Any]:
    found = scene.GetNodesByClass("vtkMRMLSliceNode")
    found.UnRegister(found)
    return [found.GetItemAsObject(i) for i in range(found.GetNumberOfItems())]


def near(picture: NDArray[np.uint8], colour: str, tolerance: int = 40) -> NDArray[np.bool_]:
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return np.asarray(np.abs(picture.astype(int) - wanted).max(-1) <= tolerance)


@pytest.mark.parametrize("view", ["MR_T2W", "MR_ADC"])
def test_the_outline_runs_along_the_region(reading: tuple[Application, CaseScene], view: str) -> None:
    application, shown = reading
    lesion = shown.case.explanation.lesion(1)
    painted = near(application.picture(view), OUTLINE_COLOURS[lesion.category])
    inside = filled(application, view, shown, lesion.mask.array)
    assert inside.sum() > 300, "the region must be in sight"
    square = np.ones((3, 3), bool)
    border = ndimage.binary_dilation(inside, square, 4) & ~ndimage.binary_erosion(inside, square, 4)
    assert painted.sum() > 50
    assert painted[~border].sum() == 0, "the region's colour lies off its border"
    # and all around it: every direction from the middle meets the line
    row, column = ndimage.center_of_mass(inside)
    rows, columns = np.nonzero(painted)
    angles = np.degrees(np.arctan2(rows - row, columns - column))
    assert np.histogram(angles, bins=16, range=(-180, 180))[0].min() > 0
    # the region's middle, projected by the view itself, is where we think it is
    centre = lesion.mask.geometry.to_patient(np.argwhere(lesion.mask.array)).mean(0)
    at = application.pixel(view, ras(centre))
    assert at[2] == pytest.approx(0, abs=1e-3)
    assert inside[round(at[0]), round(at[1])]


def test_evidence_lies_on_the_region_and_lets_the_image_through(reading: tuple[Application, CaseScene]) -> None:
    application, shown = reading
    explanation = shown.case.explanation
    shown.segmentation.GetDisplayNode().SetVisibility(False)
    plain = application.picture("MR_T2W").astype(int)
    others = application.picture("MR_ADC")
    shown.show_evidence("t2.circ")
    legend = next(
        n for i in range(shown.evidence_node.GetNumberOfDisplayNodes())
        if (n := shown.evidence_node.GetNthDisplayNode(i)).IsA("vtkMRMLColorLegendDisplayNode")
    )  # fmt: skip
    legend.SetVisibility(False)
    over = application.picture("MR_T2W").astype(int)
    changed = np.abs(over - plain).max(-1) > 12
    values = explanation.evidence["t2.circ"].array
    threshold = explanation.evidence.threshold
    sure = filled(application, "MR_T2W", shown, values > threshold + 0.1)
    never = ~filled(application, "MR_T2W", shown, ndimage.binary_dilation(values > threshold - 0.1))
    assert sure.sum() > 200
    assert changed[ndimage.binary_erosion(sure, iterations=2)].mean() > 0.98
    assert changed[never].sum() == 0, "evidence is painted where there is none"
    # half the colour of the evidence's value, half the image
    row, column = (int(v) for v in np.argwhere(ndimage.binary_erosion(sure, iterations=3)).mean(0))
    index = np.rint(explanation.frame.geometry.to_index(explanation.lesion(1).measures.centroid)).astype(int)
    colour = 255 * np.array(evidence_table()[round(float(values[tuple(index)]) * 255)])
    assert np.abs(over[row, column] - (0.5 * colour + 0.5 * plain[row, column])).max() < 25
    assert np.array_equal(application.picture("MR_ADC"), others), "T2W's evidence shows over ADC"
    shown.set_evidence(opacity=1.0)
    assert np.abs(application.picture("MR_T2W")[row, column] - colour).max() < 25
    shown.hide_evidence()
    assert np.array_equal(application.picture("MR_T2W"), plain)


def test_looks_are_ours_where_a_logic_made_the_display_nodes(reading: tuple[Application, CaseScene]) -> None:
    """An application's logics give new nodes display nodes of their own looks."""
    _, shown = reading
    line = shown.line(1).GetDisplayNode()
    assert not line.GetVisibility()
    assert not line.GetPropertiesLabelVisibility()
    assert line.GetGlyphTypeAsString() == "CrossDot2D"
    assert not shown.segmentation.GetDisplayNode().GetVisibility2DFill()


def test_the_legend_shows_beside_evidence_only(reading: tuple[Application, CaseScene]) -> None:
    """All of our colours stand at the right edge of the view that shows evidence, and of no other."""
    application, shown = reading
    views = {"MR_T2W": "t2.circ", "MR_ADC": "adc.marked"}

    def coloured(view: str) -> bool:
        edge = application.picture(view)[:, int(0.85 * SIZE) :].astype(int)
        wanted = [255 * np.array(evidence_table()[i]) for i in (10, 128, 250)]
        return all(bool((np.abs(edge - colour).max(-1) < 20).any()) for colour in wanted)

    assert not any(coloured(view) for view in views)
    for view, concept in views.items():
        shown.show_evidence(concept)
        assert {name for name in views if coloured(name)} == {view}
    shown.hide_evidence()
    assert not any(coloured(view) for view in views)


def test_nothing_is_left_in_the_picture_after_remove(reading: tuple[Application, CaseScene]) -> None:
    application, shown = reading
    shown.segmentation.GetDisplayNode().SetVisibility(False)
    bare = application.picture("MR_T2W")
    shown.segmentation.GetDisplayNode().SetVisibility(True)
    shown.select(1)
    shown.show_evidence("t2.circ")
    assert not np.array_equal(application.picture("MR_T2W"), bare)
    shown.remove()
    assert np.array_equal(application.picture("MR_T2W"), bare)


@pytest.mark.parametrize("regions", [(), (PZ_LEFT,)], ids=["no region", "a region"])
def test_the_gland_is_seen_in_3d(regions: tuple[Any, ...]) -> None:
    """Its surface comes after the camera is set, into a view that was drawn from far away while it was empty."""
    with Application(200) as application:
        scene = application.scene
        application.add_views(layout.VIEW_3D)
        cameras = scene.GetNodesByClass("vtkMRMLCameraNode")
        cameras.UnRegister(cameras)
        camera = cameras.GetItemAsObject(0).GetCamera()
        application.picture(layout.VIEW_3D)
        camera.SetClippingRange(288.5, 784.4)
        case = opened(regions=regions)
        shown = CaseScene(scene, case, {})
        shown.update()
        layout.zoom_to(scene, case.explanation.zones)
        if not regions:  # nothing is there to draw yet, and a browser's view leaves the range at that
            nearest, farthest = camera.GetClippingRange()
            assert nearest < camera.GetDistance() - 60.0
            assert farthest > camera.GetDistance() + 60.0
        empty = application.picture(layout.VIEW_3D)
        shown.show_surfaces()
        painted = (np.abs(application.picture(layout.VIEW_3D).astype(int) - empty) > 20).any(-1)
        assert painted.mean() > 0.02
        # the gland's middle is the view's
        assert np.abs(np.argwhere(painted).mean(0) - 100).max() < 15
