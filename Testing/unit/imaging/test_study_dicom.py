"""DICOM folders: recognising series by header, choosing, splitting, stacking."""

from __future__ import annotations

import random
import re
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset
from pydicom.uid import RLELossless

from MedRationaleLogic.imaging.dicom_header import b_values_in
from MedRationaleLogic.imaging.study import StudyError, read_study
from Testing.dicom_factory import MANUFACTURERS, DicomStudy, anatomy

VENDORS = sorted(MANUFACTURERS)


@pytest.fixture
def study(tmp_path: Path) -> DicomStudy:
    return DicomStudy(tmp_path / "study")


def choice(result, role: str):
    return next(c for c in result.choices if c.role == role)


@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize("oblique", [False, True])
def test_a_full_study_is_understood_by_its_headers(tmp_path: Path, vendor: str, oblique: bool):
    DicomStudy(tmp_path / "s", vendor=vendor, oblique=oblique).full()
    result = read_study(tmp_path / "s")
    assert result.roles == ("t2w", "adc", "hbv")
    assert result.frame is result.t2w
    assert [result.headers[r].series_number for r in result.roles] == [4, 8, 9]
    assert choice(result, "hbv").label == "series 9, calculated b1400"
    assert choice(result, "hbv").alternatives == (
        "series 7, acquired b800",
        "series 7, acquired b400",
        "series 7, acquired b50",
    )
    assert str(choice(result, "hbv")).startswith(
        "high-b: series 9, calculated b1400; series 7, acquired b800, series 7, acquired b400"
    )
    assert result.orthogonal_t2w == ("series 3, sagittal (t2_tse_sag)", "series 5, coronal (t2_tse_cor)")
    assert result.dce_frames == 4
    assert result.study_date == "2024-01-31"
    assert result.notes == ()
    assert [record.series_uid for record in result.inputs] == [result.headers[r].series_uid for r in result.roles]


def test_headers_say_what_the_scanner_wrote_and_no_more(study: DicomStudy):
    study.full()
    headers = read_study(study.folder).headers
    t2w, adc, hbv, dce = headers["t2w"], headers["adc"], headers["hbv"], headers["dce"]
    assert (t2w.manufacturer, t2w.field_strength_t, t2w.tr_ms, t2w.te_ms) == ("SIEMENS", 3.0, 5660.0, 104.0)
    assert (t2w.pixel_spacing_mm, t2w.fov_mm, t2w.acquisition_matrix) == ((2.5, 2.5), (120.0, 100.0), (40, 48))
    assert (t2w.slice_thickness_mm, t2w.slice_spacing_mm, t2w.orientation) == (3.0, 3.0, "axial")
    assert (t2w.b_value, t2w.b_values, t2w.calculated) == (None, None, None)
    assert adc.b_values == (50.0, 800.0)
    assert (hbv.b_value, hbv.calculated, hbv.b_values) == (1400.0, True, (50.0, 400.0, 800.0))
    assert (dce.role, dce.dce_frames, dce.temporal_resolution_s, dce.te_ms) == ("dce", 4, 9.0, 1.4)


def test_silent_headers_stay_none(study: DicomStudy):
    silent = ("EchoTime", "RepetitionTime", "SliceThickness", "AcquisitionMatrix", "MagneticFieldStrength")
    study.t2w(tags=dict.fromkeys(silent))
    header = read_study(study.folder).headers["t2w"]
    assert (header.te_ms, header.tr_ms, header.slice_thickness_mm, header.acquisition_matrix) == (None,) * 4
    assert header.field_strength_t is None


def test_identity_is_read_but_not_shown(study: DicomStudy):
    study.t2w()
    result = read_study(study.folder)
    assert result.patient_id == "TEST-PATIENT"
    assert result.study_uid == study.study_uid
    assert "TEST-PATIENT" not in repr(result)
    assert study.study_uid not in repr(result)


