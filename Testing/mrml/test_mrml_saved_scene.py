# ruff: noqa: E402 - the imports need slicer-core, which may be missing
"""A scene that was saved and opened again: the case with its answers and log, all its nodes, and nothing twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core is missing (extra 'viewer')")
vtk = pytest.importorskip("vtk")

from MedRationaleLogic.case import Case, CaseError
from MedRationaleLogic.mrml.case_scene import CaseScene
from MedRationaleLogic.mrml.geometry import NodeError, node_from_volume, oriented_image
from MedRationaleLogic.mrml.inputs import study_from_nodes
from Testing.mrml.off_screen import Application
from Testing.unit.case.fake_explainer import FakeExplainer

CONCEPT = "t2.circ"


def save_as_mrml(scene: Any, folder: Path) -> Path:
    """As Slicer's save dialog writes: every storable node into a file of its own, then the scene."""
    folder.mkdir()
    scene.SetRootDirectory(str(folder))
    nodes = scene.GetNodesByClass("vtkMRMLStorableNode")
    nodes.UnRegister(nodes)
    for i in range(nodes.GetNumberOfItems()):
        node = nodes.GetItemAsObject(i)
        if not node.GetSaveWithScene() or node.GetHideFromEditors():
            continue
        if node.GetStorageNode() is None:
            node.AddDefaultStorageNode()
        storage = node.GetStorageNode()
        if storage is not None:
            storage.SetFileName(str(folder / f"{i}.{storage.GetDefaultWriteFileExtension()}"))
            assert storage.WriteData(node), node.GetName()
    scene.SetURL(str(folder / "scene.mrml"))
    assert scene.Commit()
    return folder / "scene.mrml"


def open_mrml(path: Path) -> Any:
    fresh = slicer.vtkMRMLScene()
    fresh.RegisterNodeClass(slicer.vtkMRMLColorLegendDisplayNode())
    fresh.SetURL(str(path))
    assert fresh.Connect()
    return fresh


@pytest.fixture
def worked_on(scene: Any) -> CaseScene:
    """A case read from nodes, with an answer, an edited region and a shifted ADC."""
    fake = FakeExplainer()
    nodes = {role: node_from_volume(scene, fake.study.volume(role), role) for role in fake.study.roles}
    case = Case.open(study_from_nodes(nodes["t2w"], nodes["adc"], nodes["hbv"], psa=6.0, name="case 3"), fake)
    case.explain()
    case.override(1, "epe", "definite", "Dr A")
    mask = case.explanation.lesion(2).mask
    case.edit_region(2, mask.with_array(np.roll(mask.array, 1, 2) | mask.array), "Dr B")
    shown = CaseScene(scene, case, nodes)
    shown.update()
    shown.show_evidence(CONCEPT)
    shown.save()
    return shown


def check_restored(fresh: Any, case: Case) -> CaseScene:
    """The scene holds the case as it was, and goes on with the nodes that it has."""
    (text,) = CaseScene.saved(fresh)
    shown = CaseScene.restore(fresh, text, FakeExplainer())
    again = shown.case
    assert again.explanation.to_dict() == case.explanation.to_dict()
    assert again.log == case.log
    assert again.verify_log()
    assert again.study.psa == 6.0
    assert again.explanation.lesion(1).rationale.step("epe").reader == "Dr A"
    before = {fresh.GetNthNode(i).GetID() for i in range(fresh.GetNumberOfNodes())}
    shown.update()
    assert {fresh.GetNthNode(i).GetID() for i in range(fresh.GetNumberOfNodes())} == before
    segmentation = shown.segmentation.GetSegmentation()
    assert segmentation.GetNumberOfSegments() == 5
    assert segmentation.GetSegment("region_2").GetName() == "Region 2"
    assert segmentation.GetSegment("pz").GetTerminology().startswith("Segmentation category and type - MedRationale~")
    assert shown.edited_masks() == {}
    assert shown.markers.GetNumberOfControlPoints() == 2
    assert shown.evidence_concept == CONCEPT
    return shown


def test_a_saved_mrml_scene_opens_again(worked_on: CaseScene, tmp_path: Path) -> None:
    path = save_as_mrml(worked_on.scene, tmp_path / "saved")
    fresh = open_mrml(path)
    shown = check_restored(fresh, worked_on.case)
    # the road goes on: another edit, evidence out of the network, undo
    shown.case.override(2, "dce", "-", "Dr C")
    shown.case.delete(1, "Dr C")
    shown.update()
    assert shown.segmentation.GetSegmentation().GetNumberOfSegments() == 4
    node = shown.show_evidence("adc.marked")
    assert node.GetName().startswith("Evidence: ADC")
    shown.remove()
    left = {fresh.GetNthNode(i).GetClassName() for i in range(fresh.GetNumberOfNodes())}
    assert not left & {"vtkMRMLSegmentationNode", "vtkMRMLTextNode", "vtkMRMLMarkupsLineNode", "vtkMRMLColorTableNode"}
    volumes = fresh.GetNodesByClass("vtkMRMLScalarVolumeNode")
    volumes.UnRegister(volumes)
    assert sorted(volumes.GetItemAsObject(i).GetName() for i in range(volumes.GetNumberOfItems())) == [
        "adc", "hbv", "t2w",
    ]  # fmt: skip
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(fresh)
    assert shown.study_item == 0
    items = vtk.vtkIdList()
    tree.GetItemChildren(tree.GetSceneItemID(), items, True)
    names = [tree.GetItemName(items.GetId(i)) for i in range(items.GetNumberOfIds())]
    assert not [n for n in names if "MedRationale" in n or "Region" in n]


