# ruff: noqa: E402 - the imports need slicer-core, which may be missing
"""Which nodes are T2W, ADC and high-b, and which are refused or asked about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core is missing (extra 'viewer')")
vtk = pytest.importorskip("vtk")

from MedRationaleLogic.imaging.dicom import scan
from MedRationaleLogic.imaging.study import read_study
from MedRationaleLogic.imaging.volume import Geometry, Volume
from MedRationaleLogic.mrml.geometry import node_from_volume
from MedRationaleLogic.mrml.inputs import NodeError, NodeQuestion, find_inputs, study_from_nodes, volumes_from_nodes
from MedRationaleLogic.mrml.parts import B_VALUE, OWNER
from Testing.dicom_factory import DicomStudy
from Testing.study_factory import DIFFUSION_GRID, T2W_GRID, make_study, paint, stored_otherwise

STUDY = make_study()


def put(scene: Any, role: str, name: str, volume: Volume | None = None, cls: str = "vtkMRMLScalarVolumeNode") -> Any:
    return node_from_volume(scene, STUDY.volume(role) if volume is None else volume, name, cls)  # type: ignore[arg-type]


def three(scene: Any, *names: str) -> list[Any]:
    return [put(scene, role, name) for role, name in zip(("t2w", "adc", "hbv"), names, strict=True)]


# ------------------------------------------------------------------------------------------------------------- finding


@pytest.mark.parametrize(
    "names",
    [
        ("t2w", "adc", "hbv"),
        ("4: t2_tse_tra_320_p2", "9: ep2d_diff_tra_DYNDIST_ADC", "8: ep2d_diff_tra_b1400"),
        ("10021_1000021_t2w", "10021_1000021_adc", "10021_1000021_hbv"),
        ("T2W_TSE_ax", "dADC Map", "ep2d_diff_tra_DYNDISTCALC_BVAL"),
    ],
)
def test_the_three_are_found_by_name(scene: Any, names: tuple[str, str, str]) -> None:
    put(scene, "t2w", "gland mask")
    put(scene, "t2w", "3-plane localizer")
    nodes = three(scene, *names)
    found = find_inputs(scene)
    assert [found.t2w, found.adc, found.hbv] == nodes
    assert all(f"'{name}'" in found.why[role] for role, name in zip(found.nodes, names, strict=True))


def test_an_empty_scene_says_what_is_missing(scene: Any) -> None:
    found = find_inputs(scene)
    assert found.nodes == {}
    assert "choose it by hand" in found.why["t2w"]
    assert found.alternatives["hbv"] == ()


def test_sagittal_low_b_and_results_are_passed_over(scene: Any) -> None:
    sagittal = stored_otherwise(paint("t2w", Geometry((96, 96, 12), (1, 1, 3.0), (0, 0, 0))), (2, 0, 1), (False,) * 3)
    put(scene, "t2w", "t2_tse_sag", sagittal)
    put(scene, "hbv", "dwi_b50")
    ours = put(scene, "t2w", "t2w evidence")
    ours.SetAttribute(OWNER, "somebody")
    put(scene, "t2w", "t2w", cls="vtkMRMLLabelMapVolumeNode")
    assert find_inputs(scene).nodes == {}


def test_the_highest_b_value_wins_and_the_rest_is_offered(scene: Any) -> None:
    b800, b1400 = put(scene, "hbv", "dwi_b800"), put(scene, "hbv", "dwi_b1400")
    found = find_inputs(scene)
    assert found.hbv is b1400
    assert "b1400" in found.why["hbv"]
    assert found.alternatives["hbv"] == (b800,)


def test_a_study_stays_together(scene: Any) -> None:
    """Two patients in one scene: three of one beat a T2W of the other."""
    put(scene, "t2w", "case_0002_t2w")
    mine = three(scene, "case_0001_t2w", "case_0001_adc", "case_0001_hbv")
    found = find_inputs(scene)
    assert [found.t2w, found.adc, found.hbv] == mine


def test_the_subject_hierarchy_keeps_a_study_together(scene: Any) -> None:
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    other = tree.CreateStudyItem(tree.CreateSubjectItem(tree.GetSceneItemID(), "B"), "earlier")
    mine = tree.CreateStudyItem(tree.CreateSubjectItem(tree.GetSceneItemID(), "A"), "now")
    lone = put(scene, "t2w", "t2w")
    tree.CreateItem(other, lone)
    nodes = three(scene, "t2w", "adc", "hbv")
    for node in nodes:
        tree.CreateItem(mine, node)
    found = find_inputs(scene)
    assert [found.t2w, found.adc, found.hbv] == nodes
    assert found.alternatives["t2w"] == (lone,)


def sequence_of(scene: Any, b_values: dict[str, float], name: str = "ep2d_diff", index: str = "b-value") -> Any:
    sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", name)
    sequence.SetIndexName(index)
    for text, b_value in b_values.items():
        image = STUDY.hbv.with_array((STUDY.hbv.array + b_value).astype(np.float32))
        node = node_from_volume(slicer.vtkMRMLScene(), image, f"{name} {text}")
        sequence.SetDataNodeAtValue(node, text)
    return sequence


def test_the_highest_b_value_is_taken_out_of_a_sequence(scene: Any) -> None:
    put(scene, "t2w", "t2w")
    put(scene, "adc", "adc")
    sequence_of(scene, {"50": 50, "1400": 1400, "800": 800})
    found = find_inputs(scene)
    assert found.hbv.GetName() == "ep2d_diff b1400"
    assert found.hbv.GetScene() is scene
    assert "highest b-value of the sequence, b1400" in found.why["hbv"]
    study = study_from_nodes(*found.nodes.values())
    assert study.headers["hbv"].b_value == 1400
    assert np.array_equal(study.hbv.array, (STUDY.hbv.array + 1400).astype(np.float32))
    assert study.hbv.geometry.almost_equal(DIFFUSION_GRID, 1e-6)
    before = scene.GetNumberOfNodes()
    again = find_inputs(scene)
    assert (again.hbv.GetID(), scene.GetNumberOfNodes()) == (found.hbv.GetID(), before)


def test_a_dynamic_sequence_and_what_a_browser_plays_are_no_high_b(scene: Any) -> None:
    sequence_of(scene, {"1400": 1.0, "2800": 2.0}, name="dce_dyn", index="time")
    played = put(scene, "hbv", "dwi")
    sequence = sequence_of(scene, {"50": 50, "100": 100}, name="dwi low")
    browser = scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "browser")
    browser.AddSynchronizedSequenceNodeID(sequence.GetID())
    browser.AddProxyNode(played, sequence, False)
    assert find_inputs(scene).hbv is None


# --------------------------------------------------------------------------------------------------------------- DICOM


class Database:
    """Slicer's DICOM database, as far as it is used: instance UID to file."""

    def __init__(self) -> None:
        self.files: dict[str, str] = {}

    def fileForInstance(self, uid: str) -> str:  # noqa: N802 - Slicer's name
        return self.files.get(uid, "")


