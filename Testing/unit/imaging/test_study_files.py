"""Image files: roles by name, reading, and what a study offers once read."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from MedRationaleLogic.imaging.files import parse_name
from MedRationaleLogic.imaging.study import StudyError, check_geometry, read_study
from Testing.dicom_factory import anatomy

LEVELS = {"t2w": 300, "adc": 1200, "hbv": 60}


def write(path: Path, level: float = 300, shape=(6, 80, 80), direction=None, seed: int = 0) -> np.ndarray:
    array = anatomy(shape, level, seed=seed)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((1.0, 1.0, 3.0))
    if direction is not None:
        image.SetDirection(direction)
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))
    return array


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("t2w.nii.gz", "t2w"),
        ("t2.nii.gz", "t2w"),
        ("T2W.NRRD", "t2w"),
        ("t2w_n4_nyul_norm.nii.gz", "t2w"),
        ("10021_1000021_t2w.mha", "t2w"),
        ("prostate_0001_0000.nii.gz", "t2w"),
        ("prostate_0001_0001.nii.gz", "adc"),
        ("prostate_0001_0002.nii.gz", "hbv"),
        ("adc.mhd", "adc"),
        ("10021_1000021_adc.mha", "adc"),
        ("dwi.nii.gz", "hbv"),
        ("hbv.nii", "hbv"),
        ("sub-01_dwi_b1500.nii.gz", "hbv"),
        ("case_b1400.nrrd", "hbv"),
        ("t2w_sag.nii.gz", None),
        ("10021_1000021_cor.mha", None),
    ],
)
def test_names_that_tell_a_role(name: str, role: str | None):
    named = parse_name(Path(name))
    assert named is not None
    assert named.role == role


@pytest.mark.parametrize(
    "name",
    [
        "gland_ai_bosma22b.nii.gz",
        "zones_ai_hevi23.nii.gz",
        "lesion_human_isup.nii.gz",
        "t2_anatomy_reader1.nii.gz",
        "adc_tumor_reader2.nii.gz",
        "t2w_seg.nii.gz",
        "seminal_vesicles.nii.gz",
        "mask.nii.gz",
        "scan.nii.gz",
    ],
)
def test_label_maps_and_unknown_names_tell_none(name: str):
    assert parse_name(Path(name)) is None


@pytest.mark.parametrize(
    "names",
    [
        {"t2w": "10021_1000021_t2w.mha", "adc": "10021_1000021_adc.mha", "hbv": "10021_1000021_hbv.mha"},
        {"t2w": "t2.nii.gz", "adc": "adc.nii.gz", "hbv": "dwi.nii.gz"},
        {"t2w": "case7_0000.nii.gz", "adc": "case7_0001.nii.gz", "hbv": "case7_0002.nii.gz"},
        {"t2w": "t2w.nrrd", "adc": "adc.mhd", "hbv": "dwi_b1400.nii"},
        {"t2w": "anat/sub-01_T2w.nii.gz", "adc": "dwi/sub-01_adc.nii.gz", "hbv": "dwi/sub-01_dwi.nii.gz"},
    ],
)
def test_layouts_of_the_public_data_sets(tmp_path: Path, names: dict[str, str]):
    arrays = {role: write(tmp_path / name, LEVELS[role], seed=i) for i, (role, name) in enumerate(names.items())}
    write(tmp_path / "gland_ai.nii.gz", 1)
    write(tmp_path / "t2_anatomy_reader1.nii.gz", 2)
    result = read_study(tmp_path)
    assert result.roles == ("t2w", "adc", "hbv")
    for role, array in arrays.items():
        np.testing.assert_array_equal(result.volume(role).array, array)
    assert [record.name for record in result.inputs] == [Path(n).name for n in names.values()]


def test_high_b_by_the_b_value_in_the_name(tmp_path: Path):
    for b_value in (50, 800, 1500, 2000):
        write(tmp_path / f"dwi_b{b_value:04d}.nii.gz", 60)
    result = read_study(tmp_path)
    assert result.choices[0].label == "dwi_b2000.nii.gz, b2000"
    assert result.headers["hbv"].b_value == 2000
    assert result.headers["hbv"].b_values == (50, 800, 1500, 2000)


def test_image_files_say_nothing_about_the_acquisition(tmp_path: Path):
    write(tmp_path / "t2w.nii.gz")
    header = read_study(tmp_path).headers["t2w"]
    known = {k: v for k, v in vars(header).items() if v is not None}
    assert known == {"role": "t2w", "orientation": "axial"}


def test_a_four_dimensional_file_with_b_values_gives_the_highest(tmp_path: Path):
    arrays = [anatomy((6, 80, 80), level, seed=level) for level in (200, 60, 100)]
    image = sitk.GetImageFromArray(np.stack(arrays), isVector=False)
    image.SetSpacing((1.0, 1.0, 3.0, 1.0))
    sitk.WriteImage(image, str(tmp_path / "dwi.nii.gz"))
    (tmp_path / "dwi.bval").write_text("0 1500 800\n")
    result = read_study(tmp_path)
    np.testing.assert_array_equal(result.hbv.array, arrays[1])
    assert result.headers["hbv"].b_value == 1500
    assert result.headers["hbv"].b_values == (0, 1500, 800)
    assert result.choices[0].label == "dwi.nii.gz, b1500"


def four_dimensional(path: Path, arrays: list[np.ndarray], b_values: str) -> None:
    image = sitk.GetImageFromArray(np.stack(arrays), isVector=False)
    image.SetSpacing((1.0, 1.0, 3.0, 1.0))
    image.SetOrigin((4.0, -5.0, 6.0, 0.0))
    sitk.WriteImage(image, str(path))
    path.with_name("dwi.bval").write_text(b_values)


@pytest.mark.parametrize("b_values", ["0 1500 1500 1500 800", "0 1499.6 1500 1500.3 800"])
def test_several_volumes_of_the_highest_b_value_become_their_trace_image(tmp_path: Path, b_values: str):
    directions = [anatomy((6, 80, 80), 40 * 4**i, seed=i) for i in range(3)]
    arrays = [anatomy((6, 80, 80), 900, seed=8), *directions, anatomy((6, 80, 80), 200, seed=9)]
    four_dimensional(tmp_path / "dwi.nii.gz", arrays, b_values)
    result = read_study(tmp_path)
    product = np.prod([np.maximum(a.astype(float), 1e-3) for a in directions], axis=0)
    np.testing.assert_allclose(result.hbv.array, np.cbrt(product), rtol=1e-4)
    np.testing.assert_allclose(result.hbv.geometry.origin, (4.0, -5.0, 6.0), atol=1e-5)
    assert (result.hbv.geometry.spacing, result.headers["hbv"].b_value) == ((3.0, 1.0, 1.0), 1500)
    assert result.headers["hbv"].b_values == (0, 1500, 800)
    assert result.notes == ("dwi.nii.gz: trace image computed from 3 volumes of b1500",)


def test_a_nan_in_one_direction_is_mended_in_the_trace_image(tmp_path: Path):
    arrays = [anatomy((6, 80, 80), 60, seed=i).astype(np.float32) for i in range(3)]
    arrays[1][2, 40, 40] = np.nan
    four_dimensional(tmp_path / "dwi.nii", arrays, "1500 1500 1500")
    result = read_study(tmp_path)
    beside = [result.hbv.array[2 + z, 40 + y, 40 + x] for z, y, x in (*np.eye(3, dtype=int), *-np.eye(3, dtype=int))]
    assert result.hbv.array[2, 40, 40] in beside
    assert any("1 voxel NaN or infinite, replaced" in note for note in result.notes)


@pytest.mark.parametrize("offset", [0.0, 100.0, 348.0])
def test_a_nan_is_found_where_itk_has_the_voxels_begin(tmp_path: Path, offset: float):
    array = anatomy((6, 80, 80), 300).astype(np.float32)
    array[2, 40, 40] = np.nan
    image = sitk.GetImageFromArray(array)
    sitk.WriteImage(image, str(tmp_path / "t2w.nii"))
    content = (tmp_path / "t2w.nii").read_bytes()
    at = struct.pack("<f", offset)
    (tmp_path / "t2w.nii").write_bytes(content[:108] + at + content[112:348] + content[352:])
    result = read_study(tmp_path)
    assert result.t2w.array[2, 40, 40] > 100, "a neighbour's value, not the 0 that ITK makes of it"
    same = np.ones(array.shape, bool)
    same[2, 40, 40] = False
    np.testing.assert_array_equal(result.t2w.array[same], array[same])
    assert result.notes == ("t2w.nii (T2W): 1 voxel NaN or infinite, replaced by the nearest finite value",)


FLIPPED = (-1, 0, 0, 0, -1, 0, 0, 0, -1)
TILTED = (0.9848078, -0.1631759, -0.0593912, 0.1736482, 0.9254166, 0.3368241, 0, -0.3420201, 0.9396926)


@pytest.mark.parametrize("suffix", ["nii.gz", "nii", "mha", "nrrd"])
@pytest.mark.parametrize("direction", [None, FLIPPED, TILTED])
def test_the_grid_stays_as_stored(tmp_path: Path, suffix: str, direction):
    path = tmp_path / f"t2w.{suffix}"
    array = write(path, direction=direction)
    volume = read_study(tmp_path).t2w
    image = sitk.ReadImage(str(path))
    np.testing.assert_array_equal(volume.array, array)
    np.testing.assert_allclose(volume.geometry.direction, image.GetDirection(), atol=1e-6)
    for index in ((0, 0, 0), (5, 7, 70)):
        expected = image.TransformIndexToPhysicalPoint([int(i) for i in index[::-1]])
        np.testing.assert_allclose(volume.geometry.to_patient(index), expected, atol=1e-4)


def test_axes_in_another_order_are_put_in_slice_order(tmp_path: Path):
    array = write(tmp_path / "plain" / "t2w.nii.gz")
    image = sitk.PermuteAxes(sitk.ReadImage(str(tmp_path / "plain" / "t2w.nii.gz")), [2, 0, 1])
    (tmp_path / "other").mkdir()
    sitk.WriteImage(image, str(tmp_path / "other" / "t2w.nii.gz"))
    plain, other = read_study(tmp_path / "plain").t2w, read_study(tmp_path / "other")
    np.testing.assert_array_equal(other.t2w.array, array)
    assert other.t2w.geometry.almost_equal(plain.geometry)
    assert any("axes put in slice order" in note for note in other.notes)


def test_float64_and_scaled_integers_come_as_float32(tmp_path: Path):
    image = sitk.GetImageFromArray(anatomy((6, 80, 80), 1.2e6).astype(np.float64) / 1e3)
    sitk.WriteImage(image, str(tmp_path / "adc.nii.gz"))
    assert read_study(tmp_path).adc.array.dtype == np.float32


def test_single_files_by_role_win_over_the_folder(tmp_path: Path):
    write(tmp_path / "t2w.nii.gz", seed=1)
    write(tmp_path / "adc.nii.gz", 1200)
    better = write(tmp_path / "elsewhere" / "strange name.nrrd", seed=2)
    result = read_study(tmp_path, t2w=tmp_path / "elsewhere" / "strange name.nrrd", psa=6.2)
    np.testing.assert_array_equal(result.t2w.array, better)
    assert result.roles == ("t2w", "adc")
    assert result.psa == 6.2
    assert result.choices[0].reason == "given by role"


def test_the_study_is_named_after_its_folder_or_file(tmp_path: Path):
    write(tmp_path / "case 7" / "t2w.nii.gz")
    assert read_study(tmp_path / "case 7").name == "case 7"
    assert read_study(tmp_path / "case 7" / "t2w.nii.gz").name == "t2w"
    assert read_study(tmp_path / "case 7", name="other").name == "other"


# -- what a study offers ----------------------------------------------------------------------------------------------


@pytest.fixture
def three(tmp_path: Path):
    for role, level in LEVELS.items():
        write(tmp_path / f"{role}.nii.gz", level)
    return read_study(tmp_path)


def test_shifting_moves_one_sequence_and_says_so(three):
    moved = three.with_shift("adc", (2.0, 0.0, -1.5))
    np.testing.assert_allclose(
        moved.adc.geometry.to_patient((1, 2, 3)) - three.adc.geometry.to_patient((1, 2, 3)), (2.0, 0.0, -1.5)
    )
    assert moved.adc.array is not None
    np.testing.assert_array_equal(moved.adc.array, three.adc.array)
    assert moved.hbv is three.hbv
    assert moved.t2w is three.t2w
    assert moved.notes[-1] == "ADC moved by hand: +2.0 mm left, +0.0 mm back, -1.5 mm up"
    assert three.with_shift("adc", (0, 0, 0)) is three


def test_the_record_of_a_shifted_sequence_is_that_of_where_it_lies(three):
    moved = three.with_shift("adc", (2.0, 0.0, -1.5))
    assert [r.sha256 for r in moved.inputs] == [moved.volume(r.role).sha256 for r in moved.inputs]
    changed = {m.role for t, m in zip(three.inputs, moved.inputs, strict=True) if t != m}
    assert changed == {"adc"}
    assert [(r.role, r.name, r.series_uid) for r in moved.inputs] == [
        (r.role, r.name, r.series_uid) for r in three.inputs
    ]
    assert moved.with_shift("adc", (-2.0, 0.0, 1.5)).inputs == three.inputs


def test_a_shift_takes_its_note_on_the_overlap_along(three):
    def said(study):
        return [n for n in study.notes if "overlap only in part" in n]

    away = three.with_shift("adc", (40.0, 0.0, 0.0))
    assert said(away) == list(check_geometry(away).notes)
    assert len(said(away)) == 1
    other = away.with_shift("hbv", (0.0, 38.0, 0.0))
    assert said(other) == [*said(away), *(n for n in check_geometry(other).notes if n.startswith("high-b"))]
    further = away.with_shift("adc", (5.0, 0.0, 0.0))
    assert said(further) == list(check_geometry(further).notes) != said(away)
    back = further.with_shift("adc", (-45.0, 0.0, 0.0))
    assert said(back) == []
    assert [n for n in back.notes if "moved by hand" in n] == [
        f"ADC moved by hand: {mm:+.1f} mm left, +0.0 mm back, +0.0 mm up" for mm in (40, 5, -45)
    ]


def test_the_frame_and_absent_sequences_cannot_be_moved(three, tmp_path: Path):
    with pytest.raises(StudyError, match="T2W is the frame"):
        three.with_shift("t2w", (1, 0, 0))
    alone = read_study(adc=tmp_path / "adc.nii.gz")
    with pytest.raises(StudyError, match="ADC is the frame"):
        alone.with_shift("adc", (1, 0, 0))
    with pytest.raises(StudyError, match="no high-b to move"):
        alone.with_shift("hbv", (1, 0, 0))
    with pytest.raises(StudyError, match="three finite numbers"):
        three.with_shift("adc", (1, 0, float("nan")))


def test_psa_can_be_given_later(three):
    assert three.with_psa(4.5).psa == 4.5
    assert three.with_psa(None).psa is None
    with pytest.raises(StudyError, match="PSA"):
        three.with_psa(-1)


def test_coverage_is_measured_in_the_patient_for_any_orientation(tmp_path: Path):
    write(tmp_path / "t2w.nii.gz")
    write(tmp_path / "adc.nii.gz", 1200)
    image = sitk.ReadImage(str(tmp_path / "adc.nii.gz"))
    sitk.WriteImage(sitk.Flip(image, [True, False, True]), str(tmp_path / "adc.nii.gz"))
    study = read_study(tmp_path)
    assert study.adc.geometry.direction != study.t2w.geometry.direction
    assert check_geometry(study).coverage == {"adc": 1.0}
    half = check_geometry(study.with_shift("adc", (40.0, 0.0, 0.0)))
    assert half.coverage["adc"] == pytest.approx(0.5, abs=0.05)
    assert "overlap only in part" in half.notes[0]
    with pytest.raises(StudyError, match="do not show the same place"):
        check_geometry(study.with_shift("adc", (58.0, 0.0, 0.0)))
