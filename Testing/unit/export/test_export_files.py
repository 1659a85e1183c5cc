"""The result folder: every file, exact in space and value, all of it or nothing."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from MedRationaleLogic.export import ResultsError, files, ris_text, to_json, write_results
from MedRationaleLogic.export.files import EVIDENCE_SLOPE, evidence_bytes
from MedRationaleLogic.export.nifti import nifti_gz, nifti_header
from MedRationaleLogic.imaging.volume import Geometry, Volume
from Testing.explanation_factory import PZ_LEFT, flipped, make_explanation, oblique, transposed

NAMES = {"explanation.json", "zones.nii.gz", "lesions.nii.gz", "evidence", "report.html", "report.txt"}


def read(path: Path) -> Volume:
    return Volume.from_sitk(sitk.ReadImage(str(path)), path.name)


@pytest.fixture(scope="module")
def explanation():
    return make_explanation()


@pytest.fixture(scope="module")
def written(explanation, tmp_path_factory):
    folder = tmp_path_factory.mktemp("results") / "a" / "b"
    report = write_results(explanation, folder)
    assert report == folder / "report.html"
    return folder


@pytest.fixture
def quick(monkeypatch):
    """The same writer with a one-line report: these tests are about folders."""
    monkeypatch.setattr(files, "render_report", lambda explanation: "report of " + explanation.study.name)


# -------------------------------------------------------------------------------------------------------------- files


def test_the_folder_holds_exactly_the_promised_files(written, explanation):
    assert {p.name for p in written.iterdir()} == NAMES
    assert {p.name for p in (written / "evidence").iterdir()} == {f"{c}.nii.gz" for c in explanation.evidence}
    assert [p.name for p in written.parent.iterdir()] == ["b"]
    assert (written / "report.html").read_text("utf-8").lstrip().startswith("<!DOCTYPE html>")
    assert (written / "report.txt").read_text("ascii") == ris_text(explanation)
    assert (written / "explanation.json").read_text("utf-8") == to_json(explanation)


def test_masks_are_uint8_on_the_frame(written, explanation):
    for name, expected in (("zones", explanation.zones), ("lesions", explanation.lesion_labels)):
        image = sitk.ReadImage(str(written / f"{name}.nii.gz"))
        assert image.GetPixelID() == sitk.sitkUInt8
        got = Volume.from_sitk(image)
        np.testing.assert_array_equal(got.array, expected.array)
        assert got.geometry.almost_equal(explanation.frame.geometry, 1e-3)
    assert set(np.unique(explanation.lesion_labels.array)) == {0, 1, 2}


def test_evidence_reads_back_as_0_to_1_on_the_frame(written, explanation):
    for concept in ("t2.mod_hypo", "t2.circ", "adc.marked", "hbv.focal"):
        got = read(written / "evidence" / f"{concept}.nii.gz")
        expected = explanation.evidence[concept]
        assert got.array.dtype == np.float32
        assert got.geometry.almost_equal(explanation.frame.geometry, 1e-3)
        np.testing.assert_allclose(got.array, expected.array, atol=0.5 * EVIDENCE_SLOPE + 1e-5)
        assert expected.array.max() > 0.7


def test_evidence_is_stored_as_uint8_with_slope_1_255(written):
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(written / "evidence" / "t2.mod_hypo.nii.gz"))
    reader.ReadImageInformation()
    assert reader.GetMetaData("bitpix") == "8"
    assert float(reader.GetMetaData("scl_slope")) == pytest.approx(1 / 255, rel=1e-5)
    assert float(reader.GetMetaData("scl_inter")) == 0
    assert reader.GetMetaData("descrip").strip() == "t2.mod_hypo. Research use only"


def test_a_negative_study_writes_its_evidence_and_says_so(tmp_path, quick):
    explanation = make_explanation(lesions=(), roles=("t2w",))
    write_results(explanation, tmp_path / "out")
    assert len(list((tmp_path / "out" / "evidence").glob("t2.*.nii.gz"))) >= 10
    assert not list((tmp_path / "out" / "evidence").glob("adc.*"))
    assert not read(tmp_path / "out" / "lesions.nii.gz").array.any()
    assert json.loads((tmp_path / "out" / "explanation.json").read_text("utf-8"))["lesions"] == []
    assert "No suspicious region was outlined" in (tmp_path / "out" / "report.txt").read_text("ascii")


def test_only_the_reachable_part_is_resampled_and_nothing_is_lost():
    explanation = make_explanation(direction=oblique((25.0, -15.0, 40.0)), lesions=(PZ_LEFT,))
    for concept in ("t2.focal", "hbv.marked"):
        whole = np.rint(explanation.evidence[concept].array * 255)
        part = evidence_bytes(explanation, concept)
        assert part.geometry == explanation.frame.geometry
        assert np.abs(part.array - whole).max() <= 1
        assert (part.array != whole).mean() < 1e-3


def test_evidence_that_misses_the_frame_is_zero(explanation):
    away = replace(explanation.frame.geometry, origin=(900.0, 900.0, 900.0))
    study = replace(explanation.study, t2w=Volume(explanation.frame.array, away))
    assert not evidence_bytes(replace(explanation, study=study), "t2.focal").array.any()


def test_the_same_explanation_gives_the_same_bytes(written, explanation, tmp_path, quick):
    write_results(explanation, tmp_path / "again")
    for name in ("explanation.json", "zones.nii.gz", "lesions.nii.gz", "evidence/t2.focal.nii.gz", "report.txt"):
        assert (written / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


# -------------------------------------------------------------------------------------------------------------- space


finite = st.floats(-180, 180)


@settings(max_examples=25, deadline=None)
@given(
    angles=st.tuples(finite, finite, finite),
    mirrored=st.booleans(),
    spacing=st.tuples(*[st.floats(0.3, 5.0)] * 3),
    origin=st.tuples(*[st.floats(-300, 300)] * 3),
)
def test_a_voxel_goes_to_its_point_and_back_for_any_grid(tmp_path_factory, angles, mirrored, spacing, origin):
    direction = np.array(oblique(angles)).reshape(3, 3) @ np.diag([1, 1, -1 if mirrored else 1])
    geometry = Geometry((4, 5, 6), spacing, origin, tuple(direction.ravel()))
    array = np.arange(120, dtype=np.uint8).reshape(4, 5, 6)
    path = tmp_path_factory.getbasetemp() / "voxel.nii.gz"
    path.write_bytes(nifti_gz(Volume(array, geometry)))
    got = read(path)
    index = np.moveaxis(np.indices(geometry.shape), 0, -1)
    points = geometry.to_patient(index)
    np.testing.assert_allclose(got.geometry.to_patient(index), points, atol=2e-3)
    back = np.round(got.geometry.to_index(points)).astype(int)
    np.testing.assert_array_equal(got.array[tuple(np.moveaxis(back, -1, 0))], array)


@pytest.mark.parametrize("direction", [oblique(), flipped(), transposed(), oblique((170.0, 5.0, -95.0))])
def test_sform_and_qform_say_the_same(direction, tmp_path):
    geometry = Geometry((3, 4, 5), (3.0, 0.7, 0.5), (12.5, -30.0, 71.0), direction)
    header = nifti_header(geometry)
    without_sform = header[:254] + b"\0\0" + header[256:]  # sform_code
    content = bytes(4) + bytes(60)
    for i, bytes_ in enumerate((header, without_sform)):
        (tmp_path / f"{i}.nii").write_bytes(bytes_ + content)
    by_sform, by_qform = (read(tmp_path / f"{i}.nii").geometry for i in range(2))
    assert by_sform.almost_equal(geometry, 1e-4)
    assert by_qform.almost_equal(geometry, 1e-4)


def test_only_8_bit_volumes_and_short_descriptions_are_written():
    geometry = Geometry((2, 2, 2), (1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="expected uint8 or bool voxels, got float32"):
        nifti_gz(Volume(np.zeros((2, 2, 2), np.float32), geometry))
    with pytest.raises(ValueError, match="79 ASCII"):
        nifti_gz(Volume(np.zeros((2, 2, 2), bool), geometry), description="x" * 80)


# ----------------------------------------------------------------------------------------------------- all or nothing


def everything(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def broken(monkeypatch):
    """A fault in the middle of writing, after masks and evidence."""

    def fail(explanation):
        raise RuntimeError("a fault on purpose")

    def arm():
        monkeypatch.setattr(files, "ris_text", fail)

    return arm


def test_a_fault_leaves_nothing_behind_not_even_made_parents(explanation, tmp_path, quick, broken):
    broken()
    with pytest.raises(RuntimeError, match="on purpose"):
        write_results(explanation, tmp_path / "new" / "deep" / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_fault_leaves_an_earlier_result_as_it_was(explanation, tmp_path, quick, broken):
    write_results(explanation, tmp_path / "out")
    before = everything(tmp_path)
    broken()
    with pytest.raises(RuntimeError, match="on purpose"):
        write_results(make_explanation(lesions=()), tmp_path / "out")
    assert everything(tmp_path) == before


def test_a_fault_at_the_very_end_puts_the_earlier_result_back(explanation, tmp_path, quick, monkeypatch):
    write_results(explanation, tmp_path / "out")
    before = everything(tmp_path)
    rename = Path.rename

    def fail_for_the_new_one(self, target):
        if self.name.endswith(".part"):
            raise PermissionError(13, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_for_the_new_one)
    with pytest.raises(ResultsError, match="cannot be written below"):
        write_results(make_explanation(lesions=()), tmp_path / "out")
    assert everything(tmp_path) == before


def test_an_interruption_leaves_nothing_behind(explanation, tmp_path, quick, monkeypatch):
    def interrupt(explanation):
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "ris_text", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_results(explanation, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_result_is_replaced_as_a_whole(tmp_path, quick):
    write_results(make_explanation(lesions=(PZ_LEFT,)), tmp_path / "out")
    assert (tmp_path / "out" / "evidence" / "adc.marked.nii.gz").exists()
    (tmp_path / "out" / ".DS_Store").write_bytes(b"")
    write_results(make_explanation(lesions=(), roles=("t2w",), name="second"), tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").iterdir()} == NAMES
    assert not (tmp_path / "out" / "evidence" / "adc.marked.nii.gz").exists()
    assert (tmp_path / "out" / "report.html").read_text("utf-8") == "report of second"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_an_empty_folder_is_taken(explanation, tmp_path, quick):
    (tmp_path / "out").mkdir()
    assert write_results(explanation, str(tmp_path / "out")).is_file()


@pytest.mark.parametrize(
    ("name", "content"),
    [("notes.txt", "mine"), ("explanation.json", "{}"), ("explanation.json", "not json"), ("explanation.json", "[1]")],
)
def test_somebody_elses_folder_is_not_touched(explanation, tmp_path, quick, name, content):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text(content)
    with pytest.raises(ResultsError, match="out is not empty and holds no earlier result"):
        write_results(explanation, tmp_path / "out")
    assert everything(tmp_path) == {os.path.join("out", name): content.encode()}


@pytest.mark.parametrize("stranger", ["my notes.txt", os.path.join("evidence", "mine.txt")])
def test_a_result_with_a_file_of_the_readers_own_is_not_touched(explanation, tmp_path, quick, stranger):
    write_results(explanation, tmp_path / "out")
    (tmp_path / "out" / stranger).write_text("mine")
    before = everything(tmp_path)
    with pytest.raises(ResultsError, match=r"also (my notes|evidence/mine)\.txt, which would be lost"):
        write_results(explanation, tmp_path / "out")
    assert everything(tmp_path) == before


def test_a_file_in_the_place_of_the_folder_is_refused(explanation, tmp_path, quick):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(ResultsError, match="out is a file; give a folder"):
        write_results(explanation, tmp_path / "out")
    with pytest.raises(ResultsError, match="cannot be written below"):
        write_results(explanation, tmp_path / "out" / "below")
    assert (tmp_path / "out").read_text() == "a file"


@pytest.mark.skipif(os.name == "nt", reason="folder rights of POSIX")
def test_the_folder_has_the_rights_of_any_other(explanation, tmp_path, quick):
    (tmp_path / "other").mkdir()
    write_results(explanation, tmp_path / "out")
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "other").stat().st_mode
