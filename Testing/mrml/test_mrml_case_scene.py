# ruff: noqa: E402 - the imports need slicer-core, which may be missing
"""What a case shows in a scene: made, brought up to date, edited by hand, deleted by hand, removed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core is missing (extra 'viewer')")
vtk = pytest.importorskip("vtk")
from vtk.util.numpy_support import vtk_to_numpy

from MedRationaleLogic.case import Case
from MedRationaleLogic.export.palette import OUTLINE_COLOURS
from MedRationaleLogic.imaging.volume import Volume
from MedRationaleLogic.mrml import layout, terminology
from MedRationaleLogic.mrml.case_scene import CaseScene
from MedRationaleLogic.mrml.geometry import NodeError, lps, node_from_volume, oriented_image, volume_from_node
from Testing.explanation_factory import IDENTITY, flipped, make_explanation, oblique
from Testing.unit.case.fake_explainer import FakeExplainer, opened

CONCEPT = "t2.circ"


def everything(scene: Any) -> set[str]:
    return {scene.GetNthNode(i).GetID() for i in range(scene.GetNumberOfNodes())}


def items(scene: Any) -> set[int]:
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    found = vtk.vtkIdList()
    tree.GetItemChildren(tree.GetSceneItemID(), found, True)
    return {found.GetId(i) for i in range(found.GetNumberOfIds())}


def loaded(scene: Any, case: Case) -> dict[Any, Any]:
    return {role: node_from_volume(scene, case.study.volume(role), role) for role in case.study.roles}


@pytest.fixture
def shown(scene: Any) -> CaseScene:
    case = opened()
    made = CaseScene(scene, case, loaded(scene, case))
    made.update()
    return made


def segment_mask(node: Any, segment_id: str, like: Volume) -> np.ndarray:
    """A segment's voxels on a grid, found point by point, without any of our code."""
    image = slicer.vtkOrientedImageData()
    node.GetBinaryLabelmapRepresentation(segment_id, image)
    to_ras = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(to_ras)
    values = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(
        [image.GetExtent()[2 * a + 1] - image.GetExtent()[2 * a] + 1 for a in (2, 1, 0)]
    )
    out = np.zeros(like.array.shape, bool)
    for k, j, i in np.argwhere(values):
        e = image.GetExtent()
        r, a, s, _ = to_ras.MultiplyPoint((i + e[0], j + e[2], k + e[4], 1))
        out[tuple(np.rint(like.geometry.to_index((-r, -a, s))).astype(int))] = True
    return out


# ------------------------------------------------------------------------------------------------------------- making


@pytest.mark.parametrize("direction", [IDENTITY, oblique(), flipped()], ids=["straight", "oblique", "flipped"])
def test_the_segments_are_the_masks(scene: Any, direction: Any) -> None:
    case = opened(options={"direction": tuple(np.ravel(direction))})
    shown = CaseScene(scene, case, loaded(scene, case))
    shown.update()
    node, explanation = shown.segmentation, case.explanation
    assert explanation is not None
    zones = explanation.zones
    expected = {"gland": zones.array > 0, "pz": zones.array == 1, "tz": zones.array == 2}
    expected |= {f"region_{x.number}": x.mask.array for x in explanation.lesions}
    assert set(node.GetSegmentation().GetSegmentIDs()) == set(expected)
    for segment_id, mask in expected.items():
        assert np.array_equal(segment_mask(node, segment_id, zones), mask), segment_id


def test_names_codes_and_colours(shown: CaseScene) -> None:
    segmentation = shown.segmentation.GetSegmentation()
    names = {i: segmentation.GetSegment(i).GetName() for i in segmentation.GetSegmentIDs()}
    assert names == {
        "gland": "Prostate", "pz": "Peripheral zone", "tz": "Transition zone",
        "region_1": "Region 1", "region_2": "Region 2",
    }  # fmt: skip
    assert segmentation.GetSegment("pz").GetTerminology() == terminology.entry("pz")
    assert segmentation.GetSegment("region_1").GetTerminology() == terminology.entry("region", "PZ")
    assert segmentation.GetSegment("region_2").GetTerminology() == terminology.entry("region", "TZ")
    category = shown.case.explanation.lesion(1).category
    wanted = [int(OUTLINE_COLOURS[category][i : i + 2], 16) / 255 for i in (1, 3, 5)]
    assert segmentation.GetSegment("region_1").GetColor() == pytest.approx(wanted, abs=1e-3)