@pytest.mark.parametrize("vendor", VENDORS)
def test_b_values_of_one_series_are_told_apart(tmp_path: Path, vendor: str):
    source = DicomStudy(tmp_path / "s", vendor=vendor)
    paths = source.dwi(b_values=(0, 100, 800, 1500))
    result = read_study(tmp_path / "s")
    assert choice(result, "hbv").label == "series 7, acquired b1500"
    assert result.headers["hbv"].b_values == (0.0, 100.0, 800.0, 1500.0)
    expected = np.stack([pydicom.dcmread(p).pixel_array for p in paths[30:]])
    np.testing.assert_array_equal(result.hbv.array, expected)


def test_private_b_values_survive_a_lost_creator_and_unknown_form(tmp_path: Path):
    source = DicomStudy(tmp_path / "s", vendor="philips")
    for path in source.dwi(b_values=(50, 1500)):
        dataset = pydicom.dcmread(path)
        value = dataset[0x2001, 0x1003].value
        del dataset[0x2001, 0x1003], dataset[0x2001, 0x0010]
        dataset.add_new(0x20011003, "UN", np.float32(value).tobytes())
        dataset.save_as(path)
    assert choice(read_study(tmp_path / "s"), "hbv").label == "series 7, acquired b1500"


@pytest.mark.parametrize(
    ("tags", "description"),
    [({"SequenceName": "*ep_b1500t"}, "ep2d_diff"), ({}, "DWI b1500"), ({}, "tra dwi b=1500 prostate")],
)
def test_b_value_from_names_alone(tmp_path: Path, tags: dict, description: str):
    source = DicomStudy(tmp_path / "s", vendor="plain")
    source.dwi(b_values=(1500,), description=description, tags={"DiffusionBValue": None, **tags})
    assert choice(read_study(tmp_path / "s"), "hbv").label == "series 7, acquired b1500"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ep2d_diff_b50_400_800", (50, 400, 800)),
        ("dwi_b1400", (1400,)),
        ("Ax DWI B-1000", (1000,)),
        ("CALC_BVAL_1500", (1500,)),
        ("b value = 2000", (2000,)),
        ("cb1400", (1400,)),
        ("t2_tse_tra_sub1", ()),
        ("ep2d_diff_CALC_BVAL", ()),
        ("prob3", ()),
    ],
)
def test_b_values_in_words(text: str, expected: tuple):
    assert b_values_in(text) == expected


def test_a_calculated_image_keeps_its_own_b_value_over_its_sources(tmp_path: Path):
    source = DicomStudy(tmp_path / "s", vendor="plain")
    source.high_b(b_value=800, description="calc b1400")
    result = read_study(tmp_path / "s")
    assert choice(result, "hbv").label == "series 9, calculated b1400"


@pytest.mark.parametrize(
    ("how", "description", "made"),
    [
        ("nothing", "DWI b1400 tra", "acquired"),
        ("acquisition", "DWI b1400 tra", "acquired"),
        ("gradient", "DWI b1400 tra", "acquired"),
        ("acquisition", "DWI calc b1400", "calculated"),
    ],
)
@pytest.mark.parametrize("vendor", VENDORS)
def test_b0_images_stay_b0_in_a_series_called_by_its_highest_b_value(
    tmp_path: Path, vendor: str, how: str, description: str, made: str
):
    source = DicomStudy(tmp_path / "s", vendor=vendor)
    paths = source.dwi(b_values=(0, 1400), description=description)
    for path in paths:
        dataset = pydicom.dcmread(path)
        if how == "acquisition":
            dataset.AcquisitionNumber = 1 if path in paths[:10] else 2
        elif how == "gradient":
            dataset.DiffusionGradientOrientation = [0.0 if path in paths[:10] else 0.577] * 3
        dataset.save_as(path)
    result = read_study(tmp_path / "s")
    assert choice(result, "hbv").label == f"series 7, {made} b1400"
    assert choice(result, "hbv").alternatives == (f"series 7, {made} b0",)
    np.testing.assert_array_equal(result.hbv.array, np.stack([pydicom.dcmread(p).pixel_array for p in paths[10:]]))
    assert result.headers["hbv"].b_values == ((0.0, 1400.0) if made == "acquired" else None)
    assert result.notes == ()