@pytest.fixture
def application() -> Iterator[Application]:
    with Application() as made:
        yield made


def test_a_saved_mrb_bundle_opens_again(worked_on: CaseScene, tmp_path: Path, application: Application) -> None:
    case = worked_on.case
    scene = application.scene
    nodes = {role: node_from_volume(scene, case.study.volume(role), role) for role in case.study.roles}
    shown = CaseScene(scene, case, nodes)
    shown.update()
    shown.show_evidence(CONCEPT)
    shown.save()
    bundle = tmp_path / "case.mrb"
    assert scene.WriteToMRB(str(bundle))
    scene.Clear(0)
    opened = tmp_path / "opened"
    opened.mkdir()
    assert scene.ReadFromMRB(str(bundle))
    check_restored(scene, case)


def test_edits_made_before_saving_are_still_edits(worked_on: CaseScene, tmp_path: Path) -> None:
    mask = worked_on.case.explanation.lesion(1).mask
    drawn = mask.with_array(np.roll(mask.array, 3, 1))
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    assert logic.SetBinaryLabelmapToSegment(oriented_image(drawn), worked_on.segmentation, "region_1")
    fresh = open_mrml(save_as_mrml(worked_on.scene, tmp_path / "saved"))
    shown = CaseScene.restore(fresh, CaseScene.saved(fresh)[0], FakeExplainer())
    shown.update()
    edited = shown.edited_masks()
    assert list(edited) == [1]
    assert np.array_equal(edited[1].array, drawn.array)


def test_a_shifted_sequence_comes_back(worked_on: CaseScene, tmp_path: Path) -> None:
    worked_on.case.shift("adc", (1.5, 0, 0), "Dr A")
    worked_on.update()
    worked_on.save()
    fresh = open_mrml(save_as_mrml(worked_on.scene, tmp_path / "saved"))
    shown = CaseScene.restore(fresh, CaseScene.saved(fresh)[0], FakeExplainer())
    assert shown.case.study.adc.geometry == worked_on.case.study.adc.geometry


@pytest.mark.parametrize(
    ("spoil", "error", "said"),
    [
        (lambda s: s.RemoveNode(s.GetFirstNodeByName("adc")), NodeError, "ADC of .* is not in the scene; load"),
        (lambda s: s.GetFirstNodeByName("t2w").GetImageData().SetScalarComponentFromDouble(3, 3, 3, 0, 9), CaseError,
         "T2W"),
        (lambda s: CaseScene.saved(s)[0].SetText("nothing"), CaseError, "text"),
    ],
    ids=["image gone", "image changed", "text changed"],
)  # fmt: skip
def test_what_is_not_the_case_any_more_is_said(
    worked_on: CaseScene, spoil: Callable[[Any], None], error: type[Exception], said: str
) -> None:
    scene = worked_on.scene
    text = CaseScene.saved(scene)[0]
    spoil(scene)
    with pytest.raises(error, match=said):
        CaseScene.restore(scene, text, FakeExplainer())


def test_an_image_that_was_removed_and_loaded_again_is_found(worked_on: CaseScene) -> None:
    scene, adc = worked_on.scene, worked_on.case.study.adc
    scene.RemoveNode(scene.GetFirstNodeByName("adc"))
    worked_on.save()  # as the panel does after each change
    text = CaseScene.saved(scene)[0]
    node_from_volume(scene, adc.with_array(adc.array + 1), "another ADC")
    with pytest.raises(NodeError, match="is not in the scene"):
        CaseScene.restore(scene, text, FakeExplainer())
    again = node_from_volume(scene, adc, "loaded again")
    shown = CaseScene.restore(scene, text, FakeExplainer())
    assert shown.nodes["adc"] is again
    assert shown.case.log == worked_on.case.log


def test_a_study_of_two_sequences_lacks_none(scene: Any) -> None:
    fake = FakeExplainer()
    nodes = {role: node_from_volume(scene, fake.study.volume(role), role) for role in ("t2w", "adc")}
    case = Case.open(study_from_nodes(nodes["t2w"], nodes["adc"], name="two"), fake)
    CaseScene(scene, case, nodes).save()
    assert CaseScene.restore(scene, CaseScene.saved(scene)[0]).nodes == nodes


def test_saving_twice_keeps_one_text(worked_on: CaseScene) -> None:
    first = worked_on.save()
    modified = first.GetMTime()
    assert worked_on.save() is first
    assert first.GetMTime() == modified
    assert [first.GetNodeReference(role) for role in ("t2w", "segmentation")] == [
        worked_on.nodes["t2w"], worked_on.segmentation,
    ]  # fmt: skip
    assert "PatientID" not in first.GetText()


def test_a_scene_without_a_case(scene: Any) -> None:
    scene.AddNewNodeByClass("vtkMRMLTextNode", "MedRationale case")
    assert CaseScene.saved(scene) == []