@pytest.fixture
def examination(scene: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[Any]]:
    """A DICOM study in the database and in the scene, under names that say nothing."""
    study = DicomStudy(tmp_path / "study", oblique=True)
    series = [study.t2w(), study.adc(), study.dwi(b_values=(50, 1400))]
    database = Database()
    monkeypatch.setattr(slicer, "dicomDatabase", database, raising=False)
    nodes = []
    folder = scan([Path(p) for paths in series for p in paths], "study")
    assert folder is not None
    from MedRationaleLogic.imaging.dicom_pixels import load

    for number, stack in enumerate(folder.stacks):
        volume, _ = load(stack)
        node = node_from_volume(scene, volume, f"image {number}")
        uids = [str(one.header.SOPInstanceUID) for one in stack.slices]
        database.files |= dict(zip(uids, (str(one.path) for one in stack.slices), strict=True))
        node.SetAttribute("DICOM.instanceUIDs", " ".join(uids))
        nodes.append(node)
    return tmp_path / "study", nodes


def test_dicom_headers_tell_what_names_do_not(scene: Any, examination: tuple[Path, list[Any]]) -> None:
    folder, _ = examination
    found = find_inputs(scene)
    assert set(found.nodes) == {"t2w", "adc", "hbv"}
    assert "b1400" in found.why["hbv"]
    study = study_from_nodes(found.t2w, found.adc, found.hbv)
    files = read_study(folder)
    assert (study.patient_id, study.study_uid, study.study_date) == (
        files.patient_id, files.study_uid, files.study_date,
    )  # fmt: skip
    for role in ("t2w", "adc", "hbv"):
        mine, theirs = study.volume(role), files.volume(role)
        assert mine is not None
        assert theirs is not None
        assert np.array_equal(mine.array, theirs.array)
        assert mine.geometry.almost_equal(theirs.geometry, 1e-3)
        assert study.headers[role].te_ms == files.headers[role].te_ms
        assert study.headers[role].series_uid == files.headers[role].series_uid
    assert study.headers["hbv"].b_value == 1400


def test_dicom_says_that_a_node_is_something_else(scene: Any, examination: tuple[Path, list[Any]]) -> None:
    found = find_inputs(scene)
    with pytest.raises(NodeQuestion, match=r"looks like ADC\. Is it meant to be used as T2W"):
        study_from_nodes(found.adc)