@pytest.mark.parametrize(
    ("description", "more", "label"),
    [
        ("DWI b1400 tra", {}, "acquired b1400"),
        ("tra BVAL 1500", {"ImageType": None}, "acquired b1500"),
        ("DWI calc b1400", {}, "calculated b1400"),
        ("DWI", {"SequenceName": "*ep_b1500t"}, "acquired b1500"),
    ],
)
def test_a_tag_of_zero_in_the_whole_series_gives_way_to_a_name(
    tmp_path: Path, description: str, more: dict, label: str
):
    source = DicomStudy(tmp_path / "s", vendor="plain")
    source.dwi(b_values=(0,), description=description, tags=more)
    assert choice(read_study(tmp_path / "s"), "hbv").label == f"series 7, {label}"


def test_a_calculated_image_with_a_tag_of_zero_beside_its_sources(tmp_path: Path):
    source = DicomStudy(tmp_path / "s", vendor="plain")
    source.dwi(b_values=(50, 800))
    source.high_b(b_value=0, description="calc b1400")
    assert choice(read_study(tmp_path / "s"), "hbv").label == "series 9, calculated b1400"


def test_the_highest_b_value_wins_from_1400_on_however_it_was_made(study: DicomStudy):
    study.high_b(b_value=1400)
    study.dwi(b_values=(50, 2000))
    assert choice(read_study(study.folder), "hbv").label == "series 7, acquired b2000"


def test_low_b_values_are_never_offered_as_high_b(study: DicomStudy):
    study.t2w()
    study.dwi(b_values=(0, 400))
    assert read_study(study.folder).roles == ("t2w",)


def test_single_gradient_directions_become_a_trace_image(tmp_path: Path):
    source = DicomStudy(tmp_path / "s", vendor="plain")
    uid, arrays = "1.2.3.4", []
    for axis in range(3):
        arrays.append(anatomy((6, 20, 20), 40 * 4**axis, seed=axis))
        source.series(
            7,
            "DWI",
            arrays[-1],
            spacing=(3.0, 4.0, 4.0),
            uid=uid,
            first_instance=1 + 6 * axis,
            tags={
                "DiffusionBValue": 1500.0,
                "DiffusionDirectionality": "DIRECTIONAL",
                "DiffusionGradientOrientation": [float(i == axis) for i in range(3)],
            },
        )
    result = read_study(tmp_path / "s")
    product = np.prod([np.maximum(a.astype(float), 1e-3) for a in arrays], axis=0)
    np.testing.assert_allclose(result.hbv.array, np.cbrt(product), rtol=1e-4)
    assert any("computed from 3 gradient directions" in note for note in result.notes)


def test_a_stored_trace_image_is_preferred_to_its_directions(tmp_path: Path):
    source = DicomStudy(tmp_path / "s", vendor="plain")
    trace = anatomy((6, 20, 20), 77, seed=9)
    for nth, (how, array) in enumerate([("DIRECTIONAL", anatomy((6, 20, 20), 200)), ("ISOTROPIC", trace)]):
        tags = {"DiffusionBValue": 1500.0, "DiffusionDirectionality": how}
        source.series(7, "DWI", array, spacing=(3.0, 4.0, 4.0), uid="1.2.3", first_instance=1 + 6 * nth, tags=tags)
    np.testing.assert_array_equal(read_study(tmp_path / "s").hbv.array, trace)


def test_an_enhanced_multi_frame_file_reads_like_its_frames(study: DicomStudy):
    path = study.enhanced_dwi(b_values=(50, 1500))
    result = read_study(study.folder)
    assert choice(result, "hbv").label == "series 7, acquired b1500"
    np.testing.assert_array_equal(result.hbv.array, pydicom.dcmread(path).pixel_array[1::2] * np.float32(2))
    np.testing.assert_allclose(result.hbv.geometry.center, study.center, atol=1e-4)
    assert (result.headers["hbv"].te_ms, result.headers["hbv"].tr_ms) == (63.0, 3300.0)