def test_the_reference_geometry_is_that_of_t2w(shown: CaseScene) -> None:
    node = shown.segmentation
    t2w = shown.nodes["t2w"]
    role = node.GetReferenceImageGeometryReferenceRole()
    assert node.GetNodeReference(role) is t2w
    image = slicer.vtkOrientedImageData()
    text = node.GetSegmentation().GetConversionParameter("Reference image geometry")
    slicer.vtkSegmentationConverter.DeserializeImageGeometry(text, image, False)
    assert image.GetDimensions() == t2w.GetImageData().GetDimensions()


def test_markers_lie_where_it_was_measured(shown: CaseScene) -> None:
    points = shown.markers
    for index, lesion in enumerate(shown.case.explanation.lesions):
        assert lps(points.GetNthControlPointPositionWorld(index)) == pytest.approx(lesion.measures.centroid, abs=1e-3)
        assert points.GetNthControlPointLabel(index) == str(lesion.number)
        assert "PI-RADS" in points.GetNthControlPointDescription(index)
        line = shown.line(lesion.number)
        ends = [lps(line.GetNthControlPointPositionWorld(i)) for i in (0, 1)]
        assert np.allclose(ends, lesion.measures.in_plane.ends, atol=1e-3)
        assert line.GetNthControlPointLabel(1) == f"{lesion.measures.in_plane.mm:.1f} mm"
        assert line.GetLocked()


def test_everything_stands_under_the_patient(scene: Any) -> None:
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    case = opened()
    nodes = loaded(scene, case)
    patient = tree.CreateSubjectItem(tree.GetSceneItemID(), "somebody")
    study = tree.CreateStudyItem(patient, "the examination")
    for node in nodes.values():
        tree.CreateItem(study, node)
    shown = CaseScene(scene, case, nodes)
    shown.update()
    shown.show_evidence(CONCEPT)
    shown.save()
    mine = shown.study_item
    assert tree.GetItemParent(mine) == patient
    assert tree.GetItemLevel(mine) == "Study"
    assert "research use only" in tree.GetItemName(mine)
    for node in (shown.segmentation, shown.markers, shown.line(1), shown.evidence_node, CaseScene.saved(scene)[0]):
        assert tree.GetItemParent(tree.GetItemByDataNode(node)) == mine
    shown.remove()
    assert tree.GetItemParent(tree.GetItemByDataNode(nodes["t2w"])) == study


def test_an_unexplained_case_shows_nothing(scene: Any) -> None:
    fake = FakeExplainer()
    case = Case.open(fake.study, fake)
    shown = CaseScene(scene, case, loaded(scene, case))
    before = everything(scene)
    shown.update()
    assert everything(scene) == before
    with pytest.raises(NodeError, match="not explained yet"):
        shown.show_evidence(CONCEPT)
    assert shown.edited_masks() == {}


# ------------------------------------------------------------------------------------------------------- up to date


def test_the_scene_follows_the_case(shown: CaseScene) -> None:
    case, node = shown.case, shown.segmentation
    case.delete(2, "Dr A")
    shown.update()
    assert not node.GetSegmentation().GetSegment("region_2")
    assert shown.line(2) is None
    assert shown.markers.GetNumberOfControlPoints() == 1
    case.undo()
    shown.update()
    assert np.array_equal(segment_mask(node, "region_2", case.explanation.zones), case.explanation.lesion(2).mask.array)
    assert shown.line(2) is not None
    category = case.explanation.lesion(1).category
    before = node.GetSegmentation().GetSegment("region_1").GetColor()
    case.override(1, "epe", "definite", "Dr A")
    assert case.explanation.lesion(1).category != category
    shown.update()
    assert node.GetSegmentation().GetSegment("region_1").GetColor() != before


def test_bringing_up_to_date_changes_nothing_when_nothing_changed(shown: CaseScene) -> None:
    nodes = [shown.segmentation, shown.markers, shown.line(1)]
    before = [node.GetMTime() for node in nodes], everything(shown.scene), items(shown.scene)
    shown.update()
    assert ([node.GetMTime() for node in nodes], everything(shown.scene), items(shown.scene)) == before