# ------------------------------------------------------------------------------------------------------------- refusing


def test_nodes_give_the_study_that_files_would(scene: Any) -> None:
    t2w, adc, hbv = three(scene, "t2w", "adc", "dwi_b1500")
    study = study_from_nodes(t2w, adc, hbv, psa=6.5, name="case 7")
    assert (study.name, study.psa, study.roles) == ("case 7", 6.5, ("t2w", "adc", "hbv"))
    assert study.headers["hbv"].b_value == 1500
    assert str(study.choices[0]) == "T2W: t2w (chosen in the scene)"
    assert study.t2w.geometry.almost_equal(T2W_GRID, 1e-6)
    assert [record.name for record in study.inputs] == ["t2w", "adc", "dwi_b1500"]
    assert {r: v.sha256 for r, v in volumes_from_nodes({"t2w": t2w, "adc": adc, "hbv": hbv}).items()} == {
        r: study.volume(r).sha256
        for r in study.roles  # type: ignore[union-attr]
    }


def test_adc_in_other_units_is_converted(scene: Any) -> None:
    adc = STUDY.adc
    node = put(scene, "adc", "adc", adc.with_array(adc.array / 1000))
    study = study_from_nodes(None, node)
    assert np.allclose(study.adc.array, adc.array, rtol=1e-4)
    assert any("1e-3 mm2/s" in note for note in study.notes)


def test_a_transform_counts(scene: Any) -> None:
    t2w, adc, hbv = three(scene, "t2w", "adc", "hbv")
    move = vtk.vtkMatrix4x4()
    move.SetElement(2, 3, 4.0)
    above = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    above.SetMatrixTransformToParent(move)
    adc.SetAndObserveTransformNodeID(above.GetID())
    study = study_from_nodes(t2w, adc, hbv)
    assert np.allclose(np.subtract(study.adc.geometry.origin, DIFFUSION_GRID.origin), (0, 0, 4.0), atol=1e-6)


def test_slices_on_another_axis_are_put_in_order(scene: Any) -> None:
    turned = stored_otherwise(STUDY.t2w, (1, 2, 0), (True, False, True))
    study = study_from_nodes(put(scene, "t2w", "t2w", turned))
    assert study.t2w.geometry.spacing == pytest.approx((3.0, 1.0, 1.0))
    at = T2W_GRID.to_patient((4, 50, 30))
    index = np.rint(study.t2w.geometry.to_index(at)).astype(int)
    assert study.t2w.array[tuple(index)] == STUDY.t2w.array[4, 50, 30]


def ct() -> Volume:
    values = np.full(T2W_GRID.shape, -1000, np.int16)
    values[:, 20:70, 20:70] = 40
    return Volume(values, T2W_GRID, "ct")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda s: put(s, "t2w", "zones", cls="vtkMRMLLabelMapVolumeNode"), "'zones' is a label map"),
        (lambda s: s.AddNewNodeByClass("vtkMRMLSegmentationNode", "drawn"), "'drawn' is a label map or segmentation"),
        (lambda s: s.AddNewNodeByClass("vtkMRMLModelNode", "surface"), "'surface' is no volume"),
        (lambda s: s.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "hollow"), "'hollow' has no image data"),
        (lambda s: put(s, "t2w", "abdomen", ct()), "abdomen .*as in a CT"),
        (lambda s: put(s, "t2w", "one slice", Volume(np.ones((1, 9, 9)), Geometry((1, 9, 9), (3, 1, 1)))), "2D image"),
        (lambda s: put(s, "t2w", "black", STUDY.t2w.with_array(0 * STUDY.t2w.array)), "black .*image is empty"),
    ],
    ids=["label map", "segmentation", "model", "empty", "CT", "2D", "constant"],
)  # fmt: skip
def test_what_cannot_be_t2w_is_refused_by_name(scene: Any, make: Any, said: str) -> None:
    with pytest.raises(NodeError, match=said) as caught:
        study_from_nodes(make(scene))
    assert not isinstance(caught.value, NodeQuestion)


def test_colour_is_refused(scene: Any) -> None:
    node = scene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "photo")
    image = vtk.vtkImageData()
    image.SetDimensions(8, 8, 8)
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 3)
    node.SetAndObserveImageData(image)
    with pytest.raises(NodeError, match=r"'photo' has 3 components per voxel \(colour or vectors\)"):
        study_from_nodes(node)