def test_numbers_of_ge_that_are_no_b_values_make_no_diffusion(tmp_path: Path):
    source = DicomStudy(tmp_path / "s", vendor="ge")
    source.t2w(tags=source.b_tags(1500))
    assert read_study(tmp_path / "s").roles == ("t2w",)


def test_dynamic_series_are_not_taken_for_t2w(study: DicomStudy):
    study.dce()
    study.t2w()
    result = read_study(study.folder)
    assert choice(result, "t2w").alternatives == ()
    assert result.headers["t2w"].series_number == 4


def test_time_points_in_series_of_their_own_are_counted_together(study: DicomStudy):
    study.t2w()
    for frame in range(5):
        study.dce(number=20 + frame, frames=1)
    assert read_study(study.folder).dce_frames == 5


def test_a_finer_t2w_is_preferred_and_fat_saturated_overviews_are_not(study: DicomStudy):
    study.t2w(number=2, spacing=(3.0, 3.0, 3.0))
    study.t2w(number=4, spacing=(3.0, 2.0, 2.0))
    study.t2w(number=6, spacing=(3.0, 1.5, 1.5), description="t2_tse_tra_fs")
    result = read_study(study.folder)
    assert choice(result, "t2w").label == "series 4 (t2_tse_tra)"
    assert choice(result, "t2w").alternatives == ("series 2 (t2_tse_tra)", "series 6 (t2_tse_tra_fs)")


def test_the_choice_can_be_overridden_by_number_uid_or_b_value(study: DicomStudy):
    study.full()
    study.t2w(number=14, spacing=(3.0, 3.0, 3.0))
    uid = read_study(study.folder, series={"t2w": "14"}).headers["t2w"].series_uid
    result = read_study(study.folder, series={"t2w": uid, "hbv": "7:800"})
    assert result.headers["t2w"].series_number == 14
    assert choice(result, "t2w").reason == "chosen by hand"
    assert choice(result, "hbv").label == "series 7, acquired b800"
    assert choice(read_study(study.folder, series={"hbv": "7"}), "hbv").label == "series 7, acquired b800"


@pytest.mark.parametrize("make", ["t2w", "adc", "high_b"])
def test_any_one_sequence_is_a_study(study: DicomStudy, make: str):
    getattr(study, make)()
    role = {"t2w": "t2w", "adc": "adc", "high_b": "hbv"}[make]
    result = read_study(study.folder)
    assert result.roles == (role,)
    assert result.frame is result.volume(role)


# -- slices to volume -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("oblique", [False, True])
def test_slices_are_stacked_by_position_whatever_names_and_numbers_say(tmp_path: Path, oblique: bool):
    source = DicomStudy(tmp_path / "s", oblique=oblique)
    paths = source.t2w()
    arrays = np.stack([pydicom.dcmread(p).pixel_array for p in paths])
    order = list(range(len(paths)))
    random.Random(3).shuffle(order)
    for number, path in zip(order, paths, strict=True):
        dataset = pydicom.dcmread(path)
        dataset.InstanceNumber = number + 1
        dataset.save_as(path.with_name(f"{number}"))
        path.unlink()
    volume = read_study(tmp_path / "s").t2w
    np.testing.assert_array_equal(volume.array, arrays)
    np.testing.assert_allclose(volume.geometry.center, source.center, atol=1e-4)
    np.testing.assert_allclose(volume.geometry.spacing, (3.0, 2.5, 2.5), rtol=1e-5)


def test_geometry_agrees_with_the_series_reader_of_itk(tmp_path: Path):
    source = DicomStudy(tmp_path / "s", oblique=True)
    paths = source.t2w()
    image = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(paths[0].parent)))
    volume = read_study(tmp_path / "s").t2w
    np.testing.assert_allclose(volume.geometry.origin, image.GetOrigin(), atol=1e-3)
    np.testing.assert_allclose(volume.geometry.direction, image.GetDirection(), atol=1e-5)
    np.testing.assert_allclose(volume.geometry.spacing[::-1], image.GetSpacing(), rtol=1e-4)
    np.testing.assert_array_equal(volume.array, sitk.GetArrayFromImage(image))