def test_what_was_deleted_by_hand_comes_back(shown: CaseScene) -> None:
    scene = shown.scene
    shown.show_evidence(CONCEPT)
    shown.save()
    for victim in (
        lambda: shown.segmentation, lambda: shown.markers, lambda: shown.line(2), lambda: shown.evidence_node,
        lambda: shown.segmentation.GetDisplayNode(), lambda: shown.evidence_node.GetDisplayNode(),
        lambda: shown.evidence_node.GetDisplayNode().GetColorNode(), lambda: shown.markers.GetDisplayNode(),
        lambda: CaseScene.saved(scene)[0],
    ):  # fmt: skip
        scene.RemoveNode(victim())
        shown.select(1)
        shown.hide_evidence()
        shown.edited_masks()
        shown.set_evidence(opacity=0.5, threshold=0.4)
        shown.update()
        shown.show_evidence(CONCEPT)
        shown.save()
    assert shown.segmentation.GetSegmentation().GetNumberOfSegments() == 5
    assert shown.segmentation.GetDisplayNode() is not None
    assert shown.markers.GetNumberOfControlPoints() == 2
    assert shown.markers.GetDisplayNode() is not None
    shown.remove()
    assert everything(scene).isdisjoint(x for x in everything(scene) if "Segmentation" in x)


def test_deleting_the_images_or_the_scene_never_raises(shown: CaseScene) -> None:
    shown.show_evidence(CONCEPT)
    shown.scene.RemoveNode(shown.nodes["t2w"])
    shown.update()
    shown.show_evidence(CONCEPT)
    assert set(shown.nodes) == {"adc", "hbv"}
    shown.scene.Clear(0)
    assert shown.segmentation is None
    shown.select(1)
    shown.hide_evidence()
    shown.jump((0, 0, 0))
    shown.remove()


@pytest.mark.parametrize("with_patient", [False, True])
def test_remove_leaves_exactly_what_was_there(scene: Any, with_patient: bool) -> None:
    case = opened()
    nodes = loaded(scene, case)
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    if with_patient:
        study = tree.CreateStudyItem(tree.CreateSubjectItem(tree.GetSceneItemID(), "somebody"), "study")
        for node in nodes.values():
            tree.CreateItem(study, node)
    other = CaseScene(scene, case, nodes)
    other.update()
    other.show_evidence("adc.marked")
    composite = scene.AddNewNodeByClass("vtkMRMLSliceCompositeNode")
    composite.SetBackgroundVolumeID(nodes["t2w"].GetID())
    before = everything(scene), items(scene)
    shown = CaseScene(scene, case, nodes)
    shown.update()
    shown.show_evidence(CONCEPT)
    assert composite.GetForegroundVolumeID() == shown.evidence_node.GetID()
    shown.show_surfaces()
    shown.save().AddDefaultStorageNode()
    shown.segmentation.AddDefaultStorageNode()
    assert len(everything(scene)) > len(before[0]) + 8
    shown.remove()
    assert (everything(scene), items(scene)) == before
    assert composite.GetForegroundVolumeID() is None
    assert other.segmentation.GetSegmentation().GetNumberOfSegments() == 5
    shown.remove()


def test_what_the_user_put_under_our_item_stays(shown: CaseScene) -> None:
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(shown.scene)
    own = shown.scene.AddNewNodeByClass("vtkMRMLTextNode", "my remarks")
    item = tree.CreateItem(shown.study_item, own)
    shown.remove()
    assert shown.scene.IsNodePresent(own)
    assert tree.GetItemParent(item) == tree.GetSceneItemID()


# ------------------------------------------------------------------------------------------------------------- editing


def draw(shown: CaseScene, segment_id: str, mask: Volume) -> None:
    """As the Segment Editor writes."""
    image = oriented_image(mask)
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    assert logic.SetBinaryLabelmapToSegment(image, shown.segmentation, segment_id)


def test_an_edit_is_found_and_becomes_the_case(shown: CaseScene) -> None:
    case = shown.case
    assert shown.edited_masks() == {}
    mask = case.explanation.lesion(1).mask
    larger = mask.array.copy()
    z, y, x = np.argwhere(larger)[0]
    larger[z, y - 3 : y + 1, x] = True
    draw(shown, "region_1", mask.with_array(larger))
    shown.update()  # the reader has not said yet what is to become of it
    edited = shown.edited_masks()
    assert list(edited) == [1]
    assert edited[1].geometry == mask.geometry
    assert np.array_equal(edited[1].array, larger)
    case.edit_region(1, edited[1], "Dr A")
    shown.update()
    assert shown.edited_masks() == {}
    case.undo()
    shown.update()
    assert shown.edited_masks() == {}
    assert np.array_equal(segment_mask(shown.segmentation, "region_1", mask), mask.array)


def test_edits_can_be_thrown_away(shown: CaseScene) -> None:
    mask = shown.case.explanation.lesion(1).mask
    draw(shown, "region_1", mask.with_array(np.roll(mask.array, 2, 1)))
    shown.update(discard_edits=True)
    assert shown.edited_masks() == {}