def test_a_ct_is_refused_by_unit_and_by_modality(scene: Any) -> None:
    node = put(scene, "t2w", "pelvis")
    unit = slicer.vtkCodedEntry()
    unit.SetValueSchemeMeaning("[hnsf'U]", "UCUM", "Hounsfield unit")
    node.SetVoxelValueUnits(unit)
    with pytest.raises(NodeError, match="'pelvis' is in Hounsfield units"):
        study_from_nodes(node)
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    other = put(scene, "t2w", "t2w")
    item = tree.CreateItem(tree.GetSceneItemID(), other)
    tree.SetItemAttribute(item, "DICOM.Modality", "PT")
    with pytest.raises(NodeError, match="'t2w' is of modality PT; T2W must be a prostate MRI"):
        study_from_nodes(other)


def test_images_of_different_places_are_refused(scene: Any) -> None:
    far = Volume(STUDY.adc.array, Geometry(DIFFUSION_GRID.shape, DIFFUSION_GRID.spacing, (500, 0, 0)), "adc")
    with pytest.raises(NodeError, match=r"ADC \(elsewhere\) and T2W \(t2w\) do not show the same place"):
        study_from_nodes(put(scene, "t2w", "t2w"), put(scene, "adc", "elsewhere", far))


def test_nothing_chosen(scene: Any) -> None:
    with pytest.raises(NodeError, match="choose at least one"):
        study_from_nodes(None, None, None)


# --------------------------------------------------------------------------------------------------------------- asking


def asked(*nodes: Any, **more: Any) -> NodeQuestion:
    with pytest.raises(NodeQuestion) as caught:
        study_from_nodes(*nodes, **more)
    assert caught.value.question == str(caught.value)
    return caught.value


def passes(question: NodeQuestion, *nodes: Any) -> None:
    """A confirmed question is not asked again, and its key does for these nodes only."""
    assert study_from_nodes(*nodes, confirmed={question.key}).roles


def test_different_patients_are_asked_about(scene: Any) -> None:
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    nodes = three(scene, "t2w", "adc", "hbv")[:2]
    for node, patient in zip(nodes, "AB", strict=True):
        subject = tree.CreateSubjectItem(tree.GetSceneItemID(), "somebody")
        tree.SetItemAttribute(subject, "DICOM.PatientID", patient)
        tree.CreateItem(tree.CreateStudyItem(subject, "study"), node)
    question = asked(*nodes)
    assert "'t2w' (T2W) and 'adc' (ADC) belong to different patients" in question.question
    passes(question, *nodes)
    other = put(scene, "adc", "adc")
    tree.CreateItem(tree.CreateStudyItem(tree.CreateSubjectItem(tree.GetSceneItemID(), "c"), "study"), other)
    assert asked(nodes[0], other, confirmed={question.key}).key != question.key


def test_different_examinations_are_asked_about(scene: Any) -> None:
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    subject = tree.CreateSubjectItem(tree.GetSceneItemID(), "somebody")
    nodes = three(scene, "t2w", "adc", "hbv")[:2]
    for node in nodes:
        tree.CreateItem(tree.CreateStudyItem(subject, "study"), node)
    question = asked(*nodes)
    assert "different examinations" in question.question
    passes(question, *nodes)


def test_different_numbers_in_the_names_are_asked_about(scene: Any) -> None:
    nodes = put(scene, "t2w", "10021_t2w"), put(scene, "adc", "10574_adc")
    question = asked(*nodes)
    assert "different numbers" in question.question
    passes(question, *nodes)


def test_one_node_for_two_roles_is_asked_about(scene: Any) -> None:
    adc = put(scene, "adc", "map")
    question = asked(None, adc, adc)
    assert "'map' is chosen for ADC and high-b at once" in question.question
    passes(question, None, adc, adc)


def test_a_name_that_says_otherwise_is_asked_about(scene: Any) -> None:
    node = put(scene, "adc", "adc")
    question = asked(node)
    assert question.question == "'adc' looks like ADC. Is it meant to be used as T2W?"
    passes(question, node)


def test_an_adc_in_no_usual_unit_is_asked_about(scene: Any) -> None:
    node = put(scene, "t2w", "image")
    question = asked(None, node)
    assert "only in the unusual unit 1e-5 mm2/s" in question.question
    passes(question, None, node)


def test_a_low_b_value_in_place_of_high_b_is_asked_about(scene: Any) -> None:
    """T2 dominates an image of a low b-value: bright where ADC is bright."""
    low = paint("t2w", DIFFUSION_GRID)
    nodes = None, put(scene, "adc", "map"), put(scene, "hbv", "image", low)
    question = asked(*nodes)
    assert "look alike" in question.question
    passes(question, *nodes)


def test_the_value_of_a_sequence_counts_over_the_name(scene: Any) -> None:
    node = put(scene, "hbv", "ep2d_diff")
    node.SetAttribute(B_VALUE, "1800")
    assert study_from_nodes(None, None, node).headers["hbv"].b_value == 1800