def test_rescale_is_applied_slice_by_slice(study: DicomStudy):
    plain = np.stack([pydicom.dcmread(p).pixel_array for p in study.adc()])
    shutil.rmtree(study.folder)
    study.adc(tags=lambda i: {"RescaleSlope": 1 + 0.1 * i, "RescaleIntercept": -5})
    expected = plain * (1 + 0.1 * np.arange(10))[:, None, None] - 5
    np.testing.assert_allclose(read_study(study.folder).adc.array, expected, rtol=1e-5)


def test_stored_integers_stay_integers_without_rescale(study: DicomStudy):
    study.t2w(tags={"RescaleSlope": 1, "RescaleIntercept": 0})
    assert read_study(study.folder).t2w.array.dtype == np.uint16


@pytest.mark.parametrize("factor", [1e-3, 10.0])
def test_scaled_adc_maps_come_out_in_standard_units(study: DicomStudy, factor: float):
    plain = anatomy((10, 32, 24), 1200, seed=8)
    study.adc(tags={"RescaleSlope": factor, "RescaleIntercept": 0})
    result = read_study(study.folder)
    assert result.adc.array.dtype == np.float32
    np.testing.assert_allclose(result.adc.array, plain, rtol=1e-5)
    assert any("recognised by its range" in note for note in result.notes)


def test_files_without_suffix_nested_and_compressed(study: DicomStudy):
    plain = np.stack([pydicom.dcmread(p).pixel_array for p in study.t2w(name="a/b/c", prefix="x", suffix="")])
    for path in (study.folder / "a/b/c").iterdir():
        dataset = pydicom.dcmread(path)
        dataset.compress(RLELossless)
        dataset.save_as(path)
    np.testing.assert_array_equal(read_study(study.folder).t2w.array, plain)


def test_files_without_preamble(study: DicomStudy):
    for path in study.t2w():
        bare = Dataset(pydicom.dcmread(path))
        bare.save_as(path, implicit_vr=True, little_endian=True, enforce_file_format=False)
        assert path.read_bytes()[:2] == b"\x08\x00"
    assert read_study(study.folder).t2w.array.shape == (10, 48, 40)


def test_reports_and_other_modalities_beside_the_mri_are_counted(study: DicomStudy):
    study.t2w()
    study.t2w(number=30, tags={"Modality": "SEG"})
    assert any(re.fullmatch(r"10 DICOM files of kind SEG: ignored", n) for n in read_study(study.folder).notes)


def test_dicom_wins_over_image_files_beside_it(study: DicomStudy):
    study.t2w()
    image = sitk.GetImageFromArray(anatomy((6, 30, 30), 100))
    sitk.WriteImage(image, str(study.folder / "t2w.nii.gz"))
    result = read_study(study.folder)
    assert result.t2w.array.shape == (10, 48, 40)
    assert "1 image file ignored: the folder holds a DICOM study" in result.notes


def test_results_in_dicom_beside_image_files_are_passed_over(study: DicomStudy):
    study.t2w(tags={"Modality": "SEG"})
    image = sitk.GetImageFromArray(anatomy((6, 80, 80), 100))
    sitk.WriteImage(image, str(study.folder / "t2w.nii.gz"))
    assert read_study(study.folder).t2w.array.shape == (6, 80, 80)


def test_roles_may_come_from_dicom_folders_of_their_own(tmp_path: Path):
    source = DicomStudy(tmp_path / "s")
    t2w, adc = source.t2w()[0].parent, source.adc()[0].parent
    result = read_study(t2w=t2w, adc=adc, name="by role")
    assert (result.name, result.roles) == ("by role", ("t2w", "adc"))
    with pytest.raises(StudyError, match="no axial high-b series"):
        read_study(hbv=t2w)


def test_the_same_input_gives_the_same_hashes(study: DicomStudy):
    study.full()
    first, second = read_study(study.folder), read_study(study.folder)
    assert first.inputs == second.inputs
    assert all(len(record.sha256) == 64 for record in first.inputs)
    assert all(str(study.folder) not in record.name for record in first.inputs)