def test_an_edit_on_another_grid_is_found_in_its_place(shown: CaseScene) -> None:
    """The reader has oversampled the segmentation: half the pixel, and a moved origin."""
    mask = shown.case.explanation.lesion(1).mask
    fine = replace(mask.geometry, shape=(14, 144, 160), spacing=(3.0, 0.4, 0.4))
    drawn = Volume(mask.array, mask.geometry).resample(fine, nearest=True)
    drawn = drawn.with_array(np.roll(drawn.array, 9, 2))
    draw(shown, "region_1", drawn)
    edited = shown.edited_masks()[1]
    there = edited.geometry.to_patient(np.argwhere(edited.array)).mean(0)
    assert there == pytest.approx(fine.to_patient(np.argwhere(drawn.array)).mean(0), abs=0.4)


def test_a_moved_segmentation_is_read_where_it_lies(shown: CaseScene) -> None:
    move = vtk.vtkMatrix4x4()
    move.SetElement(0, 3, -7.0)  # RAS: 7 mm to the left
    above = shown.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    above.SetMatrixTransformToParent(move)
    shown.segmentation.SetAndObserveTransformNodeID(above.GetID())
    edited = shown.edited_masks()[2]
    there = edited.geometry.to_patient(np.argwhere(edited.array)).mean(0)
    mask = shown.case.explanation.lesion(2).mask
    assert there - mask.geometry.to_patient(np.argwhere(mask.array)).mean(0) == pytest.approx((7.0, 0, 0), abs=0.5)


def test_emptied_and_deleted_segments(shown: CaseScene) -> None:
    shown.segmentation.GetSegmentation().RemoveSegment("region_2")
    shown.segmentation.GetSegmentation().ClearSegment("region_1")
    edited = shown.edited_masks()
    assert list(edited) == [1]
    assert not edited[1].array.any()
    shown.update()
    assert shown.segmentation.GetSegmentation().GetSegment("region_2")


def test_a_drawn_segment_becomes_a_region(shown: CaseScene) -> None:
    node, mask = shown.segmentation, shown.case.explanation.lesion(1).mask
    node.GetSegmentation().AddEmptySegment("Segment_1", "missed")
    assert shown.drawn_masks() == {}
    moved = np.roll(mask.array, -12, 2)
    draw(shown, "Segment_1", mask.with_array(moved))
    drawn = shown.drawn_masks()
    assert np.array_equal(drawn["Segment_1"].array, moved)
    added = shown.case.add_region(drawn["Segment_1"], "Dr A")
    shown.remove_segment("Segment_1")
    shown.update()
    assert shown.drawn_masks() == {}
    assert np.array_equal(segment_mask(node, f"region_{added.number}", mask), moved)


# ------------------------------------------------------------------------------------------------------------ evidence


def test_evidence_is_the_map_of_the_explanation(shown: CaseScene) -> None:
    node = shown.show_evidence(CONCEPT)
    wanted = shown.case.explanation.evidence[CONCEPT]
    found = volume_from_node(node)
    assert np.abs(found.array - wanted.array).max() <= 0.5 / 255 + 1e-6
    assert found.geometry.almost_equal(wanted.geometry, 1e-4)
    assert node.GetName() == "Evidence: T2W, circumscribed"
    assert node.GetDescription() == "Research use only"
    assert shown.evidence_concept == CONCEPT


def test_one_volume_serves_all_concepts(shown: CaseScene) -> None:
    first = shown.show_evidence(CONCEPT)
    before = everything(shown.scene)
    for concept in ("adc.marked", "hbv.marked", "t2.round", CONCEPT):
        assert shown.show_evidence(concept) is first
        wanted = shown.case.explanation.evidence[concept].array
        assert np.abs(volume_from_node(first).array - wanted).max() <= 0.5 / 255 + 1e-6
    assert everything(shown.scene) == before


def test_how_evidence_is_shown(shown: CaseScene) -> None:
    node = shown.show_evidence(CONCEPT)
    display = node.GetDisplayNode()
    assert (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == (0, 1)
    assert not display.GetAutoWindowLevel()
    assert display.GetApplyThreshold()
    assert display.GetLowerThreshold() == shown.case.explanation.evidence.threshold
    colours = display.GetColorNode()
    assert colours.GetName() == "MedRationale evidence"
    assert colours.GetNumberOfColors() == 256
    shown.set_evidence(threshold=0.25)
    assert display.GetLowerThreshold() == 0.25
    table = colours.GetLookupTable()
    assert [table.GetTableValue(i)[3] for i in (0, 60, 70, 255)] == [0, 0, 1, 1]
    legend = next(n for n in (node.GetNthDisplayNode(i) for i in (0, 1)) if n.IsA("vtkMRMLColorLegendDisplayNode"))
    assert legend.GetVisibility()
    assert legend.GetTitleText() == "Evidence"
    shown.hide_evidence()
    assert not legend.GetVisibility()
    for wrong in ({"opacity": 1.5}, {"threshold": -0.1}):
        with pytest.raises(ValueError, match="between 0 and 1"):
            shown.set_evidence(**wrong)
    with pytest.raises(KeyError):
        shown.show_evidence("t2.nonsense")


def views(shown: CaseScene) -> dict[str, Any]:
    """Slice and composite nodes as the layout makes them."""
    out = {}
    for role, name in layout.SLICE_VIEWS.items():
        composite = shown.scene.AddNode(slicer.vtkMRMLSliceCompositeNode())
        composite.SetLayoutName(name)
        plane = shown.scene.CreateNodeByClass("vtkMRMLSliceNode")
        plane.UnRegister(None)
        plane.SetSingletonTag(name)
        plane.SetLayoutName(name)
        shown.scene.AddNode(plane)
        out[role] = composite
    layout.set_up_views(shown.scene, shown.nodes)
    return out


def test_evidence_shows_in_the_views_of_its_own_sequence(shown: CaseScene) -> None:
    composites = views(shown)
    for role in ("t2w", "adc", "hbv"):
        assert composites[role].GetBackgroundVolumeID() == shown.nodes[role].GetID()
    for concept, role in ((CONCEPT, "t2w"), ("adc.marked", "adc"), ("hbv.marked", "hbv")):
        node = shown.show_evidence(concept)
        over = {r: c.GetForegroundVolumeID() for r, c in composites.items()}
        assert over == {r: (node.GetID() if r == role else None) for r in composites}
        assert shown.evidence_shown
    shown.set_evidence(opacity=0.3)
    assert composites["hbv"].GetForegroundOpacity() == pytest.approx(0.3)
    shown.hide_evidence()
    assert not shown.evidence_shown
    composites["adc"].SetBackgroundVolumeID(shown.nodes["t2w"].GetID())
    shown.show_evidence("adc.marked")  # no view shows ADC: then where T2W is
    assert composites["t2w"].GetForegroundVolumeID() == shown.evidence_node.GetID()


def test_the_views_jump_to_a_patient_point(shown: CaseScene) -> None:
    views(shown)
    point = shown.case.explanation.lesion(1).measures.centroid
    shown.jump(point)
    found = shown.scene.GetNodesByClass("vtkMRMLSliceNode")
    found.UnRegister(found)
    assert found.GetNumberOfItems() == 3
    for i in range(3):
        plane = found.GetItemAsObject(i).GetSliceToRAS()
        origin = np.array([plane.GetElement(r, 3) for r in range(3)])
        normal = np.array([plane.GetElement(r, 2) for r in range(3)])
        assert normal @ (origin - np.multiply(point, (-1, -1, 1))) == pytest.approx(0, abs=1e-3)


def test_selecting_lets_one_region_stand_out(shown: CaseScene) -> None:
    display = shown.segmentation.GetDisplayNode()
    shown.select(2)
    assert display.GetSegmentOpacity2DOutline("region_2") > display.GetSegmentOpacity2DOutline("region_1")
    assert [shown.line(n).GetDisplayNode().GetVisibility() for n in (1, 2)] == [0, 1]
    shown.case.select(1)
    shown.update()
    assert [shown.line(n).GetDisplayNode().GetVisibility() for n in (1, 2)] == [1, 0]
    shown.select(None)
    assert display.GetSegmentOpacity2DOutline("region_1") == display.GetSegmentOpacity2DOutline("region_2") == 1


def test_a_study_without_t2w_or_gland(scene: Any) -> None:
    explanation = make_explanation(roles=("adc", "hbv"), gland=False)
    from MedRationaleLogic.case import _State

    case = Case(_State(explanation.study, explanation), None)
    shown = CaseScene(scene, case, loaded(scene, case))
    shown.update()
    assert (
        shown.segmentation.GetNodeReference(shown.segmentation.GetReferenceImageGeometryReferenceRole())
        is (shown.nodes["adc"])
    )
    assert shown.edited_masks() == {}
    shown.show_evidence("adc.marked")
    shown.remove()
